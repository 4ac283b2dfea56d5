"""Middleware before gradio: bounds uploads, gives each its own folder, and lets nothing be fetched from elsewhere."""

import contextlib
import json
import re
import secrets
from pathlib import Path
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from space_demo.limits import MAX_KEPT_BYTES, MAX_MEGABYTES, MAX_UPLOAD_BYTES
from space_demo.private_folder import kept_bytes

# Errors of gradio about a request that it does not understand. This project computes answers in gradio's queue, where
# its own errors stay.
NOT_UNDERSTOOD = (LookupError, OSError, TypeError, ValueError)
UPLOAD_ROUTE = "/gradio_api/upload"
# Other routes that the page and programs post to. Gradio has more, and some leave files elsewhere.
POST_ROUTES = (
    "/gradio_api/queue/join",
    "/gradio_api/cancel",
    "/gradio_api/reset",
    "/gradio_api/call/classify",
    "/gradio_api/call/explain",
)
# For the boundaries of a form and the file's name.
FORM_BYTES = 100_000
MAX_REQUEST_BYTES = 1_000_000
# The end of http:/ and the like, even with one slash, but not C:/.
ADDRESS_SIGN = re.compile(r"[\w+.-]{2}:/|://")
# Gradio's route to other pages.
PROXY_ROUTE = "/proxy="
NOTHING_FETCHED = "Nothing is fetched from elsewhere."
# A client reads the answer only after sending, so this much of a refused request is read and thrown away.
DRAINED_BYTES = 4 * MAX_UPLOAD_BYTES
# Gradio's page asks for a script and fonts of other hosts, which it does not need here.
CONTENT_POLICY = (
    "default-src 'self' blob: data:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; object-src 'none'; base-uri 'self'"
)


