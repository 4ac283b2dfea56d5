"""Distances from the training distribution against slow formulas, and the file that a checkpoint carries."""

import json
import math
import pickle
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from modeling_lung_srad import LungSoundPipeline, LungSradFeatureExtractor
from modeling_lung_srad.checkpoint_loading import DEFAULT_CHECKPOINT
from modeling_lung_srad.errors import InputError
from modeling_lung_srad.familiarity import FAMILIARITY_FILE, fit_familiarity, load_familiarity, log_mel_statistics

NUM_MEL_BINS = 16
PATIENTS = [f"patient {index % 12}" for index in range(240)]


def spectrograms(count, seed=0, tilt=0.3):
    """Spectrograms of 20 frames whose neighbouring bins vary together."""
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(count, 20, 1, generator=generator)
    slope = torch.linspace(1, -1, NUM_MEL_BINS) * (tilt + 0.1 * torch.randn(count, 1, 1, generator=generator))
    return slope + 0.3 * shared + 0.2 * torch.randn(count, 20, NUM_MEL_BINS, generator=generator)


@pytest.fixture(scope="module")
def familiarity():
    return fit_familiarity(log_mel_statistics(spectrograms(240)), PATIENTS)


def statistics_slowly(spectrogram):
    values = [value.item() for value in spectrogram.flatten()]
    center = math.fsum(values) / len(values)
    spread = math.sqrt(math.fsum((value - center) ** 2 for value in values) / (len(values) - 1))
    spectrogram = (spectrogram.double() - center) / spread
    bands = [[frame[bin : bin + 4].mean().item() for frame in spectrogram] for bin in range(0, NUM_MEL_BINS, 4)]
    means = [math.fsum(band) / len(band) for band in bands]
    squares = [math.fsum((value - mean) ** 2 for value in band) for band, mean in zip(bands, means, strict=True)]
    return means + [math.sqrt(square / (len(band) - 1)) for band, square in zip(bands, squares, strict=True)]


def distances_slowly(fitted, measured):
    """Mahalanobis distance with 0.7 of the covariances and all of the variances."""
    covariance = np.cov(fitted.T, bias=True)
    shrunk = 0.7 * covariance + 0.3 * np.diag(np.diag(covariance))
    differences = measured - fitted.mean(axis=0)
    return np.array([math.sqrt(difference @ np.linalg.solve(shrunk, difference)) for difference in differences])


def test_statistics_are_means_and_deviations_of_bands():
    batch = spectrograms(3)

    np.testing.assert_allclose(log_mel_statistics(batch), [statistics_slowly(one) for one in batch], rtol=1e-5)


def test_distance_is_that_of_the_formula(familiarity):
    fitted, others = log_mel_statistics(spectrograms(240)), spectrograms(50, seed=1)

    np.testing.assert_allclose(
        familiarity.distance(others), distances_slowly(fitted, log_mel_statistics(others)), rtol=1e-6
    )


def test_threshold_is_of_patients_that_were_left_out(familiarity):
    statistics, names = log_mel_statistics(spectrograms(240)), np.array(PATIENTS)
    ordered = sorted(set(PATIENTS))
    left_out = []
    for fold in range(5):
        inside = np.array([ordered.index(name) % 5 == fold for name in names])
        left_out.extend(distances_slowly(statistics[~inside], statistics[inside]))

    assert familiarity.threshold == pytest.approx(np.quantile(left_out, 0.99), rel=1e-6)
    assert familiarity.cycles == 240


def test_order_of_the_cycles_does_not_matter(familiarity):
    order = np.random.default_rng(0).permutation(240)
    again = fit_familiarity(log_mel_statistics(spectrograms(240))[order], [PATIENTS[index] for index in order])

    np.testing.assert_allclose(again.mean, familiarity.mean, rtol=1e-9)
    assert again.threshold == pytest.approx(familiarity.threshold, rel=1e-9)


def test_same_kind_is_familiar_and_another_is_not(familiarity):
    assert (familiarity.distance(spectrograms(1000, seed=2)) > familiarity.threshold).mean() < 0.05
    assert (familiarity.distance(spectrograms(100, seed=3, tilt=-1.0)) > familiarity.threshold).all()


def test_gain_hardly_matters():
    feature_extractor = LungSradFeatureExtractor(cycle_seconds=1.0, num_frames=98)
    noise = np.random.default_rng(0).normal(scale=0.1, size=(2, 16000)).astype(np.float32)
    loud, soft = (feature_extractor.log_mel(gain * noise) for gain in (1.0, 0.25))

    # A low mel bin holds no frequency of the FFT and stays at the floor of the logarithm.
    np.testing.assert_allclose(log_mel_statistics(loud), log_mel_statistics(soft), atol=0.2)


def test_file_brings_the_same_distances_back(familiarity, tmp_path):
    path = familiarity.save(tmp_path)
    loaded = load_familiarity(tmp_path)

    batch = spectrograms(20, seed=4)
    np.testing.assert_allclose(loaded.distance(batch), familiarity.distance(batch), rtol=1e-5)
    assert loaded.threshold == pytest.approx(familiarity.threshold, rel=1e-6)
    assert (loaded.cycles, path.name) == (240, FAMILIARITY_FILE)
    (tmp_path / "other").touch()
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode


