"""Collects the files of the demo's Space: the page, the packages that it imports, requirements and front matter."""

import ast
import importlib.metadata
import importlib.util
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from huggingface_hub import SpaceCard

from lung_srad_cli.errors import OWN_PACKAGES
from lung_srad_cli.publishing.repository_files import PreparedRepository, PublishError, RepositoryFile, place_files

ROOT = Path(__file__).resolve().parents[2]
DEMO, APP, CARD, REQUIREMENTS = "space_demo", "app.py", "README.md", "requirements.txt"
PACKAGES = (*OWN_PACKAGES, DEMO)
# What the page reads for further checkpoints, see `space_demo.app.CHECKPOINTS_VARIABLE`.
CHECKPOINTS_VARIABLE = "LUNG_SRAD_CHECKPOINTS"
SUFFIXES = {".py", ".json", ".safetensors", ".md", ".txt", ".wav", ".flac", ".css", ".js", ".html", ".svg", ".png"}
LEFT_OUT = {"__pycache__", "outputs", "runs", "flagged", "screenshots"}
FRONT_MATTER: dict[str, Any] = {
    "title": "Lung-SRAD",
    "emoji": "🫁",
    "colorFrom": "blue",
    "colorTo": "green",
    "sdk": "gradio",
    "sdk_version": "6.31.0",
    "python_version": "3.11",
    "app_file": APP,
    "license": "apache-2.0",
    "short_description": "Respiratory sounds: research, not a medical device",
}
# Free Spaces have no GPU; the default index serves torch with CUDA, which is 5 GB.
TORCH_INDEX = "--extra-index-url https://download.pytorch.org/whl/cpu"
TORCH = "torch==2.13.0+cpu"
TEXT = """\
# Lung-SRAD

Respiratory sounds in, `normal`, `crackle`, `wheeze` or `both` out, window by window.

**Research software, not a medical device.** Do not use it for diagnosis or treatment.
"""
IMPORT_ALL = """\
import pkgutil, sys
sys.path.insert(0, sys.argv[1])
for name in sys.argv[2:]:
    sys.modules[name] = None
import space_demo
for module in pkgutil.iter_modules(space_demo.__path__):
    __import__(f"space_demo.{module.name}")
print("imported")
"""
TIMEOUT_SECONDS = 300


def prepare_space(repo_id: str, checkpoint: str | None = None) -> PreparedRepository:
    """
    Collects `app.py`, the folder `space_demo`, and the packages of this project that it imports.

    The packages go up as source, so the Space needs nothing of ours from a package index.

    Args:
        repo_id (`str`): such as `user/name`.
        checkpoint (`str`, *optional*): id of a model on the Hub to choose beside the embedded one.

    Returns:
        [`PreparedRepository`]: its last check imports the page from the prepared files alone.

    Raises:
        PublishError: where the demo is not part of the installation.
    """
    if not (ROOT / DEMO / APP).is_file():
        raise PublishError(f"{ROOT / DEMO}: has no {APP}; run the command from a clone of lung-srad")
    packages = imported_packages(DEMO)
    at_root = {f"{DEMO}/{CARD}", f"{DEMO}/{REQUIREMENTS}"}
    files = [file for package in packages for file in package_files(package) if file.path not in at_root]
    files.append(RepositoryFile(APP, ROOT / DEMO / APP))
    files.append(RepositoryFile(REQUIREMENTS, _requirements().encode("utf-8")))
    files.append(RepositoryFile(CARD, _card(checkpoint).encode("utf-8")))
    notes = [f"packages that go with it: {', '.join(packages)}"]
    variables = {} if checkpoint is None else {CHECKPOINTS_VARIABLE: checkpoint}
    if checkpoint is not None:
        notes.append(
            f"{CHECKPOINTS_VARIABLE}={checkpoint} is set in the Space; a private model needs a secret HF_TOKEN there"
        )

    def try_out() -> None:
        with tempfile.TemporaryDirectory(prefix="lung-srad-space-") as prepared:
            place_files(files, Path(prepared))
            _import_page(Path(prepared), packages)

    return PreparedRepository(files, notes, f"https://huggingface.co/spaces/{repo_id}", try_out, variables)


def imported_packages(package: str) -> list[str]:
    """A package of this project and those that it imports, directly or not, in alphabetical order."""
    found, waiting = set(), {package}
    while waiting:
        name = waiting.pop()
        found.add(name)
        for file in (ROOT / name).rglob("*.py"):
            waiting |= _imported_names(file) & set(PACKAGES) - found
    return sorted(found)


def package_files(package: str) -> list[RepositoryFile]:
    """Sources and data of a package, without caches, outputs and hidden files."""
    files = []
    for path in sorted((ROOT / package).rglob("*")):
        place = path.relative_to(ROOT)
        hidden = any(part.startswith(".") or part in LEFT_OUT for part in place.parts)
        if path.is_file() and path.suffix in SUFFIXES and not hidden:
            files.append(RepositoryFile(place.as_posix(), path))
    return files


def _imported_names(file: Path) -> set[str]:
    """First parts of all absolute imports of a module, also of those inside functions."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


def _requirements() -> str:
    """`requirements.txt` of the demo, or what this package needs, with torch for CPUs."""
    own = ROOT / DEMO / REQUIREMENTS
    if own.is_file():
        return own.read_text(encoding="utf-8")
    needed = [text for text in importlib.metadata.requires("lung-srad") or [] if "extra ==" not in text]
    others = [text for text in needed if not re.match(r"torch\b", text)]
    return "\n".join([TORCH_INDEX, TORCH, *others]) + "\n"


def _card(checkpoint: str | None) -> str:
    own = ROOT / DEMO / CARD
    text = own.read_text(encoding="utf-8") if own.is_file() else TEXT
    card = SpaceCard(text if text.startswith("---") else f"---\n{{}}\n---\n\n{text}")
    for key, value in FRONT_MATTER.items():
        if card.data.get(key) is None:
            card.data[key] = value
    if checkpoint is not None:
        card.data["models"] = list(dict.fromkeys([*(card.data.get("models") or []), checkpoint]))
    return str(card)


def _import_page(folder: Path, packages: list[str]) -> None:
    """Imports all modules of the page from the folder alone."""
    if importlib.util.find_spec("gradio") is None:
        raise PublishError('gradio: not installed, so the page cannot be tried; run pip install "lung-srad[demo]"')
    blocked = [name for name in PACKAGES if name not in packages]
    command = [sys.executable, "-I", "-B", "-c", IMPORT_ALL, str(folder), *blocked]
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise PublishError(f"{DEMO}: importing it takes more than {TIMEOUT_SECONDS} s; try again") from None
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise PublishError(f"{DEMO}: cannot be imported from the files to be published ({reason[:300]}); correct it")
