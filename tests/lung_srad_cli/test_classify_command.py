import io
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch

from modeling_lung_srad.audio import read_audio
from modeling_lung_srad.checkpoint_loading import DEFAULT_CHECKPOINT, load_checkpoint
from modeling_lung_srad.recording import load_recording
from tests.conftest import shared_path
from tests.lung_srad_cli.conftest import HEADER, NAMES, RATE, noise, probabilities

ANNOTATIONS = "0.5\t1.75\t0\t0\n1.75\t2.9\t1\t1\n0.1\t0.4\t0\t1\n"


def reference_probabilities(checkpoint, waveform, start, end):
    """The published steps, one after the other, on a 16 kHz waveform in [-1, 1]."""
    faded = waveform.astype(np.float64)
    for index in range(1000):
        faded[index] *= index / 999
        faded[-1 - index] *= index / 999
    clip = faded[int(start * RATE) : int(end * RATE)].astype(np.float32)
    model, feature_extractor = load_checkpoint(checkpoint)
    features = feature_extractor([clip], sampling_rate=RATE, return_tensors="pt")
    with torch.no_grad():
        return torch.softmax(model(features["input_values"]).logits, dim=-1)[0].numpy()


def test_annotated_cycles_get_the_probabilities_of_the_published_steps(
    classify, checkpoint, write_recording, tmp_path
):
    waveform = noise(3)
    recording = write_recording("a.wav", waveform, subtype="FLOAT")
    (tmp_path / "a.txt").write_text(ANNOTATIONS)
    outcome = classify(recording, "--annotations", tmp_path / "a.txt", "--format", "csv")
    assert outcome.exit_code == 0
    assert outcome.errors == []
    assert outcome.output.splitlines()[0] == f"{HEADER},reference"
    assert [(float(row["start"]), float(row["end"])) for row in outcome.rows] == [(0.5, 1.75), (1.75, 2.9), (0.1, 0.4)]
    assert [row["reference"] for row in outcome.rows] == ["normal", "both", "wheeze"]
    for row in outcome.rows:
        expected = reference_probabilities(checkpoint, waveform, float(row["start"]), float(row["end"]))
        np.testing.assert_allclose(probabilities(row), expected, atol=2e-5)
        assert row["label"] == NAMES[int(np.argmax(expected))]
        assert row["file"] == str(recording)


def test_windows_cover_the_whole_recording_and_the_last_one_ends_with_it(classify, checkpoint, write_recording):
    waveform = noise(11.5)
    outcome = classify(write_recording("a.wav", waveform, subtype="FLOAT"), "--format", "csv")
    assert outcome.output.splitlines()[0] == HEADER
    assert [(float(row["start"]), float(row["end"])) for row in outcome.rows] == [(0, 8), (3.5, 11.5)]
    np.testing.assert_allclose(
        probabilities(outcome.rows[1]), reference_probabilities(checkpoint, waveform, 3.5, 11.5), atol=2e-5
    )


def test_window_and_hop_are_followed_and_the_hop_is_half_a_window_by_default(classify, write_recording):
    recording = write_recording("a.wav", noise(4))
    starts = [float(row["start"]) for row in classify(recording, "--window", 2, "--hop", 0.5, "--format", "csv").rows]
    assert starts == [0, 0.5, 1, 1.5, 2]
    starts = [float(row["start"]) for row in classify(recording, "--window", 2, "--format", "csv").rows]
    assert starts == [0, 1, 2]


def test_the_batch_size_does_not_change_the_result(classify, write_recording):
    recording = write_recording("a.wav", noise(5))
    one, many = (classify(recording, "--window", 1, "--format", "csv", "--batch-size", size).rows for size in (1, 16))
    assert len(one) == 9
    np.testing.assert_allclose([*map(probabilities, one)], [*map(probabilities, many)], atol=1e-5)


