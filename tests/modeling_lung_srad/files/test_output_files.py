import os

import pytest

from modeling_lung_srad.errors import InputError
from modeling_lung_srad.files.output_files import check_output, replaced_when_complete


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
