"""Data that the tests of this folder share: simulated recordings in ICBHI's layout, and a cache of their own."""

import tarfile

import datasets
import pytest

from dataset_scripts.simulated import write_simulated
from tests.conftest import shared_path

datasets.disable_progress_bars()


@pytest.fixture(scope="session")
def simulated_folder(tmp_path_factory):
    """10 patients (6 train, 4 test), 2 recordings each, 4 cycles each; read only."""
    return write_simulated(tmp_path_factory.mktemp("simulated") / "data", patients=10, cycles_per_recording=4)


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def icbhi_annotations(tmp_path_factory):
    """The annotation files of all 920 ICBHI recordings, without audio and without split file."""
    folder = tmp_path_factory.mktemp("annotations")
    with tarfile.open(shared_path("data/icbhi_annotations.tar.gz")) as archive:
        archive.extractall(folder, filter="data")
    return folder
