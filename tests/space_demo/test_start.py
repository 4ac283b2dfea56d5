"""The start of the page: its imports, and the checkpoints that it offers and loads."""

import subprocess
import sys

import pytest

import modeling_lung_srad
from modeling_lung_srad.errors import InputError
from space_demo.recognizers import EMBEDDED, MAX_LOADED, Recognizers
from tests.space_demo.conftest import ROOT

START = """
import inspect, sys
find_source_file = inspect.getfile
from space_demo.app import main
from space_demo.app import import_gradio
import_gradio()
import pathlib, space_demo.server
from space_demo.page import Page
from space_demo.recognizers import Recognizers
Page(Recognizers(["a/b"]), pathlib.Path("."))
assert inspect.getfile is find_source_file
print([name for name in ("torch", "transformers", "matplotlib", "soundfile") if name in sys.modules])
"""


def test_page_is_there_before_torch_is_imported():
    pytest.importorskip("gradio")
    done = subprocess.run([sys.executable, "-c", START], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.fixture
def loaded(monkeypatch):
    """Names of the checkpoints that are loaded, in order; nothing is really loaded."""
    names = []

    def from_checkpoint(checkpoint):
        names.append(checkpoint)
        return f"pipeline {checkpoint}"

    monkeypatch.setattr(modeling_lung_srad.LungSoundPipeline, "from_checkpoint", from_checkpoint)
    return names


def test_embedded_checkpoint_is_the_default_unless_another_is_preferred():
    assert Recognizers([]).names == [EMBEDDED]
    assert Recognizers(["a/b", "c/d", "a/b"]).names == [EMBEDDED, "a/b", "c/d"]
    preferred = Recognizers(["a/b", "c/d"], preferred=True)
    assert preferred.names == ["a/b", "c/d", EMBEDDED]
    assert preferred.default == "a/b"


def test_checkpoint_is_loaded_once_and_the_longest_unused_one_goes(loaded):
    recognizers = Recognizers(["a/b", "c/d"])
    assert recognizers.get(EMBEDDED) == recognizers.get(EMBEDDED) == "pipeline None"
    assert recognizers.get("a/b") == "pipeline a/b"
    assert loaded == [None, "a/b"]
    assert MAX_LOADED == 2
    recognizers.get(EMBEDDED)
    recognizers.get("c/d")
    recognizers.get(EMBEDDED)
    recognizers.get("a/b")
    assert loaded == [None, "a/b", "c/d", "a/b"]


def test_checkpoint_that_is_not_offered_is_not_loaded(loaded):
    for name in ("../../etc", None):
        with pytest.raises(InputError, match="is not offered here; choose"):
            Recognizers(["a/b"]).get(name)
    assert loaded == []


def test_no_visitor_is_remembered():
    gradio = pytest.importorskip("gradio")
    from space_demo.server import NothingKept

    with gradio.Blocks() as blocks:
        text = gradio.HTML("at first")
    holder = NothingKept()
    holder.set_blocks(blocks)
    holder["visitor"]._update_value_in_config(text._id, "the answer")
    assert "visitor" not in holder
    assert "the answer" not in str(holder["visitor"].config_values)
