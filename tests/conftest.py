"""Shared by all tests: one tiny configuration, simulated recordings, and the way to the reference material."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Two processes share the files of tests; what takes minutes goes first, or one would wait for the other in the end.
LONGEST_FILES = ("test_learning.py", "test_resume.py", "test_page.py")
SHARED = Path(__file__).resolve().parents[2] / "shared"
FIXTURES = Path(__file__).resolve().parent / "fixtures"


def pytest_collection_modifyitems(items):
    """Puts the longest files first, in their order, and leaves the others as they are."""
    places = {name: place for place, name in enumerate(LONGEST_FILES)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


def tiny_config(**kwargs):
    """A [`LungSradConfig`] of 60 k parameters on which a test runs in milliseconds."""
    from modeling_lung_srad import LungSradConfig

    return LungSradConfig(**({"dims": (8, 16, 24, 32), "depths": (1, 1, 4, 1), "drop_path_rate": 0.0} | kwargs))


def shared_path(name: str) -> Path:
    """A file or folder of the reference material beside the checkout; skips the test where it is absent.

    Args:
        name (`str`): path inside the folder, such as `golden/losses.safetensors`.
    """
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"needs {path}, which is not part of the repository")
    return path


@pytest.fixture(scope="session")
def own_caches(tmp_path_factory):
    """Keeps tables of the data sets library out of the user's cache."""
    import datasets

    before = datasets.config.HF_DATASETS_CACHE
    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("datasets")
    yield
    datasets.config.HF_DATASETS_CACHE = before


@pytest.fixture(scope="session")
def simulated_folder(tmp_path_factory):
    """10 patients (6 train, 4 test), 2 recordings each, 4 cycles each; read only."""
    from dataset_scripts.simulated import write_simulated

    return write_simulated(tmp_path_factory.mktemp("simulated") / "data", patients=10, cycles_per_recording=4)
