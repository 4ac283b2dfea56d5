"""
Simulated lung sounds, for tests, for the demo and for training without a network. They are not recordings of anyone.

Breath noise is turbulence filtered by the chest wall (Gavriely and Cugell 1996), crackles follow the waveform of
Kiyokawa et al. 2001 (doi:10.1378/chest.119.6.1886), wheezes are the tones of oscillating airway walls (100 to 1000 Hz,
at least 80 ms; Sovijärvi et al. 2000, ERS definitions).
"""

import hashlib
import io
import itertools
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile

from dataset_scripts.cycles import CLASS_NAMES, Cycle, write_annotations
from modeling_lung_srad.errors import InputError
from modeling_lung_srad.files.output_files import check_new_folder, folder_when_complete

if TYPE_CHECKING:
    import datasets

SIMULATED_RATE = 8000
DEVICE = "Simulated"
FIRST_PATIENT = 101
LOCATIONS = ("Tc", "Al", "Ar", "Pl", "Pr", "Ll", "Lr")
TEST_SHARE = 0.4
BREATH_LEVEL = 0.03
SPLIT_FILE_NAME = "simulated_train_test.txt"
NOTE = """# Simulated lung sounds

These files were computed by `lung-srad prepare simulated` (seed {seed}). They are **not recordings of patients** and
say nothing about the accuracy of a model on real lung sounds. They have the file layout of the ICBHI 2017 database:
`patient_index_location_mode_device.wav` with the device `Simulated`, beside each its annotated cycles
(start, end, crackle, wheeze), and the split in `{split_file}`.
"""


def simulate_cycle(
    label: int, seconds: float, sampling_rate: int = SIMULATED_RATE, generator: np.random.Generator | None = None
) -> np.ndarray:
    """
    One breathing cycle: inspiration and expiration, with the sounds of its class.

    Args:
        label (`int`): index into `CLASS_NAMES`.
        seconds (`float`): duration, at least 0.5.
        sampling_rate (`int`, *optional*, defaults to 8000): rate in Hz, at least 4000.
        generator (`np.random.Generator`, *optional*): source of randomness; seed 0 by default.

    Returns:
        `np.ndarray`: float32 waveform of shape `(int(seconds * sampling_rate),)`, breath noise at an RMS of 0.03.

    Raises:
        InputError: where an argument is out of range.

    Example:

    ```python
    >>> simulate_cycle(CLASS_NAMES.index("wheeze"), 2.5).shape
    (20000,)

    ```
    """
    if label not in range(len(CLASS_NAMES)):
        raise InputError("label", f"{label} is not a class", f"give 0 to {len(CLASS_NAMES) - 1} for {CLASS_NAMES}")
    if seconds < 0.5 or sampling_rate < 4000:
        raise InputError(f"{seconds} s at {sampling_rate} Hz", "a cycle lasts at least 0.5 s, at 4000 Hz or more")
    generator = generator or np.random.default_rng(0)
    num_samples = int(seconds * sampling_rate)
    inspiration = generator.uniform(0.35, 0.45) * seconds
    cycle = BREATH_LEVEL * _breath_noise(num_samples, inspiration, sampling_rate, generator)
    if label & 1:
        cycle += BREATH_LEVEL * _crackles(num_samples, inspiration, sampling_rate, generator)
    if label & 2:
        cycle += BREATH_LEVEL * _wheezes(num_samples, inspiration, sampling_rate, generator)
    return cycle.astype(np.float32)


def simulate_recording(
    labels: list[int], sampling_rate: int = SIMULATED_RATE, generator: np.random.Generator | None = None
) -> tuple[np.ndarray, list[Cycle]]:
    """
    A recording of successive breathing cycles with heart sounds and sensor noise.

    Args:
        labels (`list[int]`): class of each cycle.
        sampling_rate (`int`, *optional*, defaults to 8000): rate in Hz.
        generator (`np.random.Generator`, *optional*): source of randomness; seed 0 by default.

    Returns:
        `tuple[np.ndarray, list[Cycle]]`: float32 waveform of shape `(samples,)`, and the cycles with their times.
    """
    generator = generator or np.random.default_rng(0)
    breath, cycles = breathing_sounds(labels, sampling_rate, generator)
    return recorded(breath, sampling_rate, generator), cycles


