import pytest
import torch

from training.arguments import AugmentationArguments
from training.log_mel_dataset import LogMelDataset, compute_log_mel


@pytest.fixture(scope="module")
def waveforms(simulated_sources):
    training, _ = simulated_sources
    return [row["audio"]["array"] for row in training[0].cycles]


def test_items_are_what_the_feature_extractor_makes_of_the_cycles(simulated_sources, feature_extractor, waveforms):
    training, _ = simulated_sources
    labels = training[0].table["label"]
    cycles = LogMelDataset(compute_log_mel(training, feature_extractor), labels, feature_extractor)
    expected = feature_extractor(waveforms, sampling_rate=16000, return_tensors="pt")["input_values"]
    assert len(cycles) == len(expected)
    for index in (0, 5, len(cycles) - 1):
        assert torch.allclose(cycles[index]["input_values"], expected[index], atol=1e-5)
        assert cycles[index]["labels"] == labels[index]


def test_half_precision_rounds_inputs_by_less_than_a_thousandth(simulated_sources, feature_extractor):
    training, _ = simulated_sources
    exact = compute_log_mel(training, feature_extractor)
    rounded = compute_log_mel(training, feature_extractor, torch.float16)
    assert rounded.dtype == torch.float16
    labels = [0] * len(exact)
    pairs = [LogMelDataset(log_mel, labels, feature_extractor) for log_mel in (exact, rounded)]
    difference = (pairs[0][3]["input_values"] - pairs[1][3]["input_values"]).abs().max()
    assert 0 < difference < 1e-3


def test_sources_follow_each_other(simulated_sources, feature_extractor):
    training, validation = simulated_sources
    both = compute_log_mel([*training, validation], feature_extractor)
    parts = [compute_log_mel([source], feature_extractor) for source in (training[0], validation)]
    assert torch.allclose(both, torch.cat(parts), atol=1e-4)


def test_augmentation_is_drawn_anew_and_follows_the_seed(simulated_sources, feature_extractor):
    training, _ = simulated_sources
    log_mel, labels = compute_log_mel(training, feature_extractor), training[0].table["label"]
    cycles = LogMelDataset(log_mel, labels, feature_extractor, AugmentationArguments(roll=True))
    torch.manual_seed(0)
    first, second = cycles[0]["input_values"], cycles[0]["input_values"]
    torch.manual_seed(0)
    assert torch.equal(cycles[0]["input_values"], first)
    assert not torch.equal(first, second)
    assert first.shape == (feature_extractor.num_frames, feature_extractor.num_mel_bins)


def test_wrong_number_of_labels_is_refused(feature_extractor):
    with pytest.raises(ValueError, match="2 spectrograms for 1 labels"):
        LogMelDataset(torch.zeros(2, 398, 128), [0], feature_extractor)
