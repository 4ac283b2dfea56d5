"""Gets onnxruntime-web, which runs the network in the browser, from npm, and keeps it for the next build."""

import base64
import gzip
import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from modeling_lung_srad.errors import InputError, one_line

PACKAGE = "onnxruntime-web@1.30.0"
SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
SCRIPT, BINARY = "onnxruntime.js", "onnxruntime.wasm.gzip"
# The script with its loader inside, and the build that needs no GPU.
SOURCES = {SCRIPT: "package/dist/ort.wasm.bundle.min.mjs", BINARY: "package/dist/ort-wasm-simd-threaded.wasm"}
LONGEST_SECONDS = 600


def get_runtime(cache: Path) -> dict[str, Path]:
    """
    The files of the runtime by their names on the page, fetched by `npm pack` if the cache lacks them.

    Args:
        cache (`Path`): folder to keep them in; it is made.

    Raises:
        InputError: without npm or its registry, or where the package is not the pinned one.
    """
    folder = cache / PACKAGE
    files = {name: folder / name for name in SOURCES}
    if not all(path.is_file() for path in files.values()):
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as place:
            _unpack(_fetch(Path(place)), Path(place) / "unpacked")
            shutil.rmtree(folder, ignore_errors=True)
            (Path(place) / "unpacked").rename(folder)
    return files


def _fetch(folder: Path) -> Path:
    """The package as npm has it, in a folder."""
    if (npm := shutil.which("npm")) is None:
        raise InputError("npm", f"not found, and {PACKAGE} comes from there", "install Node.js, or `apt install npm`")
    command = [npm, "pack", "--silent", "--pack-destination", str(folder), PACKAGE]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise InputError(PACKAGE, f"npm takes more than {LONGEST_SECONDS} s", "check the network") from None
    packed = next(folder.glob("*.tgz"), None)
    if done.returncode or packed is None:
        reason = one_line(RuntimeError(done.stderr or f"exit code {done.returncode}"))
        raise InputError(PACKAGE, f"npm cannot fetch it ({reason})", "check the network and npm's registry")
    return packed


def _unpack(package: Path, folder: Path) -> None:
    found = base64.b64encode(hashlib.sha512(package.read_bytes()).digest()).decode()
    if found != SHA512:
        raise InputError(PACKAGE, f"npm gave another package (sha512 {found})", "check npm's registry")
    folder.mkdir()
    with tarfile.open(package) as archive:
        for name, source in SOURCES.items():
            content = archive.extractfile(source)
            if content is None:
                raise InputError(PACKAGE, f"lacks {source}", "check npm's registry")
            data = content.read()
            # A quarter of the size, and not every host compresses by itself.
            (folder / name).write_bytes(gzip.compress(data, mtime=0) if name == BINARY else data)