def write_simulated(
    destination: str | os.PathLike,
    patients: int = 12,
    recordings_per_patient: int = 2,
    cycles_per_recording: int = 6,
    sampling_rate: int = SIMULATED_RATE,
    seed: int = 0,
) -> Path:
    """
    Writes simulated recordings in the file layout of ICBHI 2017, which [`load_icbhi`] reads.

    Args:
        destination (`str` or `os.PathLike`): folder to make; it must not exist or be empty.
        patients (`int`, *optional*, defaults to 12): number of patients, at least 2. The last 40 % are the test part.
        recordings_per_patient (`int`, *optional*, defaults to 2): recordings of each.
        cycles_per_recording (`int`, *optional*, defaults to 6): cycles of each.
        sampling_rate (`int`, *optional*, defaults to 8000): rate in Hz of the files (16 bit WAV).
        seed (`int`, *optional*, defaults to 0): another seed gives other sounds.

    Returns:
        `Path`: the folder.

    Raises:
        InputError: where the folder holds something already;
            where there are fewer than 2 patients.
    """
    if patients < 2 or recordings_per_patient < 1 or cycles_per_recording < 1:
        raise InputError("patients", "give at least 2 patients, and at least 1 recording and cycle of each")
    check_new_folder(destination)
    first_test = patients - max(1, round(TEST_SHARE * patients))
    split_lines = []
    with folder_when_complete(destination) as folder:
        for patient, recording in itertools.product(range(patients), range(recordings_per_patient)):
            # Seeded by patient and recording, so that more of them leave the others as they are.
            generator = np.random.default_rng([seed, patient, recording])
            labels = _draw_labels(patient, cycles_per_recording, generator)
            waveform, cycles = simulate_recording(labels, sampling_rate, generator)
            location = LOCATIONS[(patient + recording) % len(LOCATIONS)]
            name = f"{FIRST_PATIENT + patient}_{recording + 1}b1_{location}_sc_{DEVICE}"
            # soundfile says of a full disk that there was a system error.
            content = io.BytesIO()
            soundfile.write(content, waveform, sampling_rate, format="WAV", subtype="PCM_16")
            (folder / f"{name}.wav").write_bytes(content.getvalue())
            write_annotations(folder / f"{name}.txt", cycles)
            split_lines.append(f"{name}\t{'train' if patient < first_test else 'test'}\n")
        (folder / SPLIT_FILE_NAME).write_text("".join(split_lines), encoding="utf-8")
        (folder / "README.md").write_text(NOTE.format(seed=seed, split_file=SPLIT_FILE_NAME), encoding="utf-8")
    return Path(destination)


def load_simulated(
    patients: int = 12,
    recordings_per_patient: int = 2,
    cycles_per_recording: int = 6,
    validation: float = 0.0,
    seed: int = 0,
    cache_dir: str | os.PathLike | None = None,
) -> "datasets.DatasetDict":
    """
    Simulated cycles with the columns of [`load_icbhi`]; the files are written to the cache of the data sets library.

    Args:
        patients (`int`, *optional*, defaults to 12): see [`write_simulated`], as for the next two.
        recordings_per_patient (`int`, *optional*, defaults to 2): recordings of each patient.
        cycles_per_recording (`int`, *optional*, defaults to 6): cycles of each recording.
        validation (`float`, *optional*, defaults to 0.0): share of the training patients to set apart.
        seed (`int`, *optional*, defaults to 0): of the sounds and of the choice of validation patients.
        cache_dir (`str` or `os.PathLike`, *optional*): where the data sets library keeps its cache.

    Returns:
        `datasets.DatasetDict`: `train`, `validation` (where asked for) and `test`; `device` is always `Simulated`.
    """
    # Sounds can be written without the data sets library, which is an optional dependency.
    import datasets
    from filelock import FileLock

    from dataset_scripts.icbhi import load_icbhi

    settings = (patients, recordings_per_patient, cycles_per_recording, SIMULATED_RATE, seed)
    key = hashlib.sha256(repr(settings).encode() + Path(__file__).read_bytes()).hexdigest()[:16]
    folder = Path(cache_dir or datasets.config.HF_DATASETS_CACHE) / "simulated" / key
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            write_simulated(folder, *settings)
    return load_icbhi(folder, validation=validation, seed=seed, cache_dir=cache_dir)


