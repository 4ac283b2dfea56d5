"""Collects the files of the demo's Space: the page, the packages that it imports, requirements and front matter."""

import ast
import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path

from huggingface_hub import SpaceCard

from lung_srad_cli.publishing.repository_files import (
    OWN_PACKAGES,
    PreparedRepository,
    RepositoryFile,
    place_files,
    read_card,
    refuse_links_to_outside,
)
from modeling_lung_srad.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
DEMO, APP, CARD, REQUIREMENTS = "space_demo", "app.py", "README.md", "requirements.txt"
PACKAGES = (*OWN_PACKAGES, DEMO)
# `space_demo.app.CHECKPOINTS_VARIABLE`.
CHECKPOINTS_VARIABLE = "LUNG_SRAD_CHECKPOINTS"
CHECKPOINTS = "modeling_lung_srad/checkpoints"
EMBEDDED = f"{CHECKPOINTS}/lung-srad-tiny"
# Recordings, tables and the user's own checkpoints in a clone stay there.
SOURCE_SUFFIXES = {".py", ".css", ".js"}
CHECKPOINT_SUFFIXES = {".json", ".safetensors", ".md"}
# The static page is a Space of its own.
LEFT_OUT = {"__pycache__", "outputs", "runs", "flagged", "screenshots", "static"}
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
        InputError: where the demo is not part of the installation, or a link to a file elsewhere.
    """
    for name in (APP, CARD, REQUIREMENTS):
        if not (ROOT / DEMO / name).is_file():
            raise InputError(ROOT / DEMO, f"lacks {name}", "run the command from a clone of lung-srad")
    refuse_links_to_outside([ROOT / DEMO / CARD, ROOT / DEMO / REQUIREMENTS], ROOT / DEMO)
    packages = imported_packages(DEMO)
    files = [file for package in packages for file in package_files(package)]
    files.extend(RepositoryFile(name, ROOT / DEMO / name) for name in (APP, REQUIREMENTS))
    files.append(RepositoryFile(CARD, _card(checkpoint).encode("utf-8")))
    notes = [f"packages that go with it: {', '.join(packages)}"]
    if checkpoint is not None:
        notes.append(
            f"{CHECKPOINTS_VARIABLE}={checkpoint} is set in the Space; a private model needs a secret HF_TOKEN there"
        )

    def try_out() -> None:
        with tempfile.TemporaryDirectory(prefix="lung-srad-space-") as prepared:
            place_files(files, Path(prepared))
            _import_page(Path(prepared), packages)

    return PreparedRepository(
        files, notes, f"https://huggingface.co/spaces/{repo_id}", try_out, {CHECKPOINTS_VARIABLE: checkpoint}, "gradio"
    )


def prepare_static_space(repo_id: str) -> PreparedRepository:
    """
    Builds the static page in `outputs/static` and collects its files.

    Args:
        repo_id (`str`): such as `user/name`.

    Returns:
        [`PreparedRepository`]

    Raises:
        InputError: where the page cannot be built.
    """
    from space_demo.static.build import SITE, build_site, site_files

    folder = build_site()
    files = [RepositoryFile(name, folder / name) for name in site_files(folder)]
    files.append(RepositoryFile(CARD, ROOT / DEMO / "static" / CARD))
    address = f"https://huggingface.co/spaces/{repo_id}"
    return PreparedRepository(files, [f"the page lies in {SITE}"], address, space_sdk="static")


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
    """
    Sources of a package, with the embedded checkpoint and no other, without caches, outputs and hidden files.

    Raises:
        InputError: a link to a file outside the package.
    """
    paths = [path for path in sorted((ROOT / package).rglob("*")) if path.is_file() and _goes_up(path)]
    refuse_links_to_outside(paths, ROOT / package)
    return [RepositoryFile(path.relative_to(ROOT).as_posix(), path) for path in paths]


def _goes_up(path: Path) -> bool:
    place = path.relative_to(ROOT)
    if any(part.startswith(".") or part in LEFT_OUT for part in place.parts):
        return False
    if place.is_relative_to(CHECKPOINTS):
        return place.is_relative_to(EMBEDDED) and place.suffix in CHECKPOINT_SUFFIXES
    return place.suffix in SOURCE_SUFFIXES


def _imported_names(file: Path) -> set[str]:
    """First parts of all absolute imports of a module, also of those inside functions."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


def _card(checkpoint: str | None) -> str:
    card = SpaceCard(read_card(ROOT / DEMO / CARD))
    if checkpoint is not None:
        card.data["models"] = list(dict.fromkeys([*(card.data.get("models") or []), checkpoint]))
    return str(card)


def _import_page(folder: Path, packages: list[str]) -> None:
    """Imports all modules of the page from the folder alone."""
    if importlib.util.find_spec("gradio") is None:
        raise InputError("gradio", "not installed, so the page cannot be tried", 'run pip install "lung-srad[demo]"')
    blocked = [name for name in PACKAGES if name not in packages]
    command = [sys.executable, "-I", "-B", "-c", IMPORT_ALL, str(folder), *blocked]
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise InputError(DEMO, f"importing it takes more than {TIMEOUT_SECONDS} s", "try again") from None
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise InputError(DEMO, f"cannot be imported from the files to be published ({reason[:300]})", "correct it")