@pytest.mark.parametrize("rate", [4000, 10000, 44100])
def test_stereo_at_any_rate_is_mixed_down_and_resampled(classify, checkpoint, write_recording, rate):
    waveform = noise(2, rate=rate)
    stereo = write_recording("a.wav", np.stack([1.5 * waveform, 0.5 * waveform], axis=1), rate, subtype="FLOAT")
    row = classify(stereo, "--format", "csv").rows[0]
    mono = write_recording("b.wav", waveform, rate, subtype="FLOAT")
    expected = reference_probabilities(checkpoint, read_audio(mono), 0, 2)
    assert float(row["end"]) == pytest.approx(2, abs=1e-3)
    np.testing.assert_allclose(probabilities(row), expected, atol=1e-4)


def test_a_folder_is_searched_for_all_formats_in_order_of_names(classify, write_recording, tmp_path):
    for name in ("b.flac", "a.WAV", "deep/er/c.ogg", "d.mp3", ".hidden.wav"):
        write_recording(name)
    (tmp_path / "notes.txt").write_text("no recording")
    outcome = classify(tmp_path, "--format", "csv")
    assert outcome.exit_code == 0
    assert [row["file"] for row in outcome.rows] == [
        str(tmp_path / name) for name in ("a.WAV", "b.flac", "d.mp3", "deep/er/c.ogg")
    ]


def test_files_keep_the_order_of_the_arguments_and_come_once(classify, write_recording, tmp_path):
    second, first = write_recording("b.wav"), write_recording("a.wav")
    outcome = classify(second, tmp_path, "--format", "csv")
    assert [row["file"] for row in outcome.rows] == [str(second), str(first)]


def test_recordings_that_link_to_one_file_each_get_their_rows(classify, write_recording, tmp_path):
    blob = write_recording("blobs/0123abc.wav")
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for name in ("left.wav", "right.wav"):
        (snapshot / name).symlink_to(blob)
    (tmp_path / "linked").symlink_to(snapshot)
    outcome = classify(snapshot, tmp_path / "linked", snapshot / "left.wav", "--format", "csv")
    assert [row["file"] for row in outcome.rows] == [str(snapshot / name) for name in ("left.wav", "right.wav")]


def test_each_recording_of_a_folder_gets_the_annotations_of_its_name(classify, write_recording, tmp_path):
    folder = tmp_path / "annotations"
    folder.mkdir()
    for name, label in (("a", "1\t0"), ("b", "0\t1")):
        write_recording(f"{name}.wav")
        (folder / f"{name}.txt").write_text(f"0.5\t1.5\t{label}\n")
    outcome = classify(tmp_path, "--annotations", folder, "--format", "csv")
    assert [row["reference"] for row in outcome.rows] == ["crackle", "wheeze"]


def test_json_says_the_same_as_csv(classify, write_recording, tmp_path):
    recording = write_recording("a.wav")
    (tmp_path / "a.txt").write_text(ANNOTATIONS)
    options = (recording, "--annotations", tmp_path)
    rows = classify(*options, "--format", "csv").rows
    (found,) = json.loads(classify(*options, "--format", "json").output)
    assert (found["file"], found["duration"]) == (str(recording), 3.0)
    for segment, row in zip(found["timeline"], rows, strict=True):
        assert [segment[name] for name in ("label", "reference")] == [row[name] for name in ("label", "reference")]
        assert [str(segment[name]) for name in ("start", "end")] == [row[name] for name in ("start", "end")]
        assert [str(segment["probabilities"][name]) for name in NAMES] == [row[name] for name in NAMES]
        assert str(segment["abstained"]).lower() == row["abstained"]
        assert ";".join(segment["flags"]) == row["flags"]
    assert len(found["timeline"]) == 3
    assert found["quality"] == []
    assert found["summary"]["abstained_share"] == pytest.approx(
        sum(segment["end"] - segment["start"] for segment in found["timeline"] if segment["abstained"]) / 2.7
    )


def test_the_table_sums_up_each_recording(classify, write_recording, tmp_path):
    recording = write_recording("a.wav")
    (tmp_path / "a.txt").write_text(ANNOTATIONS)
    lines = classify(recording, "--annotations", tmp_path).output.splitlines()
    assert lines[0].startswith(f"{recording}: 3.0 s, 3 cycles: ")
    assert lines[0].endswith("of 3 as annotated")
    assert lines[1].split() == ["start", "end", "label", *NAMES, "reference"]
    assert [line.split()[-1] for line in lines[2:5]] == ["normal", "both", "wheeze"]


