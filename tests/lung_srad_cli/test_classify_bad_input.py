"""Bad input gets one line that names the file and the remedy, exit code 2, and the other files are still done."""

import json
import shutil
import struct

import numpy as np
import pytest
import soundfile

from tests.lung_srad_cli.conftest import RATE, noise


def _write(path, waveform, rate=RATE, **options):
    soundfile.write(path, waveform, rate, **options)


def _truncated(path):
    _write(path, noise(3), format=path.suffix[1:].upper())
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _with_sample(value):
    waveform = noise(3)
    waveform[100] = value
    return waveform


def _without_channels(path):
    header = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 36, b"WAVE", b"fmt ", 16, 1, 0, RATE, 0, 0, 16, b"data", 0)
    path.write_bytes(header)


BAD_AUDIO = {
    "missing": ("bad.wav", lambda path: None, "no such file"),
    "empty": ("bad.wav", lambda path: path.write_bytes(b""), "is empty"),
    "truncated wav": ("bad.wav", _truncated, "truncated"),
    "truncated flac": ("bad.flac", _truncated, "truncated"),
    "truncated ogg": ("bad.ogg", _truncated, "truncated"),
    "text": ("bad.wav", lambda path: path.write_text("patient 101, left lung\n"), "not readable audio"),
    "NaN": ("bad.wav", lambda path: _write(path, _with_sample(np.nan), subtype="FLOAT"), "NaN or infinite"),
    "infinite": ("bad.wav", lambda path: _write(path, _with_sample(np.inf), subtype="FLOAT"), "NaN or infinite"),
    "silent": ("bad.wav", lambda path: _write(path, np.zeros(RATE)), "silent"),
    "10 ms": ("bad.wav", lambda path: _write(path, noise(0.01)), "10.0 ms"),
    "no channel": ("bad.wav", _without_channels, "bad.wav"),
    "8 channels": ("bad.wav", lambda path: _write(path, np.tile(noise(1)[:, None], 8)), "8 channels"),
    "rate of 1 kHz": ("bad.wav", lambda path: _write(path, noise(3, rate=1000), 1000), "1000 Hz"),
}

BAD_ANNOTATIONS = {
    "missing file": (None, "no such file"),
    "no cycle": ("\n", "no cycles"),
    "end before start": ("0.5\t1.0\t0\t0\n2.0\t1.0\t0\t0\n", "line 2: end 1 s"),
    "beyond the recording": ("0.5\t9.0\t0\t0\n", "beyond the recording"),
    "missing columns": ("0.5\t1.0\n", "2 of 4 columns"),
    "commas": ("0.5,1.0,0,0\n", "separated by commas"),
    "spaces": ("0.5 1.0 0 0\n", "separated by spaces"),
    "label 2": ("0.5\t1.0\t2\t0\n", "crackle: '2'"),
    "no number": ("start\tend\tcrackles\twheezes\n", "start: 'start'"),
    "10 ms": ("0.5\t0.51\t0\t0\n", "too short"),
    "no sample": ("0.5\t0.50001\t0\t0\n", "too short"),
}


def check_one_line(outcome, *said):
    assert outcome.exit_code == 2
    assert len(outcome.errors) == 1
    (line,) = outcome.errors
    assert line.startswith("lung-srad: error: ")
    assert ";" in line, "the remedy"
    for text in said:
        assert str(text) in line


@pytest.mark.parametrize("case", BAD_AUDIO)
def test_bad_audio_is_named_and_the_others_are_done(classify, write_recording, tmp_path, case):
    name, make, said = BAD_AUDIO[case]
    first, last = write_recording("a.wav"), write_recording("z.wav")
    make(tmp_path / name)
    outcome = classify(first, tmp_path / name, last, "--format", "csv")
    check_one_line(outcome, f"{tmp_path / name}: ", said)
    assert [row["file"] for row in outcome.rows] == [str(first), str(last)]


@pytest.mark.parametrize("case", BAD_ANNOTATIONS)
def test_bad_annotations_are_named_and_the_others_are_done(classify, write_recording, tmp_path, case):
    text, said = BAD_ANNOTATIONS[case]
    for name in ("a", "bad", "z"):
        write_recording(f"{name}.wav")
        (tmp_path / f"{name}.txt").write_text("0.5\t1.5\t0\t1\n")
    (tmp_path / "bad.txt").unlink()
    if text is not None:
        (tmp_path / "bad.txt").write_text(text)
    outcome = classify(tmp_path, "--annotations", tmp_path, "--format", "csv")
    check_one_line(outcome, f"{tmp_path / 'bad.txt'}: ", said)
    assert [row["file"] for row in outcome.rows] == [str(tmp_path / "a.wav"), str(tmp_path / "z.wav")]


