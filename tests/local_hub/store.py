"""Memory of the local Hub: repositories with their commits, and large files by their SHA-256."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import yaml

KINDS = ("model", "dataset", "space")
# As the `.gitattributes` of a new repository on the Hub, as far as it matters here.
LFS_SUFFIXES = (".safetensors", ".parquet", ".wav", ".flac", ".png", ".npy", ".zip")
REGULAR_BYTES = 10 << 20
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize {}\n"


@dataclass(frozen=True)
class StoredFile:
    """A file of a commit; `is_lfs` says how it was sent."""

    content: bytes
    is_lfs: bool

    @property
    def oid(self) -> str:
        """Git's hash of the blob, which for a large file is its pointer."""
        blob = POINTER.format(self.sha256, len(self.content)).encode() if self.is_lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(blob) + blob).hexdigest()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.is_lfs else self.oid


@dataclass
class Repository:
    """One repository with the branch `main`: `commits` holds the files of each commit, oldest first."""

    kind: str
    name: str
    private: bool
    sdk: str | None = None
    variables: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, StoredFile]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.add_commit({}, "initial commit")

    @property
    def head(self) -> str:
        return next(reversed(self.commits))

    @property
    def files(self) -> dict[str, StoredFile]:
        """Those of the last commit."""
        return self.commits[self.head]

    def commit_of(self, revision: str) -> str | None:
        """The commit that a branch or a hash names."""
        return self.head if revision in ("main", "refs/heads/main") else revision if revision in self.commits else None

    def add_commit(self, files: dict[str, StoredFile], message: str) -> str:
        content = json.dumps([message, len(self.commits), sorted((name, file.oid) for name, file in files.items())])
        commit = hashlib.sha1(f"{self.kind} {self.name} {content}".encode()).hexdigest()
        self.commits[commit] = files
        self.messages.append(message)
        return commit

    def front_matter(self, commit: str) -> dict[str, Any]:
        """The YAML block of its card."""
        card = self.commits[commit].get("README.md")
        text = card.content.decode() if card else ""
        return (yaml.safe_load(text.split("---\n")[1]) or {}) if text.startswith("---\n") else {}

    def describe(self, commit: str) -> dict[str, Any]:
        """A repository as the Hub's API describes it."""
        files = self.commits[commit]
        card = self.front_matter(commit)
        answer = {
            "_id": hashlib.sha1(self.name.encode()).hexdigest()[:24],
            "id": self.name,
            "author": self.name.partition("/")[0],
            "sha": commit,
            "private": self.private,
            "gated": False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": card.get("tags", []),
            "lastModified": "2026-01-01T00:00:00.000Z",
            "createdAt": "2026-01-01T00:00:00.000Z",
            "cardData": card,
            "siblings": [{"rfilename": path} for path in sorted(files)],
        }
        if self.kind == "model":
            answer |= {"modelId": self.name, "pipeline_tag": card.get("pipeline_tag")}
            answer["library_name"] = card.get("library_name")
        if self.kind == "space":
            answer |= {"sdk": card.get("sdk", self.sdk), "subdomain": self.name.replace("/", "-")}
        return answer


def tree_entry(path: str, file: StoredFile) -> dict[str, Any]:
    """A file in the listing of a repository."""
    entry: dict[str, Any] = {"type": "file", "oid": file.oid, "size": len(file.content), "path": path}
    if file.is_lfs:
        pointer = POINTER.format(file.sha256, len(file.content))
        entry["lfs"] = {"oid": file.sha256, "size": len(file.content), "pointerSize": len(pointer)}
    return entry


def list_tree(files: dict[str, StoredFile], folder: str, recursive: bool) -> list[dict[str, Any]]:
    """Files and folders of a commit under a folder (empty for all)."""
    prefix = f"{folder.rstrip('/')}/" if folder else ""
    entries: dict[str, dict[str, Any]] = {}
    for path, file in sorted(files.items()):
        if not path.startswith(prefix):
            continue
        parts = path[len(prefix) :].split("/")
        for depth in range(1, len(parts) if recursive else min(2, len(parts))):
            name = prefix + "/".join(parts[:depth])
            entries[name] = {
                "type": "directory",
                "oid": hashlib.sha1(name.encode()).hexdigest(),
                "size": 0,
                "path": name,
            }
        if recursive or len(parts) == 1:
            entries[path] = tree_entry(path, file)
    return list(entries.values())


class Store:
    """All repositories, and the large files that were uploaded, committed or not."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.large_files: dict[str, bytes] = {}

    def upload_mode(self, path: str, size: int) -> str:
        return "lfs" if path.endswith(LFS_SUFFIXES) or size > REGULAR_BYTES else "regular"

    def commit(self, repository: Repository, lines: Iterable[bytes]) -> str:
        """Applies the newline-separated JSON of a commit.

        Raises:
            KeyError: a large file that was not uploaded, or a file to delete that does not exist.
        """
        operations = [json.loads(line) for line in lines if line.strip()]
        with self.lock:
            files = dict(repository.files)
            message = ""
            for operation in operations:
                kind, value = operation["key"], operation["value"]
                if kind == "header":
                    message = value["summary"]
                elif kind == "file":
                    files[value["path"]] = StoredFile(base64.b64decode(value["content"]), is_lfs=False)
                elif kind == "lfsFile":
                    files[value["path"]] = StoredFile(self.large_files[value["oid"]], is_lfs=True)
                elif kind == "deletedFile":
                    del files[value["path"]]
            return repository.add_commit(files, message)
