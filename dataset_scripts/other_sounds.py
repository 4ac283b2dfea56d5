"""Computed speech, tones and noise, with which a first stage without labels hears more than breath.

Speech is a pulse train through formants, and fricatives (Fant 1960; formants of Peterson and Barney 1952,
doi:10.1121/1.1906875). It has no words and is the voice of nobody.
"""

from collections.abc import Callable

import numpy as np

from modeling_lung_srad.errors import InputError

KINDS = ("speech", "tones", "noise")
# First three formants in Hz, of men, of the vowels in heed, had, hod, who'd and heard.
FORMANTS = ((270, 2290, 3010), (660, 1720, 2410), (730, 1090, 2440), (300, 870, 2240), (490, 1350, 1690))
LEVEL = 0.05


def simulate_other_sound(
    kind: str, seconds: float, sampling_rate: int, generator: np.random.Generator | None = None
) -> np.ndarray:
    """
    A sound that is not of a lung.

    Args:
        kind (`str`): `speech`, `tones` or `noise`.
        seconds (`float`): duration, at least 0.5.
        sampling_rate (`int`): rate in Hz, at least 4000.
        generator (`np.random.Generator`, *optional*): source of randomness; seed 0 by default.

    Returns:
        `np.ndarray`: float32 waveform of shape `(int(seconds * sampling_rate),)`, with an RMS of 0.05.

    Raises:
        InputError: where an argument is out of range.
    """
    if kind not in KINDS:
        raise InputError("kind", f"{kind!r} is not one of {', '.join(KINDS)}")
    if not (seconds >= 0.5 and sampling_rate >= 4000):
        raise InputError(f"{seconds} s at {sampling_rate} Hz", "a sound lasts at least 0.5 s, at 4000 Hz or more")
    generator = generator or np.random.default_rng(0)
    make = {"speech": _speech, "tones": _tones, "noise": _noise}[kind]
    sound = make(int(seconds * sampling_rate), sampling_rate, generator)
    return (LEVEL * sound / np.sqrt(np.mean(sound**2))).astype(np.float32)


def _speech(num_samples: int, sampling_rate: int, generator: np.random.Generator) -> np.ndarray:
    """Syllables of a fricative and a vowel, with pauses, of one voice."""
    voice, tract = generator.uniform(80, 280), generator.uniform(0.9, 1.4)
    sound = np.zeros(num_samples)
    position = int(generator.uniform(0, 0.2) * sampling_rate)
    while position < num_samples:
        pieces = [
            generator.uniform(0.05, 0.4) * _fricative(generator.uniform(0.04, 0.12), sampling_rate, generator),
            _vowel(
                generator.uniform(0.08, 0.3), voice * generator.uniform(0.8, 1.25), tract, sampling_rate, generator
            ),
        ]
        syllable = np.concatenate(pieces)[: num_samples - position]
        sound[position : position + len(syllable)] = syllable
        pause = generator.uniform(0.2, 0.7) if generator.random() < 0.2 else generator.uniform(0, 0.05)
        position += len(syllable) + int(pause * sampling_rate)
    return sound + 1e-2 * generator.standard_normal(num_samples)


def _vowel(
    seconds: float, pitch: float, tract: float, sampling_rate: int, generator: np.random.Generator
) -> np.ndarray:
    """A falling or rising pulse train through three resonances."""
    num_samples = int(seconds * sampling_rate)
    phase = np.cumsum(pitch * np.linspace(1, generator.uniform(0.75, 1.15), num_samples)) / sampling_rate
    pulses = np.diff(np.floor(phase), prepend=0.0)
    frequency = np.fft.rfftfreq(num_samples, 1 / sampling_rate)
    response = 1 / (1 + (frequency / 500) ** 2)
    for formant in FORMANTS[generator.integers(len(FORMANTS))]:
        center = tract * formant
        response = response / np.hypot(1 - (frequency / center) ** 2, frequency * (50 + center / 20) / center**2)
    return _unit(np.fft.irfft(np.fft.rfft(pulses) * response, num_samples)) * np.hanning(num_samples)


def _fricative(seconds: float, sampling_rate: int, generator: np.random.Generator) -> np.ndarray:
    """Noise above 1.5 to 4 kHz, or what the rate has of it."""
    num_samples = int(seconds * sampling_rate)
    edge = min(generator.uniform(1500, 4000), 0.35 * sampling_rate)
    return _shaped_noise(num_samples, sampling_rate, generator, lambda x: 1 / (1 + (edge / x) ** 4))


def _tones(num_samples: int, sampling_rate: int, generator: np.random.Generator) -> np.ndarray:
    """Notes one after another, each of one to four partials that may glide and waver, struck or swelling."""
    sound = np.zeros(num_samples)
    position = 0
    while position < num_samples:
        length = int(generator.uniform(0.1, 2.0) * sampling_rate)
        time = np.arange(length) / sampling_rate
        pitch = np.exp(generator.uniform(np.log(80), np.log(0.2 * sampling_rate)))
        glide = np.linspace(1, generator.uniform(0.7, 1.4) if generator.random() < 0.4 else 1, length)
        waver = 1 + generator.uniform(0, 0.03) * np.sin(2 * np.pi * generator.uniform(2, 8) * time)
        phase = 2 * np.pi * np.cumsum(pitch * glide * waver) / sampling_rate
        note = np.zeros(length)
        for partial in range(1, generator.integers(2, 6)):
            if partial * pitch * 1.5 < sampling_rate / 2:
                note += generator.uniform(0.2, 1) / partial * np.sin(partial * phase)
        struck = np.exp(-time / generator.uniform(0.05, 0.6)) * np.minimum(time / 0.005, 1)
        note *= struck if generator.random() < 0.5 else np.hanning(length)
        piece = sound[position : position + length]
        piece += note[: len(piece)]
        position += int(length * generator.uniform(0.4, 1.3))
    return sound + 1e-3 * generator.standard_normal(num_samples)


def _noise(num_samples: int, sampling_rate: int, generator: np.random.Generator) -> np.ndarray:
    """Coloured noise that rises and falls, with knocks and rubs over it."""
    slope = generator.uniform(0, 1.5)
    points = generator.uniform(0.05, 1, size=generator.integers(2, 12))
    swell = np.interp(np.arange(num_samples), np.linspace(0, num_samples, len(points)), points)
    sound = swell * _shaped_noise(num_samples, sampling_rate, generator, lambda x: (x / 100) ** -slope)
    for _ in range(generator.integers(0, 12)):
        length = int(np.exp(generator.uniform(np.log(0.01), np.log(0.4))) * sampling_rate)
        center = generator.uniform(60, 0.4 * sampling_rate)
        burst = _shaped_noise(length, sampling_rate, generator, lambda x, c=center: np.exp(-np.square(np.log2(x / c))))
        start = generator.integers(0, num_samples)
        piece = sound[start : start + length]
        piece += (generator.uniform(0.5, 5) * burst * np.hanning(length))[: len(piece)]
    return sound


def _shaped_noise(
    num_samples: int, sampling_rate: int, generator: np.random.Generator, response: Callable
) -> np.ndarray:
    """Noise of RMS 1 with a gain `response(frequency)`."""
    frequency = np.maximum(np.fft.rfftfreq(num_samples, 1 / sampling_rate), 20.0)
    spectrum = np.fft.rfft(generator.standard_normal(num_samples)) * response(frequency)
    return _unit(np.fft.irfft(spectrum, num_samples))


def _unit(sound: np.ndarray) -> np.ndarray:
    return sound / max(float(np.sqrt(np.mean(sound**2))), 1e-12)