def test_output_is_written_in_the_format_of_its_suffix_and_nothing_is_printed(classify, write_recording, tmp_path):
    recording, output = write_recording("a.wav"), tmp_path / "results.json"
    output.write_text("old")
    outcome = classify(recording, "--output", output)
    assert outcome == (0, "", [])
    assert json.loads(output.read_text())[0]["file"] == str(recording)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.wav", "results.json"]


def test_output_keeps_an_old_file_when_nothing_could_be_classified(classify, tmp_path):
    output = tmp_path / "results.csv"
    output.write_text("old")
    outcome = classify(tmp_path / "missing.wav", "--output", output)
    assert outcome.exit_code == 2
    assert output.read_text() == "old"


def test_a_format_goes_before_the_suffix(classify, write_recording, tmp_path):
    classify(write_recording("a.wav"), "--output", tmp_path / "results.json", "--format", "csv")
    assert (tmp_path / "results.json").read_text().startswith("file,start,end,label")


def test_a_file_name_that_is_no_text_is_written_escaped(classify, monkeypatch, tmp_path):
    path = tmp_path / os.fsdecode(b"\xff.wav")
    recording = load_recording({"raw": noise(2), "sampling_rate": RATE, "path": str(path)})
    monkeypatch.setattr("lung_srad_cli.classify_command.load_recording", lambda path, rate: recording)
    outcome = classify(path, "--output", tmp_path / "results.csv")
    assert outcome == (0, "", [])
    assert "\\udcff.wav" in (tmp_path / "results.csv").read_text(encoding="utf-8")


@pytest.mark.parametrize("suffix", [".png", ".svg", ".PNG"])
def test_the_plot_of_one_recording_has_the_name_given(classify, write_recording, tmp_path, suffix):
    plot = tmp_path / f"timeline{suffix}"
    outcome = classify(write_recording("a.wav"), "--plot", plot)
    assert outcome.exit_code == 0
    assert outcome.errors == []
    content = plot.read_bytes()
    if suffix == ".svg":
        assert b"<svg" in content[:1000]
    else:
        assert content[:8] == b"\x89PNG\r\n\x1a\n"
        width, height = (int.from_bytes(content[first : first + 4], "big") for first in (16, 20))
        assert 800 <= width <= 4000
        assert 500 <= height <= 2000
        assert len(content) > 20_000


def test_plots_of_several_recordings_get_their_names(classify, write_recording, tmp_path):
    recordings = [write_recording("a.wav"), write_recording("b.wav")]
    assert classify(*recordings, "--plot", tmp_path / "plot.png").exit_code == 0
    assert classify(*recordings, "--plot", tmp_path / "plots").exit_code == 0
    written = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.png"))
    assert written == ["plot_a.png", "plot_b.png", "plots/a.png", "plots/b.png"]


def test_a_plot_that_cannot_be_written_does_not_lose_the_result(classify, write_recording, monkeypatch, tmp_path):
    def fail(figure, path):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("modeling_lung_srad.files.plots.save_figure", fail)
    outcome = classify(write_recording("a.wav"), "--plot", tmp_path / "plot.png", "--format", "csv")
    assert outcome.exit_code == 2
    assert len(outcome.rows) == 1
    assert "No space left" in outcome.errors[0]


def test_the_default_checkpoint_is_the_embedded_one(run, write_recording, monkeypatch, checkpoint):
    assert DEFAULT_CHECKPOINT.parts[-3:] == ("modeling_lung_srad", "checkpoints", "lung-srad-tiny")
    monkeypatch.setattr("modeling_lung_srad.checkpoint_loading.DEFAULT_CHECKPOINT", checkpoint)
    assert run("classify", write_recording("a.wav")).exit_code == 0


