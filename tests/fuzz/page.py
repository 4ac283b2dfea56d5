"""The page in this process as a target: uploads, questions, and requests that nobody should make."""

import contextlib
import json
import os
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import quote

import httpx
import torch

from modeling_lung_srad import LungSradFeatureExtractor, LungSradForAudioClassification
from modeling_lung_srad.errors import InputError
from tests.conftest import tiny_config
from tests.fuzz.mutation import mutate_bytes, mutate_json, random_value
from tests.fuzz.session import Target
from tests.modeling_lung_srad.sounds import encoded, noise

WAITING_SECONDS = 30
API = "/gradio_api"
PATHS = (
    *(
        "/",
        "/config",
        "/theme.css",
        "/robots.txt",
        "/manifest.json",
        "/static/img/logo.svg",
        "/assets/x",
        "/login/huggingface",
    ),
    *(
        f"{API}/{route}"
        for route in ("file=", "file/", "info", "openapi.json", "proxy=", "startup-events", "heartbeat/a")
    ),
    *(
        f"{API}/{route}"
        for route in ("queue/data", "queue/status", "call/classify/a", "upload_progress", "component_server")
    ),
    *(
        f"{API}/{route}"
        for route in ("call/classify", "call/explain", "run/classify", "queue/join", "cancel", "reset", "upload")
    ),
)
# These streams stay open until the client goes.
OPEN_STREAMS = ("heartbeat", "queue/data", "upload_progress", "call/")
METHODS = ("GET", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "POST")
NAMES = (
    "a.wav",
    "",
    ".",
    "..",
    "../a.wav",
    "a/b.wav",
    "\x00",
    "é😀.wav",
    "=1+1",
    "a" * 300,
    "<b>.wav",
    'a".wav',
    "con",
)
OF_THE_PAGE = "because of a mistake of its own"


def page(folder: Path) -> Target:
    """Serves the page on a port of this machine until the target is closed."""
    os.environ |= {"GRADIO_TEMP_DIR": str(folder / "uploads"), "GRADIO_ANALYTICS_ENABLED": "False"}
    from space_demo.page import Page
    from space_demo.recognizers import Recognizers
    from space_demo.server import serve

    checkpoint, uploads = folder / "checkpoint", folder / "uploads"
    uploads.mkdir()
    _write_checkpoint(checkpoint)
    served = Page(Recognizers([str(checkpoint)], preferred=True), uploads)
    served.warm_up_in_background = lambda: None  # type: ignore[method-assign]
    stopped = threading.Event()
    thread = threading.Thread(target=serve, args=(served, uploads, stopped), daemon=True)
    thread.start()
    while not getattr(served.blocks, "local_url", None):
        thread.join(0.05)
        if not thread.is_alive():
            raise RuntimeError("the page did not start")
    client = httpx.Client(base_url=served.blocks.local_url, timeout=WAITING_SECONDS)

    def close() -> None:
        client.close()
        stopped.set()
        thread.join()

    seeds = [str(number).encode() for number in range(4)]
    return Target(seeds, _draw, lambda data: _visit(client, served, Random(data)), close)


def _draw(data: bytes, corpus: Sequence[bytes], random: Random) -> bytes:
    """Inputs are seeds from which a request is built."""
    return random.randbytes(8)


def _write_checkpoint(folder: Path) -> None:
    torch.manual_seed(0)
    config = tiny_config(dims=(4, 6), depths=(1, 1), gaussian_blocks=(), num_mel_bins=16, scan_backend="torch")
    LungSradForAudioClassification(config).save_pretrained(folder)
    LungSradFeatureExtractor(num_mel_bins=16, num_frames=200).save_pretrained(folder)


def _visit(client: httpx.Client, served: Any, random: Random) -> None:
    kind = random.random()
    try:
        if kind < 0.4:
            path = _upload(client, random) if kind < 0.3 else random_value(random)
            _ask(client, path, served.recognizers.default, random)
        elif kind < 0.7:
            _post(client, random)
        else:
            _wander(client, random)
    finally:
        for path in served.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)


