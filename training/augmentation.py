"""Augmentation of log-mel spectrograms. The draws come from the generator that is given, or torch's global one."""

import math

import torch
import torch.nn.functional as F

from training.arguments import AugmentationArguments

EQUALIZER_POINTS = 6
DECIBEL = math.log(10) / 10  # one decibel of power, in the natural logarithm of the log-mel


def augment_log_mel(
    log_mel: torch.Tensor, arguments: AugmentationArguments, generator: torch.Generator | None = None
) -> torch.Tensor:
    """What changes a recording: rotation in time and frequency response. Applied before the normalisation.

    Args:
        log_mel (`torch.Tensor` of shape `(frames, num_mel_bins)`): natural logarithm of mel energies.
        arguments (`AugmentationArguments`): which changes, and how strong.
        generator (`torch.Generator`, *optional*): source of the draws.

    Returns:
        `torch.Tensor`: a new tensor of the same shape.
    """
    if arguments.roll:
        log_mel = log_mel.roll(_draw_below(log_mel.shape[0], generator), dims=0)
    if arguments.equalizer_decibels > 0:
        points = torch.randn(1, 1, EQUALIZER_POINTS, generator=generator) * arguments.equalizer_decibels * DECIBEL
        log_mel = log_mel + F.interpolate(points, size=log_mel.shape[1], mode="linear", align_corners=True)[0]
    return log_mel


def spec_augment(
    log_mel: torch.Tensor, arguments: AugmentationArguments, generator: torch.Generator | None = None
) -> torch.Tensor:
    """SpecAugment (arXiv 1904.08779) without warping: masks filled with the mean. Applied after the normalisation and
    before the resize, as in the authors' code.

    The width of a mask is uniform from 0 to its maximum and its place uniform among those that fit.

    Args:
        log_mel (`torch.Tensor` of shape `(frames, num_mel_bins)`): normalised spectrogram.
        arguments (`AugmentationArguments`): number and largest width of the masks.
        generator (`torch.Generator`, *optional*): source of the draws.

    Returns:
        `torch.Tensor`: a new tensor of the same shape.
    """
    masked = log_mel.clone()
    fill = log_mel.mean()
    frames, num_mel_bins = log_mel.shape
    for _ in range(arguments.frequency_masks):
        first, last = _draw_stretch(num_mel_bins, arguments.frequency_mask_bins, generator)
        masked[:, first:last] = fill
    for _ in range(arguments.time_masks):
        first, last = _draw_stretch(frames, arguments.time_mask_frames, generator)
        masked[first:last] = fill
    return masked


def crop_frames(
    input_values: torch.Tensor, arguments: AugmentationArguments, generator: torch.Generator | None = None
) -> torch.Tensor:
    """A random stretch of `arguments.crop_frames` frames of `(frames, num_mel_bins)`, or all where none is asked for
    or there are no more. Applied after the resize."""
    frames = arguments.crop_frames
    if frames is None or frames >= input_values.shape[0]:
        return input_values
    first = _draw_below(input_values.shape[0] - frames + 1, generator)
    return input_values[first : first + frames]


def _draw_stretch(size: int, widest: int, generator: torch.Generator | None) -> tuple[int, int]:
    width = _draw_below(min(widest, size) + 1, generator)
    first = _draw_below(size - width + 1, generator)
    return first, first + width


def _draw_below(limit: int, generator: torch.Generator | None) -> int:
    return int(torch.randint(limit, (), generator=generator))
