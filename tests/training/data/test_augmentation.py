import math

import pytest
import torch

from training.arguments import AugmentationArguments
from training.data.augmentation import augment_log_mel, crop_frames, mix_breath, spec_augment

FRAMES, MEL_BINS = 798, 128
ONLY_MASKS = AugmentationArguments()


def masked_runs(is_masked):
    """Lengths of the consecutive stretches of a list of truth values."""
    runs, length = [], 0
    for value in [*is_masked.tolist(), False]:
        if value:
            length += 1
        elif length:
            runs.append(length)
            length = 0
    return runs


def test_masks_are_whole_bands_and_stretches_filled_with_the_mean():
    log_mel = torch.randn(FRAMES, MEL_BINS) + 3
    for seed in range(20):
        torch.manual_seed(seed)
        masked = spec_augment(log_mel, ONLY_MASKS)
        changed = masked != log_mel
        bins, frames = changed.all(dim=0), changed.all(dim=1)
        assert torch.equal(changed, bins[None, :] | frames[:, None])
        assert torch.all(masked[changed] == log_mel.mean())
        assert len(masked_runs(bins)) <= 2
        assert bins.sum() <= 2 * 48
        assert len(masked_runs(frames)) <= 2
        assert frames.sum() <= 2 * 160


def test_width_of_a_mask_is_uniform_up_to_the_widest():
    torch.manual_seed(0)
    one_band = AugmentationArguments(frequency_masks=1, time_masks=0, frequency_mask_bins=4)
    log_mel = torch.randn(10, MEL_BINS)
    widths = [int((spec_augment(log_mel, one_band) != log_mel).all(dim=0).sum()) for _ in range(2000)]
    shares = torch.bincount(torch.tensor(widths), minlength=5) / 2000
    assert shares.tolist() == pytest.approx([0.2] * 5, abs=0.04)


def test_masks_wider_than_the_spectrogram_are_cut_to_it():
    spec_augment(torch.randn(20, 16), ONLY_MASKS)


def test_roll_rotates_frames_and_changes_nothing_else():
    log_mel = torch.randn(50, 8)
    rolled = augment_log_mel(log_mel, AugmentationArguments(roll=True))
    shifts = [shift for shift in range(50) if torch.equal(log_mel.roll(shift, dims=0), rolled)]
    assert len(shifts) == 1


def test_equalizer_adds_one_smooth_curve_of_the_asked_strength():
    log_mel = torch.zeros(30, MEL_BINS)
    torch.manual_seed(0)
    curves = []
    for _ in range(500):
        equalized = augment_log_mel(log_mel, AugmentationArguments(equalizer_decibels=3.0))
        assert torch.equal(equalized, equalized[:1].expand_as(equalized))
        assert equalized[0].diff().abs().max() < 0.5
        curves.append(equalized[0, 0])
    assert torch.stack(curves).std() == pytest.approx(3.0 * math.log(10) / 10, rel=0.1)


def test_crop_is_a_stretch_of_the_input_at_any_place():
    input_values = torch.arange(10.0)[:, None].expand(10, 4)
    torch.manual_seed(0)
    crops = [crop_frames(input_values, AugmentationArguments(crop_frames=8)) for _ in range(50)]
    assert {int(crop[0, 0]) for crop in crops} == {0, 1, 2}
    assert all(torch.equal(crop[:, 0], crop[0, 0] + torch.arange(8.0)) for crop in crops)


@pytest.mark.parametrize("frames", [None, 10, 11])
def test_crop_of_all_frames_is_the_input(frames):
    input_values = torch.randn(10, 4)
    assert torch.equal(crop_frames(input_values, AugmentationArguments(crop_frames=frames)), input_values)


@pytest.mark.parametrize("wrong", [{"crop_frames": 0}, {"time_mask_frames": -1}, {"equalizer_decibels": -0.1}])
def test_impossible_settings_are_named(wrong):
    with pytest.raises(ValueError, match=f"augmentation.{next(iter(wrong))}"):
        AugmentationArguments(**wrong)


def test_input_is_left_alone():
    log_mel = torch.randn(FRAMES, MEL_BINS)
    before = log_mel.clone()
    spec_augment(log_mel, ONLY_MASKS)
    augment_log_mel(log_mel, AugmentationArguments(roll=True, equalizer_decibels=6.0))
    assert torch.equal(log_mel, before)


def test_nothing_is_changed_when_everything_is_off():
    off = AugmentationArguments(frequency_masks=0, time_masks=0)
    log_mel = torch.randn(FRAMES, MEL_BINS)
    assert torch.equal(spec_augment(augment_log_mel(log_mel, off), off), log_mel)


@pytest.mark.parametrize("setting", ["noise_share", "hum_share", "bandwidth_share"])
def test_device_and_room_change_energies_by_what_they_may(setting):
    generator = torch.Generator().manual_seed(0)
    log_mel = torch.randn(200, 64, generator=generator)
    arguments = AugmentationArguments(**{setting: 1.0})
    for _ in range(20):
        changed = augment_log_mel(log_mel, arguments, generator) - log_mel
        assert torch.isfinite(changed).all()
        if setting == "bandwidth_share":
            assert changed.max() <= 1e-6
            assert torch.allclose(changed, changed[:1].expand_as(changed), atol=1e-5)
        else:
            assert changed.min() >= -1e-5
        if setting == "hum_share":
            assert changed[:, :3].mean() > changed[:, 40:].mean()
    assert torch.equal(augment_log_mel(log_mel, AugmentationArguments(), generator), log_mel)


def test_breath_is_mixed_3_to_20_decibels_softer():
    generator = torch.Generator().manual_seed(0)
    log_mel, other = torch.zeros(50, 8), torch.full((50, 8), 5.0)
    for _ in range(50):
        added = (mix_breath(log_mel, other, generator).exp() - 1).mean()
        assert 10**-2.0 - 1e-6 <= added <= 10**-0.3 + 1e-6


def test_mel_bins_are_moved_by_at_most_the_shift():
    log_mel = torch.arange(10.0).expand(3, 10)
    moved = {tuple(augment_log_mel(log_mel, AugmentationArguments(mel_shift_bins=1))[0].tolist()) for _ in range(60)}
    assert moved == {tuple(min(max(index + shift, 0), 9) for index in range(10)) for shift in (-1, 0, 1)}