def _upload(client: httpx.Client, random: Random) -> Any:
    """The path that a sound, or something like one, gets on the server."""
    content = encoded(noise(random.choice((0.01, 0.5, 2.0)), 4000), "WAV", "PCM_16", 4000)
    if random.random() < 0.7:
        content = mutate_bytes(content, [content], random)
    file = (random.choice(NAMES), content)
    form = client.build_request("POST", f"{API}/upload", files={"files": file})
    body = form.read()
    if random.random() < 0.3:
        body = mutate_bytes(body, [body], random)
    headers = {"content-type": form.headers["content-type"], "content-length": str(len(body))}
    answer = _checked(client.post(f"{API}/upload", content=body, headers=headers))
    paths = answer.json()
    return paths[0] if paths else None


def _ask(client: httpx.Client, path: Any, checkpoint: str, random: Random) -> None:
    """A question about an upload, with settings that fit or do not, and its answer."""
    route = random.choice(("classify", "explain"))
    settings = [8, 4, 0.5] if route == "classify" else ["0.000000 2.000000 normal"]
    question: Any = [{"path": path, "meta": {"_type": "gradio.FileData"}}, checkpoint, *settings]
    if random.random() < 0.6:
        question[random.randrange(len(question))] = random_value(random)
    body = json.dumps({"data": question}).encode()
    is_changed = random.random() < 0.3
    if is_changed:
        body = mutate_json(
            body, [body], random, ("data", "fn_index", "session_hash", "event_id", "trigger_id", "path", "url")
        )
    call = f"{API}/call/{route}"
    answer = _checked(client.post(call, content=body, headers={"content-type": "application/json"}))
    events = _events(client, f"{call}/{answer.json()['event_id']}")
    assert OF_THE_PAGE not in events, events
    if "event: complete" not in events:
        # The answer to a request in another's name may go to that one.
        assert is_changed or "event: error" in events, "no answer"
        raise InputError("page", "answers an error", None)


def _events(client: httpx.Client, path: str) -> str:
    """The events of a stream until it ends or has nothing to say for half a minute: gradio leaves some open."""
    events = ""
    with client.stream("GET", path) as answer:
        _checked(answer)
        for piece in answer.iter_text():
            events += piece
            if events.count("event: heartbeat") > 1:
                break
    return events


def _post(client: httpx.Client, random: Random) -> None:
    """A request by the routes of the queue, with odd content."""
    route = random.choice(("queue/join", "cancel", "reset", "call/classify", "call/explain", "run/classify"))
    content: dict[str, Any] = {
        "data": [None, "a"],
        "fn_index": random.randint(-1, 20),
        "session_hash": "a",
        "event_id": "b",
    }
    body = mutate_json(json.dumps(content).encode(), [b"{}"], random, ("batched", "trigger_id", "simple_format"))
    kind = random.choice(("application/json", "text/plain", "multipart/form-data", "application/json; charset=x", ""))
    answer = _checked(client.post(f"{API}/{route}", content=body, headers={"content-type": kind}))
    with contextlib.suppress(ValueError, KeyError, TypeError):
        _events(client, f"{API}/{route}/{answer.json()['event_id']}")


def _wander(client: httpx.Client, random: Random) -> None:
    """A request for any path by any method."""
    path = random.choice(PATHS)
    if random.random() < 0.7:
        more = random.choice(
            ("/etc/passwd", "..%2f..%2fetc/passwd", "https://example.com", "%00", "a" * 5000, "%ff", "?a=b")
        )
        path = f"{path}{more}"
    if random.random() < 0.4:
        path = "/" + quote(mutate_bytes(path.encode(), [b"/"], random).lstrip(b"/")[:2000], safe="/=?&%:")
    headers = {"range": random.choice(("bytes=0-1", "bytes=9-1", "bytes=-1", "x"))} if random.random() < 0.2 else {}
    with client.stream(random.choice(METHODS), path, headers=headers) as answer:
        if not any(stream in path for stream in OPEN_STREAMS):
            answer.read()
        _checked(answer)


def _checked(answer: httpx.Response) -> httpx.Response:
    """An answer; raises `InputError` for a refusal, and fails where the server says that it failed."""
    assert answer.status_code < 500, f"{answer.request.method} {answer.request.url} answers {answer.status_code}"
    if answer.status_code >= 400:
        raise InputError("page", f"answers {answer.status_code}", None)
    return answer
