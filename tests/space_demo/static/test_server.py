"""The server of the static page: types that browsers insist on, headers for threads and privacy, no listing."""

import threading
import urllib.error
import urllib.request

import pytest

from space_demo.static.build import PAGE
from space_demo.static.server import make_server


@pytest.fixture(scope="module")
def server():
    server = make_server(PAGE, "127.0.0.1", 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/worker.js", "text/javascript; charset=utf-8"),
        ("/page.css", "text/css; charset=utf-8"),
        ("/manifest.json", "application/json"),
        ("/icon.svg", "image/svg+xml"),
    ],
)
def test_file_has_its_type_and_the_headers_of_the_page(server, path, kind):
    with urllib.request.urlopen(server + path, timeout=30) as answer:
        assert answer.headers["Content-Type"] == kind
        assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert answer.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "connect-src 'self'" in answer.headers["Content-Security-Policy"]


@pytest.mark.parametrize("path", ["/nosuch.js", "/../build.py", "/%2e%2e/build.py", "/runtime/"])
def test_nothing_else_is_served(server, path):
    with pytest.raises(urllib.error.HTTPError) as raised:
        urllib.request.urlopen(server + path, timeout=30)
    assert raised.value.code == 404


def test_folder_is_not_listed(tmp_path):
    (tmp_path / "index.html").write_text((PAGE / "index.html").read_text())
    (tmp_path / "examples").mkdir()
    server = make_server(tmp_path, "127.0.0.1", 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/examples/", timeout=30)
    server.shutdown()
    server.server_close()
