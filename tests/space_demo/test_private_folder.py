"""The folder of uploads: what is removed when, and what never is."""

import os
import subprocess
import sys
import threading
import time

from space_demo import private_folder
from space_demo.private_folder import remove_unused, remove_upload, sweep_in_background


def make(path, seconds_ago=0.0):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"sound")
    when = time.time() - seconds_ago
    os.utime(path, (when, when))
    os.utime(path.parent, (when, when))
    return path


def test_old_files_and_their_folders_go_and_new_ones_stay(tmp_path):
    old, new = make(tmp_path / "a" / "old.wav", 1000), make(tmp_path / "b" / "new.wav", 10)
    remove_unused(tmp_path, 900)
    assert not old.exists()
    assert new.exists()
    os.utime(old.parent, (0, 0))
    remove_unused(tmp_path, 900)
    assert not old.parent.exists()


def test_sweeping_goes_on_when_a_folder_vanishes_meanwhile(tmp_path, monkeypatch):
    calls, swept_again = [], threading.Event()

    def remove_once_something_is_gone(*arguments):
        calls.append(arguments)
        if len(calls) == 1:
            raise FileNotFoundError("gone")
        swept_again.set()

    monkeypatch.setattr(private_folder, "SWEEP_SECONDS", 0.01)
    monkeypatch.setattr(private_folder, "remove_unused", remove_once_something_is_gone)
    sweep_in_background(tmp_path)
    assert swept_again.wait(30)


def test_upload_goes_with_its_own_folder(tmp_path):
    folder = tmp_path.resolve()
    path, other = make(folder / "a" / "left.wav"), make(folder / "b" / "right.wav")
    remove_upload(path, folder)
    assert not path.parent.exists()
    assert other.exists()
    remove_upload(path, folder)
    remove_upload(folder / "nowhere" / "left.wav", folder)
    assert folder.exists()


def test_nothing_outside_is_removed(tmp_path):
    folder = tmp_path.resolve() / "private"
    folder.mkdir()
    outside = make(tmp_path / "outside" / "kept.wav")
    (folder / "link").symlink_to(outside.parent)
    for path in (outside, folder / ".." / "outside" / "kept.wav", folder / "link" / "kept.wav"):
        remove_upload(path, folder)
    remove_unused(folder, -1)
    assert outside.exists()


def test_folder_is_private_and_goes_when_the_process_is_terminated(tmp_path):
    script = (
        "from space_demo.private_folder import make_private_folder\n"
        "from space_demo.app import stopped_by_signals\n"
        "stopped = stopped_by_signals()\n"
        "folder = make_private_folder(); (folder / 'left.wav').write_bytes(b'sound')\n"
        "print(oct(folder.stat().st_mode & 0o777), flush=True)\n"
        "stopped.wait(60)"
    )
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline().strip() == "0o700"
        assert len(list(tmp_path.iterdir())) == 1
        process.terminate()
        assert process.wait(timeout=30) == 0
    assert list(tmp_path.iterdir()) == []
