"""Properties for every sound and setting, of the embedded model; hypothesis draws them, the same every time."""

import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import signal

from dataset_scripts.simulated import simulate_recording
from modeling_lung_srad import LungSoundPipeline, LungSradConfig, LungSradFeatureExtractor
from modeling_lung_srad import LungSradForAudioClassification as Classifier
from modeling_lung_srad.checkpoint_loading import DEFAULT_CHECKPOINT
from modeling_lung_srad.configuration_lung_srad import CLASS_NAMES
from modeling_lung_srad.timeline import CONTEXT_SECONDS

RATE, WINDOW, HOP = 16000, 4.0, 2.0
SEEDS = st.integers(0, 10_000)


def drawn(examples):
    """Settings of hypothesis: no clock, no files, and the same draws every time."""
    checks = [HealthCheck.function_scoped_fixture]
    return settings(
        max_examples=examples, deadline=None, derandomize=True, database=None, suppress_health_check=checks
    )


@pytest.fixture(scope="module")
def model():
    return Classifier.from_pretrained(DEFAULT_CHECKPOINT, scan_backend="torch").eval()


@pytest.fixture(scope="module")
def feature_extractor():
    return LungSradFeatureExtractor.from_pretrained(DEFAULT_CHECKPOINT)


@pytest.fixture(scope="module")
def lung_sounds(model, feature_extractor):
    return LungSoundPipeline(model=model, feature_extractor=feature_extractor)