def _draw_labels(patient: int, number: int, generator: np.random.Generator) -> list[int]:
    """Six of ten cycles of a patient are of one class, which goes round from patient to patient."""
    own = patient % len(CLASS_NAMES)
    others = generator.integers(len(CLASS_NAMES), size=number)
    return [int(label) for label in np.where(generator.random(number) < 0.6, own, others)]


def breathing_sounds(
    labels: list[int], sampling_rate: int, generator: np.random.Generator
) -> tuple[np.ndarray, list[Cycle]]:
    """Successive cycles of one pace, in silence."""
    pieces, cycles = [], []
    # Like a clinician's annotation, the first cycle begins a moment after the recording does.
    position = round(generator.uniform(0.1, 0.4), 3)
    pace = generator.uniform(1.8, 3.5)
    pieces.append(np.zeros(int(position * sampling_rate), dtype=np.float32))
    for label in labels:
        seconds = round(pace * generator.uniform(0.85, 1.15), 3)
        pieces.append(simulate_cycle(label, seconds, sampling_rate, generator))
        cycles.append(Cycle(round(position, 3), round(position + seconds, 3), label))
        position += seconds
    pieces.append(np.zeros(int(0.3 * sampling_rate), dtype=np.float32))
    return np.concatenate(pieces), cycles


def recorded(breath: np.ndarray, sampling_rate: int, generator: np.random.Generator) -> np.ndarray:
    """Adds heart sounds and sensor noise, at a random gain."""
    recording = breath + _heart_sounds(len(breath), sampling_rate, generator)
    recording += generator.uniform(0.0005, 0.002) * generator.standard_normal(len(breath))
    recording *= generator.uniform(0.4, 1.6)
    return np.clip(recording, -0.99, 0.99).astype(np.float32)


def _phases(num_samples: int, inspiration: float, sampling_rate: int) -> tuple[slice, slice]:
    """Samples of inspiration and expiration; a short pause lies between them and another at the end."""
    turn, end = int(inspiration * sampling_rate), num_samples
    return slice(0, turn), slice(int(turn + 0.04 * end), int(0.92 * end))


def _swell(num_samples: int, power: float) -> np.ndarray:
    return np.sin(np.pi * (np.arange(num_samples) + 0.5) / num_samples) ** power


def _breath_noise(
    num_samples: int, inspiration: float, sampling_rate: int, generator: np.random.Generator
) -> np.ndarray:
    """Noise of RMS about 1: flat from 60 Hz to a corner, then falling by 12 dB an octave, swelling with the flow."""
    corner = generator.uniform(200.0, 400.0)
    frequency = np.fft.rfftfreq(num_samples, 1 / sampling_rate)
    chest_wall = 1 / (1 + (frequency / corner) ** 2) * frequency**2 / (frequency**2 + 60.0**2)
    noise = np.fft.irfft(np.fft.rfft(generator.standard_normal(num_samples)) * chest_wall, num_samples)
    flow = np.full(num_samples, 0.05)
    for phase, level in zip(_phases(num_samples, inspiration, sampling_rate), (1.0, 0.5), strict=True):
        flow[phase] += level * _swell(phase.stop - phase.start, 0.7)
    breath = noise * flow
    return breath / np.sqrt(np.mean(breath**2))


