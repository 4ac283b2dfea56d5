import errno
import os
import time

import numpy as np
import pytest
import torch

from modeling_lung_srad.errors import InputError
from tests.training.conftest import start_process
from training.data import spectrogram_file
from training.data.spectrogram_file import SpectrogramFile

SHAPE = (6, 5, 4)
EXPECTED = torch.arange(120, dtype=torch.float32).reshape(SHAPE) / 8


@pytest.fixture
def file(tmp_path):
    return SpectrogramFile(tmp_path / "cache" / "icbhi-0123.npy", SHAPE, {"source": "icbhi"})


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def never():
    raise AssertionError("the batches were asked for although the file is there")
    yield


def test_what_was_written_is_read_and_numpy_reads_it_too(file):
    written = file.read_or_write(EXPECTED.split(4))
    assert written.dtype == torch.float16
    assert torch.equal(written.float(), EXPECTED)
    assert torch.equal(file.read_or_write(never()).float(), EXPECTED)
    assert np.array_equal(np.load(file.path), EXPECTED.numpy())
    assert names(file.path.parent) == ["icbhi-0123.json", "icbhi-0123.npy"]


def change_byte(file):
    content = bytearray(file.path.read_bytes())
    content[200] ^= 1
    file.path.write_bytes(content)


def change_header(file):
    file.path.write_bytes(file.path.read_bytes().replace(b"(6, 5, 4)", b"(4, 5, 6)"))


