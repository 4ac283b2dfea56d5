"""The server of the page over plain HTTP: many requests at once, limits, and what it keeps to itself."""

import io
import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import soundfile

from benchmarks.space_load import SETTINGS, classify, served, upload
from tests.space_demo.conftest import ROOT, breath

NOTHING_FETCHED = "Nothing is fetched from elsewhere."
REQUESTS_AT_ONCE = 10
# Python runs it before the page: it writes down each host that is looked up, connected to or sent to.
WATCHED_HOSTS = """
import os, sys
def note(event, arguments):
    if event in ("socket.getaddrinfo", "socket.gethostbyname"):
        hosts.write(f"{arguments[0]}\\n")
    elif event in ("socket.connect", "socket.sendto") and isinstance(arguments[1], tuple):
        hosts.write(f"{arguments[1][0]}\\n")
hosts = open(os.environ["WATCHED_HOSTS"], "a", buffering=1)
sys.addaudithook(note)
"""


@pytest.fixture(scope="module")
def sound():
    """Content of a wav file of 3 s."""
    buffer = io.BytesIO()
    soundfile.write(buffer, breath(3), 8000, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def test_ten_requests_at_once_are_all_answered_and_nothing_is_kept(space, sound):
    def ask(number):
        # Pairs send the same file under the same name: the answer to one must not take it from the other.
        name = f"recording {number // 2}.wav"
        return name, classify(space.address, upload(space.address, name, sound))

    before = set(space.kept_files())
    with ThreadPoolExecutor(REQUESTS_AT_ONCE) as threads:
        answers = list(threads.map(ask, range(REQUESTS_AT_ONCE)))
    for name, answer in answers:
        assert name in answer
        assert "Recording of 3.0 s at 8 kHz." in answer
    assert set(space.kept_files()) - before == set()


def test_uploads_of_the_same_file_are_apart_and_have_names_that_nobody_guesses(space, sound):
    paths = [Path(upload(space.address, "same.wav", sound)) for _ in range(2)]
    assert paths[0] != paths[1]
    for path in paths:
        assert re.fullmatch("[0-9a-f]{32}", path.parent.name)
        assert "Recording of 3.0 s" in classify(space.address, str(path))
        assert not path.parent.exists()


def test_upload_of_50_1_mb_is_refused_and_the_next_request_is_answered(space, sound):
    before = set(space.kept_files())
    response = httpx.post(
        f"{space.address}/gradio_api/upload", files={"files": ("large.wav", bytes(50_100_000))}, timeout=60
    )
    assert response.status_code == 413
    assert response.text == "The file is larger than 50 MB; cut it, or save it as flac."
    parts = {f"file{number}": bytes(30_000_000) for number in range(2)}
    response = httpx.post(
        f"{space.address}/gradio_api/upload", files=[("files", part) for part in parts.items()], timeout=60
    )
    assert response.status_code == 413
    assert set(space.kept_files()) - before == set()
    assert "Recording of 3.0 s" in classify(space.address, upload(space.address, "next.wav", sound))


def test_upload_in_chunks_that_states_a_length_as_well_is_refused(space):
    headers = {"Content-Length": "1000", "Transfer-Encoding": "chunked"}
    address = f"{space.address}/gradio_api/upload"
    response = httpx.post(address, content=iter([b"abc"]), headers=headers, timeout=60)
    assert response.status_code == 411


def test_upload_of_unknown_length_is_refused(space):
    response = httpx.post(f"{space.address}/gradio_api/upload", content=iter([b"abc"]), timeout=60)
    assert response.status_code == 411


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        f"{ROOT}/README.md",
        f"{ROOT}/modeling_lung_srad/checkpoints/lung-srad-tiny/config.json",
        "../../../../etc/passwd",
        "..%2f..%2f..%2f..%2fetc%2fpasswd",
        "%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "https://example.com/",
        "http:%2f%2fexample.com/",
        "file:///etc/passwd",
    ],
)
@pytest.mark.parametrize("prefix", ["/gradio_api/file=", "/gradio_api/file/", "/file=", "/static/", "/assets/"])
def test_no_path_outside_is_read(space, prefix, path):
    response = httpx.get(f"{space.address}{prefix}{path}", timeout=60)
    assert response.status_code in (403, 404)


