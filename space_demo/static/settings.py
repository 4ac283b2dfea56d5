"""The settings of the static page: those of the checkpoint, and constants of the Python modules that it follows."""

from types import ModuleType
from typing import Any

import matplotlib

from modeling_lung_srad import LungSoundPipeline, audio, familiarity, pipeline_lung_srad, quality, recording, timeline
from modeling_lung_srad import feature_extraction_lung_srad as features
from modeling_lung_srad.configuration_lung_srad import class_columns
from modeling_lung_srad.files import plots, result_formats
from space_demo import analysis, limits, recordings
from space_demo.examples import EXAMPLES

MODULES = {
    "audio": audio,
    "features": features,
    "recording": recording,
    "quality": quality,
    "familiarity": familiarity,
    "timeline": timeline,
    "pipeline": pipeline_lung_srad,
    "plots": plots,
    "formats": result_formats,
    "limits": limits,
    "recordings": recordings,
    "analysis": analysis,
}
PASSED_ON = ("temperature", "context_weight", "crackle_threshold", "wheeze_threshold")


def page_settings(lung_sounds: LungSoundPipeline) -> dict[str, Any]:
    """Settings of a pipeline, without its network, that the page reads from JSON."""
    config = lung_sounds.model.config
    window, hop = lung_sounds.choose_window()
    found = lung_sounds.familiarity
    return {
        "config": {name: getattr(config, name) for name in PASSED_ON}
        | {"columns": class_columns(config.id2label or {}, "model"), "window": window, "hop": hop},
        "preprocessor": lung_sounds.window_extractor(window).to_dict(),
        "familiarity": found
        and {"mean": found.mean.tolist(), "whitening": found.whitening.tolist(), "threshold": found.threshold},
        "constants": {name: module_constants(module) for name, module in MODULES.items()},
        "colors": [matplotlib.colors.to_hex(color) for color in matplotlib.colormaps["magma"](range(256))],
        "examples": list(EXAMPLES),
    }


def module_constants(module: ModuleType) -> dict[str, Any]:
    """Constants of a module, by name: numbers, texts, and what holds only such."""
    return {name: value for name, value in vars(module).items() if name.isupper() and _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(name, str) and _is_plain(item) for name, item in value.items())
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return isinstance(value, int | float | str)
