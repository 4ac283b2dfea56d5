"""Annotation files and the way from a recording to the waveform of a cycle."""

import math

import numpy as np
import pytest
import soundfile
from safetensors.numpy import load_file

from dataset_scripts.cycles import CLASS_NAMES, Cycle, class_label, decode_cycle, read_annotations, write_annotations
from modeling_lung_srad.errors import InputError
from tests.conftest import shared_path

GOOD = "0.036\t0.579\t0\t0\n0.579\t2.45\t1\t0\n2.45\t3.893\t0\t1\n3.893\t5.793\t1\t1\n"


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_annotations_are_read_in_order(tmp_path):
    cycles = read_annotations(write(tmp_path / "a.txt", GOOD), duration=20.0)
    assert cycles == [Cycle(0.036, 0.579, 0), Cycle(0.579, 2.45, 1), Cycle(2.45, 3.893, 2), Cycle(3.893, 5.793, 3)]


@pytest.mark.parametrize(
    "text", ["﻿" + GOOD, GOOD.replace("\n", "\r\n"), GOOD + "\n\n", GOOD.replace("\n", "\t\n"), GOOD.rstrip()]
)
def test_marks_blank_lines_and_line_ends_of_editors_are_accepted(tmp_path, text):
    path = tmp_path / "a.txt"
    path.write_bytes(text.encode("utf-8"))
    assert len(read_annotations(path)) == 4


def test_written_annotations_read_back_the_same(tmp_path):
    cycles = read_annotations(write(tmp_path / "a.txt", GOOD))
    write_annotations(tmp_path / "b.txt", cycles)
    assert read_annotations(tmp_path / "b.txt") == cycles
    with pytest.raises(ValueError, match="lacks a label"):
        write_annotations(tmp_path / "c.txt", [Cycle(0.0, 1.0)])


def test_labels_are_named_by_what_is_heard():
    names = [CLASS_NAMES[class_label(crackle, wheeze)] for wheeze in (False, True) for crackle in (False, True)]
    assert names == ["normal", "crackle", "wheeze", "both"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "contains no cycles"),
        (" \n\n", "contains no cycles"),
        (GOOD + "6.0\t5.9\t0\t0\n", "line 5: end 5.9 s is not after start 6 s; correct"),
        ("0.5\t1.0\t0\t0\n\n0.5\t1.0\t1\t0\n", "line 3: has the times of line 1; remove one of the two"),
        ("1.0\t1.0\t0\t0\n", "line 1: end 1 s is not after start 1 s"),
        ("-0.5\t1.0\t0\t0\n", "line 1: start: '-0.5' is not a time"),
        ("nan\t1.0\t0\t0\n", "line 1: start: 'nan' is not a time"),
        ("0.5\tinf\t0\t0\n", "line 1: end: 'inf' is not a time"),
        ("0.5\t1.0e0\x1f9\t0\t0\n", r"line 1: end: '1.0e0\\x1f9' is not a number"),
        ("0.5\tlate\t0\t0\n", "line 1: end: 'late' is not a number"),
        ("0.5\t1.0\t0\t2\n", "line 1: wheeze: '2' is not 0 or 1"),
        ("0.5\t1.0\tyes\t0\n", "line 1: crackle: 'yes' is not 0 or 1"),
        ("0.5\t1.0\t0\n", "line 1: has 3 of 4 columns, wheeze missing"),
        ("0.5\t1.0\t0\t0\t7\n", "line 1: has 5 columns"),
        ("0.5,1.0,0,0\n", "line 1: columns are separated by commas; separate them by tabs"),
        ("0.5;1.0;0;0\n", "line 1: columns are separated by semicolons"),
        ("0.5 1.0 0 0\n", "line 1: columns are separated by spaces"),
        ("start\tend\tcrackle\twheeze\n0\t1\t0\t0\n", "line 1: start: 'start' is not a number"),
        ("19.0\t20.06\t0\t0\n", "line 1: end 20.06 s is beyond the recording of 20.000 s"),
        ("0\t1" + 308 * "0" + "\t0\t0\n", "line 1: end: '1000"),
        ("20.01\t20.04\t0\t0\n", "line 1: end 20.04 s is beyond the recording"),
    ],
)
def test_bad_annotation_names_file_line_and_remedy(tmp_path, text, message):
    path = write(tmp_path / "a.txt", text)
    with pytest.raises(InputError, match=message) as error:
        read_annotations(path, duration=20.0)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_separators_around_a_number_are_white_space(tmp_path):
    assert read_annotations(write(tmp_path / "a.txt", "0.5\t1.5\x1f\t0\t1\n")) == [Cycle(0.5, 1.5, 2)]


