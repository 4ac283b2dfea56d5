"""The local Hub answers as `huggingface_hub` expects of a Hub."""

import urllib.error
import urllib.request

import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants
from huggingface_hub.errors import (
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.local_hub import READ_TOKEN, WRITE_TOKEN, LocalHub

CONTENT = bytes(range(256)) * 100


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    with LocalHub() as hub:
        yield hub


@pytest.fixture
def api(hub):
    """A client that may write, with one private repository that holds a small and a large file."""
    api = HfApi(endpoint=hub.url, token=WRITE_TOKEN)
    api.create_repo("user/sounds", private=True)
    operations = [CommitOperationAdd("a/b/small.txt", b"small"), CommitOperationAdd("large.wav", CONTENT)]
    api.create_commit("user/sounds", operations, commit_message="both")
    return api


def ask(hub, path, **headers):
    headers |= {"Authorization": f"Bearer {WRITE_TOKEN}"}
    with urllib.request.urlopen(urllib.request.Request(hub.url + path, headers=headers)) as answer:
        return answer.status, answer.headers, answer.read()


def test_files_come_back_as_they_were_sent(hub, api, tmp_path):
    path = api.hf_hub_download("user/sounds", "large.wav", cache_dir=tmp_path)
    with open(path, "rb") as file:
        assert file.read() == CONTENT
    folder = api.snapshot_download("user/sounds", cache_dir=tmp_path)
    with open(f"{folder}/a/b/small.txt", "rb") as file:
        assert file.read() == b"small"


def test_part_of_a_file_can_be_asked_for(hub, api):
    status, headers, body = ask(hub, "/user/sounds/resolve/main/large.wav", Range="bytes=100-199")
    assert (status, headers["Content-Range"], body) == (206, "bytes 100-199/25600", CONTENT[100:200])
    assert ask(hub, "/user/sounds/resolve/main/large.wav", Range="bytes=25000-")[2] == CONTENT[25000:]
    with pytest.raises(urllib.error.HTTPError, match="416"):
        ask(hub, "/user/sounds/resolve/main/large.wav", Range="bytes=25600-")


def test_each_commit_keeps_its_files(hub, api):
    before = api.repo_info("user/sounds").sha
    api.create_commit("user/sounds", [CommitOperationDelete("large.wav")], commit_message="less")
    assert api.list_repo_files("user/sounds") == ["a/b/small.txt"]
    assert api.list_repo_files("user/sounds", revision=before) == ["a/b/small.txt", "large.wav"]
    assert [
        (entry.path, entry.size) for entry in api.get_paths_info("user/sounds", ["large.wav"], revision=before)
    ] == [("large.wav", len(CONTENT))]
    assert api.list_repo_refs("user/sounds").branches[0].target_commit == api.repo_info("user/sounds").sha


def test_variables_of_a_space_are_set_and_removed(hub, api):
    api.create_repo("user/demo", repo_type="space", space_sdk="gradio")
    api.add_space_variable("user/demo", "MODEL", "user/sounds")
    assert api.get_space_variables("user/demo")["MODEL"].value == "user/sounds"
    assert api.delete_space_variable("user/demo", "MODEL") == {}
    with pytest.raises(HfHubHTTPError, match="404"):
        api.delete_space_variable("user/demo", "MODEL")


def test_who_may_do_what(hub, api, tmp_path):
    assert api.whoami()["name"] == "user"
    reader, stranger = HfApi(endpoint=hub.url, token=READ_TOKEN), HfApi(endpoint=hub.url, token=False)
    assert reader.repo_info("user/sounds").private
    with pytest.raises(HfHubHTTPError, match="403 Forbidden"):
        reader.upload_file(path_or_fileobj=b"x", path_in_repo="x.txt", repo_id="user/sounds")
    with pytest.raises(RepositoryNotFoundError, match="401"):
        stranger.hf_hub_download("user/sounds", "large.wav", cache_dir=tmp_path)
    with pytest.raises(RepositoryNotFoundError, match="404"):
        api.repo_info("user/none")
    with pytest.raises(RevisionNotFoundError):
        api.repo_info("user/sounds", revision="none")
    with pytest.raises(RemoteEntryNotFoundError):
        api.hf_hub_download("user/sounds", "none.txt", cache_dir=tmp_path)