def _crackles(num_samples: int, inspiration: float, sampling_rate: int, generator: np.random.Generator) -> np.ndarray:
    """Trains of fine crackles late in inspiration, or of coarse ones early in inspiration and in expiration."""
    sounds = np.zeros(num_samples)
    fine = generator.random() < 0.5
    inhale, exhale = _phases(num_samples, inspiration, sampling_rate)
    length = inhale.stop
    regions = [(length // 2, length)] if fine else [(0, length // 2), (exhale.start, exhale.stop)]
    for first, last in regions:
        for start in generator.integers(first, last, size=generator.integers(5, 12)):
            crackle = draw_crackle(fine, sampling_rate, generator)
            piece = sounds[start : start + len(crackle)]
            piece += crackle[: len(piece)]
    return sounds


def draw_crackle(fine: bool, sampling_rate: int, generator: np.random.Generator) -> np.ndarray:
    """Two-cycle duration of a fine crackle about 5 ms, of a coarse one about 12 ms."""
    seconds = generator.uniform(0.004, 0.007) if fine else generator.uniform(0.009, 0.015)
    crackle = _crackle(max(int(seconds * sampling_rate), 8))
    return generator.uniform(4.0, 10.0) * generator.choice((-1.0, 1.0)) * crackle


def _crackle(num_samples: int) -> np.ndarray:
    """Kiyokawa's crackle: `sin(4 pi t^a)`, whose waves widen from an abrupt start, under a raised cosine."""
    time = (np.arange(num_samples) + 0.5) / num_samples
    first_zero = 0.08
    exponent = np.log(0.25) / np.log(first_zero)
    return np.sin(4 * np.pi * time**exponent) * 0.5 * (1 + np.cos(2 * np.pi * (np.sqrt(time) - 0.5)))


def _wheezes(num_samples: int, inspiration: float, sampling_rate: int, generator: np.random.Generator) -> np.ndarray:
    """One or two tones with harmonics, drifting by up to a third, in expiration and sometimes in inspiration."""
    sounds = np.zeros(num_samples)
    inhale, exhale = _phases(num_samples, inspiration, sampling_rate)
    for phase in [exhale, inhale] if generator.random() < 0.4 else [exhale]:
        available = phase.stop - phase.start
        length = min(max(int(generator.uniform(0.5, 0.95) * available), int(0.1 * sampling_rate)), available)
        start = phase.start + int(generator.uniform(0, 1) * (available - length))
        sounds[start : start + length] += draw_wheeze(length, sampling_rate, generator)[0]
    return sounds


def draw_wheeze(length: int, sampling_rate: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The sound `(samples,)`, and its fundamental and harmonics in Hz `(samples, 3)`, NaN where not sounded."""
    time = np.arange(length) / sampling_rate
    drift = np.linspace(1.0, generator.uniform(0.75, 1.3), length)
    waver = 1 + 0.02 * np.sin(2 * np.pi * generator.uniform(2, 6) * time + generator.uniform(0, 6))
    pitch = generator.uniform(150.0, 700.0) * drift * waver
    angle = 2 * np.pi * np.cumsum(pitch) / sampling_rate
    tone = np.zeros(length)
    frequencies = pitch[:, None] * np.arange(1, 4)
    frequencies[frequencies >= min(0.45 * sampling_rate, 2000.0)] = np.nan
    for harmonic in (1, 2, 3):
        audible = np.isfinite(frequencies[:, harmonic - 1])
        tone += audible * np.sin(harmonic * angle) * generator.uniform(0.2, 0.5) ** (harmonic - 1)
    return generator.uniform(1.2, 3.0) * tone * _swell(length, 0.5), frequencies


def _heart_sounds(num_samples: int, sampling_rate: int, generator: np.random.Generator) -> np.ndarray:
    """First and second heart sounds: short low thuds, 60 to 100 times a minute."""
    sounds = np.zeros(num_samples)
    interval = 60.0 / generator.uniform(60, 100)
    level = generator.uniform(0.005, 0.03)
    time = np.arange(int(0.12 * sampling_rate)) / sampling_rate
    for beat in np.arange(generator.uniform(0, interval), num_samples / sampling_rate, interval):
        for delay, pitch, loudness in ((0.0, 45.0, 1.0), (0.3, 60.0, 0.7)):
            start = int((beat + delay) * sampling_rate)
            thud = level * loudness * np.sin(2 * np.pi * pitch * time) * np.exp(-time / 0.03)
            piece = sounds[start : start + len(thud)]
            piece += thud[: len(piece)]
    return sounds
