"""The HTTP side of the local Hub: what `huggingface_hub` asks to create repositories, to upload to and to read them.

Large files go by the basic transfer of Git LFS; the Hub's own protocol for them (Xet) is refused with 404.
"""

import hashlib
import json
import re
import socket
import threading
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from .store import KINDS, Repository, Store, list_tree, tree_entry

WRITE_TOKEN, READ_TOKEN = "hf_localWriteTokenForTests", "hf_localReadTokenForTests"
BLOCK_BYTES = 1 << 16


class User(NamedTuple):
    name: str
    can_write: bool


class Request(NamedTuple):
    """A request and the status of its answer; 0 where the connection was dropped instead."""

    method: str
    path: str
    status: int


@dataclass
class Fault:
    """Failure of requests of a method and path, a number of `times`.

    Args:
        method (`str`): such as `PUT`.
        path (`str`): a regular expression that is searched in the path.
        status (`int`, *optional*): answered instead of the request; by default the connection is dropped when half of
            the body has arrived.
        times (`int`, *optional*, defaults to 1): how often.
        reached (`threading.Event`, *optional*): set when it happens; nothing is answered or dropped then before the
            client goes away.
    """

    method: str
    path: str
    status: int | None = None
    times: int = 1
    reached: threading.Event | None = None


class HubError(Exception):
    """An answer other than success: status, message, the Hub's error code, and what else is in the body."""

    def __init__(self, status: int, message: str, code: str | None = None, **content: Any):
        super().__init__(message)
        self.status, self.code, self.content = status, code, content


class LocalHub:
    """
    A server in threads of this process, as a context manager.

    Attributes:
        url (`str`): the value for `HF_ENDPOINT`.
        store (`Store`): what was uploaded.
        requests (`list[Request]`): in the order of their answers, whoever asked.
        faults (`list[Fault]`): what shall go wrong.

    Example:

    ```python
    with LocalHub() as hub:
        HfApi(endpoint=hub.url, token=WRITE_TOKEN).create_repo("user/name")
        assert ("model", "user/name") in hub.store.repositories
    ```
    """

    def __init__(self) -> None:
        self.store = Store()
        self.users = {WRITE_TOKEN: User("user", True), READ_TOKEN: User("user", False)}
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "LocalHub":
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def repository(self, name: str, kind: str = "model") -> Repository:
        """One that exists."""
        return self.store.repositories[kind, name]

    def sent(self, method: str, path: str = "") -> list[Request]:
        """Requests of a method in whose path the regular expression is found."""
        return [request for request in self.requests if request.method == method and re.search(path, request.path)]

    def take_fault(self, method: str, path: str) -> Fault | None:
        for fault in self.faults:
            if fault.times and fault.method == method and re.search(fault.path, path):
                fault.times -= 1
                return fault
        return None


def _handler(hub: LocalHub) -> type[BaseHTTPRequestHandler]:
    return type("Handler", (HubHandler,), {"hub": hub})


