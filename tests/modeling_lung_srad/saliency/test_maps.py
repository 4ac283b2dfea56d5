"""Saliency of models whose answer is known by hand, of the embedded one, and of clips that cannot be explained."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dataset_scripts.simulated_events import simulate_event
from modeling_lung_srad import LungSradFeatureExtractor, LungSradForAudioClassification
from modeling_lung_srad.checkpoint_loading import DEFAULT_CHECKPOINT, load_checkpoint
from modeling_lung_srad.errors import InputError
from modeling_lung_srad.saliency import (
    ANY_CRACKLE,
    ANY_WHEEZE,
    METHODS,
    SaliencyMap,
    frame_times,
    mel_frequencies,
    saliency_map,
)
from tests.conftest import tiny_config

RATE = 16000
# The gradient method averages over windows of 9 by 9 cells.
RADIUS = 4


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
    """The embedded model, and features of its kind for one second, which are quicker than those for eight."""
    short = LungSradFeatureExtractor(cycle_seconds=1.0, num_frames=64, num_mel_bins=64)
    return load_checkpoint(DEFAULT_CHECKPOINT)[0], short


def excess_over_background(feature_extractor, waveform):
    """The excess over the background that both methods assume, in numpy."""
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


def test_occlusion_of_a_linear_model_is_the_mean_over_windows(small_extractor):
    """A window's fall is the sum of weight times excess in it, so the strips show the means of their own sums."""
    # Later frames count more, so that the first strip is none of those that are looked at more closely.
    weight = torch.linspace(0.0, 1.0, 128)[:, None] * torch.linspace(0.0, 1.0, 32)
    waveform = noise(2.0)
    model = TwoClasses(lambda values: (values * weight).sum((1, 2)))
    found = saliency_map(model, small_extractor, waveform, RATE, "crackle", "occlusion")
    expected = weight.numpy() * excess_over_background(small_extractor, waveform)
    # Strips of 0.5 s are 32 of the 128 frames, 16 apart: only the first one covers the first 16 frames.
    strips = {start: expected[start : start + 32].mean() for start in range(0, 97, 16)}
    refined = sorted(strips, key=strips.get)[-2:]
    np.testing.assert_allclose(found.values[:16], strips[0], rtol=1e-4)
    frame, mel_bin = found.peak
    assert any(start <= frame < start + 32 for start in refined)
    assert mel_bin >= 16


@pytest.mark.parametrize("method", METHODS)
def test_the_only_cells_that_count_are_found(small_extractor, method):
    waveform = noise(2.0)
    weight = torch.zeros(128, 32)
    weight[90:100, 20:26] = 1.0
    model = TwoClasses(lambda values: (values * weight).sum((1, 2)))
    found = saliency_map(model, small_extractor, waveform, RATE, "crackle", method)
    times, frequencies = frame_times(small_extractor), mel_frequencies(small_extractor)
    assert times[85] <= found.peak_time <= times[105]
    assert frequencies[18] <= found.peak_frequency <= frequencies[28]
    assert (found.values.shape, len(found.times), len(found.frequencies)) == ((128, 32), 128, 32)


@pytest.mark.parametrize("method", METHODS)
def test_sounds_against_the_target_are_negative(small_extractor, method):
    model = TwoClasses(lambda values: -values.clamp_min(0).sum((1, 2)))
    found = saliency_map(model, small_extractor, noise(2.0), RATE, "crackle", method)
    assert found.values.max() <= 1e-6
    assert found.values.min() < -1e-3
    assert found.log_odds < found.background_log_odds


def test_axes_are_where_sounds_are():
    """A click's frame and a tone's mel bin are the loudest at their place on the axes."""
    feature_extractor = LungSradFeatureExtractor(num_frames=512)
    times, frequencies = frame_times(feature_extractor), mel_frequencies(feature_extractor)
    for seconds in (0.5, 3.21, 7.4):
        waveform = np.zeros(8 * RATE, dtype=np.float32)
        waveform[int(seconds * RATE)] = 1.0
        energy = feature_extractor(waveform, sampling_rate=RATE)["input_values"][0].sum(axis=1)
        loud = np.flatnonzero(energy > energy.min() + 0.5 * np.ptp(energy))
        # The window of 25 ms and the resize to 15.6 ms frames make a click a plateau; its middle is the click.
        assert times[loud].mean() == pytest.approx(seconds, abs=0.01)
    for hertz in (200.0, 1000.0, 3000.0):
        waveform = 0.5 * np.sin(2 * np.pi * hertz * np.arange(8 * RATE) / RATE).astype(np.float32)
        loudest = feature_extractor(waveform, sampling_rate=RATE)["input_values"][0].mean(axis=0).argmax()
        # The transform has a line every 31 Hz.
        assert frequencies[loudest] == pytest.approx(hertz, abs=35)


@pytest.mark.parametrize("method", METHODS)
def test_short_cycle_is_explained_in_its_own_time(method):
    """One loud moment of a cycle of 1.5 s, which the model hears five times, is one place of the map."""
    feature_extractor = LungSradFeatureExtractor(num_frames=512, num_mel_bins=32)
    waveform = 0.1 * noise(1.5)
    waveform[int(0.9 * RATE) : int(0.95 * RATE)] *= 30
    model = TwoClasses(lambda values: values.clamp_min(1).sum((1, 2)))
    found = saliency_map(model, feature_extractor, waveform, RATE, "crackle", method)
    assert found.times[-1] < 1.5 < found.times[-1] + 0.02
    assert found.values.shape == (len(found.times), 32)
    assert found.peak_time == pytest.approx(0.925, abs=0.1)
    # Five repeats and a third, in which the moment does not come: all of them are taken away together.
    loud = (found.times > 0.7) & (found.times < 1.15)
    assert found.values[loud].sum() == pytest.approx(found.log_odds - found.background_log_odds, rel=0.3)


