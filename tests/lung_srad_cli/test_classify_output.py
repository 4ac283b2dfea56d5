"""What `lung-srad classify --output` keeps: after an interruption, in several processes, beside other files."""

import os
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest

from lung_srad_cli.classify_command import classify_recording
from tests.lung_srad_cli.conftest import HEADER, noise

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def interrupted(classify, write_recording, monkeypatch, tmp_path):
    """Three recordings, of which one is classified before the run is interrupted."""
    recordings = [write_recording(name, noise(3, seed)) for seed, name in enumerate(("a.wav", "b.wav", "c.wav"))]
    expected = classify(*recordings, "--format", "csv").output
    calls = []

    def interrupt(job, *arguments):
        calls.append(job.recording.name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return classify_recording(job, *arguments)

    monkeypatch.setattr("lung_srad_cli.classify_command.classify_recording", interrupt)
    outcome = classify(*recordings, "--output", tmp_path / "out.csv")
    assert outcome.exit_code == 130
    assert "out.csv.partial: keeps 1 recordings; the same command again goes on from there" in outcome.errors[0]
    assert not (tmp_path / "out.csv").exists()
    return recordings, calls, expected


def test_an_interrupted_run_goes_on_where_it_was(classify, interrupted, tmp_path):
    recordings, calls, expected = interrupted
    outcome = classify(*recordings, "--output", tmp_path / "out.csv")
    assert outcome.exit_code == 0
    assert "goes on after 1 recordings" in outcome.errors[0]
    assert calls == ["a.wav", "b.wav", "b.wav", "c.wav"]
    assert (tmp_path / "out.csv").read_text() == expected
    assert not (tmp_path / "out.csv.partial").exists()


def test_a_recording_that_changed_is_classified_again(classify, interrupted, write_recording, tmp_path):
    recordings, calls, _ = interrupted
    write_recording("a.wav", noise(4, 7))
    assert classify(*recordings, "--output", tmp_path / "out.csv").exit_code == 0
    assert calls[2:] == ["a.wav", "b.wav", "c.wav"]
    assert "a.wav,0.0,4.0" in (tmp_path / "out.csv").read_text()


def test_results_of_other_settings_are_not_mixed_in(classify, interrupted, tmp_path):
    recordings, _, _ = interrupted
    outcome = classify(*recordings, "--output", tmp_path / "out.csv", "--window", 2)
    assert outcome.exit_code == 2
    assert "out.csv.partial: holds the results of an unfinished run with another checkpoint" in outcome.errors[0]
    assert (tmp_path / "out.csv.partial").exists()


@pytest.mark.slow
def test_two_processes_write_what_one_writes(classify, checkpoint, write_recording, tmp_path):
    folder = tmp_path / "recordings"
    for seed in range(5):
        write_recording(f"recordings/{seed}.wav", noise(3 + seed, seed))
    (folder / "bad.wav").write_text("no audio")
    alone = classify(folder, "--window", "2", "--output", tmp_path / "one.csv")
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"]
    command = ["-m", "lung_srad_cli", "classify", str(folder), "--checkpoint", str(checkpoint), "--window", "2"]
    done = subprocess.run(
        [sys.executable, *launch, *command, "--output", str(tmp_path / "two.csv")],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HOME": str(tmp_path / "home")},
        check=False,
    )
    assert done.returncode != 0
    assert len(alone.errors) == 1
    assert [line for line in done.stderr.splitlines() if "lung-srad: error" in line] == alone.errors
    assert (tmp_path / "two.csv").read_bytes() == (tmp_path / "one.csv").read_bytes()
    assert len((tmp_path / "one.csv").read_text().splitlines()) > 20
    assert not list(tmp_path.glob("*.partial*"))


def test_a_recording_touched_during_the_run_stays_in_the_output(classify, write_recording, monkeypatch, tmp_path):
    recordings = [write_recording(name) for name in ("a.wav", "b.wav")]

    def touch(job, *arguments):
        os.utime(recordings[0], (1, 1))
        return classify_recording(job, *arguments)

    monkeypatch.setattr("lung_srad_cli.classify_command.classify_recording", touch)
    assert classify(*recordings, "--output", tmp_path / "out.csv").exit_code == 0
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 3


def test_the_output_is_not_the_zip_that_is_read(classify, write_recording, tmp_path):
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.write(write_recording("a.wav"), "a.wav")
    content = (tmp_path / "all.zip").read_bytes()
    outcome = classify(tmp_path / "all.zip", "--output", tmp_path / "all.zip")
    assert outcome.exit_code == 2
    assert "is one of the inputs" in outcome.errors[0]
    assert (tmp_path / "all.zip").read_bytes() == content


def test_a_plot_that_is_missing_is_drawn_when_the_run_goes_on(classify, write_recording, monkeypatch, tmp_path):
    recordings = [write_recording(name) for name in ("a.wav", "b.wav")]

    def interrupt(job, *arguments):
        if job.recording.name == "b.wav":
            raise KeyboardInterrupt
        return classify_recording(job, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr("lung_srad_cli.classify_command.classify_recording", interrupt)
        assert classify(*recordings, "--output", tmp_path / "out.csv").exit_code == 130
    outcome = classify(*recordings, "--output", tmp_path / "out.csv", "--plot", tmp_path / "plots")
    assert outcome.exit_code == 0
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == ["a.png", "b.png"]


def test_a_pipe_gets_results_and_nothing_is_kept_beside_it(classify, write_recording, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    received = []
    reader = threading.Thread(target=lambda: received.append((tmp_path / "pipe").read_text()))
    reader.start()
    assert classify(write_recording("a.wav"), "--output", tmp_path / "pipe", "--format", "csv").exit_code == 0
    reader.join()
    assert received[0].startswith(HEADER)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.wav", "pipe"]


def test_language_time_zone_folder_and_umask_change_no_byte(classify, checkpoint, write_recording, tmp_path):
    write_recording("sounds/a.wav")
    write_recording("sounds/b.wav", rate=8000)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    options = [tmp_path / "sounds", "--window", "1", "--output"]
    assert classify(*options, tmp_path / "here.csv").exit_code == 0
    # Python takes C as the language, and ASCII for files, as it would on an old server.
    language = {"LC_ALL": "C", "LANG": "tr_TR", "LANGUAGE": "de", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-m", "lung_srad_cli", "classify", "--checkpoint", checkpoint, *options]
    subprocess.run(
        [*command, tmp_path / "there.csv"],
        cwd=elsewhere,
        env=os.environ | language | {"TZ": "Pacific/Chatham", "PYTHONPATH": str(ROOT)},
        umask=0o077,
        check=True,
    )
    assert (tmp_path / "there.csv").read_bytes() == (tmp_path / "here.csv").read_bytes()
