"""Builds the static page: `python -m space_demo.static.build`, or `make static`."""

import hashlib
import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

import modeling_lung_srad
from dataset_scripts.simulated import simulate_cycle
from modeling_lung_srad import LungSoundPipeline, load_pipeline
from modeling_lung_srad.checkpoint_loading import DEFAULT_CHECKPOINT
from modeling_lung_srad.errors import InputError, reports_input_errors
from space_demo.examples import EXAMPLES, write_example
from space_demo.static.runtime import get_runtime
from space_demo.static.settings import page_settings

PAGE = Path(__file__).resolve().parent / "page"
SITE = Path("outputs/static")
MODEL, SETTINGS, RUNTIME, SOUNDS = "model.onnx", "settings.json", "runtime", "examples"
# The service worker keeps the files of the list; the browser keeps the worker.
LIST, WORKER = "cached_files.js", "service_worker.js"
ISOLATION = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
}
POLICY = re.compile(r'http-equiv="Content-Security-Policy"\s+content="([^"]+)"')


def build_site(folder: Path = SITE) -> Path:
    """
    Writes the page with the embedded model, all that a web server needs.

    The runtime, and the model where neither checkpoint nor exporter changed, are those of an earlier build.

    Args:
        folder (`Path`, *optional*, defaults to `outputs/static`):
            to make or to replace. The runtime is kept beside it.

    Returns:
        `Path`: the folder.

    Raises:
        InputError: where the runtime cannot be had, or the folder holds something else.
    """
    if folder.exists() and not (folder / LIST).is_file() and any(folder.iterdir()):
        raise InputError(folder, "holds something else", "name a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{folder.name}.lock")), tempfile.TemporaryDirectory(dir=folder.parent) as place:
        site = Path(place) / folder.name
        shutil.copytree(PAGE, site)
        (site / RUNTIME).mkdir()
        for name, path in get_runtime(folder.parent).items():
            shutil.copyfile(path, site / RUNTIME / name)
        _write_examples(site / SOUNDS)
        lung_sounds = load_pipeline()
        settings = page_settings(lung_sounds) | {"model": _add_model(lung_sounds, site, folder)}
        (site / SETTINGS).write_text(json.dumps(settings), encoding="utf-8")
        _write_list(site)
        # A page that is being served loses no file for nothing.
        if not _is_same(site, folder):
            shutil.rmtree(folder, ignore_errors=True)
            site.rename(folder)
    return folder


def page_headers(page: Path = PAGE) -> dict[str, str]:
    """HTTP headers for each file: the policy of the page, which binds its threads too, and isolation, so that threads
    may share memory. The service worker adds them where a server does not."""
    found = POLICY.search((page / "index.html").read_text(encoding="utf-8"))
    if found is None:
        raise InputError(page / "index.html", "states no Content-Security-Policy", "restore it")
    return ISOLATION | {"Content-Security-Policy": found[1]}


def site_files(folder: Path) -> list[str]:
    """Files of a page relative to its folder, in order."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _write_examples(folder: Path) -> None:
    folder.mkdir()
    for name in EXAMPLES:
        # It goes to a folder of its own, as uploads do.
        path = write_example(name, folder)
        path.rename(folder / path.name)
        path.parent.rmdir()


def _add_model(lung_sounds: LungSoundPipeline, site: Path, earlier: Path) -> dict[str, Any]:
    """Puts the network into a page, and says what came from where."""
    made_from = _digest([*DEFAULT_CHECKPOINT.glob("*.*"), *Path(modeling_lung_srad.__file__).parent.rglob("*.py")])
    try:
        known = json.loads((earlier / SETTINGS).read_text(encoding="utf-8"))["model"]
        is_known = known["made_from"] == made_from and known["sha256"] == _digest([earlier / MODEL])
    except (OSError, ValueError, LookupError):
        is_known = False
    if is_known:
        shutil.copyfile(earlier / MODEL, site / MODEL)
    else:
        _export(lung_sounds, site / MODEL)
    return {
        "made_from": made_from,
        "sha256": _digest([site / MODEL]),
        "bytes": (site / MODEL).stat().st_size,
        "runtime_bytes": sum(path.stat().st_size for path in (site / RUNTIME).iterdir()),
    }


def _export(lung_sounds: LungSoundPipeline, path: Path) -> None:
    # Only a build needs what exports.
    from modeling_lung_srad.export.onnx_export import FLOAT16_FILE, export_onnx

    extractor = lung_sounds.window_extractor(lung_sounds.choose_window()[0])
    generator = np.random.default_rng(0)
    sounds = [simulate_cycle(label, 3.0, extractor.sampling_rate, generator) for label in range(3)]
    with tempfile.TemporaryDirectory(dir=path.parent.parent) as place:
        # Half the bytes to send; probabilities move by less than 0.001.
        exported = export_onnx(lung_sounds.model, extractor, Path(place) / "onnx", sounds, float16=True)
        (exported.folder / FLOAT16_FILE).rename(path)


def _write_list(site: Path) -> None:
    """Tells the service worker which files to keep, under which version, and what the page may connect to."""
    files = [name for name in site_files(site) if name not in (LIST, WORKER)]
    version = _digest([site / name for name in [*files, WORKER]])[:16]
    values = {"VERSION": version, "HEADERS": page_headers(site), "FILES": ["./", *files]}
    lines = [f"self.{name} = {json.dumps(value)};\n" for name, value in values.items()]
    (site / LIST).write_text("".join(lines), encoding="utf-8")


def _is_same(folder: Path, other: Path) -> bool:
    """True if two folders have the same files with the same content."""
    names = site_files(folder)
    return names == site_files(other) and all((folder / x).read_bytes() == (other / x).read_bytes() for x in names)


def _digest(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(path.read_bytes())
    return digest.hexdigest()


@reports_input_errors
def main() -> int:
    """Builds the page and says where it is."""
    folder = build_site()
    size = sum((folder / name).stat().st_size for name in site_files(folder))
    print(f"{folder}: {len(site_files(folder))} files, {size / 1e6:.1f} MB; serve it by `lung-srad demo --static`")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
