"""A random checkpoint and recordings for the command, and a way to run it and read what it said."""

import csv
import io
from typing import NamedTuple

import numpy as np
import pytest
import soundfile
import torch

from lung_srad_cli import main
from modeling_lung_srad import LungSradFeatureExtractor, LungSradForAudioClassification
from tests.conftest import tiny_config

RATE = 16000
NAMES = ["normal", "crackle", "wheeze", "both"]
HEADER = "file,start,end,label,normal,crackle,wheeze,both,abstained,flags"


class Outcome(NamedTuple):
    exit_code: int
    output: str
    errors: list[str]

    @property
    def rows(self):
        return list(csv.DictReader(io.StringIO(self.output)))


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A random model whose probabilities differ from clip to clip; read only."""
    torch.manual_seed(0)
    model = LungSradForAudioClassification(tiny_config())
    torch.nn.init.normal_(model.head.weight, std=1.0)
    folder = tmp_path_factory.mktemp("checkpoints") / "random"
    model.save_pretrained(folder)
    LungSradFeatureExtractor().save_pretrained(folder)
    return folder


@pytest.fixture
def run(capsys):
    """Runs the command in this process."""

    def run_command(*arguments):
        capsys.readouterr()
        try:
            exit_code = main([str(argument) for argument in arguments])
        except SystemExit as stopped:
            exit_code = stopped.code
        output, errors = capsys.readouterr()
        return Outcome(exit_code, output, errors.splitlines())

    return run_command


@pytest.fixture
def classify(run, checkpoint):
    """Runs `lung-srad classify` with the random checkpoint."""
    return lambda *arguments: run("classify", "--checkpoint", checkpoint, *arguments)


def noise(seconds, seed=0, rate=RATE):
    """Noise whose colour changes from second to second."""
    generator = np.random.default_rng(seed)
    waveform = generator.standard_normal(round(seconds * rate))
    tone = np.sin(np.cumsum(0.2 + 0.2 * np.sin(np.arange(len(waveform)) / rate)))
    return (0.05 * waveform + 0.2 * tone).astype(np.float32)


def probabilities(row):
    """The four probabilities of a row of the CSV."""
    return [float(row[name]) for name in NAMES]


@pytest.fixture
def write_recording(tmp_path):
    """Writes a recording into `tmp_path`; the sampling rate is 16 kHz unless said otherwise."""

    def write(name, waveform=None, rate=RATE, **options):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        waveform = noise(3, seed=len(name), rate=rate) if waveform is None else waveform
        soundfile.write(path, waveform, rate, **options)
        return path

    return write
