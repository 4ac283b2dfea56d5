"""What Python writes for the static page: the checkpoint's settings, and each constant that the page reads."""

import json
import re

import pytest

from modeling_lung_srad import load_pipeline, quality, timeline
from modeling_lung_srad.checkpoint_loading import DEFAULT_CHECKPOINT
from space_demo.static.build import PAGE
from space_demo.static.settings import page_settings


@pytest.fixture(scope="module")
def settings():
    return json.loads(json.dumps(page_settings(load_pipeline())))


def test_settings_are_those_of_the_checkpoint(settings):
    config = json.loads((DEFAULT_CHECKPOINT / "config.json").read_text())
    preprocessor = json.loads((DEFAULT_CHECKPOINT / "preprocessor_config.json").read_text())
    assert settings["config"] == {
        "columns": [0, 1, 2, 3],
        "window": config["window_seconds"],
        "hop": config["window_seconds"] / 2,
        **{name: config[name] for name in ("temperature", "context_weight", "crackle_threshold", "wheeze_threshold")},
    }
    # Windows are not repeated: 197 frames of 32 ms, 10 ms apart, fill 2 s.
    assert (config["window_seconds"], preprocessor["cycle_seconds"]) == (2.0, 8.0)
    own = {"cycle_seconds": 2.0, "num_frames": 197}
    assert settings["preprocessor"].items() >= (preprocessor | own).items()
    assert len(settings["familiarity"]["mean"]) == 2 * (preprocessor["num_mel_bins"] // 4)


def test_constants_are_those_of_the_modules(settings):
    constants = settings["constants"]
    assert constants["timeline"]["CONTEXT_SECONDS"] == timeline.CONTEXT_SECONDS == 15
    assert constants["quality"]["LOW_LEVEL_DECIBELS"] == quality.LOW_LEVEL_DECIBELS == -55
    assert constants["audio"]["MISSING_SECONDS"] == [0.05, 1.0]
    assert constants["analysis"]["HEADLINES"]["both"] == "The model found crackles and wheezes"
    assert (settings["colors"][0], len(settings["colors"])) == ("#000004", 256)


def test_every_constant_that_the_page_reads_is_written(settings):
    known = {name for constants in settings["constants"].values() for name in constants}
    read = set()
    for path in PAGE.glob("*.js"):
        source = path.read_text(encoding="utf-8")
        read |= set(re.findall(r"(?:constants|limits|plots|analysis)\.([A-Z]{3,}[A-Z_]*)\b", source))
        for group in re.findall(r"(?<!\$)\{([A-Z_,\s]+)\}", source):
            read |= {name for name in re.findall(r"\w+", group) if len(name) > 2}
    assert len(read) > 30
    # `plot.js` is given the last two among the constants of plots.
    assert read <= known | {"LOWEST_FREQUENCY", "SAMPLING_RATE"}
