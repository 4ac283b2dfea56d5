import json

import pytest

from lung_srad_cli.journal import Journal
from modeling_lung_srad.output_files import OutputError

SETTINGS = {"window": 8.0, "pair": (1, 2)}


@pytest.fixture
def output(tmp_path):
    return tmp_path / "out [1].csv"


def test_results_are_found_again_in_the_order_that_is_asked_for(output):
    with Journal(output, SETTINGS) as journal:
        journal.add("a", {"x": 1})
        journal.add("b", [2.5, None])
    with Journal(output, SETTINGS) as journal:
        assert "a" in journal
        assert "c" not in journal
        assert len(journal) == 2
        journal.add("c", "three")
        assert list(journal.results(["c", "missing", "a", "b"])) == ["three", {"x": 1}, [2.5, None]]


@pytest.mark.parametrize("cut", [1, 10, 31])
def test_a_line_that_was_cut_off_is_left_out_and_overwritten(output, cut):
    with Journal(output, SETTINGS) as journal:
        journal.add("a", 1)
        journal.add("b", "x" * 20)
    journal.path.write_bytes(journal.path.read_bytes()[:-cut])
    with Journal(output, SETTINGS) as journal:
        assert "a" in journal
        assert "b" not in journal
        journal.add("b", 2)
    with Journal(output, SETTINGS) as journal:
        assert list(journal.results(["a", "b"])) == [1, 2]


def test_a_journal_cut_in_its_first_line_starts_anew(output):
    with Journal(output, SETTINGS) as journal:
        journal.add("a", 1)
    journal.path.write_bytes(journal.path.read_bytes()[:5])
    with Journal(output, SETTINGS) as journal:
        assert len(journal) == 0
        journal.add("a", 2)
    assert json.loads(journal.path.read_text().splitlines()[0]) == {"settings": {"window": 8.0, "pair": [1, 2]}}


def test_processes_have_files_of_their_own_and_see_all_results(output):
    with Journal(output, SETTINGS) as first, Journal(output, SETTINGS, process=1) as second:
        first.add("a", 1)
        second.add("b", 2)
        assert first.path != second.path
        first.read()
        assert list(first.results("ab")) == [1, 2]
        first.remove()
    assert list(output.parent.iterdir()) == []


def test_results_of_other_settings_are_refused(output):
    with Journal(output, SETTINGS) as journal:
        journal.add("a", 1)
    with pytest.raises(OutputError, match=r"out \[1\].csv.partial: holds the results .*; remove it"):
        Journal(output, {"window": 4.0})
    assert journal.path.exists()


def test_files_of_other_outputs_are_left_alone(output):
    (output.parent / "out 1.csv.partial").write_text("another")
    (output.parent / "out [1].csv.partially").write_text("another")
    with Journal(output, SETTINGS) as journal:
        journal.remove()
    assert len(list(output.parent.iterdir())) == 2
