"""Saliency of models whose answer is known by hand, of the embedded one, and of clips that cannot be explained."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from dataset_scripts.simulated_events import simulate_event
from modeling_lung_srad import LungSradFeatureExtractor, LungSradForAudioClassification
from modeling_lung_srad.checkpoint_loading import DEFAULT_CHECKPOINT, load_checkpoint
from modeling_lung_srad.saliency import (
    ANY_CRACKLE,
    ANY_WHEEZE,
    METHODS,
    SaliencyError,
    frame_times,
    mel_frequencies,
    saliency_map,
)
from tests.conftest import tiny_config

RATE = 16000


class TwoClasses(nn.Module):
    """Log odds of crackle that are a given function of `(batch, frames, mel bins)`."""

    def __init__(self, log_odds):
        super().__init__()
        self.config = SimpleNamespace(id2label={0: "normal", 1: "crackle"})
        self.device = torch.device("cpu")
        self.log_odds = log_odds

    def forward(self, input_values):
        log_odds = self.log_odds(input_values)
        return SimpleNamespace(logits=torch.stack([torch.zeros_like(log_odds), log_odds], dim=-1))


def noise(seconds, seed=0):
    return (0.1 * np.random.default_rng(seed).standard_normal(int(seconds * RATE))).astype(np.float32)


@pytest.fixture(scope="module")
def small_extractor():
    return LungSradFeatureExtractor(cycle_seconds=2.0, num_frames=128, num_mel_bins=32)


@pytest.fixture(scope="module")
def embedded():
    return load_checkpoint(DEFAULT_CHECKPOINT)


def excess_over_background(feature_extractor, waveform):
    """What both methods can take away, in numpy."""
    log_mel = feature_extractor(waveform, sampling_rate=RATE)["input_values"][0]
    ordered = np.sort(log_mel, axis=0)
    return np.maximum(log_mel - ordered[(len(ordered) - 1) // 2], 0)


def test_gradient_of_a_linear_model_is_weight_times_excess(small_extractor):
    """Integrated gradients of a linear function are exact; the window sums are those of a loop."""
    weight = torch.randn(128, 32, generator=torch.Generator().manual_seed(0))
    waveform = noise(2.0)
    model = TwoClasses(lambda values: (values * weight).sum((1, 2)))
    found = saliency_map(model, small_extractor, waveform, RATE, "crackle", "gradient")
    expected = weight.numpy() * excess_over_background(small_extractor, waveform)
    frames = found.values.shape[0]
    for frame, mel_bin in ((0, 0), (40, 10), (127, 31), (64, 5)):
        window = [
            expected[i, j]
            for i in range(max(0, frame - RADIUS), min(frames, frame + RADIUS + 1))
            for j in range(max(0, mel_bin - RADIUS), min(32, mel_bin + RADIUS + 1))
        ]
        assert found.values[frame, mel_bin] == pytest.approx(sum(window) / (2 * RADIUS + 1) ** 2, abs=1e-5)
    assert found.log_odds - found.background_log_odds == pytest.approx(expected.sum(), rel=1e-4)
