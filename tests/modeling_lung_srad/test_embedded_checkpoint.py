"""The checkpoint that comes with the package: complete, small, and carrying the code of this package."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

import modeling_lung_srad
from modeling_lung_srad.checkpoint_code import checkpoint_code_files
from modeling_lung_srad.checkpoint_loading import DEFAULT_CHECKPOINT, load_checkpoint

NEEDED_CODE = [
    "audio.py",
    "configuration_lung_srad.py",
    "familiarity.py",
    "feature_extraction_lung_srad.py",
    "layers_lung_srad.py",
    "modeling_lung_srad.py",
    "numba_kernels.py",
    "numba_scan.py",
    "pipeline_lung_srad.py",
    "quality.py",
    "recording.py",
    "selective_scan.py",
    "timeline.py",
    "torch_recurrence.py",
    "torch_scan.py",
    "triton_kernels.py",
    "triton_layer_norm.py",
    "triton_scan.py",
]


def test_it_carries_all_the_code_that_it_needs_and_no_other():
    assert sorted(path.name for path in DEFAULT_CHECKPOINT.glob("*.py")) == NEEDED_CODE
    assert [path.name for path in checkpoint_code_files()] == NEEDED_CODE


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


@pytest.mark.parametrize("name", NEEDED_CODE)
def test_its_code_is_that_of_the_package(name):
    ours = Path(modeling_lung_srad.__file__).parent / name
    assert (DEFAULT_CHECKPOINT / name).read_text() == ours.read_text(), "run `make checkpoint-code`"


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


def test_its_card_gives_the_figures_of_its_training_summary():
    summary = json.loads((DEFAULT_CHECKPOINT / "training_summary.json").read_text())
    card = (DEFAULT_CHECKPOINT / "README.md").read_text()
    assert f"{100 * summary['validation']['score']:.1f}" in card
    assert "not a medical device" in card
    assert load_checkpoint(DEFAULT_CHECKPOINT)[0].num_parameters() == summary["parameters"]
