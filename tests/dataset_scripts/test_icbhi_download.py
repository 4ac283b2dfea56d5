"""Fetching the archive from a local server: whole, interrupted and resumed, refused, and with wrong content."""

import http.server
import threading
import zipfile

import pytest

from dataset_scripts import icbhi_download
from dataset_scripts.icbhi import load_icbhi
from dataset_scripts.icbhi_download import download_file, download_icbhi, extract_zip
from modeling_lung_srad.errors import InputError

CONTENT = bytes(range(256)) * 4000


class Server:
    """Serves one file at /file, with ranges where `ranges` is set; drops connections after `drop_after` bytes."""

    def __init__(self, content, ranges=True, drop_after=None, drops=0):
        self.content, self.ranges, self.drop_after, self.drops = content, ranges, drop_after, drops
        self.requested = []
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                server.answer(self)

            def log_message(self, *arguments):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    def answer(self, request):
        wanted = request.headers.get("Range")
        self.requested.append(wanted)
        if request.path != "/file":
            request.send_error(404)
            return
        first = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.ranges else 0
        if first >= len(self.content):
            request.send_response(416)
            request.send_header("Content-Range", f"bytes */{len(self.content)}")
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        body = self.content[first:]
        request.send_response(206 if wanted and self.ranges else 200)
        if wanted and self.ranges:
            request.send_header("Content-Range", f"bytes {first}-{len(self.content) - 1}/{len(self.content)}")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        if self.drops:
            self.drops -= 1
            body = body[: self.drop_after]
        request.wfile.write(body)

    def __enter__(self):
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/file"
        return self

    def __exit__(self, *error):
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(icbhi_download.time, "sleep", lambda seconds: None)
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)


def test_whole_file_is_fetched(tmp_path):
    with Server(CONTENT) as server:
        download_file(server.url, tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_dropped_connections_are_continued_where_they_ended(tmp_path):
    with Server(CONTENT, drop_after=300_000, drops=3) as server:
        download_file(server.url, tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert server.requested == [None, "bytes=300000-", "bytes=600000-", "bytes=900000-"]


def test_interrupted_download_is_kept_and_resumed_by_the_next_call(tmp_path):
    with Server(CONTENT, drop_after=0, drops=100) as server:
        (tmp_path / "a.zip.part").write_bytes(CONTENT[:12345])
        with pytest.raises(InputError, match=r"are kept in .*a.zip.part, run it again to continue"):
            download_file(server.url, tmp_path / "a.zip")
        assert (tmp_path / "a.zip.part").read_bytes() == CONTENT[:12345]
        assert not (tmp_path / "a.zip").exists()
        server.drops = 0
        download_file(server.url, tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert set(server.requested) == {"bytes=12345-"}


def test_server_without_ranges_is_asked_from_the_start(tmp_path):
    (tmp_path / "a.zip.part").write_bytes(b"something else")
    with Server(CONTENT, ranges=False) as server:
        download_file(server.url, tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


def test_part_that_is_whole_already_is_not_fetched_again(tmp_path):
    (tmp_path / "a.zip.part").write_bytes(CONTENT)
    with Server(CONTENT) as server:
        download_file(server.url, tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert server.requested == [f"bytes={len(CONTENT)}-"]


def test_part_longer_than_the_file_is_fetched_again(tmp_path):
    (tmp_path / "a.zip.part").write_bytes(CONTENT + b"more")
    with Server(CONTENT) as server:
        download_file(server.url, tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


def test_refusals_are_named(tmp_path):
    with Server(CONTENT) as server:
        with pytest.raises(InputError, match=r"/missing: the server answered 404 .*; check the address"):
            download_file(server.url.replace("/file", "/missing"), tmp_path / "a.zip")
        closed = server.url
    with pytest.raises(InputError, match="check the connection"):
        download_file(closed, tmp_path / "a.zip")
    with pytest.raises(InputError, match="is not an http or https address"):
        download_file("file:///etc/hostname", tmp_path / "a.zip")


@pytest.fixture(scope="module")
def archive(simulated_folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("archive") / "a.zip"
    with zipfile.ZipFile(path, "w") as opened:
        for file in sorted(simulated_folder.iterdir()):
            opened.write(file, f"ICBHI_final_database/{file.name}")
    return path.read_bytes()


def test_load_with_download_fetches_resumes_checks_and_unpacks(tmp_path, archive, monkeypatch):
    expected = {"expected_recordings": 20, "expected_cycles": 80}
    with Server(archive, drop_after=200_000, drops=1) as server:
        monkeypatch.setenv("LUNG_SRAD_ICBHI_URL", server.url)
        for _ in range(2):
            loaded = load_icbhi(tmp_path / "icbhi", download=True, cache_dir=tmp_path / "cache", **expected)
            assert {part: len(rows) for part, rows in loaded.items()} == {"train": 48, "test": 32}
    assert server.requested == [None, "bytes=200000-"]
    assert [path.name for path in (tmp_path / "icbhi").iterdir()] == ["ICBHI_final_database"]


def test_unexpected_content_is_an_error_and_unpacks_nothing(tmp_path, archive):
    with Server(archive) as server, pytest.raises(InputError, match="has 20 of 920 recordings; delete it"):
        download_icbhi(tmp_path, server.url)
    assert [path.name for path in tmp_path.iterdir()] == ["ICBHI_final_database.zip"]
    with pytest.raises(InputError, match="has 80 of 81 cycles"):
        download_icbhi(tmp_path, "http://127.0.0.1:9/file", expected_recordings=20, expected_cycles=81)


def test_page_in_place_of_the_archive_is_an_error(tmp_path):
    with Server(b"<html>moved</html>") as server, pytest.raises(InputError, match="is not a whole zip archive"):
        download_icbhi(tmp_path, server.url)


def test_folder_with_other_recordings_is_left_alone(tmp_path, archive):
    (tmp_path / "101_1b1_Al_sc_Meditron.txt").write_text("0.0\t1.0\t0\t0\n")
    with pytest.raises(InputError, match="has 0 of 920 recordings; name an empty folder for the download"):
        download_icbhi(tmp_path, "http://127.0.0.1:9/file")
    assert [path.name for path in tmp_path.iterdir()] == ["101_1b1_Al_sc_Meditron.txt"]


def test_nothing_is_fetched_to_recordings_in_two_folders(tmp_path):
    for name in ("a/101_1b1_Al_sc_Meditron.txt", "b/102_1b1_Ar_sc_Meditron.txt"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("0.0\t1.0\t0\t0\n")
    with pytest.raises(InputError, match="has other recordings than"):
        download_icbhi(tmp_path, "http://127.0.0.1:9/file")


def test_file_in_place_of_the_folder_is_an_error(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"")
    with pytest.raises(InputError, match="is a file; name a folder for the download"):
        load_icbhi(tmp_path / "a.zip", download=True)


def test_archive_that_unpacks_to_too_much_is_an_error(tmp_path, archive, monkeypatch):
    (tmp_path / "a.zip").write_bytes(archive)
    monkeypatch.setattr(icbhi_download, "MAX_UNPACKED_BYTES", 1000)
    with pytest.raises(InputError, match=r"unpacks to .* more than ICBHI 2017 has"):
        extract_zip(tmp_path / "a.zip", tmp_path / "unpacked")
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]
