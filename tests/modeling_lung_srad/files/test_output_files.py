import os

import pytest
from safetensors import SafetensorError

from modeling_lung_srad.errors import InputError
from modeling_lung_srad.files.output_files import (
    check_new_folder,
    check_output,
    folder_when_complete,
    replaced_when_complete,
    writing_to,
)


def test_a_file_appears_only_when_it_is_complete(tmp_path):
    path = tmp_path / "results.csv"
    with replaced_when_complete(path) as temporary:
        temporary.write_text("new")
        assert temporary.suffix == ".csv"
        assert not path.exists()
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "results.csv"
    path.write_text("old")

    def fail():
        with replaced_when_complete(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_permissions_are_those_of_the_old_or_of_any_new_file(tmp_path):
    (tmp_path / "plain").write_text("")
    (tmp_path / "private").write_text("")
    (tmp_path / "private").chmod(0o600)
    for name in ("new", "private"):
        with replaced_when_complete(tmp_path / name) as temporary:
            temporary.write_text("new")
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert (tmp_path / "private").stat().st_mode & 0o777 == 0o600


def test_a_link_stays_a_link(tmp_path):
    target, link = tmp_path / "target.csv", tmp_path / "link.csv"
    target.write_text("old")
    link.symlink_to(target)
    with replaced_when_complete(link) as temporary:
        temporary.write_text("new")
    assert link.is_symlink()
    assert target.read_text() == "new"


def test_a_device_is_written_to_and_not_replaced():
    check_output(os.devnull)
    with replaced_when_complete(os.devnull) as path:
        path.write_text("gone")
    assert not os.path.isfile(os.devnull)


def test_outputs_that_cannot_be_written_are_named(tmp_path):
    recording = tmp_path / "a.wav"
    recording.write_bytes(b"sound")
    for path, said in (
        (tmp_path, "is a folder"),
        (tmp_path / "nowhere" / "results.csv", "does not exist"),
        (tmp_path / "nowhere" / ".." / "a.wav", "does not exist"),
        (recording, "is one of the inputs"),
    ):
        with pytest.raises(InputError, match=said):
            check_output(path, inputs=[recording])
    check_output(recording)
    check_output(tmp_path / "results.csv", inputs=[recording])


@pytest.mark.parametrize("exists", [False, True])
def test_a_folder_appears_only_when_it_is_complete(tmp_path, exists):
    path = tmp_path / "above" / "sounds"
    if exists:
        path.mkdir(parents=True)
    with folder_when_complete(path) as folder:
        (folder / "a.wav").write_text("a")
        assert not path.exists() or not list(path.iterdir())
    assert [found.name for found in tmp_path.rglob("*")] == ["above", "sounds", "a.wav"]


def test_a_link_to_an_empty_folder_stays_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "sounds").symlink_to("disk")
    with folder_when_complete(tmp_path / "sounds") as folder:
        (folder / "a.wav").write_text("a")
    assert (tmp_path / "sounds").is_symlink()
    assert (tmp_path / "disk" / "a.wav").read_text() == "a"


def test_a_folder_begins_without_the_files_of_a_killed_run_and_a_failure_leaves_none(tmp_path):
    (tmp_path / ".sounds.partial").mkdir()
    (tmp_path / ".sounds.partial" / "half.wav").write_text("h")
    (tmp_path / ".sounds.partial.lock").write_text("")

    def fail():
        with folder_when_complete(tmp_path / "sounds") as folder:
            assert list(folder.iterdir()) == []
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_second_run_on_a_folder_is_refused_and_the_first_one_ends(tmp_path):
    path = tmp_path / "sounds"
    with folder_when_complete(path) as folder:
        with pytest.raises(InputError, match="sounds: another run is writing there; wait"), folder_when_complete(path):
            pass
        (folder / "a.wav").write_text("a")
    assert [found.name for found in tmp_path.rglob("*")] == ["sounds", "a.wav"]


def test_only_a_new_folder_may_be_made(tmp_path):
    check_new_folder(tmp_path / "new")
    check_new_folder(tmp_path)
    (tmp_path / "thesis.txt").write_text("all there is")
    for path in (tmp_path, tmp_path / "thesis.txt"):
        with pytest.raises(InputError, match="holds something already; name a new folder"):
            check_new_folder(path)


@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left on device"), SafetensorError("I/O error: No space left on device (os error 28)")],
    ids=["system", "safetensors"],
)
def test_a_full_disk_is_one_sentence_that_names_the_result(tmp_path, error):
    with (
        pytest.raises(InputError, match=r"out: cannot be written \(.*No space left .*\); free space"),
        writing_to("out"),
    ):
        raise error


def test_an_error_that_names_its_file_is_kept():
    with pytest.raises(FileNotFoundError, match="input"), writing_to("out"):
        raise FileNotFoundError(2, "No such file", "input")
