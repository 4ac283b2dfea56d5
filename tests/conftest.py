"""What all tests share: one tiny configuration, and the way to the reference material beside the checkout."""

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
