"""The runtime of the static page: fetched once, by npm, and only if it is the pinned package."""

import base64
import gzip
import hashlib
import io
import os
import tarfile

import pytest

from modeling_lung_srad.errors import InputError
from space_demo.static import runtime
from space_demo.static.runtime import PACKAGE, SOURCES, get_runtime

CONTENT = b"\0asm and more"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with the files that are needed, pinned in place of the real one."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name in [*SOURCES.values(), "package/dist/other.js"]:
            information = tarfile.TarInfo(name)
            information.size = len(CONTENT)
            archive.addfile(information, io.BytesIO(CONTENT))
    path = tmp_path / "package.tgz"
    path.write_bytes(buffer.getvalue())
    monkeypatch.setattr(runtime, "SHA512", base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode())
    return path


@pytest.fixture
def npm(tmp_path, monkeypatch):
    """Puts an `npm` that runs a shell script first on the path; `$4` is where it shall put the package."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def write(script):
        (folder / "npm").write_text(f"#!/bin/sh\n{script}\n")
        (folder / "npm").chmod(0o755)

    return write


def test_runtime_is_fetched_once_and_its_binary_is_packed(tmp_path, package, npm):
    npm(f'echo "$@" >> {tmp_path}/calls; cp {package} "$4"')
    files = get_runtime(tmp_path / "cache")
    assert files == get_runtime(tmp_path / "cache")
    assert (tmp_path / "calls").read_text().split()[-1] == PACKAGE
    assert len((tmp_path / "calls").read_text().splitlines()) == 1
    assert files["onnxruntime.js"].read_bytes() == CONTENT
    assert gzip.decompress(files["onnxruntime.wasm.gzip"].read_bytes()) == CONTENT
    assert os.listdir(tmp_path / "cache") == [PACKAGE]


def test_another_package_is_refused(tmp_path, package, npm):
    npm(f'cp {package} "$4"; echo more >> "$4"/package.tgz')
    with pytest.raises(InputError, match=r"npm gave another package \(sha512 .*check npm's registry"):
        get_runtime(tmp_path / "cache")
    assert os.listdir(tmp_path / "cache") == []


@pytest.mark.parametrize("script", ["echo no network >&2; exit 1", "echo no network >&2"])
def test_failure_of_npm_is_one_line(tmp_path, npm, script):
    npm(script)
    with pytest.raises(InputError, match=r"npm cannot fetch it \(no network\); check the network"):
        get_runtime(tmp_path / "cache")


def test_missing_npm_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"npm: not found, and onnxruntime-web@.* comes from there; install Node"):
        get_runtime(tmp_path / "cache")