@pytest.mark.parametrize("route", ["file=", "file/", "proxy="])
@pytest.mark.parametrize(
    "address", ["https://example.com/", "http:/example.com/", "http:%2f%2fexample.com/", "%68ttp%3A//example.com/?a=b"]
)
def test_nothing_is_fetched_for_anybody(space, route, address):
    response = httpx.get(f"{space.address}/gradio_api/{route}{address}", timeout=60)
    assert (response.status_code, response.text) == (404, NOTHING_FETCHED)


def test_queue_cannot_be_skipped_and_no_recording_is_taken_by_another_route(space, sound):
    direct = httpx.post(f"{space.address}/gradio_api/run/classify", json={"data": [None, *SETTINGS]}, timeout=60)
    assert direct.status_code == 404
    before = set(space.temporary.rglob("*"))
    video = {"video": ("a.mp4", sound)}
    assert httpx.post(f"{space.address}/gradio_api/process_recording", files=video, timeout=60).status_code == 404
    assert set(space.temporary.rglob("*")) == before


@pytest.mark.parametrize("route", ["call/classify/nobody", "queue/data?session_hash=nobody"])
def test_stream_that_nobody_knows_says_so_and_ends(space, route):
    answer = httpx.get(f"{space.address}/gradio_api/{route}", timeout=60)
    assert "Not Found" in answer.text


def test_folder_of_uploads_is_neither_listed_nor_readable_by_others_on_the_machine(space):
    (folder,) = space.temporary.glob("lung-srad-*")
    assert folder.stat().st_mode & 0o077 == 0
    for path in (folder, folder / "..", folder / ".." / ".." / "log0" / "space.txt", space.log):
        response = httpx.get(f"{space.address}/gradio_api/file={path}", timeout=60)
        assert response.status_code in (403, 404)


@pytest.mark.parametrize("path", [f"{ROOT}/README.md", "/etc/passwd"])
def test_request_for_a_file_that_was_not_uploaded_is_refused_and_the_file_stays(space, path):
    assert classify(space.address, path) is None
    assert (ROOT / "README.md").is_file()


def test_request_that_names_an_address_or_is_too_long_is_refused(space):
    call = f"{space.address}/gradio_api/call/classify"
    for path in ("https://example.com/sound.wav", "HTTP://example.com/sound.wav"):
        file = {"path": path, "meta": {"_type": "gradio.FileData"}}
        assert httpx.post(call, json={"data": [file, *SETTINGS]}, timeout=60).status_code == 400
    assert httpx.post(call, content=b"{" * 2_000_000, timeout=60).status_code == 413


def test_upload_that_was_answered_is_gone_and_that_is_said(space, sound):
    path = upload(space.address, "once.wav", sound)
    classify(space.address, path)
    assert httpx.get(f"{space.address}/gradio_api/file={path}", timeout=60).status_code == 403
    assert "once.wav: was removed" in classify(space.address, path)


def test_hop_is_at_most_the_window_and_settings_out_of_range_are_refused(space, sound):
    path = upload(space.address, "short.wav", sound)
    assert '<th scope="row">0.0–2.0</th>' in classify(space.address, path, ["lung-srad-tiny (embedded)", 2, 4, 0.5])
    assert classify(space.address, None, ["lung-srad-tiny (embedded)", 10, 4, 0.5]) is None
    assert classify(space.address, None, ["another/model", 8, 4, 0.5]) is None


def test_page_comes_with_a_policy_and_without_analytics(space):
    response = httpx.get(space.address, timeout=60)
    assert "default-src 'self'" in response.headers["content-security-policy"]
    config = json.loads(httpx.get(f"{space.address}/config", timeout=60).text)
    assert config["analytics_enabled"] is False
    assert config["max_file_size"] == 50_000_000


def test_page_starts_takes_an_upload_and_answers_without_asking_another_host(monkeypatch, sound, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(WATCHED_HOSTS)
    hosts, temporary = tmp_path / "hosts.txt", tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("WATCHED_HOSTS", str(hosts))
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    with served(tmp_path / "log.txt") as server:
        assert "Recording of 3.0 s" in classify(server.address, upload(server.address, "a.wav", sound))
    # Gradio asks itself once whether it listens.
    assert set(hosts.read_text().split()) == {"127.0.0.1"}
    assert list(temporary.rglob("*.wav")) == []


def test_process_has_met_no_mistake_of_its_own(space):
    assert space.process.poll() is None
    assert "space_demo/page.py" not in space.log.read_text()
