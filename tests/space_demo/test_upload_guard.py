"""The guard before gradio, by itself: an application that records what reaches it, and requests made by hand."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from space_demo.limits import LEAST_BYTES, MAX_ANSWER_SECONDS, MAX_KEPT_BYTES, MAX_UPLOAD_BYTES, MAX_WAITING
from space_demo.private_folder import UNUSED_SECONDS, kept_bytes

upload_guard = pytest.importorskip("space_demo.upload_guard", reason="needs gradio: pip install -e '.[demo]'")


def ask(tmp_path, method, path, pieces=(b"",), headers=(), error=None, breaks_off=False):
    """Status of the answer, and the body that the application got, or None where it got none or not all of it."""
    reached, sent = [], []
    waiting = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    waiting[-1]["more_body"] = False

    async def receive():
        return waiting.pop(0)

    async def send(message):
        sent.append(message)

    async def application(scope, receive, send):
        body, message = b"", {"more_body": True}
        while message.get("more_body"):
            message = await receive()
            body += message.get("body", b"")
        reached.append(body if message["type"] == "http.request" else None)
        if error and not breaks_off:
            raise error
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if error:
            raise error
        await send({"type": "http.response.body", "body": b"[]"})

    scope = {"type": "http", "method": method, "path": path, "headers": list(headers)}
    # In a thread of its own: tests of the page leave an event loop in this one.
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, upload_guard.UploadGuard(application, tmp_path)(scope, receive, send)).result()
    # A client that is answered before it has sent everything may only see a closed connection.
    assert not waiting
    return sent[0]["status"], reached[0] if reached else None


@pytest.mark.parametrize(
    ("length", "status"),
    [(b"1000", 200), (b"%d" % (MAX_UPLOAD_BYTES + 200_000), 413), (b"", 411), (b"-1", 411), (b"1e3", 411)],
)
def test_an_upload_says_how_long_it_is_and_is_bounded(tmp_path, length, status):
    headers = [(b"content-length", length)] if length else []
    answered, body = ask(tmp_path, "POST", upload_guard.UPLOAD_ROUTE, [b"sound"], headers)
    assert answered == status
    assert body == (b"sound" if status == 200 else None)


@pytest.mark.parametrize(
    "headers",
    [
        [(b"content-length", b"1000"), (b"transfer-encoding", b"chunked")],
        [(b"transfer-encoding", b"chunked")],
    ],
)
def test_an_upload_in_chunks_is_refused_whatever_length_it_states(tmp_path, headers):
    assert ask(tmp_path, "POST", upload_guard.UPLOAD_ROUTE, [b"sound"], headers) == (411, None)


def test_an_upload_that_is_longer_than_it_says_is_broken_off(tmp_path):
    pieces = [bytes(MAX_UPLOAD_BYTES // 2)] * 3
    assert ask(tmp_path, "POST", upload_guard.UPLOAD_ROUTE, pieces, [(b"content-length", b"1000")])[1] is None


def test_uploads_are_refused_while_too_many_wait(tmp_path):
    kept = tmp_path / "waiting.wav"
    length = [(b"content-length", b"1000")]
    for size, status in ((MAX_KEPT_BYTES - 1000, 200), (MAX_KEPT_BYTES - 999, 503)):
        with kept.open("wb") as file:
            file.truncate(size)
        assert ask(tmp_path, "POST", upload_guard.UPLOAD_ROUTE, [b"sound"], length)[0] == status


def test_short_uploads_are_not_kept_without_end(tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.wav").write_bytes(b"sound")
    assert kept_bytes(tmp_path) == 3 * LEAST_BYTES


def test_uploads_are_kept_until_the_last_that_waits_is_answered():
    assert UNUSED_SECONDS >= MAX_WAITING * MAX_ANSWER_SECONDS


@pytest.mark.parametrize(
    "path", ["/gradio_api/process_recording", "/gradio_api/run/classify", "/gradio_api/component_server", "/login"]
)
def test_what_the_page_does_not_ask_for_does_not_reach_gradio(tmp_path, path):
    assert ask(tmp_path, "POST", path) == (404, None)


def test_the_route_to_other_pages_is_closed(tmp_path):
    assert ask(tmp_path, "GET", "/gradio_api/proxy=a\0") == (404, None)


@pytest.mark.parametrize("path", upload_guard.POST_ROUTES)
def test_what_the_page_asks_for_reaches_gradio_also_behind_a_proxy(tmp_path, path):
    assert ask(tmp_path, "POST", path, [b"{}"]) == (200, b"{}")
    assert ask(tmp_path, "POST", f"/prefix{path}", [b"{}"]) == (200, b"{}")


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"data": [{"path": "/tmp/a.wav"}]}, 200),
        ({"data": [{"path": "http://127.0.0.1/a.wav"}]}, 400),
        ({"data": [{"deep": [{"path": "file:///etc/passwd"}]}]}, 400),
        ({"data": ["http://not.a.file/"]}, 200),
    ],
)
def test_a_request_that_names_an_address_is_not_passed_on(tmp_path, fields, status):
    content = json.dumps(fields).encode()
    answered, body = ask(tmp_path, "POST", "/gradio_api/queue/join", [content[:5], content[5:]])
    assert answered == status
    assert body == (content if status == 200 else None)


def test_a_long_request_is_refused_and_what_is_no_json_is_left_to_gradio(tmp_path):
    route = upload_guard.POST_ROUTES[0]
    assert ask(tmp_path, "POST", route, [b"a" * 600_000] * 3) == (413, None)
    assert ask(tmp_path, "POST", route, [b"[" * 100_000]) == (200, b"[" * 100_000)


@pytest.mark.parametrize("error", [KeyError(10), TypeError("not a file"), OSError(36, "File name too long")])
def test_a_request_that_gradio_does_not_understand_is_refused(tmp_path, error):
    assert ask(tmp_path, "POST", upload_guard.POST_ROUTES[0], [b"{}"], error=error)[0] == 400
    assert ask(tmp_path, "GET", "/assets/a", error=error)[0] == 400


def test_an_answer_that_breaks_off_is_an_error_of_the_server(tmp_path):
    with pytest.raises(KeyError):
        ask(tmp_path, "GET", "/", error=KeyError(10), breaks_off=True)
    with pytest.raises(RuntimeError):
        ask(tmp_path, "GET", "/", error=RuntimeError("a bug"))


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("route", ["/gradio_api/file=", "/gradio_api/file/", "/prefix/gradio_api/file/"])
def test_a_file_of_elsewhere_is_not_fetched(tmp_path, method, route):
    for address in ("http://127.0.0.1/a.wav", "https:/example.com/a.wav", "FILE:///etc/passwd"):
        assert ask(tmp_path, method, f"{route}{address}") == (404, None)
    for path in ("/tmp/a.wav", "C:/Temp/a.wav", "/tmp/1:2/a.wav"):
        assert ask(tmp_path, method, f"{route}{path}")[0] == 200
