"""The code that travels with a checkpoint, and the settings by which transformers finds its classes."""

import json
import os
import shutil
from pathlib import Path

from transformers.dynamic_module_utils import get_relative_import_files

from ..configuration_lung_srad import AUTO_MAP

CONFIG, EXTRACTOR_CONFIG = "config.json", "preprocessor_config.json"
PACKAGE = Path(__file__).resolve().parents[1]
ENTRY_FILES = ("modeling_lung_srad.py", "feature_extraction_lung_srad.py", "pipeline_lung_srad.py")
PIPELINE = {
    "impl": "pipeline_lung_srad.LungSoundPipeline",
    "pt": ["AutoModelForAudioClassification"],
    "type": "audio",
}
CLASSES = {
    CONFIG: {"auto_map": AUTO_MAP, "custom_pipelines": {"lung-sound-classification": PIPELINE}},
    EXTRACTOR_CONFIG: {"auto_map": {"AutoFeatureExtractor": "feature_extraction_lung_srad.LungSradFeatureExtractor"}},
}


def checkpoint_code_files() -> list[Path]:
    """The files of this package that model, feature extractor and pipeline need, in alphabetical order."""
    entries = [PACKAGE / name for name in ENTRY_FILES]
    return sorted({*entries, *(Path(name) for entry in entries for name in get_relative_import_files(entry))})


def settings_with_classes(folder: str | os.PathLike) -> dict[str, str]:
    """
    Contents of the two settings files of a checkpoint, with the classes of this package in place of any they name.

    Raises:
        OSError, ValueError: if one of them is missing or not JSON.
    """
    contents = {}
    for name, classes in CLASSES.items():
        settings = json.loads(Path(folder, name).read_text(encoding="utf-8")) | classes
        contents[name] = json.dumps(settings, indent=2, sort_keys=True) + "\n"
    return contents


def write_checkpoint_code(folder: str | os.PathLike) -> None:
    """
    Makes a saved checkpoint load, pipeline included, in a process without this package by `trust_remote_code=True`.

    Args:
        folder (`str` or `os.PathLike`): with `config.json` and `preprocessor_config.json`, which are completed.
    """
    for name, content in settings_with_classes(folder).items():
        Path(folder, name).write_text(content, encoding="utf-8")
    for path in checkpoint_code_files():
        shutil.copyfile(path, Path(folder, path.name))