def test_the_saved_file_has_the_same_bytes_each_time(familiarity, tmp_path):
    assert len({familiarity.save(tmp_path).read_bytes() for _ in range(8)}) == 1


def test_saving_writes_the_digest_into_the_settings_that_are_there(familiarity, tmp_path):
    (tmp_path / "blob").write_text('{"depths": [1, 2]}')
    (tmp_path / "config.json").symlink_to("blob")
    familiarity.save(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()) == {
        "depths": [1, 2],
        "familiarity_digest": load_familiarity(tmp_path).digest,
    }
    assert load_familiarity(tmp_path).digest == familiarity.digest
    # Files of the Hub's cache, which other revisions share, are links.
    assert (tmp_path / "blob").read_text() == '{"depths": [1, 2]}'


@pytest.mark.parametrize("name", ["mean", "whitening", "threshold", "cycles"])
def test_every_value_changes_the_digest(familiarity, name):
    assert replace(familiarity, **{name: 2 * getattr(familiarity, name)}).digest != familiarity.digest


@pytest.mark.parametrize("checkpoint", ["", "nobody/has-this-model", "/no/such/folder", "not a name!"])
def test_checkpoints_without_the_file_have_none(checkpoint):
    assert load_familiarity(checkpoint, local_files_only=True) is None


def test_folder_without_the_file_has_none(tmp_path):
    assert load_familiarity(tmp_path) is None


class Executed:
    def __reduce__(self):
        return warnings.warn, ("a pickle was executed",)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("content", [b"", b"nonsense" * 10, pickle.dumps(Executed())])
def test_damaged_file_is_named_in_one_line(content, tmp_path):
    (tmp_path / FAMILIARITY_FILE).write_bytes(content)

    with pytest.raises(InputError) as error:
        load_familiarity(tmp_path)

    assert str(error.value).startswith(str(tmp_path / FAMILIARITY_FILE))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"mean": np.zeros(3, dtype=np.float32)},
        {"mean": np.zeros((2, 4), dtype=np.float32)},
        {"mean": np.full(8, np.nan, dtype=np.float32)},
        {"whitening": np.zeros((8, 7), dtype=np.float32)},
        {"threshold": np.array([-1.0], dtype=np.float32)},
        {"threshold": np.zeros(0, dtype=np.float32)},
        {"cycles": None},
        {"mean": None},
    ],
)
def test_file_whose_values_do_not_fit_is_refused(changes, familiarity, tmp_path):
    path = familiarity.save(tmp_path)
    tensors = {name: tensor for name, tensor in (load_file(path) | changes).items() if tensor is not None}
    save_file(tensors, path)

    with pytest.raises(InputError, match="fit it again"):
        load_familiarity(tmp_path)


def test_other_number_of_mel_bins_is_refused(familiarity):
    with pytest.raises(InputError, match="32 mel bins have 16"):
        familiarity.distance(torch.zeros(1, 20, 32))


@pytest.mark.parametrize("shape", [(20, 16), (1, 1, 16), (1, 20, 3)])
def test_input_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match="num_mel_bins"):
        log_mel_statistics(torch.zeros(shape))


@pytest.mark.parametrize(
    ("statistics", "patients", "message"),
    [
        (np.zeros((2, 8)), ["one", "one"], "at least two"),
        (np.zeros((2, 8)), ["one", "two", "three"], "patient of each cycle"),
        (np.full((2, 8), np.inf), ["one", "two"], "NaN or infinite"),
    ],
)
def test_cycles_that_cannot_be_fitted_are_refused(statistics, patients, message):
    with pytest.raises(ValueError, match=message):
        fit_familiarity(statistics, patients)


def test_constant_statistics_are_fitted():
    fitted = fit_familiarity(np.ones((4, 8)), ["one", "two", "one", "two"])

    assert np.isfinite(fitted.whitening).all()


def test_recording_is_flagged_where_more_than_a_quarter_of_its_windows_are_unfamiliar(familiarity):
    near, far = 0.5 * familiarity.threshold, 2 * familiarity.threshold
    spans = [(0.0, 8.0), (4.0, 12.0), (8.0, 16.0), (12.0, 20.0)]

    assert familiarity.flag(np.array([far, near, near, near]), spans) is None
    assert familiarity.flag(np.array([]), []) is None
    flag = familiarity.flag(np.array([near, far, far, near]), spans)

    assert (flag.flag, flag.value, flag.spans) == ("unfamiliar", 0.5, ((4.0, 12.0), (8.0, 16.0)))
    assert flag.message.startswith("2 of 4 windows")


def test_embedded_checkpoint_knows_foreign_sounds():
    familiarity = LungSoundPipeline.from_checkpoint().familiarity
    feature_extractor = LungSradFeatureExtractor.from_pretrained(DEFAULT_CHECKPOINT)
    time = np.arange(8 * 16000) / 16000
    noise = np.random.default_rng(0).standard_normal(len(time))
    foreign = np.stack([noise, np.sin(2 * np.pi * 1000 * time)]).astype(np.float32)

    assert (familiarity.distance(feature_extractor.log_mel(foreign)) > familiarity.threshold).all()
    assert (DEFAULT_CHECKPOINT / FAMILIARITY_FILE).stat().st_size < 50_000