def simulated(seed, seconds):
    """A simulated recording with cycles of all classes, shape `(16000 * seconds,)`."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(4, size=math.ceil(seconds / 2) + 2).tolist()
    waveform = simulate_recording(labels, RATE, generator)[0][: round(seconds * RATE)]
    return waveform.astype(np.float32)


def probabilities(result):
    return np.array([[segment["probabilities"][name] for name in CLASS_NAMES] for segment in result["timeline"]])


def labels(result):
    return [segment["label"] for segment in result["timeline"]]


@drawn(4)
@given(seed=SEEDS, seconds=st.lists(st.floats(0.03, 9.0), min_size=2, max_size=4), data=st.data())
def test_clip_has_the_same_answer_alone_and_in_a_batch_of_any_lengths_and_order(
    model, feature_extractor, seed, seconds, data
):
    clips = [simulated(seed + index, 10.0)[: round(length * RATE)] for index, length in enumerate(seconds)]
    order = data.draw(st.permutations(range(len(clips))))
    with torch.inference_mode():
        alone = torch.cat([model(**feature_extractor(clip, RATE, return_tensors="pt")).logits for clip in clips])
        batch = model(**feature_extractor([clips[index] for index in order], RATE, return_tensors="pt")).logits
    torch.testing.assert_close(batch, alone[list(order)], atol=1e-4, rtol=0)


@drawn(2)
@given(seed=SEEDS, seam=st.integers(9, 12), weight=st.sampled_from([None, 0.5]))
def test_timeline_is_that_of_the_parts_away_from_their_seam(model, feature_extractor, seed, seam, weight):
    lung_sounds = LungSoundPipeline(model=model, feature_extractor=feature_extractor)
    length, cut = 44.0, HOP * seam
    waveform = simulated(seed, length)
    # Windows at the seam are faded in the parts, and with context they count in those around them.
    margin = WINDOW + (CONTEXT_SECONDS if weight else 0)
    before = model.config.context_weight
    model.config.context_weight = weight
    try:
        whole = lung_sounds(waveform, window=WINDOW, hop=HOP)
        parts = [(0.0, waveform[: round(cut * RATE)]), (cut, waveform[round(cut * RATE) :])]
        compared = 0
        for start, part in parts:
            for segment in lung_sounds(part, window=WINDOW, hop=HOP)["timeline"]:
                middle = start + (segment["start"] + segment["end"]) / 2
                if abs(middle - cut) < margin:
                    continue
                (same,) = (one for one in whole["timeline"] if math.isclose(one["start"], start + segment["start"]))
                assert same["label"] == segment["label"]
                assert same["probabilities"] == pytest.approx(segment["probabilities"], abs=1e-5)
                compared += 1
    finally:
        model.config.context_weight = before
    assert compared >= 2


@drawn(3)
@given(seed=SEEDS, decibels=st.floats(-40.0, 40.0))
def test_gain_of_40_decibels_changes_no_class(lung_sounds, seed, decibels):
    waveform = simulated(seed, 9.0)
    quiet, loud = lung_sounds(waveform), lung_sounds((waveform * 10 ** (decibels / 20)).astype(np.float32))
    assert labels(quiet) == labels(loud)
    np.testing.assert_allclose(probabilities(quiet), probabilities(loud), atol=1e-4)


@drawn(3)
@given(seed=SEEDS, rate=st.sampled_from([4000, 8000, 11025, 22050, 44100, 48000]))
def test_copies_at_other_rates_have_nearly_the_same_probabilities(lung_sounds, seed, rate):
    # Without sound above 1.7 kHz, which a copy at 4 kHz could not hold.
    low_pass = signal.butter(10, 1700, fs=RATE, output="sos")
    waveform = signal.sosfiltfilt(low_pass, simulated(seed, 9.0)).astype(np.float32)
    divisor = math.gcd(rate, RATE)
    copy = signal.resample_poly(waveform, rate // divisor, RATE // divisor)
    found = probabilities(lung_sounds({"raw": copy, "sampling_rate": rate}, cycles=[(0, 4), (2.5, 6.5), (4, 8)]))
    expected = probabilities(lung_sounds(waveform, cycles=[(0, 4), (2.5, 6.5), (4, 8)]))
    # Nothing is left above 2 kHz in a copy at 4 kHz, the noise of rounding included.
    np.testing.assert_allclose(found, expected, atol=0.1 if rate == 4000 else 2e-3)


@drawn(3)
@given(seed=SEEDS)
def test_bfloat16_is_within_three_hundredths_of_float32(lung_sounds, seed):
    waveform = simulated(seed, 8.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = probabilities(lung_sounds(waveform))
    np.testing.assert_allclose(rough, probabilities(lung_sounds(waveform)), atol=0.03)


@st.composite
def configurations(draw):
    """Any valid configuration, mostly small."""
    depths = draw(st.lists(st.integers(1, 6), min_size=1, max_size=5))
    stage = draw(st.integers(0, len(depths) - 1))
    head = draw(st.sampled_from(["classes", "sounds"]))
    share = st.none() | st.floats(0.01, 0.99)
    chosen = {
        "depths": depths,
        "dims": draw(st.lists(st.integers(2, 1024), min_size=len(depths), max_size=len(depths))),
        "ssm_state_size": draw(st.integers(1, 64)),
        "ssm_ratio": draw(st.floats(0.5, 4.0)),
        "mlp_ratio": draw(st.integers(1, 8) | st.floats(0.5, 8.0)),
        "drop_path_rate": draw(st.floats(0.0, 0.99)),
        "num_mel_bins": draw(st.integers(1, 512)),
        "initializer_range": draw(st.none() | st.floats(1e-6, 1.0)),
        "layer_norm_eps": draw(st.floats(1e-12, 1e-3)),
        "gaussian_stage": stage,
        "gaussian_blocks": draw(st.lists(st.integers(0, depths[stage] - 1), max_size=4)),
        "gaussian_kernel_size": draw(st.integers(0, 20)) * 2 + 1,
        "gaussian_sigma": draw(st.floats(0.01, 100.0)),
        "gaussian_position": draw(st.sampled_from(["scan_input", "scan_output", "block_output"])),
        "gaussian_at_inference": draw(st.booleans()),
        "scan_backend": draw(st.sampled_from(["auto", "torch", "numba", "triton", "mamba_ssm"])),
        "head": head,
        "window_seconds": draw(st.none() | st.floats(0.1, 60.0)),
        "context_weight": draw(share) if head == "sounds" else None,
        "crackle_threshold": draw(share),
        "wheeze_threshold": draw(share),
        "temperature": draw(st.none() | st.floats(0.05, 20.0)),
        "familiarity_digest": draw(st.none() | st.text("0123456789abcdef", min_size=64, max_size=64)),
    }
    return chosen if head == "sounds" or draw(st.booleans()) else chosen | {"num_labels": draw(st.integers(1, 600))}


@drawn(60)
@given(chosen=configurations())
def test_configuration_is_the_same_after_saving_and_loading(tmp_path, chosen):
    config = LungSradConfig(**chosen)
    config.save_pretrained(tmp_path)
    loaded = LungSradConfig.from_pretrained(tmp_path)
    for name, value in chosen.items():
        found = getattr(loaded, name)
        assert (list(found) if isinstance(found, tuple) else found) == value, name
    assert loaded.id2label == config.id2label
    assert loaded.label2id == config.label2id


@st.composite
def extractor_settings(draw):
    """Any valid settings of the feature extractor."""
    rate = draw(st.integers(2000, 48000))
    cycle = draw(st.floats(0.1, 20.0))
    frame = draw(st.floats(0.01, 0.1))
    lowest = draw(st.floats(0.0, rate / 4))
    chosen = {
        "sampling_rate": rate,
        "num_mel_bins": draw(st.integers(1, 256)),
        "cycle_seconds": cycle,
        "padding_mode": draw(st.sampled_from(["repeat", "zero"])),
        "fade_seconds": draw(st.floats(0.0, cycle)),
        "num_frames": draw(st.integers(1, 2048)),
        "normalization": draw(st.sampled_from(["clip", "dataset", "band"])),
        "mean": draw(st.floats(-20.0, 20.0)),
        "std": draw(st.floats(1e-3, 20.0)),
        "min_frequency": lowest,
        "max_frequency": draw(st.none() | st.floats(lowest + 1, rate / 2)),
        "frame_seconds": frame,
        "floor_decibels": draw(st.none() | st.floats(1.0, 200.0)),
    }
    return chosen | {"fft_length": draw(st.none() | st.integers(round(frame * rate), 8192))}


@drawn(60)
@given(chosen=extractor_settings())
def test_settings_of_the_features_are_the_same_after_saving_and_loading(tmp_path, chosen):
    LungSradFeatureExtractor(**chosen).save_pretrained(tmp_path)
    loaded = LungSradFeatureExtractor.from_pretrained(tmp_path)
    assert {name: getattr(loaded, name) for name in chosen} == chosen
