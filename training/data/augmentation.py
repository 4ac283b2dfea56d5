"""Augmentation of log-mel spectrograms. The draws come from the generator that is given, or torch's global one."""

import math

import torch
import torch.nn.functional as F

from training.arguments import AugmentationArguments

EQUALIZER_POINTS = 6
DECIBEL = math.log(10) / 10  # one decibel of power, in the natural logarithm of the log-mel
# Level of what is added, in decibels above the mean energy of the clip.
BREATH_DECIBELS, NOISE_DECIBELS, HUM_DECIBELS = (-20.0, -3.0), (-35.0, -5.0), (-20.0, 5.0)
# Rise of noise from the lowest to the highest mel bin: brown noise has none after the pre-emphasis, white noise most.
NOISE_RISE_DECIBELS = (0.0, 35.0)
# A device with a narrow band loses this much from one of 128 mel bins to the next, beyond a random edge: the lower
# one in the lowest tenth of the bins, the upper one in the upper three quarters.
EDGE_DECIBELS = (1.0, 4.0)
LOW_EDGE, HIGH_EDGE = (0.0, 0.1), (0.25, 1.0)


def augment_log_mel(
    log_mel: torch.Tensor, arguments: AugmentationArguments, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Changes what depends on device and room: frequency response, noise, hum, bandwidth. Before the normalisation.

    Args:
        log_mel (`torch.Tensor` of shape `(frames, num_mel_bins)`): natural logarithm of mel energies.
        arguments (`AugmentationArguments`): which changes, and how strong.
        generator (`torch.Generator`, *optional*): source of the draws.

    Returns:
        `torch.Tensor`: a new tensor of the same shape.
    """
    num_mel_bins = log_mel.shape[1]
    if arguments.roll:
        log_mel = log_mel.roll(draw_below(log_mel.shape[0], generator), dims=0)
    if shift := arguments.mel_shift_bins:
        shifted = torch.arange(num_mel_bins) + draw_below(2 * shift + 1, generator) - shift
        log_mel = log_mel[:, shifted.clamp(0, num_mel_bins - 1)]
    if arguments.equalizer_decibels > 0:
        points = torch.randn(1, 1, EQUALIZER_POINTS, generator=generator) * arguments.equalizer_decibels * DECIBEL
        log_mel = log_mel + F.interpolate(points, size=num_mel_bins, mode="linear", align_corners=True)[0]
    if _happens(arguments.noise_share, generator):
        level = mean_energy(log_mel) + DECIBEL * _draw_between(*NOISE_DECIBELS, generator)
        rise = DECIBEL * _draw_between(*NOISE_RISE_DECIBELS, generator) * torch.linspace(-0.5, 0.5, num_mel_bins)
        # The energy of a band of noise is about a sum of two exponentials of mean a half.
        uniform = torch.rand(2, *log_mel.shape, generator=generator).clamp(1e-6, 1 - 1e-6)
        log_mel = torch.logaddexp(log_mel, level + rise + torch.log(-uniform.log().mean(0)))
    if _happens(arguments.hum_share, generator):
        level = mean_energy(log_mel) + DECIBEL * _draw_between(*HUM_DECIBELS, generator)
        # It falls by half within a few of the lowest bins.
        fall = torch.arange(num_mel_bins) * (128 / num_mel_bins) / _draw_between(1.5, 5.5, generator)
        log_mel = torch.logaddexp(log_mel, (level - fall).expand_as(log_mel))
    bins = torch.arange(num_mel_bins) / num_mel_bins
    if _happens(arguments.bandwidth_share, generator):
        beyond = (bins - _draw_between(*HIGH_EDGE, generator)).clamp_min(0) * 128
        log_mel = log_mel - DECIBEL * _draw_between(*EDGE_DECIBELS, generator) * beyond
    if _happens(arguments.bandwidth_share, generator):
        below = (_draw_between(*LOW_EDGE, generator) - bins).clamp_min(0) * 128
        log_mel = log_mel - DECIBEL * _draw_between(*EDGE_DECIBELS, generator) * below
    return log_mel


def mean_energy(log_mel: torch.Tensor) -> torch.Tensor:
    """Logarithm of the mean energy of `(frames, num_mel_bins)`, a scalar."""
    return log_mel.logsumexp(dim=(0, 1)) - math.log(log_mel.numel())


def mix_breath(log_mel: torch.Tensor, other: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    """Adds the energies of another patient's normal breath, 3 to 20 dB softer; both `(frames, num_mel_bins)`."""
    gain = mean_energy(log_mel) - mean_energy(other) + DECIBEL * _draw_between(*BREATH_DECIBELS, generator)
    return torch.logaddexp(log_mel, other + gain)


def stretch_time(length: int, frames: int, speed: float, generator: torch.Generator | None = None) -> torch.Tensor:
    """
    Places of the frames of a random stretch.

    Args:
        length (`int`): frames of the cycle. If they do not suffice, it is repeated from a random moment on.
        frames (`int`): frames of the stretch.
        speed (`float`): by how much it may be slower or faster, as a share.
        generator (`torch.Generator`, *optional*): source of the draws.

    Returns:
        `torch.Tensor` of shape `(frames,)`: whole numbers below `length`.
    """
    slower = 1 + speed * _draw_between(-1, 1, generator)
    latest = length - frames / slower
    start = _draw_between(0, latest if latest > 0 else length, generator)
    return (start + torch.arange(frames) / slower).long() % length


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
    first = draw_below(input_values.shape[0] - frames + 1, generator)
    return input_values[first : first + frames]


def _draw_stretch(size: int, widest: int, generator: torch.Generator | None) -> tuple[int, int]:
    width = draw_below(min(widest, size) + 1, generator)
    first = draw_below(size - width + 1, generator)
    return first, first + width


def _happens(share: float, generator: torch.Generator | None) -> bool:
    """Draws only where there is something to decide, so that a setting that is off changes no other draw."""
    return share > 0 and float(torch.rand((), generator=generator)) < share


def _draw_between(lowest: float, highest: float, generator: torch.Generator | None) -> float:
    return lowest + (highest - lowest) * float(torch.rand((), generator=generator))


def draw_below(limit: int, generator: torch.Generator | None) -> int:
    """A whole number from 0 to `limit - 1`."""
    return int(torch.randint(limit, (), generator=generator))
