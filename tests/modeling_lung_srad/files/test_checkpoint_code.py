"""The files that travel with a checkpoint, and the settings that name their classes."""

import json
import shutil

import pytest

from modeling_lung_srad.checkpoint_loading import DEFAULT_CHECKPOINT
from modeling_lung_srad.files.checkpoint_code import CLASSES, checkpoint_code_files, write_checkpoint_code

NEEDED_CODE = [
    "audio.py",
    "configuration_lung_srad.py",
    "containers.py",
    "errors.py",
    "familiarity.py",
    "feature_extraction_lung_srad.py",
    "file_content.py",
    "layers_lung_srad.py",
    "modeling_lung_srad.py",
    "numba_kernels.py",
    "numba_scan.py",
    "pipeline_lung_srad.py",
    "quality.py",
    "recording.py",
    "selective_scan.py",
    "timeline.py",
    "torch_scan.py",
    "triton_kernels.py",
    "triton_scan.py",
]


def test_all_the_code_that_a_checkpoint_needs_travels_and_no_other():
    assert [path.name for path in checkpoint_code_files()] == NEEDED_CODE


def test_only_what_loads_checkpoints_stays_behind_in_the_root():
    root = checkpoint_code_files()[0].parent
    assert {path.name for path in root.glob("*.py")} == {*NEEDED_CODE, "__init__.py", "checkpoint_loading.py"}


def test_a_checkpoint_is_completed_in_place(tmp_path):
    folder = shutil.copytree(DEFAULT_CHECKPOINT, tmp_path / "checkpoint")
    weights = (folder / "model.safetensors").read_bytes()
    write_checkpoint_code(folder)
    assert sorted(path.name for path in folder.glob("*.py")) == NEEDED_CODE
    assert (folder / "model.safetensors").read_bytes() == weights
    for name, classes in CLASSES.items():
        before = json.loads((DEFAULT_CHECKPOINT / name).read_text())
        assert json.loads((folder / name).read_text()) == before | classes


def test_a_folder_without_settings_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_checkpoint_code(tmp_path)