DAMAGES = {
    "cut": lambda file: os.truncate(file.path, file.path.stat().st_size - 1),
    "emptied": lambda file: os.truncate(file.path, 0),
    "longer": lambda file: file.path.write_bytes(file.path.read_bytes() + b"\0"),
    "zeros": lambda file: file.path.write_bytes(bytes(file.path.stat().st_size)),
    "one byte": change_byte,
    "header": change_header,
    "gone": lambda file: file.path.unlink(),
    "no description": lambda file: file.path.with_suffix(".json").unlink(),
    "half a description": lambda file: file.path.with_suffix(".json").write_text("{"),
    "description of another kind": lambda file: file.path.with_suffix(".json").write_text("[]"),
    "empty description": lambda file: file.path.with_suffix(".json").write_text("{}"),
    "description that is no text": lambda file: file.path.with_suffix(".json").write_bytes(b"\xff"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_file_is_made_again(file, damage):
    file.read_or_write(EXPECTED.split(4))
    damage(file)
    assert torch.equal(file.read_or_write(EXPECTED.split(4)).float(), EXPECTED)
    assert torch.equal(file.read_or_write(never()).float(), EXPECTED)


def test_batches_that_fail_leave_nothing_and_keep_their_error(file):
    def fail():
        yield EXPECTED[:4]
        raise FileNotFoundError("the audio is gone")

    with pytest.raises(FileNotFoundError, match="the audio is gone"):
        file.read_or_write(fail())
    assert names(file.path.parent) == []
    assert torch.equal(file.read_or_write(EXPECTED.split(4)).float(), EXPECTED)


@pytest.mark.parametrize("number", [1, 2, 3, 4], ids=["header", "first batch", "second batch", "description"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_full_disk_is_named_and_leaves_what_was_there(file, monkeypatch, number, code):
    other = SpectrogramFile(file.path.with_name("other.npy"), SHAPE, {})
    other.read_or_write(EXPECTED.split(4))
    # A damaged file stays as well, until there is a better one.
    file.path.write_bytes(b"damaged")
    append, calls = spectrogram_file._append, []

    def fill_disk(path, content):
        calls.append(path)
        if len(calls) < number:
            return append(path, content)
        append(path, content[: len(content) // 2])
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(spectrogram_file, "_append", fill_disk)
    with pytest.raises(InputError) as raised:
        file.read_or_write(EXPECTED.split(4))
    message = str(raised.value)
    assert message.startswith(f"{file.path.parent}: ")
    assert "data.feature_cache=FOLDER" in message
    assert ("disk is full" in message) == (code != errno.EIO)
    assert "\n" not in message
    assert names(file.path.parent) == ["icbhi-0123.npy", "other.json", "other.npy"]
    assert file.path.read_bytes() == b"damaged"
    assert torch.equal(other.read_or_write(never()).float(), EXPECTED)


def test_too_little_space_is_said_before_anything_is_computed(file, monkeypatch):
    usage = spectrogram_file.shutil.disk_usage(file.path.parent.parent)
    monkeypatch.setattr(spectrogram_file.shutil, "disk_usage", lambda _: usage._replace(free=300))
    with pytest.raises(InputError, match=r"cache: its disk is too full .*; free space, or set data.feature_cac"):
        file.read_or_write(never())
    assert names(file.path.parent) == []


@pytest.mark.parametrize("below", [".", "deeper"])
def test_a_folder_that_cannot_be_made_is_named(tmp_path, below):
    (tmp_path / "taken").write_text("a file")
    folder = tmp_path / "taken" / below
    with pytest.raises(InputError, match=r"taken.*: cannot be written to .*; make it a writable folder, or set"):
        SpectrogramFile(folder / "icbhi-0123.npy", SHAPE, {}).read_or_write(never())
    assert (tmp_path / "taken").read_text() == "a file"


def test_a_folder_that_cannot_be_written_to_serves_what_it_has(file, monkeypatch):
    file.read_or_write(EXPECTED.split(4))

    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(spectrogram_file.FileLock, "acquire", refuse)
    assert torch.equal(file.read_or_write(never()).float(), EXPECTED)
    with pytest.raises(InputError, match=r"cannot be written to \(Permission denied\).*make it a writable folder"):
        SpectrogramFile(file.path.with_name("other.npy"), SHAPE, {}).read_or_write(never())


def write_two_batches(folder, number, wait_for):
    """What a process of its own does: it leaves files that say how far it is, and waits for another one's."""

    def batches():
        (folder / f"computed-{number}").touch()
        yield EXPECTED[:4]
        while not (folder / wait_for).exists():
            time.sleep(0.01)
        time.sleep(0.3)
        yield EXPECTED[4:]

    (folder / f"started-{number}").touch()
    spectrograms = SpectrogramFile(folder / "cache" / "icbhi-0123.npy", SHAPE, {}).read_or_write(batches())
    return 0 if torch.equal(spectrograms.float(), EXPECTED) else 3


@pytest.fixture
def start(tmp_path):
    """Starts a process that writes, but not its last batch before a file `wait_for` appears."""
    processes = []

    def start_writer(number, wait_for):
        errors = tmp_path / f"errors-{number}"
        processes.append(start_process(write_two_batches, tmp_path, number, wait_for, errors=errors))
        return processes[-1]

    yield start_writer
    for process in processes:
        process.kill()
        process.join()


def wait_until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the other process does not get there"
        time.sleep(0.01)


def test_of_two_processes_one_computes_and_both_have_the_result(file, tmp_path, start):
    first, second = start(1, "started-2"), start(2, "started-1")
    for process in (first, second):
        process.join(timeout=60)
    told = [(tmp_path / f"errors-{number}").read_text() for number in (1, 2)]
    assert (first.exitcode, second.exitcode) == (0, 0), told
    assert len(list(tmp_path.glob("computed-*"))) == 1
    assert torch.equal(file.read_or_write(never()).float(), EXPECTED)
    assert names(file.path.parent) == ["icbhi-0123.json", "icbhi-0123.npy"]


def test_a_killed_process_leaves_nothing_that_is_used_or_stays(file, tmp_path, start):
    partial = file.path.with_name("icbhi-0123.npy.partial")
    process = start(1, "never")
    wait_until(lambda: partial.exists() and partial.stat().st_size > 128)
    other = SpectrogramFile(file.path.with_name("other.npy"), SHAPE, {})
    other.read_or_write(EXPECTED.split(4))
    assert partial.exists(), "a living process was robbed of its file"
    process.kill()
    process.join()
    assert names(file.path.parent) == ["icbhi-0123.npy.partial", "other.json", "other.npy"]
    third = SpectrogramFile(file.path.with_name("third.npy"), SHAPE, {})
    third.read_or_write(EXPECTED.split(4))
    assert not partial.exists()
    assert torch.equal(file.read_or_write(EXPECTED.split(4)).float(), EXPECTED)


def test_a_process_goes_on_where_the_one_it_waited_for_was_killed(file, tmp_path, start):
    first = start(1, "never")
    wait_until(lambda: (tmp_path / "computed-1").exists())
    second = start(2, "started-2")
    errors = tmp_path / "errors-2"
    wait_until(
        lambda: errors.exists() and "another process computes these spectrograms; waiting" in errors.read_text()
    )
    assert not (tmp_path / "computed-2").exists()
    first.kill()
    second.join(timeout=60)
    assert second.exitcode == 0, errors.read_text()
    assert torch.equal(file.read_or_write(never()).float(), EXPECTED)
    assert names(file.path.parent) == ["icbhi-0123.json", "icbhi-0123.npy"]
