"""Features against the numbers of the authors' pipeline, and the promises of the public call."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoFeatureExtractor

from modeling_lung_srad import LungSradFeatureExtractor
from modeling_lung_srad.audio import resample
from modeling_lung_srad.errors import InputError
from modeling_lung_srad.feature_extraction_lung_srad import _mel_filters, hertz_to_mel, kaldi_fbank, mel_to_hertz
from tests.conftest import shared_path

FADE = 1000


def noise(samples, seed=0):
    return np.random.default_rng(seed).standard_normal(samples).astype(np.float32) * 0.1


def slow_fbank(waveform, num_mel_bins=128):
    """Kaldi filter banks of a 16 kHz waveform, frame by frame in float64, with the filters from their definition."""
    mel = lambda hertz: 1127 * np.log(1 + hertz / 700)  # noqa: E731
    edges = np.linspace(mel(20), mel(8000), num_mel_bins + 2)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399)
    rows = []
    for start in range(0, len(waveform) - 399, 160):
        frame = np.asarray(waveform[start : start + 400], dtype=np.float64)
        frame = frame - frame.mean()
        frame = frame - 0.97 * np.concatenate([frame[:1], frame[:-1]])
        power = np.abs(np.fft.rfft(frame * window, 512)) ** 2
        row = np.zeros(num_mel_bins)
        for index in range(256):
            position = mel(index * 16000 / 512)
            for band in range(num_mel_bins):
                left, center, right = edges[band : band + 3]
                if left < position < right:
                    slope = (
                        (position - left) / (center - left)
                        if position <= center
                        else (right - position) / (right - center)
                    )
                    row[band] += power[index] * slope
        rows.append(np.log(np.maximum(row, np.finfo(np.float32).eps)))
    return np.stack(rows)


@pytest.fixture(scope="module")
def golden():
    return load_file(shared_path("golden/audio_pipeline.safetensors"))


def golden_cycles(golden, rate):
    """Cycles cut as the authors do: whole recording resampled and faded, then cut by the annotations."""
    waveform = resample(golden[f"sr{rate}.pcm16"].numpy().astype(np.float32) / 32768, rate, 16000)
    waveform[:FADE] *= np.linspace(0, 1, FADE)
    waveform[-FADE:] *= np.linspace(1, 0, FADE)
    # The annotations are stored in single precision, the text files have at most three decimals.
    for start, end in golden[f"sr{rate}.annotations"].double().numpy().round(3):
        yield waveform[int(start * 16000) : int(end * 16000)]


@pytest.mark.parametrize("rate", [4000, 10000, 44100])
@pytest.mark.parametrize(
    ("normalization", "name"), [("clip", "input_values_sub"), ("dataset", "input_values_ast_sub")]
)
def test_features_match_the_authors_pipeline(golden, rate, normalization, name):
    feature_extractor = LungSradFeatureExtractor(normalization=normalization)
    for index, cycle in enumerate(golden_cycles(golden, rate)):
        log_mel = feature_extractor.log_mel(cycle)[0]
        expected = golden[f"sr{rate}.cycle{index}.fbank_sub"]
        torch.testing.assert_close(log_mel[::7], expected, atol=2e-3, rtol=0)
        moments = golden[f"sr{rate}.cycle{index}.fbank_mean_std"]
        torch.testing.assert_close(torch.stack([log_mel.mean(), log_mel.std()]), moments, atol=1e-4, rtol=0)
        input_values = feature_extractor(cycle, sampling_rate=16000, return_tensors="pt")["input_values"][0]
        torch.testing.assert_close(input_values[::9], golden[f"sr{rate}.cycle{index}.{name}"], atol=2e-3, rtol=0)


def test_the_network_waveform_is_reproduced_to_its_last_bit(golden):
    feature_extractor = LungSradFeatureExtractor()
    for index, cycle in enumerate(golden_cycles(golden, 4000)):
        filled = feature_extractor._fit_length(torch.as_tensor(cycle))
        expected = golden[f"sr4000.cycle{index}.waveform_pcm16"].float() / 32768
        torch.testing.assert_close(filled, expected, atol=0.51 / 32768, rtol=0)


def test_a_finished_waveform_passes_without_a_second_fade(golden):
    waveform = golden["sr4000.cycle0.waveform_pcm16"].float() / 32768
    log_mel = LungSradFeatureExtractor().log_mel(waveform)[0, ::7]
    expected = golden["sr4000.cycle0.fbank_sub"]
    # Its rounding to 16 bits is what fills the bands without signal, so only bands with signal can agree.
    with_signal = expected > -4
    torch.testing.assert_close(log_mel[with_signal], expected[with_signal], atol=3e-3, rtol=0)


def test_filter_banks_agree_with_a_slow_implementation():
    waveform = noise(4000)
    feature_extractor = LungSradFeatureExtractor(cycle_seconds=0.25)
    log_mel = feature_extractor.log_mel(waveform)[0]
    np.testing.assert_allclose(log_mel.numpy(), slow_fbank(waveform), atol=2e-3)


@pytest.mark.parametrize("samples", [400, 401, 5000, 127999, 128000, 128001, 400000])
def test_any_length_from_25_ms_gives_the_same_shape(samples):
    features = LungSradFeatureExtractor()(noise(samples), sampling_rate=16000, return_tensors="pt")
    assert features["input_values"].shape == (1, 1024, 128)
    assert torch.isfinite(features["input_values"]).all()


@pytest.mark.parametrize(
    "as_input",
    [
        lambda x: [x[0], x[1]],
        lambda x: np.stack(x),
        lambda x: torch.tensor(np.stack(x)),
        lambda x: [torch.tensor(x[0]), torch.tensor(x[1])],
        lambda x: [x[0].tolist(), x[1].tolist()],
        lambda x: (x[0].astype(np.float64), x[1]),
    ],
)
def test_arrays_tensors_and_lists_give_the_same_batch(as_input):
    waveforms = [noise(3000, 1), noise(3000, 2)]
    feature_extractor = LungSradFeatureExtractor()
    expected = torch.cat(
        [feature_extractor.resize(feature_extractor.normalize(feature_extractor.log_mel(x))) for x in waveforms]
    )
    batch = feature_extractor(as_input(waveforms), sampling_rate=16000, return_tensors="pt")["input_values"]
    torch.testing.assert_close(batch, expected, atol=1e-4, rtol=0)


def test_numpy_is_what_comes_back_when_no_tensors_are_asked_for():
    features = LungSradFeatureExtractor()(noise(3000), sampling_rate=16000)["input_values"]
    assert isinstance(features, np.ndarray)
    assert features.dtype == np.float32


def test_zero_padding_leaves_the_cycle_as_it_is():
    filled = LungSradFeatureExtractor(padding_mode="zero", cycle_seconds=1.0)._fit_length(torch.ones(1600))
    assert filled[:1600].eq(1).all()
    assert filled[1600:].eq(0).all()


def test_digital_silence_gives_zeros_instead_of_nan():
    features = LungSradFeatureExtractor()(np.zeros(16000, np.float32), sampling_rate=16000)["input_values"]
    assert np.all(np.abs(features) < 1e-2)


@pytest.mark.parametrize(("rate", "stated"), [(None, "is missing"), (8000, "is 8000"), (44100, "is 44100")])
def test_a_missing_or_wrong_sampling_rate_is_an_error(rate, stated):
    with pytest.raises(ValueError, match=f"{stated}, and .* 16000"):
        LungSradFeatureExtractor()(noise(3000), sampling_rate=rate)


@pytest.mark.parametrize(
    ("waveform", "message"),
    [
        (noise(399), "25 ms"),
        (np.array([], dtype=np.float32), "25 ms"),
        (np.array([0.1] * 500 + [np.nan]), "NaN"),
        (np.array([np.inf] + [0.1] * 500), "infinite"),
        (np.zeros((1, 2, 500), np.float32), "mono"),
        ([np.zeros((2, 500), np.float32)], "mono"),
        (np.ones(500, np.int16), "floats"),
        ([], "empty|25 ms"),
        (None, "waveform 0: is not readable as an array"),
        ("a.wav", "waveform 0: is not readable as an array"),
        ({"raw": noise(500)}, "waveform 0: is not readable as an array"),
        (np.array(["a"] * 500), "waveform 0: is not readable as an array"),
        ([[0.1] * 500, [0.1, "a"]], "waveform 1: is not readable as an array"),
        (torch.zeros(500, device="meta"), "without data"),
        (torch.zeros(500).to_sparse(), "is sparse"),
        (torch.zeros(500, dtype=torch.float8_e4m3fn), "has dtype torch.float8_e4m3fn"),
    ],
)
def test_a_waveform_that_cannot_be_used_is_an_error(waveform, message):
    with pytest.raises(ValueError, match=message):
        LungSradFeatureExtractor()(waveform, sampling_rate=16000)


def test_too_large_an_input_of_the_network_is_refused():
    with pytest.raises(InputError, match="num_frames, num_mel_bins: ask for too large a clip"):
        LungSradFeatureExtractor(num_frames=10_000, num_mel_bins=512)
    LungSradFeatureExtractor(num_frames=10_000, num_mel_bins=128, cycle_seconds=60.0)


def test_features_of_a_waveform_that_needs_gradients():
    waveform = torch.from_numpy(noise(3000)).requires_grad_()
    features = LungSradFeatureExtractor()(waveform, sampling_rate=16000)["input_values"]
    assert isinstance(features, np.ndarray)
    LungSradFeatureExtractor()(waveform, 16000, return_tensors="pt")["input_values"].sum().backward()
    assert waveform.grad is not None


@pytest.mark.parametrize(
    "setting",
    [
        {"padding_mode": "loop"},
        {"normalization": "batch"},
        {"num_frames": 0},
        {"num_frames": 1024.5},
        {"num_mel_bins": 10**9},
        {"sampling_rate": 10},
        {"sampling_rate": 10**9},
        {"sampling_rate": float("inf")},
        {"std": 0.0},
        {"std": float("inf")},
        {"mean": float("nan")},
        {"cycle_seconds": 0.0},
        {"cycle_seconds": 3000.0, "fft_length": 2**16},
        {"cycle_seconds": 600.0, "frame_seconds": 1.0},
        {"fft_length": 2**17},
    ],
)
def test_a_setting_out_of_range_is_an_error_that_names_it(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        LungSradFeatureExtractor(**setting)


def test_whole_numbers_that_a_settings_file_has_as_floats_are_taken():
    features = LungSradFeatureExtractor(sampling_rate=16000.0, num_mel_bins=64.0, num_frames=100.0)
    assert repr([features.sampling_rate, features.num_mel_bins, features.num_frames]) == "[16000, 64, 100]"
    assert features(noise(3000), sampling_rate=16000)["input_values"].shape == (1, 100, 64)


@pytest.mark.parametrize("first_call", [torch.inference_mode, lambda: torch.device("meta")])
def test_later_calls_do_not_depend_on_the_mode_of_the_first(first_call):
    _mel_filters.cache_clear()
    with first_call():
        kaldi_fbank(torch.zeros(1, 800), 16000, 128)
    waveform = torch.as_tensor(noise(4000))[None].requires_grad_()
    log_mel = kaldi_fbank(waveform, 16000, 128)
    np.testing.assert_allclose(log_mel[0].detach().numpy(), slow_fbank(noise(4000)), atol=2e-3)
    log_mel.sum().backward()
    assert torch.isfinite(waveform.grad).all()


def test_every_setting_survives_saving(tmp_path):
    settings = {
        "cycle_seconds": 5.0,
        "padding_mode": "zero",
        "normalization": "dataset",
        "mean": -3.0,
        "std": 2.0,
        "num_frames": 512,
    }
    LungSradFeatureExtractor(**settings).save_pretrained(tmp_path)
    loaded = AutoFeatureExtractor.from_pretrained(tmp_path)
    assert type(loaded).__name__ == "LungSradFeatureExtractor"
    assert {name: getattr(loaded, name) for name in settings} == settings


LEVEL_FREE = {"floor_decibels": 40.0, "normalization": "band"}


@pytest.mark.parametrize("gain", [1e-3, 0.1, 30.0])
def test_with_a_floor_the_level_of_a_clip_does_not_matter(gain):
    extractor = LungSradFeatureExtractor(**LEVEL_FREE)
    waveform = noise(60_000)
    expected = extractor(waveform, sampling_rate=16000)["input_values"]
    np.testing.assert_allclose(extractor(gain * waveform, sampling_rate=16000)["input_values"], expected, atol=1e-4)


def test_with_a_floor_each_clip_of_a_batch_is_scaled_to_its_own_rms():
    waveforms = np.stack([0.01 * noise(4000, 1), noise(4000, 2)])
    scaled = waveforms / np.sqrt((waveforms**2).mean(axis=1, keepdims=True))
    found = LungSradFeatureExtractor(**LEVEL_FREE).filter_bank(torch.from_numpy(waveforms))
    expected = LungSradFeatureExtractor().filter_bank(torch.from_numpy(scaled))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_a_repeated_cycle_fades_out_over_a_sixteenth_of_a_second_unless_that_is_zero():
    expected = np.ones(16000)
    for fade_seconds in (0.0, 1 / 16):
        filled = LungSradFeatureExtractor(cycle_seconds=1.0, fade_seconds=fade_seconds)._fit_length(torch.ones(1600))
        if fade_seconds:
            expected[-1000:] = 1 - np.arange(1000) / 999
        np.testing.assert_allclose(filled, expected, atol=1e-6)


def test_mel_is_that_of_htk_and_back():
    assert hertz_to_mel([0.0, 700.0, 1000.0]) == pytest.approx([0.0, 1127 * np.log(2), 999.99], abs=0.01)
    assert mel_to_hertz(hertz_to_mel([20.0, 7800.0])) == pytest.approx([20.0, 7800.0])


def test_a_recording_has_one_channel():
    assert LungSradFeatureExtractor().feature_size == 1


def test_frames_that_are_enough_are_left_as_they_are():
    log_mel = torch.randn(3, 64, 16)
    assert LungSradFeatureExtractor(num_frames=64).resize(log_mel) is log_mel


def test_the_floor_is_added_below_the_mean_energy_of_the_clip():
    extractor = LungSradFeatureExtractor(floor_decibels=20.0, normalization="dataset", mean=0.0, std=0.5)
    log_mel = torch.tensor([[[0.0, 1.0], [-50.0, 2.0]]])
    energies = log_mel.double().exp()
    expected = (energies + 0.01 * energies.mean()).log()
    torch.testing.assert_close(extractor.normalize(log_mel).double(), expected, atol=1e-5, rtol=1e-5)


def test_band_normalisation_leaves_no_mean_in_any_bin_and_half_of_the_spread():
    extractor = LungSradFeatureExtractor(normalization="band")
    log_mel = torch.randn(2, 100, 16) * 3 + torch.linspace(-20, 20, 16)
    normalized = extractor.normalize(log_mel)
    assert normalized.mean(dim=1).abs().max() < 1e-5
    assert normalized.std(dim=(1, 2)).tolist() == pytest.approx([0.5, 0.5])


def test_other_windows_transforms_and_frequencies_follow_their_definition():
    waveform = torch.from_numpy(noise(4000))[None]
    found = kaldi_fbank(waveform, 16000, 5, (100.0, 3000.0), 0.032, 2048)[0].double().numpy()
    window, rows = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(512) / 511), []
    edges = np.linspace(1127 * np.log1p(100 / 700), 1127 * np.log1p(3000 / 700), 7)
    mel = 1127 * np.log1p(np.arange(1025) * 16000 / 2048 / 700)
    for start in range(0, 4000 - 511, 160):
        frame = waveform[0, start : start + 512].double().numpy()
        frame = frame - frame.mean()
        frame = frame - 0.97 * np.concatenate([frame[:1], frame[:-1]])
        power = np.abs(np.fft.rfft(frame * window, 2048)) ** 2
        filters = [np.interp(mel, edges[band : band + 3], [0, 1, 0], left=0, right=0) for band in range(5)]
        rows.append([np.log(power @ triangle) for triangle in filters])
    np.testing.assert_allclose(found, rows, atol=1e-4)


@pytest.mark.parametrize(
    "settings",
    [
        {"min_frequency": 5000.0, "max_frequency": 4000.0},
        {"max_frequency": 9000.0},
        {"frame_seconds": 2.0},
        {"fft_length": 100},
        {"floor_decibels": 0.0},
        {"normalization": "mel"},
    ],
)
def test_impossible_settings_are_refused_by_name(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        LungSradFeatureExtractor(**settings)


def test_a_frame_may_be_as_short_as_a_step():
    assert LungSradFeatureExtractor(frame_seconds=0.01).frame_seconds == 0.01


def test_defaults_are_the_statistics_of_audioset_as_published_with_ast():
    features = LungSradFeatureExtractor()
    assert (features.mean, features.std) == (-4.2677393, 4.5689974)


def test_an_unknown_argument_is_an_error():
    with pytest.raises(TypeError, match="paddding"):
        LungSradFeatureExtractor()(np.zeros(16000, dtype=np.float32), sampling_rate=16000, paddding=True)


def test_channels_are_not_taken_for_a_batch_without_a_word(monkeypatch):
    said = []
    monkeypatch.setattr("modeling_lung_srad.feature_extraction_lung_srad.logger.warning_once", said.append)
    extractor = LungSradFeatureExtractor()
    stereo = 0.1 * np.random.default_rng(0).standard_normal((16000, 2)).astype(np.float32)
    with pytest.raises(ValueError, match=r"shape \(16000, 2\) is of channels; average them: waveform.mean\(axis=1\)"):
        extractor(stereo, sampling_rate=16000)
    assert extractor(stereo.T, sampling_rate=16000)["input_values"].shape[0] == 2
    assert said == ["waveforms of shape (2, samples) are a batch of two, not the channels of one"]
    extractor([stereo[:, 0], stereo[:, 1]], sampling_rate=16000)
    extractor(stereo.T[[0, 1, 0]], sampling_rate=16000)
    assert len(said) == 1
