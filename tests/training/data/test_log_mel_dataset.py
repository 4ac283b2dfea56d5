import pytest
import torch
from torch.utils.data import DataLoader
from transformers import default_data_collator

from training.arguments import AugmentationArguments
from training.data.augmentation import augment_log_mel, crop_frames, spec_augment
from training.data.log_mel_dataset import LogMelDataset, compute_log_mel
from training.data.sampling import CycleDraw

AUGMENTATIONS = {
    "none": None,
    "masks": AugmentationArguments(),
    "all": AugmentationArguments(roll=True, equalizer_decibels=3.0, crop_frames=200),
    "off": AugmentationArguments(frequency_masks=0, time_masks=0),
}


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
    assert torch.equal(both, torch.cat(parts))


def test_no_cycles_are_spectrograms_of_the_usual_shape(feature_extractor):
    assert compute_log_mel([], feature_extractor).shape == (0, 398, 128)


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


def one_by_one(log_mel, feature_extractor, augmentation, generators):
    """The steps of an access as they are documented, for a cycle at a time."""
    for spectrogram, generator in zip(log_mel, generators, strict=True):
        if augmentation is None:
            yield feature_extractor.resize(feature_extractor.normalize(spectrogram.float()[None]))[0]
            continue
        augmented = augment_log_mel(spectrogram.float(), augmentation, generator)
        masked = spec_augment(feature_extractor.normalize(augmented[None])[0], augmentation, generator)
        yield crop_frames(feature_extractor.resize(masked[None])[0], augmentation, generator)


@pytest.mark.parametrize("augmentation", AUGMENTATIONS.values(), ids=AUGMENTATIONS.keys())
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_a_batch_is_what_single_accesses_in_its_order_give(feature_extractor, augmentation, dtype):
    log_mel = torch.randn(9, 398, 128).to(dtype)
    before = log_mel.clone()
    cycles = LogMelDataset(log_mel, list(range(9)), feature_extractor, augmentation)
    positions = [4, 0, 7, 7, 2]
    torch.manual_seed(1)
    expected = list(one_by_one(log_mel[positions], feature_extractor, augmentation, [None] * 5))
    after = torch.rand(())
    torch.manual_seed(1)
    singles = [cycles[position] for position in positions]
    torch.manual_seed(1)
    batch = cycles.__getitems__(positions)
    assert torch.rand(()) == after
    for position, single, item, input_values in zip(positions, singles, batch, expected, strict=True):
        assert item["index"] == item["labels"] == single["index"] == single["labels"] == position
        assert torch.equal(item["input_values"], input_values)
        assert torch.equal(single["input_values"], input_values)
    assert torch.equal(log_mel, before)


def test_the_seed_of_a_draw_decides_its_augmentation_wherever_it_stands(feature_extractor):
    log_mel = torch.randn(4, 398, 128)
    augmentation = AUGMENTATIONS["all"]
    cycles = LogMelDataset(log_mel, [0] * 4, feature_extractor, augmentation)
    generators = [torch.Generator().manual_seed(seed) for seed in (7, 8)]
    expected = list(one_by_one(log_mel[[3, 1]], feature_extractor, augmentation, generators))
    torch.manual_seed(2)
    untouched = torch.rand(())
    torch.manual_seed(2)
    first, second = cycles.__getitems__([CycleDraw(3, 7), CycleDraw(1, 8)])
    assert torch.rand(()) == untouched
    assert (first["index"], second["index"]) == (3, 1)
    for item, input_values in zip((first, second), expected, strict=True):
        assert torch.equal(item["input_values"], input_values)
    assert torch.equal(cycles[CycleDraw(1, 8)]["input_values"], expected[1])


def test_data_loaders_ask_for_whole_batches(feature_extractor, monkeypatch):
    cycles = LogMelDataset(torch.randn(5, 398, 128), [0, 1, 2, 3, 0], feature_extractor)
    asked = []
    fetch = cycles.__getitems__
    monkeypatch.setattr(
        LogMelDataset, "__getitems__", lambda self, indices: asked.append(list(indices)) or fetch(indices)
    )
    batches = list(DataLoader(cycles, batch_size=3, collate_fn=default_data_collator))
    assert asked == [[0, 1, 2], [3, 4]]
    assert torch.cat([batch["index"] for batch in batches]).tolist() == [0, 1, 2, 3, 4]
    assert batches[0]["input_values"].shape == (3, 256, 128)
