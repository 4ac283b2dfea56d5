"""Simulated recordings of normal breathing with one crackle burst or wheeze whose place is known."""

from dataclasses import dataclass

import numpy as np

from dataset_scripts.cycles import CLASS_NAMES
from dataset_scripts.simulated import (
    BREATH_LEVEL,
    SIMULATED_RATE,
    breathing_sounds,
    draw_crackle,
    draw_wheeze,
    recorded,
)
from modeling_lung_srad.errors import InputError

SHORTEST_SECONDS = 1.0
BURST_SECONDS = 0.15


@dataclass(frozen=True)
class SimulatedEvent:
    """
    The one adventitious sound of a recording of [`simulate_event`], whose place is known.

    Args:
        label (`int`): index into `CLASS_NAMES`, of crackle or wheeze.
        start (`float`): seconds from the beginning of the recording.
        end (`float`): seconds from the beginning of the recording.
        times (`np.ndarray`): shape `(points,)`, seconds from the beginning of the recording.
        frequencies (`np.ndarray`):
            shape `(points, tones)`, in Hz: at these times, the fundamental of a wheeze and its harmonics, NaN where
            one is not sounded; or the one frequency at which the power spectrum of the crackles is largest.
    """

    label: int
    start: float
    end: float
    times: np.ndarray
    frequencies: np.ndarray


def simulate_event(
    label: int,
    seconds: float = 8.0,
    sampling_rate: int = SIMULATED_RATE,
    generator: np.random.Generator | None = None,
    level: float = 1.0,
) -> tuple[np.ndarray, SimulatedEvent]:
    """
    A recording of normal breathing with heart sounds, sensor noise and a single event at a random moment: a burst of
    4 to 8 crackles within 150 ms, or a wheeze of 0.25 to 0.6 s. Their sounds are those of [`simulate_cycle`].

    Args:
        label (`int`): index into `CLASS_NAMES`, of crackle or wheeze.
        seconds (`float`, *optional*, defaults to 8): duration, at least 1.
        sampling_rate (`int`, *optional*, defaults to 8000): rate in Hz, at least 4000.
        generator (`np.random.Generator`, *optional*): source of randomness; seed 0 by default.
        level (`float`, *optional*, defaults to 1): factor on the amplitude of the event, over breath that stays.

    Returns:
        `tuple[np.ndarray, SimulatedEvent]`: float32 waveform of shape `(int(seconds * sampling_rate),)`, and where
        the event is.

    Raises:
        InputError: where an argument is out of range.
    """
    plant = {CLASS_NAMES.index("crackle"): _plant_crackles, CLASS_NAMES.index("wheeze"): _plant_wheeze}.get(label)
    if plant is None:
        raise InputError(
            "label",
            f"{label} is not an event",
            f"give one of {CLASS_NAMES.index('crackle')} (crackle) and {CLASS_NAMES.index('wheeze')} (wheeze)",
        )
    if not level > 0:
        raise InputError("level", f"{level} is not a loudness", "give more than 0")
    if seconds < SHORTEST_SECONDS or sampling_rate < 4000:
        raise InputError(
            f"{seconds} s at {sampling_rate} Hz",
            f"a recording with an event lasts at least {SHORTEST_SECONDS:g} s, at 4000 Hz or more",
        )
    generator = generator or np.random.default_rng(0)
    num_samples = int(seconds * sampling_rate)
    # A cycle lasts at least 1.5 s.
    breath, _ = breathing_sounds([0] * int(np.ceil(seconds / 1.5)), sampling_rate, generator)
    sounds, event = plant(num_samples, sampling_rate, generator)
    return recorded(breath[:num_samples] + BREATH_LEVEL * level * sounds, sampling_rate, generator), event


def _plant_crackles(
    num_samples: int, sampling_rate: int, generator: np.random.Generator
) -> tuple[np.ndarray, SimulatedEvent]:
    fine = generator.random() < 0.5
    crackles = [draw_crackle(fine, sampling_rate, generator) for _ in range(generator.integers(4, 9))]
    burst = int(BURST_SECONDS * sampling_rate)
    first = int(generator.uniform(0.2, num_samples / sampling_rate - 0.4) * sampling_rate)
    starts = first + generator.integers(0, burst - max(map(len, crackles)), size=len(crackles))
    sounds = np.zeros(num_samples)
    for start, crackle in zip(starts, crackles, strict=True):
        sounds[start : start + len(crackle)] += crackle
    power = np.sum([np.abs(np.fft.rfft(crackle, sampling_rate)) ** 2 for crackle in crackles], axis=0)
    end = max(start + len(crackle) for start, crackle in zip(starts, crackles, strict=True))
    # With as many points as a second has samples, the transform's index is the frequency in Hz.
    frequencies = np.full((len(starts), 1), float(np.argmax(power)))
    times = np.sort(starts) / sampling_rate
    label = CLASS_NAMES.index("crackle")
    return sounds, SimulatedEvent(label, float(times[0]), float(end / sampling_rate), times, frequencies)


def _plant_wheeze(
    num_samples: int, sampling_rate: int, generator: np.random.Generator
) -> tuple[np.ndarray, SimulatedEvent]:
    length = int(generator.uniform(0.25, 0.6) * sampling_rate)
    start = int(generator.uniform(0.1, (num_samples - length) / sampling_rate - 0.1) * sampling_rate)
    sounds = np.zeros(num_samples)
    sounds[start : start + length], frequencies = draw_wheeze(length, sampling_rate, generator)
    times = (start + np.arange(length)) / sampling_rate
    end = (start + length) / sampling_rate
    return sounds, SimulatedEvent(CLASS_NAMES.index("wheeze"), start / sampling_rate, end, times, frequencies)
