"""Serves the static page to this machine, with the headers that let the browser use several threads."""

import functools
import http.server
import threading
from pathlib import Path
from typing import Any

from space_demo.static.build import page_headers

TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".wav": "audio/wav",
    "": "application/octet-stream",
}
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def serve_site(folder: Path, stopped: threading.Event, host: str, port: int) -> None:
    """
    Serves the files of a folder until `stopped` is set.

    Raises:
        OSError: where the port is taken.
    """
    with make_server(folder, host, port) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(f"Listening on http://{host}:{server.server_port}", flush=True)
        # Without a time to wait, Windows lets no signal through.
        while not stopped.wait(1):
            pass
        server.shutdown()


def make_server(folder: Path, host: str, port: int) -> http.server.ThreadingHTTPServer:
    """A server of the files of a folder that listens and does not answer yet; port 0 is any free one."""
    headers = HEADERS | page_headers(folder)
    handler = functools.partial(_Handler, directory=str(folder), headers_to_add=headers)
    return http.server.ThreadingHTTPServer((host, port), handler)


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Sends files with their types; lists no folder and logs nothing."""

    protocol_version = "HTTP/1.1"
    extensions_map = TYPES

    def __init__(self, *args: Any, headers_to_add: dict[str, str], **kwargs: Any):
        self.headers_to_add = headers_to_add
        super().__init__(*args, **kwargs)

    def end_headers(self) -> None:
        for name, value in self.headers_to_add.items():
            self.send_header(name, value)
        super().end_headers()

    def list_directory(self, path: Any) -> None:
        self.send_error(404)

    def log_message(self, format: str, *args: Any) -> None:
        pass
