"""Sounds other than lung sounds, computed or spoken by espeak-ng."""

import io
import shutil
import subprocess
from collections.abc import Callable

import numpy as np
import soundfile

from modeling_lung_srad.audio import SAMPLING_RATE, resample

SENTENCES = (
    "Please take a deep breath and hold it for a moment while I listen to your back.",
    "The quick brown fox jumps over the lazy dog, and then it rests in the warm sun.",
    "On Monday we walked to the market, bought bread and apples, and came home by bus.",
    "She sells sea shells by the sea shore, but nobody asked her what they cost this year.",
)
VOICES = ("en-us", "en-gb+f3", "de", "fr+f2", "es+m3", "it+f4", "pt", "ru+f2")
Generate = Callable[[np.random.Generator, int], np.ndarray]


def white_noise(generator: np.random.Generator, samples: int) -> np.ndarray:
    """Equal power at all frequencies."""
    return generator.normal(size=samples)


def pink_noise(generator: np.random.Generator, samples: int) -> np.ndarray:
    """Power that falls by 3 dB an octave."""
    return _shaped(generator, samples, lambda frequency: np.maximum(frequency, 20.0) ** -0.5)


def tone(generator: np.random.Generator, samples: int) -> np.ndarray:
    """A sine between 100 Hz and 4 kHz."""
    frequency = 100 * 40 ** generator.uniform()
    return np.sin(2 * np.pi * frequency * np.arange(samples) / SAMPLING_RATE) + 1e-3 * white_noise(generator, samples)


def sweep(generator: np.random.Generator, samples: int) -> np.ndarray:
    """A siren: a tone that goes up and down between 300 Hz and 2 kHz."""
    time = np.arange(samples) / SAMPLING_RATE
    octaves = np.sin(2 * np.pi * generator.uniform(0.2, 1.0) * time + generator.uniform(0, 6))
    phase = np.cumsum(generator.uniform(400, 1000) * 2**octaves) / SAMPLING_RATE
    return np.sin(2 * np.pi * phase) + 1e-3 * white_noise(generator, samples)


def mains_hum(generator: np.random.Generator, samples: int) -> np.ndarray:
    """50 or 60 Hz with its harmonics over faint noise, as from a sensor that touches nobody."""
    time = np.arange(samples) / SAMPLING_RATE
    base = generator.choice([50, 60])
    waves = sum(generator.uniform(0.1, 1) / k * np.sin(2 * np.pi * base * k * time) for k in range(1, 12))
    return waves + 10 ** generator.uniform(-3, -1) * white_noise(generator, samples)


def heart_beats(generator: np.random.Generator, samples: int) -> np.ndarray:
    """First and second heart sounds, damped waves of 30 to 80 Hz, over faint noise and without breath."""
    time = np.arange(samples) / SAMPLING_RATE
    waveform, beat = 0.002 * pink_noise(generator, samples), generator.uniform(0, 0.5)
    while beat < time[-1]:
        for delay, level in ((0.0, 1.0), (0.3, 0.7)):
            since = time - beat - delay
            damped = np.exp(-np.maximum(since, 0) / 0.03) * (since > 0)
            waveform += level * damped * np.sin(2 * np.pi * generator.uniform(30, 80) * since)
        beat += generator.uniform(0.6, 1.0)
    return waveform


def traffic(generator: np.random.Generator, samples: int) -> np.ndarray:
    """Rumble of engines and tyres that comes and goes."""
    rumble = _shaped(generator, samples, lambda frequency: 1 / (1 + (frequency / 80) ** 2))
    tyres = _shaped(generator, samples, lambda frequency: np.exp(-np.square(np.log(np.maximum(frequency, 1) / 900))))
    passing = 0.5 - 0.5 * np.cos(2 * np.pi * generator.uniform(0.1, 0.3) * np.arange(samples) / SAMPLING_RATE)
    return rumble / rumble.std() + passing * tyres / tyres.std()


def music(generator: np.random.Generator, samples: int) -> np.ndarray:
    """Chords of plucked notes with harmonics, and a drum on the beat."""
    beat = round(generator.uniform(0.3, 0.7) * SAMPLING_RATE)
    waveform = 1e-3 * white_noise(generator, samples)
    for start in range(0, samples, beat):
        time = np.arange(samples - start) / SAMPLING_RATE
        root = 110 * 2 ** (generator.integers(0, 24) / 12)
        for interval in generator.choice([0, 3, 4, 7, 12], size=3, replace=False):
            for harmonic in range(1, 6):
                pitch = root * 2 ** (interval / 12) * harmonic
                waveform[start:] += np.sin(2 * np.pi * pitch * time) * np.exp(-3 * harmonic * time) / harmonic
        waveform[start:] += 0.5 * white_noise(generator, len(time)) * np.exp(-40 * time)
    return waveform


GENERATED: dict[str, Generate] = {
    "white noise": white_noise,
    "pink noise": pink_noise,
    "tone": tone,
    "siren": sweep,
    "mains hum": mains_hum,
    "heart beats": heart_beats,
    "traffic": traffic,
    "music": music,
}


def generate(name: str, count: int, seconds: float = 8.0, seed: int = 0) -> list[np.ndarray]:
    """
    Sounds of one kind at 16 kHz.

    Args:
        name (`str`): one of `GENERATED`.
        count (`int`): how many.
        seconds (`float`, *optional*, defaults to 8.0): how long each is.
        seed (`int`, *optional*, defaults to 0): another seed gives other sounds.

    Returns:
        `list[np.ndarray]`: float32 waveforms of shape `(samples,)` with peaks between -20 dBFS and full scale.
    """
    generator = np.random.default_rng([seed, *name.encode()])
    return [at_any_level(GENERATED[name](generator, round(seconds * SAMPLING_RATE)), generator) for _ in range(count)]


def speak(count: int, seconds: float = 8.0, seed: int = 0) -> list[np.ndarray]:
    """
    Speech of espeak-ng in several languages, speeds and pitches, as `generate` returns it; none without that program.
    """
    if shutil.which("espeak-ng") is None:
        return []
    generator = np.random.default_rng(seed)
    waveforms = []
    for index in range(count):
        speed, pitch = (str(generator.integers(low, high)) for low, high in ((120, 220), (20, 80)))
        voice, text = VOICES[index % len(VOICES)], " ".join(generator.permutation(SENTENCES))
        command = ["espeak-ng", "--stdout", "-v", voice, "-s", speed, "-p", pitch, text]
        spoken, rate = soundfile.read(io.BytesIO(subprocess.run(command, capture_output=True, check=True).stdout))
        samples = round(seconds * SAMPLING_RATE)
        waveforms.append(at_any_level(resample(spoken, rate, SAMPLING_RATE)[:samples], generator))
    return waveforms


def at_any_level(waveform: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """The waveform with its peak between -20 dBFS and full scale."""
    peak = 10 ** (generator.uniform(-20, 0) / 20)
    return (waveform * peak / np.abs(waveform).max()).astype(np.float32)


def _shaped(generator: np.random.Generator, samples: int, gain: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    spectrum = np.fft.rfft(generator.normal(size=samples))
    return np.fft.irfft(spectrum * gain(np.fft.rfftfreq(samples, 1 / SAMPLING_RATE)), samples)
