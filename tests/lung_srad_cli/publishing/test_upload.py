"""The upload over HTTP: created private, interrupted, repeated, refused; each error is one line."""

import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from huggingface_hub import constants

from lung_srad_cli.publishing.repository_files import RepositoryFile
from lung_srad_cli.publishing.upload import require_model, upload_files
from modeling_lung_srad.errors import InputError
from tests.local_hub import Fault

CARD = RepositoryFile("README.md", b"---\nlicense: mit\n---\n\n# A\n")
SOUNDS = RepositoryFile("sounds.wav", bytes(range(256)) * 4000)
LOAD_DATASET = """
import json
import datasets

parts = datasets.load_dataset("user/sounds")
print(json.dumps({name: [row["audio"]["bytes"].hex() for row in part] for name, part in parts.items()}))
"""


@pytest.fixture
def quick_retries(monkeypatch):
    """Waits between the attempts of `huggingface_hub` take no time."""
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)


def contents(hub, kind="dataset"):
    return {path: file.content for path, file in hub.repository("user/sounds", kind).files.items()}


def test_a_new_repository_is_private_unless_asked_otherwise(hub):
    upload = upload_files([CARD, SOUNDS], "user/sounds", "dataset")
    assert upload == (f"{hub.url}/datasets/user/sounds", hub.repository("user/sounds", "dataset").head, True, True)
    assert contents(hub) == {"README.md": CARD.source, "sounds.wav": SOUNDS.source}
    assert not upload_files([CARD], "user/open", "model", public=True).is_private


def test_a_hub_without_xet_storage_gets_large_files_by_the_transfer_of_git_lfs(hub):
    upload_files([SOUNDS], "user/sounds", "dataset")
    assert [request.status for request in hub.sent("GET", "xet-write-token")] == [404]
    assert len(hub.sent("PUT")) == len(hub.sent("POST", "objects/batch")) == 1
    assert hub.repository("user/sounds", "dataset").files["sounds.wav"].is_lfs


def test_nothing_is_sent_twice(hub):
    upload_files([CARD, SOUNDS], "user/sounds", "dataset")
    hub.requests.clear()
    again = upload_files([CARD, SOUNDS], "user/sounds", "dataset")
    assert not again.changed
    assert hub.sent("PUT") == hub.sent("POST", "commit/") == []
    other_card = RepositoryFile("README.md", CARD.source + b"more\n")
    assert upload_files([other_card, SOUNDS], "user/sounds", "dataset").changed
    assert hub.sent("PUT") == []
    assert contents(hub) == {"README.md": other_card.source, "sounds.wav": SOUNDS.source}


def test_a_connection_that_drops_once_is_tried_again_by_itself(hub, quick_retries):
    hub.faults = [Fault("PUT", "large-files"), Fault("POST", "preupload", status=503)]
    upload_files([CARD, SOUNDS], "user/sounds", "dataset")
    assert [request.status for request in hub.sent("PUT")] == [0, 200]
    assert [request.status for request in hub.sent("POST", "preupload")] == [503, 200]
    assert contents(hub)["sounds.wav"] == SOUNDS.source


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        (Fault("PUT", "large-files", times=99), "cannot be reached, or broke off"),
        (Fault("PUT", "large-files", status=500, times=99), "failed with 500"),
        (Fault("POST", "commit/", status=500), "failed with 500 (a fault that the test asked for)"),
        (Fault("POST", "commit/"), "cannot be reached, or broke off"),
        (Fault("POST", "repos/create"), "cannot be reached, or broke off"),
        (Fault("GET", "api/datasets/user/sounds$", status=500), "failed with 500"),
        (Fault("POST", "repos/create", status=402), "your account may not create it"),
        (Fault("POST", "objects/batch", status=413), "refused it with 413"),
        (Fault("POST", "repos/create", status=200), "does not answer as a Hugging Face Hub; check HF_ENDPOINT"),
    ],
)
def test_an_upload_that_fails_says_so_in_one_line_and_goes_on_with_the_same_command(
    hub, quick_retries, fault, problem
):
    hub.faults = [fault]
    with pytest.raises(InputError) as raised:
        upload_files([CARD, SOUNDS], "user/sounds", "dataset")
    assert problem in str(raised.value)
    assert "\n" not in str(raised.value)
    if ("dataset", "user/sounds") in hub.store.repositories:
        # Nothing appears before everything does.
        assert contents(hub) == {}
    hub.faults = []
    arrived = set(hub.store.large_files)
    hub.requests.clear()
    upload_files([CARD, SOUNDS], "user/sounds", "dataset")
    assert contents(hub) == {"README.md": CARD.source, "sounds.wav": SOUNDS.source}
    assert len(hub.sent("PUT")) == 1 - len(arrived)