def test_native_icbhi_recordings_are_classified_by_their_annotations(classify):
    folder = shared_path("data/icbhi_native")
    outcome = classify(folder, "--annotations", folder, "--format", "csv")
    assert outcome.exit_code == 0
    assert len({row["file"] for row in outcome.rows}) == len(list(folder.glob("*.wav")))
    assert len(outcome.rows) == sum(len(path.read_text().splitlines()) for path in folder.glob("*_*.txt"))
    first = soundfile.info(outcome.rows[0]["file"])
    assert float(outcome.rows[0]["end"]) <= first.duration


def test_quality_flags_and_abstention_reach_the_csv_and_the_table(classify, write_recording):
    waveform = noise(18)
    waveform[: 9 * RATE] = 0
    recording = write_recording("a.wav", waveform)
    rows = classify(recording, "--format", "csv", "--min-confidence", 0).rows
    assert [row["abstained"] for row in rows] == ["true", "false", "false", "false"]
    assert rows[0]["flags"].split(";")[0] == "silence"
    assert "silence" not in rows[-1]["flags"]
    assert "  silence: " in classify(recording).output
    rows = classify(recording, "--format", "csv", "--min-confidence", 1).rows
    assert [row["abstained"] for row in rows] == ["true"] * 4


def test_parquet_is_written_and_refused_as_text(classify, write_recording, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    recording = write_recording("a.wav")
    assert classify(recording, "--output", tmp_path / "a.parquet").exit_code == 0
    assert parquet.read_table(tmp_path / "a.parquet")["file"].to_pylist() == [str(recording)]
    outcome = classify(recording, "--format", "parquet")
    assert outcome.exit_code == 2
    assert "name its file by --output" in outcome.errors[0]


def test_names_control_no_terminal_no_spreadsheet_and_no_line(classify, write_recording, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    names = ["=cmd|' x.wav", "esc\x1b[31m.wav", "line\rfeed\n.wav", "ok.wav"]
    for name in names:
        write_recording(name)
    shown = ["./=cmd|' x.wav", "esc\\x1b[31m.wav", "line\\rfeed\\n.wav", "ok.wav"]
    outcome = classify(*names, "--format", "csv")
    assert [row["file"] for row in outcome.rows] == shown
    assert [result["file"] for result in json.loads(classify(*names, "--format", "json").output)] == shown
    assert "\x1b" not in classify(*names).output
    errors = classify("missing\x1b[31m.wav").errors
    assert errors[0].startswith("lung-srad: error: missing\\x1b[31m.wav: no such file")


def test_an_empty_checkpoint_is_not_the_embedded_one(run, write_recording):
    outcome = run("classify", write_recording("a.wav"), "--checkpoint", "")
    assert outcome.exit_code == 2
    assert "the path is empty" in outcome.errors[0]


@pytest.fixture
def chosen_backends(monkeypatch):
    """Back ends of the scan that the models of the command got."""
    chosen = []

    def choose(elements):
        chosen.append("numba" if elements > 2**25 else "torch")
        return "torch"

    monkeypatch.setattr("modeling_lung_srad.modeling_lung_srad.choose_cpu_backend", choose)
    return chosen


@pytest.mark.parametrize(("seconds", "backend"), [(20, "torch"), (600, "numba")])
def test_the_scan_is_chosen_for_all_recordings_before_they_are_shared_out_or_found_done(
    run, monkeypatch, write_recording, tmp_path, chosen_backends, seconds, backend
):
    """So that another process, or a run that goes on after an interruption, takes the same one."""
    for name in ("a.wav", "b.wav"):
        write_recording(name, np.zeros(seconds * 500, np.float32), rate=1000)
    monkeypatch.setattr("lung_srad_cli.classify_command.classify_jobs", lambda jobs, *others: iter(()))
    run("classify", tmp_path, "--format", "csv")
    monkeypatch.setattr("lung_srad_cli.classify_command._is_done", lambda job, journal: job.recording.name == "a.wav")
    run("classify", tmp_path, "--output", tmp_path / "out.csv")
    assert chosen_backends == [backend, backend]


def test_one_recording_does_not_load_the_compiler(write_recording):
    recording = write_recording("a.wav", noise(20, rate=4000), 4000)
    script = (
        "import sys\n"
        "from lung_srad_cli import main\n"
        "assert main(sys.argv[1:]) == 0\n"
        "sys.exit('numba' in sys.modules)\n"
    )
    command = [sys.executable, "-c", script, "classify", str(recording), "--format", "csv"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) > 4


def test_recordings_may_be_listed_in_a_file_or_on_standard_input(classify, write_recording, tmp_path, monkeypatch):
    recordings = [write_recording(name, noise(3, seed)) for seed, name in enumerate(("a.wav", "b c.wav"))]
    text = "\n".join(map(str, recordings)) + "\n\n"
    (tmp_path / "list.txt").write_text(text)
    expected = classify(*recordings, "--format", "csv").output
    assert classify(f"@{tmp_path / 'list.txt'}", "--format", "csv").output == expected
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    assert classify("-", "--format", "csv").output == expected
    outcome = classify("@nosuch.txt")
    assert outcome.exit_code == 2
    assert "nosuch.txt: no such file; name a text file" in outcome.errors[0]


def test_files_of_a_folder_that_are_left_out_are_named(classify, write_recording, tmp_path):
    write_recording("a.wav", noise(3, 0))
    for name in ("b.ape", "c.docx", "a.txt", ".hidden"):
        (tmp_path / name).write_text("x")
    outcome = classify(tmp_path, "--format", "csv")
    assert outcome.exit_code == 0
    assert f"{tmp_path}: 2 files are left out: b.ape, c.docx" in outcome.errors
    archive = shutil.make_archive(f"{tmp_path} zipped", "zip", tmp_path)
    assert f"{archive}: 2 files are left out: b.ape, c.docx" in classify(archive).errors


def test_a_file_of_a_phone_in_a_folder_is_not_left_out(classify, tmp_path, monkeypatch):
    monkeypatch.setattr("modeling_lung_srad.containers.av", None)
    (tmp_path / "a.m4a").write_bytes(b"\0\0\0\x1cftypM4A " + bytes(100))
    outcome = classify(tmp_path)
    assert outcome.exit_code == 2
    assert "a.m4a: is MPEG-4 (m4a, mp4, 3gp); install PyAV" in outcome.errors[0]


@pytest.mark.parametrize("name", ["results.xlsx", "results.jsonl"])
def test_an_unknown_suffix_is_refused(classify, write_recording, tmp_path, name):
    outcome = classify(write_recording("a.wav", noise(3, 0)), "--output", tmp_path / name)
    assert outcome.exit_code == 2
    assert "says no format; use .csv (csv), .json (json), .parquet (parquet), .txt (table), or" in outcome.errors[0]
    assert not (tmp_path / name).exists()


def test_one_row_a_recording(classify, write_recording, tmp_path):
    recordings = [write_recording(name, noise(3, seed)) for seed, name in enumerate(("a.wav", "b.wav"))]
    outcome = classify(*recordings, "--summary", "--bom", "--output", tmp_path / "summary.csv")
    assert outcome.exit_code == 0
    lines = (tmp_path / "summary.csv").read_text(encoding="utf-8-sig").splitlines()
    assert lines[0] == "file,duration,sampling_rate,label,crackle_share,wheeze_share,abstained_share,flags"
    assert len(lines) == 3


def test_labels_for_audacity_are_of_one_recording(classify, write_recording):
    recordings = [write_recording(name, noise(3, seed)) for seed, name in enumerate(("a.wav", "b.wav"))]
    outcome = classify(*recordings, "--format", "audacity")
    assert outcome.exit_code == 2
    assert "has labels of one recording, and 2 are given" in outcome.errors[0]
    assert len(classify(recordings[0], "--format", "audacity").output.split("\t")) == 3


def test_a_short_clip_is_marked_in_every_row(classify, write_recording):
    (row,) = classify(write_recording("a.wav", noise(0.3, 0)), "--format", "csv").rows
    assert "too_short" in row["flags"].split(";")
