"""What stands before gradio, by itself: an application that records what reaches it, and requests made by hand."""

import asyncio
import json

import pytest

from space_demo.limits import MAX_UPLOAD_BYTES

upload_guard = pytest.importorskip("space_demo.upload_guard", reason="needs gradio: pip install -e '.[demo]'")


def ask(tmp_path, method, path, pieces=(b"",), headers=()):
    """Status of the answer, and the body that the application got, or None where nothing reached it."""
    reached, sent = [], []
    waiting = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    waiting[-1]["more_body"] = False

    async def receive():
        return waiting.pop(0)

    async def send(message):
        sent.append(message)

    async def application(scope, receive, send):
        reached.append((await receive())["body"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"[]"})

    scope = {"type": "http", "method": method, "path": path, "headers": list(headers)}
    asyncio.run(upload_guard.UploadGuard(application, tmp_path)(scope, receive, send))
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
    assert ask(tmp_path, "POST", "/x", [b"a" * 600_000] * 3) == (413, None)
    assert ask(tmp_path, "POST", "/x", [b"[" * 100_000]) == (200, b"[" * 100_000)


def test_a_file_of_elsewhere_is_not_fetched(tmp_path):
    assert ask(tmp_path, "GET", f"{upload_guard.FILE_ROUTE}http://127.0.0.1/a.wav") == (404, None)
    assert ask(tmp_path, "GET", f"{upload_guard.FILE_ROUTE}/tmp/a.wav")[0] == 200