class UploadGuard:
    """
    ASGI middleware.

    Gradio names an upload after its content, so that two people who send the same file would share one, and the
    answer to the first would remove it from under the second. Here each upload gets a folder with a random name.

    Args:
        app (`ASGIApp`): gradio's.
        folder (`Path`): the private folder.
    """

    def __init__(self, app: ASGIApp, folder: Path):
        self.app = app
        self.folder = folder
        self._arriving_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        is_answered = False

        async def send_answer(message: Message) -> None:
            nonlocal is_answered
            is_answered = True
            await send(message)

        try:
            await self._choose(scope, receive, send_answer)
        except NOT_UNDERSTOOD:
            if is_answered:
                raise
            await PlainTextResponse("The request is not understood.", 400)(scope, receive, send)
        except RuntimeError as error:
            # Gradio says within a stream that nobody knows its name, and then raises that as well.
            if not (is_answered and isinstance(error.__cause__, HTTPException)):
                raise
            await send({"type": "http.response.body"})

    async def _choose(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"].endswith(UPLOAD_ROUTE) and scope["method"] == "POST":
            await self._upload(scope, receive, send)
        elif scope["path"].endswith(POST_ROUTES) and scope["method"] == "POST":
            await self._request(scope, receive, send)
        elif scope["method"] == "POST":
            await _refuse("Nothing is taken here.", 404, scope, receive, send)
        elif ADDRESS_SIGN.search(scope["path"]) or PROXY_ROUTE in scope["path"]:
            await _refuse(NOTHING_FETCHED, 404, scope, receive, send)
        else:
            await self.app(scope, receive, _with_content_policy(send))

    async def _upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        most = MAX_UPLOAD_BYTES + FORM_BYTES
        length = headers.get(b"content-length", b"")
        # The server ignores the length of a request that has both headers.
        if not length.isdigit() or b"transfer-encoding" in headers:
            await _refuse("The request has to say how long it is.", 411, scope, receive, send)
            return
        if int(length) > most:
            problem = f"The file is larger than {MAX_MEGABYTES} MB; cut it, or save it as flac."
            await _refuse(problem, 413, scope, receive, send)
            return
        if kept_bytes(self.folder) + self._arriving_bytes + int(length) > MAX_KEPT_BYTES:
            problem = "Too many recordings wait for an answer here; try again in a few minutes."
            await _refuse(problem, 503, scope, receive, send)
            return
        self._arriving_bytes += int(length)
        try:
            await self.app(scope, _bounded(receive, most), _with_own_folders(send, self.folder))
        finally:
            self._arriving_bytes -= int(length)

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on in one piece, if it is short and names no file elsewhere, which gradio would fetch."""
        body = b""
        message: Message = {"more_body": True}
        while message.get("more_body") and len(body) <= MAX_REQUEST_BYTES:
            message = await receive()
            body += message.get("body", b"")
        if len(body) > MAX_REQUEST_BYTES:
            if message.get("more_body"):
                await _drain(receive)
            await PlainTextResponse("The request is too long.", 413)(scope, receive, send)
        elif _names_address(body):
            await PlainTextResponse(NOTHING_FETCHED, 400)(scope, receive, send)
        else:
            waiting: list[Message] = [{"type": "http.request", "body": body}]

            async def receive_again() -> Message:
                return waiting.pop() if waiting else await receive()

            await self.app(scope, receive_again, send)


def _names_address(body: bytes) -> bool:
    """True where a request names an address in place of an upload; other content than JSON names none."""
    found: list[str] = []

    def look_for_path(fields: dict[str, Any]) -> dict[str, Any]:
        found.extend(value for key, value in fields.items() if key == "path" and isinstance(value, str))
        return fields

    with contextlib.suppress(ValueError, RecursionError):
        json.loads(body, object_hook=look_for_path)
    return any(ADDRESS_SIGN.search(path) for path in found)


def _bounded(receive: Receive, most: int) -> Receive:
    """Breaks a request off after `most` bytes, whatever its headers say."""
    left = most

    async def receive_bounded() -> Message:
        nonlocal left
        message = await receive()
        left -= len(message.get("body", b""))
        return message if left >= 0 else {"type": "http.disconnect"}

    return receive_bounded


async def _refuse(problem: str, status: int, scope: Scope, receive: Receive, send: Send) -> None:
    """Reads a request to its end and refuses it. A client that is cut off while it sends sees no answer."""
    await _drain(receive)
    await PlainTextResponse(problem, status)(scope, receive, send)


async def _drain(receive: Receive) -> None:
    """Takes up to `DRAINED_BYTES` of a request and keeps none of them."""
    message: Message = {"more_body": True}
    left = DRAINED_BYTES
    while message.get("more_body") and left > 0:
        message = await receive()
        left -= len(message.get("body", b""))


def _with_own_folders(send: Send, folder: Path) -> Send:
    """Passes the answer to an upload on, a list of paths, with each file moved into a folder of its own."""
    start: Message = {}
    body = b""

    async def send_moved(message: Message) -> None:
        nonlocal start, body
        if message["type"] == "http.response.start":
            start = message
            return
        body += message.get("body", b"")
        if message.get("more_body"):
            return
        if start["status"] == 200:
            body = json.dumps([str(_moved(Path(path), folder)) for path in json.loads(body)]).encode()
        others = [header for header in start["headers"] if header[0].lower() != b"content-length"]
        await send({**start, "headers": [*others, (b"content-length", str(len(body)).encode())]})
        await send({"type": "http.response.body", "body": body})

    return send_moved


def _moved(path: Path, folder: Path) -> Path:
    """Moves an upload to a random folder, before anything else runs in the event loop after gradio wrote the file."""
    own = folder / secrets.token_hex(16)
    own.mkdir()
    moved = path.rename(own / path.name)
    if not any(path.parent.iterdir()):
        path.parent.rmdir()
    return moved


def _with_content_policy(send: Send) -> Send:
    async def send_with_policy(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers: list[Any] = [*message["headers"], (b"content-security-policy", CONTENT_POLICY.encode())]
            message = {**message, "headers": headers}
        await send(message)

    return send_with_policy
