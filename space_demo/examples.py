"""Computes the examples of the page, which are simulated: they are recordings of nobody."""

import secrets
from pathlib import Path

import numpy as np
import soundfile

from dataset_scripts.simulated import simulate_recording
from modeling_lung_srad.configuration_lung_srad import CLASS_NAMES

SECONDS = 30
SAMPLING_RATE = 8000
SEED = 7
# Enough cycles for 30 s at the fastest pace that is simulated.
NUM_CYCLES = 24
EXAMPLES = {
    "normal breathing": ("normal",),
    "crackles": ("normal", "crackle"),
    "wheezes": ("normal", "wheeze"),
}


def write_example(name: str, folder: Path) -> Path:
    """Writes 30 s of one of `EXAMPLES`, 16 bit wav at 8 kHz, to a new folder in `folder`; returns the file."""
    classes = EXAMPLES[name]
    labels = [CLASS_NAMES.index(classes[number // 3 % len(classes)]) for number in range(NUM_CYCLES)]
    waveform, _ = simulate_recording(labels, SAMPLING_RATE, np.random.default_rng(SEED))
    path = folder / secrets.token_hex(16) / f"simulated {name}.wav"
    path.parent.mkdir()
    soundfile.write(path, waveform[: SECONDS * SAMPLING_RATE], SAMPLING_RATE, subtype="PCM_16")
    return path
