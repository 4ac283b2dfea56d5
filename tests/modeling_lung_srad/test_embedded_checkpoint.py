"""The checkpoint that comes with the package: complete, small, and without code."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification, pipeline

from modeling_lung_srad import LungSoundPipeline
from modeling_lung_srad.checkpoint_loading import DEFAULT_CHECKPOINT, load_checkpoint
from tests.conftest import FIXTURES
from tests.make_embedded_logits import make_input


def test_it_carries_no_code_and_names_none():
    assert list(DEFAULT_CHECKPOINT.rglob("*.py")) == []
    for name in ("config.json", "preprocessor_config.json"):
        assert not {"auto_map", "custom_pipelines"} & json.loads((DEFAULT_CHECKPOINT / name).read_text()).keys()


def test_the_registered_pipeline_takes_it():
    lung_sounds = pipeline("lung-sound-classification", model=str(DEFAULT_CHECKPOINT))
    assert type(lung_sounds) is LungSoundPipeline


def test_it_is_complete_and_at_most_10_mb():
    names = {path.name for path in DEFAULT_CHECKPOINT.iterdir()}
    assert names >= {
        "README.md",
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "training_summary.json",
    }
    assert sum(path.stat().st_size for path in DEFAULT_CHECKPOINT.iterdir()) <= 10e6


def test_it_has_at_most_4_million_finite_parameters():
    weights = load_file(DEFAULT_CHECKPOINT / "model.safetensors")
    assert sum(tensor.numel() for tensor in weights.values()) <= 4e6
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())


def test_it_loads_in_one_call_and_gives_probabilities():
    model = AutoModelForAudioClassification.from_pretrained(DEFAULT_CHECKPOINT).eval()
    feature_extractor = AutoFeatureExtractor.from_pretrained(DEFAULT_CHECKPOINT)
    waveform = np.random.default_rng(0).standard_normal(48000).astype(np.float32) * 0.05
    with torch.no_grad():
        probabilities = model(**feature_extractor(waveform, sampling_rate=16000, return_tensors="pt")).logits.softmax(
            -1
        )
    assert probabilities.shape == (1, 4)
    assert probabilities.sum().item() == pytest.approx(1, abs=1e-5)
    assert model.config.id2label == {0: "normal", 1: "crackle", 2: "wheeze", 3: "both"}


@pytest.mark.parametrize("backend", ["torch", "numba"])
def test_its_logits_are_those_of_a_slow_scan_in_double_precision(backend):
    model = AutoModelForAudioClassification.from_pretrained(DEFAULT_CHECKPOINT, scan_backend=backend).eval()
    with torch.no_grad():
        logits = model(make_input()).logits
    expected = json.loads((FIXTURES / "embedded_logits.json").read_text())
    torch.testing.assert_close(logits, torch.tensor(expected), atol=1e-4, rtol=0)


def test_its_card_gives_the_figures_of_its_training_summary():
    summary = json.loads((DEFAULT_CHECKPOINT / "training_summary.json").read_text())
    card = (DEFAULT_CHECKPOINT / "README.md").read_text()
    assert f"{100 * summary['validation']['score']:.1f}" in card
    assert "not a medical device" in card
    assert load_checkpoint(DEFAULT_CHECKPOINT)[0].num_parameters() == summary["parameters"]