def test_each_bad_file_gets_its_own_line(classify, tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.wav").write_bytes(b"")
    outcome = classify(tmp_path, "--format", "csv")
    assert outcome.exit_code == 2
    assert [line.split(": ")[2] for line in outcome.errors] == [str(tmp_path / f"{number}.wav") for number in range(3)]
    assert outcome.rows == []


def test_json_of_a_batch_with_bad_files_is_still_json(classify, write_recording, tmp_path):
    good = write_recording("a.wav")
    (tmp_path / "bad.wav").write_bytes(b"")
    found = json.loads(classify(tmp_path, "--format", "json").output)
    assert [recording["file"] for recording in found] == [str(good)]
    assert json.loads(classify(tmp_path / "bad.wav", "--format", "json").output) == []


def test_a_folder_without_recordings_is_named_and_the_others_are_done(classify, write_recording, tmp_path):
    recording, empty = write_recording("a.wav"), tmp_path / "empty"
    empty.mkdir()
    (empty / "notes.txt").write_text("no recording")
    outcome = classify(empty, recording, "--format", "csv")
    check_one_line(outcome, f"{empty}: contains no recordings")
    assert [row["file"] for row in outcome.rows] == [str(recording)]


def test_one_annotation_file_does_not_serve_two_recordings(classify, write_recording, tmp_path):
    (tmp_path / "a.txt").write_text("0.5\t1.5\t0\t1\n")
    outcome = classify(
        write_recording("a.wav"), write_recording("b.wav"), "--annotations", tmp_path / "a.txt", "--format", "csv"
    )
    check_one_line(outcome, tmp_path / "a.txt", "2 recordings")
    assert outcome.output == ""


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--window", "2", "--hop", "3"], "hop: 3 s"),
        (["--window", "9"], "window: 9 s"),
        (["--window", "0.01"], "window: 0.01 s"),
        (["--hop", "0.000001"], "hop: 1e-06 s"),
        (["--annotations", "a.txt", "--window", "2"], "--annotations"),
    ],
)
def test_windows_that_make_no_sense_are_refused(classify, write_recording, options, said):
    outcome = classify(write_recording("a.wav"), *options)
    check_one_line(outcome, said)
    assert outcome.output == ""


@pytest.mark.parametrize("option", ["--output", "--plot"])
@pytest.mark.parametrize("name", ["nowhere/results.png", "folder.png"])
def test_an_output_that_cannot_be_written_is_refused_before_the_work(
    classify, write_recording, tmp_path, option, name
):
    (tmp_path / "folder.png").mkdir()
    recording = write_recording("a.wav")
    outcome = classify(recording, option, tmp_path / name)
    if (option, name) == ("--plot", "folder.png"):
        assert outcome.exit_code == 0
        assert (tmp_path / name / "a.png").exists()
    else:
        check_one_line(outcome, tmp_path / name)
        assert outcome.output == ""


def test_a_plot_of_an_unknown_kind_is_refused(classify, write_recording, tmp_path):
    check_one_line(classify(write_recording("a.wav"), "--plot", tmp_path / "plot.gif"), "plot.gif", ".png")


def test_an_input_is_never_overwritten(classify, write_recording, tmp_path):
    recording = write_recording("a.wav")
    before = recording.read_bytes()
    check_one_line(classify(recording, "--output", tmp_path / "." / "a.wav"), "is one of the inputs")
    assert recording.read_bytes() == before


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "config.json").unlink(), "lacks config.json"),
        (lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"), "pickle"),
        (shutil.rmtree, "no such folder"),
    ],
    ids=["no config", "pickle only", "missing"],
)
def test_a_bad_checkpoint_is_one_line(run, checkpoint, write_recording, tmp_path, damage, said):
    copy = tmp_path / "copy"
    shutil.copytree(checkpoint, copy)
    damage(copy)
    outcome = run("classify", write_recording("a.wav"), "--checkpoint", copy)
    check_one_line(outcome, f"{copy}: ", said)
    assert outcome.output == ""


def test_an_unknown_hub_id_is_one_line(run, write_recording):
    outcome = run("classify", write_recording("a.wav"), "--checkpoint", "nobody/no-such-model")
    check_one_line(outcome, "nobody/no-such-model: ", "network")