class HubHandler(BaseHTTPRequestHandler):
    """One connection. Each route is a method, and a regular expression in `ROUTES`."""

    hub: LocalHub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._serve()

    def do_HEAD(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_DELETE(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def log_message(self, *arguments: Any) -> None:
        """Nothing is printed; `LocalHub.requests` has it."""

    def _serve(self) -> None:
        url = urllib.parse.urlsplit(self.path)
        self.query = dict(urllib.parse.parse_qsl(url.query))
        fault = self.hub.take_fault(self.command, url.path)
        try:
            if fault is not None and fault.status is None:
                return self._drop(fault)
            self.body = self._read_body()
            if fault is not None and fault.status is not None:
                raise HubError(fault.status, "a fault that the test asked for")
            self._route(urllib.parse.unquote(url.path))
        except HubError as error:
            headers = {"X-Error-Message": str(error)} | ({"X-Error-Code": error.code} if error.code else {})
            self._answer(error.status, {"error": str(error)} | error.content, headers)
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def _read_body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _record(self, status: int) -> None:
        """Comes before the answer, so that whoever has that finds the request in the list."""
        path = urllib.parse.urlsplit(self.path).path
        self.hub.requests.append(Request(self.command, path, status))

    def _drop(self, fault: Fault) -> None:
        self._record(0)
        self.rfile.read(int(self.headers.get("Content-Length", 0)) // 2)
        if fault.reached is not None:
            fault.reached.set()
            while self.connection.recv(BLOCK_BYTES):
                pass
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _route(self, path: str) -> None:
        for method, pattern, name in ROUTES:
            match = re.fullmatch(pattern, path)
            if match and self.command in method.split():
                handle: Callable[..., None] = getattr(self, name)
                return handle(**match.groupdict())
        raise HubError(404, f"no such address: {self.command} {path}")

    def _answer(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body))} | (headers or {})
        self._record(status)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _user(self) -> User | None:
        """Who asks, `None` for anonymous; an unknown token is refused."""
        header = self.headers.get("Authorization")
        if header is None:
            return None
        user = self.hub.users.get(header.removeprefix("Bearer "))
        if user is None:
            raise HubError(401, "Invalid credentials in Authorization header")
        return user

    def _find(self, kind: str, name: str) -> Repository:
        """A repository that whoever asks may read."""
        user = self._user()
        repository = self.hub.store.repositories.get((kind, name))
        if repository is None or (repository.private and (user is None or user.name != name.partition("/")[0])):
            if user is None:
                raise HubError(401, "Invalid username or password.", "RepoNotFound")
            raise HubError(404, "Repository not found", "RepoNotFound")
        return repository

    def _find_writable(self, kind: str, name: str) -> Repository:
        user, repository = self._user(), self._find(kind, name)
        self._check_rights(user, name.partition("/")[0], kind)
        return repository

    def _check_rights(self, user: User | None, namespace: str, kind: str) -> None:
        if user is None:
            raise HubError(401, "Invalid username or password.")
        if not user.can_write or user.name != namespace:
            raise HubError(403, f'You don\'t have the rights to write a {kind} under the namespace "{namespace}"')

    def _commit_of(self, repository: Repository, revision: str) -> str:
        commit = repository.commit_of(revision)
        if commit is None:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    def whoami(self) -> None:
        user = self._user()
        if user is None:
            raise HubError(401, "Invalid username or password.")
        token = {"displayName": "tests", "role": "write" if user.can_write else "read"}
        self._answer(200, {"type": "user", "name": user.name, "orgs": [], "auth": {"accessToken": token}})

    def create(self) -> None:
        wanted = json.loads(self.body)
        kind, user = wanted.get("type") or "model", self._user()
        namespace = wanted.get("organization") or (user.name if user else "")
        self._check_rights(user, namespace, kind)
        name = f"{namespace}/{wanted['name']}"
        url = f"{self.hub.url}/{'' if kind == 'model' else f'{kind}s/'}{name}"
        if (kind, name) in self.hub.store.repositories:
            raise HubError(409, "You already created this repo", url=url)
        repository = Repository(kind, name, wanted.get("visibility") == "private", wanted.get("sdk"))
        repository.variables = {entry["key"]: entry["value"] for entry in wanted.get("variables", [])}
        self.hub.store.repositories[kind, name] = repository
        self._answer(200, {"url": url, "name": name, "id": name})

    def validate_yaml(self) -> None:
        text = json.loads(self.body)["content"]
        errors = [] if text.startswith("---\n") else [{"message": "empty or missing yaml metadata in repo card"}]
        self._answer(400 if errors else 200, {"errors": errors, "warnings": []})

    def variables(self, kind: str, name: str) -> None:
        variables = self._find_writable(kind, name).variables
        if self.command == "POST":
            wanted = json.loads(self.body)
            variables[wanted["key"]] = wanted["value"]
        elif self.command == "DELETE" and variables.pop(json.loads(self.body)["key"], None) is None:
            raise HubError(404, "no such variable")
        self._answer(200, {key: {"key": key, "value": value} for key, value in variables.items()})

    def preupload(self, kind: str, name: str, revision: str) -> None:
        repository = self._find_writable(kind, name)
        files = repository.commits[self._commit_of(repository, revision)]
        answer = []
        for file in json.loads(self.body)["files"]:
            mode = self.hub.store.upload_mode(file["path"], file["size"])
            known = files.get(file["path"])
            entry = {"path": file["path"], "uploadMode": mode, "shouldIgnore": False}
            answer.append(entry | ({"oid": known.etag} if known else {}))
        self._answer(200, {"files": answer})

    def large_file_batch(self, prefix: str, name: str) -> None:
        self._find_writable((prefix or "models/").removesuffix("s/"), name)
        objects = []
        for wanted in json.loads(self.body)["objects"]:
            entry = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.hub.store.large_files:
                address = f"{self.hub.url}/large-files/{wanted['oid']}"
                entry["actions"] = {"upload": {"href": address}, "verify": {"href": f"{address}/verify"}}
            objects.append(entry)
        self._answer(200, {"transfer": "basic", "objects": objects}, {"Content-Type": "application/vnd.git-lfs+json"})

    def put_large_file(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise HubError(400, "the content has another SHA-256")
        self.hub.store.large_files[oid] = self.body
        self._answer(200, b"")

    def verify_large_file(self, oid: str) -> None:
        if len(self.hub.store.large_files.get(oid, b"")) != json.loads(self.body)["size"]:
            raise HubError(404, "not uploaded")
        self._answer(200, b"")

    def commit(self, kind: str, name: str, revision: str) -> None:
        repository = self._find_writable(kind, name)
        self._commit_of(repository, revision)
        try:
            commit = self.hub.store.commit(repository, self.body.splitlines())
        except KeyError as error:
            raise HubError(400, f"{error} does not exist; upload it first") from error
        url = f"{self.hub.url}/{'' if kind == 'model' else f'{kind}s/'}{name}/commit/{commit}"
        self._answer(200, {"success": True, "commitOid": commit, "commitUrl": url, "hookOutput": ""})

    def describe(self, kind: str, name: str, revision: str | None = None) -> None:
        repository = self._find(kind, name)
        self._answer(200, repository.describe(self._commit_of(repository, revision or "main")))

    def references(self, kind: str, name: str) -> None:
        branch = {"name": "main", "ref": "refs/heads/main", "targetCommit": self._find(kind, name).head}
        self._answer(200, {"branches": [branch], "tags": [], "converts": []})

    def tree(self, kind: str, name: str, revision: str, folder: str | None = None) -> None:
        repository = self._find(kind, name)
        files = repository.commits[self._commit_of(repository, revision)]
        recursive = self.query.get("recursive", "").lower() in ("true", "1")
        entries = list_tree(files, folder or "", recursive)
        if folder and not entries:
            raise HubError(404, f"{folder} does not exist", "EntryNotFound")
        self._answer(200, entries)

    def paths_info(self, kind: str, name: str, revision: str) -> None:
        repository = self._find(kind, name)
        files = repository.commits[self._commit_of(repository, revision)]
        asked = dict(urllib.parse.parse_qsl(self.body.decode())) if self.body[:1] != b"{" else json.loads(self.body)
        paths = [asked["paths"]] if isinstance(asked["paths"], str) else asked["paths"]
        found = [tree_entry(path, files[path]) for path in paths if path in files]
        folders = [entry for entry in list_tree(files, "", True) if entry["type"] == "directory"]
        self._answer(200, found + [folder for folder in folders if folder["path"] in paths])

    def resolve(self, prefix: str | None, name: str, revision: str, path: str) -> None:
        repository = self._find((prefix or "models/").removesuffix("s/"), name)
        commit = self._commit_of(repository, revision)
        file = repository.commits[commit].get(path)
        if file is None:
            error = HubError(404, f"{path} does not exist", "EntryNotFound")
            headers = {"X-Repo-Commit": commit, "X-Error-Code": "EntryNotFound", "X-Error-Message": str(error)}
            return self._answer(404, {"error": str(error)}, headers)
        size = len(file.content)
        headers = {
            "Content-Type": "application/octet-stream",
            "ETag": f'"{file.etag}"',
            "X-Repo-Commit": commit,
            "Accept-Ranges": "bytes",
        }
        if file.is_lfs:
            headers |= {"X-Linked-ETag": f'"{file.sha256}"', "X-Linked-Size": str(size)}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not wanted or not size:
            return self._answer(200, file.content, headers)
        first, last = int(wanted[1]), min(int(wanted[2] or size - 1), size - 1)
        if first >= size:
            return self._answer(416, b"", headers | {"Content-Range": f"bytes */{size}"})
        headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        return self._answer(206, file.content[first : last + 1], headers)


_API = rf"/api/(?P<kind>{'|'.join(KINDS)})s/(?P<name>[^/]+/[^/]+)"
_PAGES = r"/(?P<prefix>datasets/|spaces/)?(?P<name>[^/]+/[^/]+)"
ROUTES = (
    ("GET", r"/api/whoami-v2", "whoami"),
    ("POST", r"/api/repos/create", "create"),
    ("POST", r"/api/validate-yaml", "validate_yaml"),
    ("GET POST DELETE", rf"{_API}/variables", "variables"),
    ("POST", rf"{_API}/preupload/(?P<revision>.+)", "preupload"),
    ("POST", rf"{_API}/commit/(?P<revision>.+)", "commit"),
    ("POST", rf"{_PAGES}\.git/info/lfs/objects/batch", "large_file_batch"),
    ("PUT", r"/large-files/(?P<oid>[0-9a-f]{64})", "put_large_file"),
    ("POST", r"/large-files/(?P<oid>[0-9a-f]{64})/verify", "verify_large_file"),
    ("GET HEAD", rf"{_API}", "describe"),
    ("GET", rf"{_API}/revision/(?P<revision>.+)", "describe"),
    ("GET", rf"{_API}/refs", "references"),
    ("GET", rf"{_API}/tree/(?P<revision>[^/]+)(/(?P<folder>.+))?", "tree"),
    ("POST", rf"{_API}/paths-info/(?P<revision>.+)", "paths_info"),
    ("GET HEAD", rf"{_PAGES}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
)