@pytest.mark.slow
def test_a_killed_upload_goes_on_with_the_file_that_it_had_not_sent(
    hub, environment, prepared_folder, run_elsewhere, tmp_path
):
    hashes = {
        path.name.partition("-")[0]: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (prepared_folder / "data").iterdir()
    }
    halfway = threading.Event()
    hub.faults = [Fault("PUT", hashes["test"], reached=halfway)]
    command = [sys.executable, "-m", "lung_srad_cli", "publish", "dataset", str(prepared_folder), "user/sounds"]
    options = {"env": environment, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen(command, **options)
    assert halfway.wait(timeout=60)
    deadline = time.monotonic() + 30
    while not hub.sent("POST", f"{hashes['train']}/verify") and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert hub.repository("user/sounds", "dataset").files == {}
    assert set(hub.store.large_files) == {hashes["train"]}

    hub.requests.clear()
    again = subprocess.run(command, check=False, timeout=120, **options)
    assert again.returncode == 0, again.stdout
    assert environment["HF_TOKEN"] not in again.stdout
    assert [request.path for request in hub.sent("PUT")] == [f"/large-files/{hashes['test']}"]
    loaded = run_elsewhere(LOAD_DATASET, HF_DATASETS_CACHE=str(tmp_path / "datasets"))
    assert {name: len(rows) for name, rows in loaded.items()} == {"train": 4, "test": 4}
    sounds = [bytes.fromhex(row) for rows in loaded.values() for row in rows]
    assert all(sound.startswith((b"fLaC", b"RIFF")) for sound in sounds)


def test_a_public_repository_gets_nothing_that_should_be_private(hub):
    upload_files([CARD], "user/sounds", "dataset", public=True)
    with pytest.raises(InputError, match="exists already and is public; give --public"):
        upload_files([SOUNDS], "user/sounds", "dataset")
    assert contents(hub) == {"README.md": CARD.source}


def test_a_private_repository_stays_private(hub):
    upload_files([CARD], "user/sounds", "dataset")
    assert upload_files([SOUNDS], "user/sounds", "dataset", public=True).is_private
    assert hub.repository("user/sounds", "dataset").private


def test_refusals_name_the_repository_and_the_remedy(hub, monkeypatch):
    with pytest.raises(InputError, match="dataset other/sounds: your token may not write there"):
        upload_files([CARD], "other/sounds", "dataset")
    with pytest.raises(InputError, match="model user/none: does not exist for your token; check the id"):
        require_model("user/none")
    with pytest.raises(InputError, match=r"user/sounds: was refused \(Invalid metadata in README.md. - empty"):
        upload_files([RepositoryFile("README.md", b"# No front matter")], "user/sounds", "dataset")
    monkeypatch.setenv("HF_TOKEN", "hf_unknown")
    with pytest.raises(InputError, match=r"token: .* does not know it, or it has expired; log in by") as raised:
        upload_files([CARD], "user/sounds", "dataset")
    assert "hf_unknown" not in str(raised.value)


def test_no_network_and_servers_that_are_no_hub(hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="HF_HUB_OFFLINE: is set"):
        upload_files([CARD], "user/sounds", "dataset")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        with pytest.raises(InputError, match=f"{address}: cannot be reached, or broke off .*; check the network"):
            upload_files([CARD], "user/sounds", "dataset")
    monkeypatch.setattr(constants, "ENDPOINT", f"{hub.url}/elsewhere")
    with pytest.raises(InputError, match="does not exist for your token"):
        upload_files([CARD], "user/sounds", "dataset")
