import io
import json
from pathlib import Path

import pytest

from lung_srad_cli.journal import Journal
from modeling_lung_srad.errors import InputError

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
    with pytest.raises(InputError, match=r"out \[1\].csv.partial: holds the results .*; remove it"):
        Journal(output, {"window": 4.0})
    assert journal.path.exists()


def test_files_of_other_outputs_are_left_alone(output):
    (output.parent / "out 1.csv.partial").write_text("another")
    (output.parent / "out [1].csv.partially").write_text("another")
    with Journal(output, SETTINGS) as journal:
        journal.remove()
    assert len(list(output.parent.iterdir())) == 2


def test_damaged_lines_are_left_out_and_the_others_kept(output):
    with Journal(output, SETTINGS) as journal:
        for key in "abcd":
            journal.add(key, key * 3)
    lines = journal.path.read_bytes().splitlines(keepends=True)
    lines[2:4] = [b"\0\1 no JSON\n", b'{"key": "c"}\n', b'{"key": [1], "result": 2}\n', b"[" * 5000 + b"\n"]
    journal.path.write_bytes(b"".join(lines))
    with Journal(output, SETTINGS) as journal:
        assert list(journal.results("abcd")) == ["aaa", "ddd"]


@pytest.mark.parametrize("content", [b"my notes\n", b"my notes", b'{"key": "a", "result": 1}\n'])
def test_a_file_that_is_no_journal_is_refused_and_kept(output, content):
    path = output.with_name(f"{output.name}.partial")
    path.write_bytes(content)
    with pytest.raises(InputError, match="is not a journal of lung-srad; move it"):
        Journal(output, SETTINGS)
    assert path.read_bytes() == content
    assert list(output.parent.iterdir()) == [path]


def test_a_lock_that_cannot_be_removed_while_it_is_open_stops_nothing(output, monkeypatch):
    remove = Path.unlink

    def remove_as_on_windows(path, missing_ok=False):
        if path.suffix == ".lock":
            raise PermissionError(13, "used by another process", str(path))
        remove(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", remove_as_on_windows)
    for number in range(2):
        with Journal(output, SETTINGS) as journal:
            assert len(journal) == number
            journal.add(f"{number}", number)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
def test_a_full_disk_is_one_sentence_and_keeps_what_is_there(output):
    def add_on_a_full_disk():
        with Journal(output, SETTINGS) as journal:
            journal.add("a", 1)
            journal._file.close()
            journal._file = io.FileIO("/dev/full", "w")
            journal.add("b", 2)

    with pytest.raises(InputError, match=r"partial: cannot be written \(No space left on device\); free space"):
        add_on_a_full_disk()
    with Journal(output, SETTINGS) as journal:
        assert "a" in journal
        assert "b" not in journal


def test_a_second_run_on_the_same_output_is_refused(output):
    with Journal(output, SETTINGS) as journal:
        journal.add("a", 1)
        with pytest.raises(InputError, match="another run is writing there; wait"):
            Journal(output, SETTINGS)
        journal.add("b", 2)
        assert list(journal.results("ab")) == [1, 2]
        journal.remove()
    assert list(output.parent.iterdir()) == []
