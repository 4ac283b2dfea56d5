"""The notebook runs from top to bottom, and is stored without output."""

import json

import pytest

from tests.conftest import FIXTURES

NOTEBOOK = FIXTURES.parents[1] / "examples/quickstart.ipynb"


def test_the_notebook_runs_and_has_no_output():
    pytest.importorskip("pandas")
    names = {}
    for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
            exec("".join(cell["source"]), names)
    assert names["result"]["summary"]["label"] == "both"
