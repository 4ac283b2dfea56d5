import numpy as np
import pytest
import torch

from modeling_lung_srad import LungSradFeatureExtractor, LungSradForAudioClassification
from modeling_lung_srad.spectral import (
    min_max_normalize,
    normalize_response,
    response_magnitudes,
    summarize_response,
)
from modeling_lung_srad.spectral.layers import MixingLayer, layer_matrices
from modeling_lung_srad.spectral.profile import FIGURES, profile_layers, spread
from tests.conftest import tiny_config

LAYER = MixingLayer(2, 3)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return LungSradForAudioClassification(tiny_config(num_mel_bins=32, initializer_range=0.3)).eval()


@pytest.fixture(scope="module")
def feature_extractor():
    return LungSradFeatureExtractor(num_mel_bins=32, cycle_seconds=1.0, num_frames=128)


def noise(seed):
    return np.random.default_rng(seed).standard_normal(16000).astype(np.float32)


def matrix_of(model, feature_extractor, waveform, definition="exact"):
    inputs = feature_extractor(waveform, sampling_rate=16000, return_tensors="pt")["input_values"]
    [found] = layer_matrices(model, inputs, [LAYER], definition)
    return found.matrix[0]


def test_windows_are_averaged_before_recordings(model, feature_extractor):
    recordings = [[noise(0), noise(1), noise(2)], [noise(3)]]
    windows = []
    [profile] = profile_layers(model, feature_extractor, recordings, [LAYER], on_window=lambda: windows.append(1))
    assert len(windows) == 4
    magnitudes = [
        [response_magnitudes(matrix_of(model, feature_extractor, waveform)) for waveform in windows]
        for windows in recordings
    ]
    relative = [np.mean([(x / x.max()).numpy() for x in of_windows], axis=0) for of_windows in magnitudes]
    normalized = [np.mean([normalize_response(x).numpy() for x in of_windows], axis=0) for of_windows in magnitudes]
    shares = [np.mean([summarize_response(x, 16).high_share for x in of_windows]) for of_windows in magnitudes]
    np.testing.assert_allclose(profile.relative, relative)
    np.testing.assert_allclose(profile.normalized, normalized)
    np.testing.assert_allclose(profile.figures["high_share"], shares)
    assert (profile.layer, profile.grid) == (LAYER, (2, 8))
    np.testing.assert_allclose(profile.frequency, np.arange(9) / 16)


def test_published_matrices_are_min_max_normalised(model, feature_extractor):
    [profile] = profile_layers(model, feature_extractor, [[noise(0)]], [LAYER], definition="published")
    matrix = min_max_normalize(matrix_of(model, feature_extractor, noise(0), "published"))
    summary = summarize_response(response_magnitudes(matrix), 16)
    assert {name: values.tolist() for name, values in profile.figures.items()} == {
        name: [getattr(summary, name)] for name in FIGURES
    }


def test_all_layers_come_in_order(model, feature_extractor):
    profiles = profile_layers(model, feature_extractor, [[noise(0)]])
    assert [str(profile.layer) for profile in profiles] == [
        *("stage 0 block 0", "stage 1 block 0"),
        *(f"stage 2 block {block}" for block in range(4)),
        "stage 3 block 0",
    ]
    assert profile_layers(model, feature_extractor, []) == []


def test_silence_has_a_profile(model, feature_extractor):
    [profile] = profile_layers(model, feature_extractor, [[np.zeros(16000, dtype=np.float32)]], [LAYER])
    assert np.isfinite(profile.relative).all()


def test_spread_is_that_of_a_sample():
    assert spread(np.array([[1.0], [3.0]])) == pytest.approx(2**0.5)
    assert spread(np.array([[1.0]])) is None
