"""Commands that write something, on inputs so small that each takes a second or a few."""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numba
import numpy as np
import torch

from dataset_scripts.simulated import write_simulated
from lung_srad_cli import main
from modeling_lung_srad import LungSradFeatureExtractor, LungSradForAudioClassification, selective_scan
from modeling_lung_srad.files.checkpoint_code import write_checkpoint_code
from modeling_lung_srad.files.output_files import replaced_when_complete
from tests.conftest import tiny_config
from tests.local_hub import LocalHub
from training.configuration import CONFIGS
from training.record.training_record import TRAINING_SUMMARY

# Three epochs of four steps, a checkpoint at each second step.
TRAINING = [
    str(CONFIGS / "smoke.yaml"),
    "data.simulated=0",
    "data.validation=0.4",
    "model.feature_extractor.num_frames=64",
    "num_train_epochs=3",
    "model.config.drop_path_rate=0.2",
    "augmentation.frequency_masks=2",
    *(f"{name}_strategy=steps" for name in ("eval", "save", "logging")),
    *(f"{name}_steps=2" for name in ("eval", "save", "logging")),
    "use_cpu=true",
]


@dataclass(frozen=True)
class Command:
    """
    A command line that reads a folder of inputs and writes into another folder.

    Args:
        name (`str`): of its row in the table.
        arguments (`tuple[str, ...]`): `INPUTS` and `FOLDER` in them stand for the two folders, `NAME` for the
            name of the second.
        result (`str`): name of the written file or folder.
        run (callable, *optional*): takes the arguments and returns the exit code; `lung-srad` by default.
    """

    name: str
    arguments: tuple[str, ...]
    result: str
    run: Callable[[list[str]], int] = main

    def line(self, inputs: Path, folder: Path) -> list[str]:
        """Its arguments for two folders."""
        values = {"INPUTS": str(inputs), "FOLDER": str(folder), "NAME": folder.name}
        return [re.sub("INPUTS|FOLDER|NAME", lambda match: values[match[0]], text) for text in self.arguments]

    def read(self, folder: Path) -> dict[str, str]:
        """
        Digests of what it wrote, by name, without hidden files, which nothing reads.

        A folder of training counts as written once its summary is there.
        """
        result = folder / self.result
        if self.name == "train" and not (result / TRAINING_SUMMARY).exists():
            return {}
        files = [result] if result.is_file() else sorted(path for path in result.rglob("*") if path.is_file())
        names = {path: path.relative_to(folder).as_posix() for path in files}
        return {name: _digest(path) for path, name in names.items() if f"/{name}".find("/.") < 0 and _digest(path)}

    def left_over(self, folder: Path) -> int:
        """Number of hidden files beside the result and in it."""
        return sum(path.is_file() and path.name.startswith(".") for path in folder.rglob("*"))


@dataclass(frozen=True)
class Publishing(Command):
    """`lung-srad publish` to a repository of the name of its folder on a local Hub."""

    hub: LocalHub = field(kw_only=True)

    def read(self, folder: Path) -> dict[str, str]:
        """Digests of the files in the repository, without its name."""
        repository = self.hub.store.repositories.get(("model", f"user/{folder.name}"))
        files = repository.files if repository else {}
        contents = {name: file.content.replace(folder.name.encode(), b"") for name, file in files.items()}
        return {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}


def _digest(path: Path) -> str:
    """The SHA-256 of a file; empty for what says when and where it was written."""
    if path.name in ("training_args.bin", "trainer_state.json"):
        return ""
    content = path.read_bytes()
    if path.name == TRAINING_SUMMARY:
        content = json.dumps(json.loads(content)["history"]).encode()
    return hashlib.sha256(content).hexdigest()


_PIPELINE = ("INPUTS/recordings", "--checkpoint", "INPUTS/checkpoint", "--output")
COMMANDS = (
    Command("train", ("train", *TRAINING, "data.icbhi=INPUTS/recordings", "output_dir=FOLDER/run"), "run"),
    Command(
        "prepare icbhi",
        ("prepare", "icbhi", "INPUTS/recordings", "FOLDER/prepared", "--validation", "0.4"),
        "prepared",
    ),
    Command(
        "prepare simulated",
        ("prepare", "simulated", "FOLDER/sounds", "--layout", "icbhi", "--patients", "6"),
        "sounds",
    ),
    Command("classify", ("classify", *_PIPELINE, "FOLDER/results.csv"), "results.csv"),
    Command("embed", ("embed", *_PIPELINE, "FOLDER/embeddings.npz"), "embeddings.npz"),
    Command("export", ("export", "INPUTS/checkpoint", "FOLDER/onnx", "--frames", "64", "--int8"), "onnx"),
)


def compile_scan(arguments: list[str]) -> int:
    """Compiles the kernels of the scan into a folder, or loads what is kept there, and writes what they compute."""
    folder = Path(arguments[0])
    numba.config.CACHE_DIR = str(folder / "kernels")
    generator = torch.Generator().manual_seed(0)
    u, delta = torch.randn(2, 2, 8, 64, generator=generator)
    B, C = torch.randn(2, 2, 1, 1, 64, generator=generator)
    scanned = selective_scan(u, delta, -torch.ones(8, 1), B, C, backend="numba")
    with replaced_when_complete(folder / "scanned.npy") as temporary:
        np.save(temporary, scanned.numpy())
    return 0


COMPILING = Command("compiled scan", ("FOLDER",), "scanned.npy", run=compile_scan)


def publish_to(hub: LocalHub) -> Command:
    """The command that publishes the checkpoint to a local Hub."""
    return Publishing("publish", ("publish", "model", "INPUTS/checkpoint", "user/NAME"), "", hub=hub)


def write_inputs(folder: Path) -> int:
    """Writes the recordings and the checkpoint that the commands read; returns 0, as a process of its own does."""
    write_simulated(folder / "recordings", patients=10, recordings_per_patient=1, cycles_per_recording=4)
    torch.manual_seed(0)
    model = LungSradForAudioClassification(tiny_config(depths=(1, 1, 1, 1), gaussian_blocks=(0,)))
    torch.nn.init.normal_(model.head.weight, std=1.0)
    model.save_pretrained(folder / "checkpoint")
    LungSradFeatureExtractor(cycle_seconds=4.0, num_frames=256).save_pretrained(folder / "checkpoint")
    write_checkpoint_code(folder / "checkpoint")
    return 0