def test_file_that_is_no_text_file_is_an_error(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe0\x00\xe9")
    with pytest.raises(InputError, match="is not UTF-8 text"):
        read_annotations(tmp_path / "a.txt")
    with pytest.raises(InputError, match="no such file"):
        read_annotations(tmp_path / "b.txt")
    with pytest.raises(InputError, match="is a folder"):
        read_annotations(tmp_path)


def test_end_a_little_beyond_the_recording_is_cut(tmp_path):
    path = write(tmp_path / "a.txt", "19.0\t20.05\t0\t0\n")
    assert read_annotations(path, duration=20.0) == [Cycle(19.0, 20.0, 0)]


def test_all_published_annotations_are_read(icbhi_annotations):
    cycles = [cycle for path in icbhi_annotations.glob("*.txt") for cycle in read_annotations(path)]
    assert [sum(cycle.label == label for cycle in cycles) for label in range(4)] == [3642, 1864, 886, 506]
    seconds = [cycle.end - cycle.start for cycle in cycles]
    assert min(seconds) == pytest.approx(0.2)
    assert max(seconds) == pytest.approx(16.163)


def test_decoded_cycle_is_resampled_and_faded_with_its_recording(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.full(8000, 0.5), 8000)
    first = decode_cycle(tmp_path / "a.wav", 0.0, 0.25)
    second = decode_cycle(tmp_path / "a.wav", 0.25, 0.5)
    assert first.dtype == np.float32
    assert first.shape == second.shape == (4000,)
    assert first[0] == 0
    np.testing.assert_allclose(second, 0.5, atol=2e-3)
    with pytest.raises(InputError, match=r"a.wav: cycle: no audio between 3.0 s and 4.0 s of a recording of 1.000 s"):
        decode_cycle(tmp_path / "a.wav", 3.0, 4.0)
    with pytest.raises(InputError, match="no such file"):
        decode_cycle(tmp_path / "b.wav", 0.0, 1.0)


def test_changed_recording_is_read_again(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.full(16000, 0.5), 16000)
    assert decode_cycle(tmp_path / "a.wav", 0.4, 0.5).max() == 0.5
    soundfile.write(tmp_path / "a.wav", np.full(20000, 0.25), 16000)
    assert decode_cycle(tmp_path / "a.wav", 0.4, 0.5).max() == 0.25


def test_cycles_agree_with_the_published_network_waveform(tmp_path):
    golden = load_file(shared_path("golden/audio_pipeline.safetensors"))
    soundfile.write(tmp_path / "a.wav", golden["sr4000.pcm16"], 4000)
    for index, times in enumerate(golden["sr4000.annotations"]):
        # The fixture holds the milliseconds of the annotation in float32.
        start, end = (round(float(time), 3) for time in times)
        cycle = decode_cycle(tmp_path / "a.wav", start, end)
        repeated = np.tile(cycle, math.ceil(128000 / len(cycle)))[:128000]
        expected = golden[f"sr4000.cycle{index}.waveform_pcm16"] / 32768
        np.testing.assert_allclose(repeated[:-1000], expected[:-1000], atol=0.51 / 32768)


def test_labels_of_audacity_are_read(tmp_path):
    text = "0.5\t1.5\tFine crackles\n\\\t100.0\t2000.0\n1.5\t3.0\tnormal\n3.0\t4.0\tcough\n"
    cycles = read_annotations(write(tmp_path / "a.txt", text))
    assert cycles == [Cycle(0.5, 1.5, 1), Cycle(1.5, 3.0, 0), Cycle(3.0, 4.0, None)]


def test_tables_of_raven_are_read(tmp_path):
    head = "Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tLow Freq (Hz)\tHigh Freq (Hz)\tAnnotation\n"
    rows = [
        f"{number}\t{view}\t1\t{number}.0\t{number}.5\t0.0\t4000.0\t{label}\n"
        for number, label in ((1, "wheeze"), (2, "both"))
        for view in ("Waveform 1", "Spectrogram 1")
    ]
    assert read_annotations(write(tmp_path / "a.txt", head + "".join(rows))) == [
        Cycle(1.0, 1.5, 2),
        Cycle(2.0, 2.5, 3),
    ]
    with pytest.raises(InputError, match="line 2: has 2 of 8 columns"):
        read_annotations(write(tmp_path / "a.txt", head + "1\t2\n"))


@pytest.mark.parametrize("start", ["0.91_0", "٠.٥", "0x1", "1e", "0,5"])
def test_only_plain_numbers_are_times(tmp_path, start):
    with pytest.raises(InputError, match=r"line 1: start: .* is not a number"):
        read_annotations(write(tmp_path / "a.txt", f"{start}\t2.0\t0\t0\n"))


def test_a_long_field_is_not_echoed_whole(tmp_path):
    with pytest.raises(InputError) as error:
        read_annotations(write(tmp_path / "a.txt", f"{'9x' * 2500}\t2.0\t0\t0\n"))
    assert len(str(error.value)) < 300


def test_a_table_of_raven_without_a_time_is_named(tmp_path):
    text = "Selection\tBegin Time (s)\n1\t0.5\n"
    with pytest.raises(InputError, match=r"line 1: lacks the column 'end time \(s\)' of Raven; save"):
        read_annotations(write(tmp_path / "a.txt", text))