def test_padding_is_no_part_of_the_map():
    feature_extractor = LungSradFeatureExtractor(num_frames=512, num_mel_bins=32, padding_mode="zero")
    model = TwoClasses(lambda values: values.clamp_min(0).sum((1, 2)))
    found = saliency_map(model, feature_extractor, noise(2.0), RATE, "crackle", "gradient")
    assert found.times[-1] < 2.0 < found.times[-1] + 0.02


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("label", [1, 2])
def test_planted_event_is_found_where_loudness_is_the_evidence(method, label):
    """A hand-made detector of loud stretches of 8 frames and bins; the benchmark has one that has learned."""
    feature_extractor = LungSradFeatureExtractor(num_frames=512)
    waveform, event = simulate_event(label, 8.0, RATE, np.random.default_rng(3), level=4.0)

    def loudness(values):
        excess = values - values.median(dim=1, keepdim=True).values
        return F.avg_pool2d(excess[:, None], 8, stride=2).clamp_min(0).pow(8).sum((1, 2, 3))

    found = saliency_map(TwoClasses(loudness), feature_extractor, waveform, RATE, "crackle", method)
    assert event.start - 0.1 <= found.peak_time <= event.end + 0.1
    assert mel_distance(event.frequencies, found.peak_frequency) <= 10


def mel_distance(frequencies, peak_frequency):
    """Smallest distance to one of the frequencies, in the 128 mel bins between 20 Hz and 8 kHz."""
    bin_width = 1127 * (np.log1p(8000 / 700) - np.log1p(20 / 700)) / 129
    return np.nanmin(np.abs(1127 * (np.log1p(frequencies / 700) - np.log1p(peak_frequency / 700)))) / bin_width


@pytest.mark.parametrize("method", METHODS)
def test_random_weights_give_another_map(embedded, method):
    """Sanity check of Adebayo et al. 2018 (arXiv 1810.03292): the map depends on what the model has learned."""
    model, feature_extractor = embedded
    waveform = noise(1.0)
    torch.manual_seed(0)
    untrained = LungSradForAudioClassification(model.config).eval()
    maps = [
        saliency_map(candidate, feature_extractor, waveform, RATE, ANY_CRACKLE, method).values.ravel()
        for candidate in (model, model, untrained)
    ]
    np.testing.assert_array_equal(maps[0], maps[1])
    assert abs(np.corrcoef(maps[0], maps[2])[0, 1]) < 0.5


@pytest.mark.parametrize("method", METHODS)
def test_model_is_left_as_it_is(small_extractor, method):
    torch.manual_seed(0)
    model = LungSradForAudioClassification(tiny_config(num_mel_bins=32, drop_path_rate=0.5)).train()
    model.lung_srad.layers[1].eval()
    model.head.bias.requires_grad_(False)

    def state():
        return (
            [module.training for module in model.modules()],
            [(parameter.requires_grad, parameter.grad) for parameter in model.parameters()],
        )

    weights = {name: value.clone() for name, value in model.state_dict().items()}
    before, random_state = state(), torch.get_rng_state()
    with torch.inference_mode():
        first = saliency_map(model, small_extractor, noise(2.0), RATE, ANY_WHEEZE, method)
    second = saliency_map(model, small_extractor, noise(2.0), RATE, ANY_WHEEZE, method)
    np.testing.assert_array_equal(first.values, second.values)
    assert state() == before
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_result_names_its_peak():
    values = np.zeros((3, 2), dtype=np.float32)
    values[2, 1] = 1.0
    found = SaliencyMap(
        values, np.array([0.1, 0.2, 0.3]), np.array([100.0, 900.0]), ("crackle",), "gradient", 0.0, 0.0
    )
    assert (found.peak, found.peak_time, found.peak_frequency) == ((2, 1), 0.3, 900.0)


@pytest.mark.parametrize(
    ("waveform", "rate", "target", "method", "message"),
    [
        (noise(2.0), RATE, "rhonchus", "gradient", "target: 'rhonchus' is not a class .* normal, crackle"),
        (noise(2.0), RATE, ("crackle", "crackle"), "gradient", "name some of .*, once each"),
        (noise(2.0), RATE, (), "gradient", "name some of .*, once each"),
        (noise(2.0), RATE, ("normal", "crackle"), "gradient", "name some of .*, once each"),
        (noise(2.0), RATE, "crackle", "lime", "method: 'lime' is not one; give 'gradient' or 'occlusion'"),
        (noise(2.0), 44100, "crackle", "gradient", "sampling_rate: is 44100"),
        (noise(2.5), RATE, "crackle", "gradient", "lasts 2.50 s, and the model hears 2 s; cut it"),
        (noise(0.02), RATE, "crackle", "gradient", "at least 400"),
        (np.zeros(RATE, dtype=np.float32), RATE, "crackle", "gradient", "is silent"),
        (np.full(2 * RATE, 0.5, dtype=np.float32), RATE, "crackle", "gradient", "no sound stands out"),
        (np.full(RATE, np.nan, dtype=np.float32), RATE, "crackle", "gradient", "NaN"),
        (np.zeros((2, RATE), dtype=np.float32), RATE, "crackle", "gradient", "one at a time"),
    ],
)
def test_what_cannot_be_explained_is_said_in_one_line(small_extractor, waveform, rate, target, method, message):
    model = TwoClasses(lambda values: values.sum((1, 2)))
    with pytest.raises(InputError, match=message) as caught:
        saliency_map(model, small_extractor, waveform, rate, target, method)
    assert "\n" not in str(caught.value)
