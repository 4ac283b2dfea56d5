"""Data that the tests of this folder share: sources of simulated cycles, a checkpoint, settings of short runs."""

import json
import multiprocessing
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from modeling_lung_srad import LungSradFeatureExtractor, LungSradForAudioClassification
from tests.conftest import tiny_config
from training.arguments import DataArguments
from training.configuration import CONFIGS
from training.data.cycle_sources import load_training_sources
from training.record.training_record import TRAINING_SUMMARY as SUMMARY

# A quarter of the network's usual input, so that a forward pass takes milliseconds.
SHORT_INPUT = {"cycle_seconds": 4.0, "num_frames": 256}
SMOKE = str(CONFIGS / "smoke.yaml")
STRETCHES = ("augmentation.stretch_frames=32", "augmentation.roll=false", "augmentation.crop_frames=null")
AUGMENTED = ["augmentation.frequency_masks=2", "augmentation.roll=true", "sampling.class_balance=0.5"]


@pytest.fixture(scope="session", autouse=True)
def in_own_caches(own_caches):
    """All tests of this folder compute spectrograms."""


@pytest.fixture(scope="session")
def simulated_sources(simulated_folder):
    """Training sources and validation source of the simulated recordings."""
    return load_training_sources(DataArguments(icbhi=str(simulated_folder), validation=0.4))[:2]


@pytest.fixture(scope="session")
def feature_extractor():
    return LungSradFeatureExtractor(**SHORT_INPUT)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory, feature_extractor):
    """A random model whose predictions differ from cycle to cycle; read only."""
    torch.manual_seed(0)
    model = LungSradForAudioClassification(tiny_config())
    torch.nn.init.normal_(model.head.weight, std=1.0)
    folder = tmp_path_factory.mktemp("checkpoints") / "random"
    model.save_pretrained(folder)
    feature_extractor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def overrides(simulated_folder):
    """Settings that put the smoke configuration on the simulated recordings of the tests, with few frames."""

    def for_output(output_dir, *more):
        data = ["data.simulated=0", f"data.icbhi={simulated_folder}", "data.validation=0.4"]
        usual = [*data, "model.feature_extractor.num_frames=64", f"output_dir={output_dir}", "use_cpu=true"]
        given = {override.partition("=")[0] for override in more}
        return [*(override for override in usual if override.partition("=")[0] not in given), *more]

    return for_output


def summary_of(folder):
    return json.loads(Path(folder, SUMMARY).read_text(encoding="utf-8"))


def last_weights(folder):
    folders = folder.glob("checkpoint-*")
    return max(folders, key=lambda path: int(path.name.rpartition("-")[2])) / "model.safetensors"


def count_slowly(predictions, references):
    """The measure, counted one cycle at a time from its definition; an independent check of the fast one."""
    normal = [predicted for predicted, true in zip(predictions, references, strict=True) if true == 0]
    abnormal = [(predicted, true) for predicted, true in zip(predictions, references, strict=True) if true > 0]
    specificity = sum(1 for predicted in normal if predicted == 0) / len(normal)
    sensitivity = sum(1 for predicted, true in abnormal if predicted == true) / len(abnormal)
    any_abnormal = sum(1 for predicted, _ in abnormal if predicted > 0) / len(abnormal)
    return {
        "specificity": specificity,
        "sensitivity": sensitivity,
        "score": (specificity + sensitivity) / 2,
        "sensitivity_any_abnormal": any_abnormal,
        "score_any_abnormal": (specificity + any_abnormal) / 2,
    }


def start_process(function: Callable[..., int], *arguments, errors: Path):
    """Starts a process that calls a function of a module, exits with what it returns, and writes its standard error to
    a file. It is forked from one that has imported `training` and done nothing else, which takes seconds only once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["training.run_training"])
    process = context.Process(target=_call_and_exit, args=(function, arguments, errors))
    process.start()
    return process


def _call_and_exit(function, arguments, errors):
    with open(errors, "w", encoding="utf-8") as file:
        os.dup2(file.fileno(), sys.stderr.fileno())
    sys.exit(function(*arguments))
