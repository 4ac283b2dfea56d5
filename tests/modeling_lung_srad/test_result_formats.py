import csv
import io
import json

from modeling_lung_srad.classify import ClassifiedCycle, ClassifiedRecording
from modeling_lung_srad.result_formats import csv_text, json_text, table_text

RECORDINGS = [
    ClassifiedRecording(
        'a, "b".wav',
        3.5,
        (
            ClassifiedCycle(0.25, 1.125, (0.5, 0.25, 0.125, 0.125), "normal"),
            ClassifiedCycle(1.125, 3.5, (0.1, 0.2, 0.3, 0.4), "wheeze"),
        ),
    ),
    ClassifiedRecording("c.wav", 1 / 3, (ClassifiedCycle(0, 1 / 3, (0.0, 1.0, 0.0, 0.0), "crackle"),)),
]


def test_csv_is_a_header_and_a_row_per_cycle():
    assert "".join(csv_text(RECORDINGS)) == (
        "file,start,end,label,normal,crackle,wheeze,both\n"
        '"a, ""b"".wav",0.25,1.125,normal,0.5,0.25,0.125,0.125\n'
        '"a, ""b"".wav",1.125,3.5,both,0.1,0.2,0.3,0.4\n'
        "c.wav,0,0.333333,crackle,0.0,1.0,0.0,0.0\n"
    )


def test_the_reference_is_the_last_column():
    rows = list(csv.DictReader(io.StringIO("".join(csv_text(RECORDINGS, with_reference=True)))))
    assert list(rows[0])[-1] == "reference"
    assert [row["reference"] for row in rows] == ["normal", "wheeze", "crackle"]


def test_json_is_one_object_per_recording():
    found = json.loads("".join(json_text(RECORDINGS)))
    assert [(recording["file"], recording["duration"]) for recording in found] == [
        ('a, "b".wav', 3.5),
        ("c.wav", 0.333333),
    ]
    assert found[0]["cycles"][1] == {
        "start": 1.125,
        "end": 3.5,
        "label": "both",
        "normal": 0.1,
        "crackle": 0.2,
        "wheeze": 0.3,
        "both": 0.4,
    }


def test_nothing_classified_is_still_a_document():
    assert json.loads("".join(json_text([]))) == []
    assert "".join(csv_text([])).count("\n") == 1
    assert "".join(table_text([])) == ""


def test_the_table_is_aligned_and_summed_up():
    assert "".join(table_text(RECORDINGS, with_reference=True)) == (
        'a, "b".wav: 3.5 s, 2 cycles: 1 normal, 1 both; 1 of 2 as annotated\n'
        "    start       end  label     normal  crackle   wheeze     both  reference\n"
        "    0.250     1.125  normal     0.500    0.250    0.125    0.125  normal\n"
        "    1.125     3.500  both       0.100    0.200    0.300    0.400  wheeze\n"
        "\n"
        "c.wav: 0.3 s, 1 cycle: 1 crackle; 1 of 1 as annotated\n"
        "    start       end  label     normal  crackle   wheeze     both  reference\n"
        "    0.000     0.333  crackle    0.000    1.000    0.000    0.000  crackle\n"
    )
    assert "".join(table_text(RECORDINGS[1:])).startswith("c.wav: 0.3 s, 1 window: 1 crackle\n")


def test_each_recording_is_written_before_the_next_one_is_classified():
    for text_of in (csv_text, json_text, table_text):
        asked_for = []
        pieces = text_of(recording for recording in RECORDINGS if not asked_for.append(recording.file))
        while "c.wav" not in next(pieces):
            assert "c.wav" not in asked_for
