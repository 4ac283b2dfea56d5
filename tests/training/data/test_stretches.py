"""Random stretches of training recordings, against what was put into them."""

import numpy as np
import pytest
import torch

from modeling_lung_srad import LungSradFeatureExtractor
from training.arguments import AugmentationArguments
from training.data.sampling import CycleDraw
from training.data.stretches import Span, SpectrogramOfRecording, StretchDataset, heard_class, load_recordings

BINS = 8
EXTRACTOR = LungSradFeatureExtractor(num_mel_bins=BINS, normalization="dataset", mean=0.0, std=0.5)
PLAIN = AugmentationArguments(frequency_masks=0, time_masks=0, stretch_frames=10)


def numbered(frames):
    """Frame `t` has the value `t` in all bins; with this extractor, it leaves the normalisation as it was."""
    return torch.arange(frames).float()[:, None].expand(-1, BINS).half()


def recording(spans, frames=100, is_whole=False, source="icbhi", patient="101"):
    return SpectrogramOfRecording(numbered(frames), tuple(spans), source, patient, "Meditron", "a recording", is_whole)


def frames_of(item):
    return item["input_values"][:, 0].round().int().tolist()


def test_a_long_cycle_gives_stretches_inside_of_it():
    cycles = StretchDataset([recording([Span(20, 60, 1)])], EXTRACTOR, PLAIN)
    starts = set()
    for seed in range(200):
        item = cycles[CycleDraw(0, seed)]
        frames = frames_of(item)
        assert frames == list(range(frames[0], frames[0] + 10))
        assert 20 <= frames[0] <= 50
        assert item["labels"] == 1
        starts.add(frames[0])
    assert len(starts) > 20


def test_a_short_cycle_is_repeated_from_a_random_moment_on():
    cycles = StretchDataset([recording([Span(30, 34, 2)])], EXTRACTOR, PLAIN)
    starts = {tuple(frames_of(cycles[CycleDraw(0, seed)])) for seed in range(50)}
    assert starts == {tuple(30 + (first + step) % 4 for step in range(10)) for first in range(4)}


def test_speed_stretches_time_by_at_most_that_share():
    arguments = AugmentationArguments(frequency_masks=0, time_masks=0, stretch_frames=40, speed=0.5)
    cycles = StretchDataset([recording([Span(0, 100, 1)])], EXTRACTOR, arguments)
    lengths = [frames_of(cycles[CycleDraw(0, seed)]) for seed in range(100)]
    covered = [frames[-1] - frames[0] for frames in lengths]
    assert min(covered) < 32
    assert max(covered) > 60
    assert all(39 / 1.5 - 1 <= length <= 39 / 0.5 + 1 for length in covered)


def test_windows_have_the_class_of_what_they_hold_enough_of():
    spans = [Span(0, 50, 0), Span(50, 80, 1), Span(80, 84, 2)]
    assert heard_class(spans, 0, 64) == 0  # 14 frames of the crackle
    assert heard_class(spans, 0, 65) == 1
    assert heard_class(spans, 70, 81) == 0
    assert heard_class(spans, 75, 82) == 2  # half of the short wheeze
    assert heard_class(spans, 60, 90) == 3


def test_windows_lie_anywhere_in_whole_recordings_and_near_their_sounds():
    arguments = AugmentationArguments(frequency_masks=0, time_masks=0, stretch_frames=30)
    whole = recording([Span(0, 60, 0), Span(60, 80, 1)], is_whole=True, source="sprsound")
    cycles = StretchDataset([whole], EXTRACTOR, arguments, windows=True)
    assert cycles.sources == ["sprsound", "sprsound", "windows", "windows"]
    assert cycles.labels == [0, 1, 0, 1]
    anywhere = [frames_of(cycles[CycleDraw(2, seed)])[0] for seed in range(300)]
    assert (min(anywhere), max(anywhere)) == (0, 70)
    for seed in range(300):
        item = cycles[CycleDraw(3, seed)]
        first = frames_of(item)[0]
        assert 45 <= first <= 70
        assert item["labels"] == heard_class(whole.spans, first, first + 30)
    assert len(StretchDataset([whole], EXTRACTOR, arguments)) == 2


def test_the_same_draw_gives_the_same_stretch_with_all_augmentation():
    arguments = AugmentationArguments(
        stretch_frames=20, speed=0.1, mel_shift_bins=1, breath_share=0.5, noise_share=0.5, hum_share=0.5,
        bandwidth_share=0.5, equalizer_decibels=3.0,
    )  # fmt: skip
    recordings = [recording([Span(0, 40, 0)]), recording([Span(0, 40, 1)], patient="102")]
    first, second = (StretchDataset(recordings, EXTRACTOR, arguments) for _ in range(2))
    for seed in range(20):
        draw = CycleDraw(1, seed)
        assert torch.equal(first[draw]["input_values"], second[draw]["input_values"])
        assert torch.isfinite(first[draw]["input_values"]).all()
    assert not torch.equal(first[CycleDraw(1, 1)]["input_values"], first[CycleDraw(1, 2)]["input_values"])


def test_cycles_and_computed_sounds_become_recordings(simulated_sources, feature_extractor):
    training, _ = simulated_sources
    recordings = load_recordings(training, feature_extractor, None, simulated_events=3, other_sounds=3)
    cycles = [found for found in recordings if not found.is_whole]
    assert [found.spans[0].label for found in cycles] == training[0].table["label"]
    for found, start, end in zip(cycles, training[0].table["start"], training[0].table["end"], strict=True):
        assert abs(len(found.log_mel) - 100 * (end - start)) < 4
        assert found.spans[0][:2] == (0, len(found.log_mel))
    planted = [found for found in recordings if found.is_whole]
    assert [[span.label for span in found.spans] for found in planted] == [[1], [2], [1], [], [], []]
    cycles = StretchDataset(recordings, feature_extractor, AugmentationArguments(stretch_frames=32))
    assert set(cycles.sources) == {training[0].name, "simulated", "other_sounds"}


@pytest.mark.parametrize("seconds", [0.03, 0.2])
def test_frames_equal_those_of_the_extractor_where_a_cycle_is_neither_cut_nor_repeated(seconds):
    waveform = np.random.default_rng(0).standard_normal(round(seconds * 16000)).astype(np.float32)
    extractor = LungSradFeatureExtractor(cycle_seconds=seconds, num_frames=4, fade_seconds=0.0)
    expected = extractor.log_mel(waveform)[0]
    torch.testing.assert_close(extractor.filter_bank(torch.from_numpy(waveform)[None])[0], expected)


@pytest.mark.parametrize(
    "arguments",
    [{"speed": 0.1}, {"breath_share": 0.1}, {"stretch_frames": 10, "crop_frames": 5}, {"stretch_frames": 0}],
)
def test_settings_that_do_not_go_together_are_refused(arguments):
    with pytest.raises(ValueError, match=r"augmentation\.(stretch_frames|speed)"):
        AugmentationArguments(**arguments)
