import csv
import io
import json

import pytest

from dataset_scripts.cycles import read_annotations
from modeling_lung_srad.files.result_formats import (
    Layout,
    audacity_text,
    csv_text,
    json_text,
    raven_text,
    table_text,
    write_parquet,
)
from tests.modeling_lung_srad.segments import recording_result, segment

QUALITY = {"flag": "low_level", "message": "Faint; record again.", "value": -61.23456789, "spans": []}
RECORDINGS = [
    recording_result(
        'a, "b".wav',
        3.5,
        segment(0.25, 1.125, (0.5, 0.25, 0.125, 0.125), reference="normal"),
        segment(1.125, 3.5, (0.1, 0.2, 0.3, 0.4), abstained=True, flags=["silence", "low_level"], reference="wheeze"),
        quality=[QUALITY],
    ),
    recording_result("c.wav", 1 / 3, segment(0, 1 / 3, (0.0, 1.0, 0.0, 0.0), reference="crackle")),
]


def test_csv_is_a_header_and_a_row_per_segment():
    assert "".join(csv_text(RECORDINGS)) == (
        "file,start,end,label,normal,crackle,wheeze,both,abstained,flags\n"
        '"a, ""b"".wav",0.25,1.125,normal,0.5,0.25,0.125,0.125,false,\n'
        '"a, ""b"".wav",1.125,3.5,both,0.1,0.2,0.3,0.4,true,silence;low_level\n'
        "c.wav,0,0.333333,crackle,0.0,1.0,0.0,0.0,false,\n"
    )


def test_the_reference_is_the_last_column():
    rows = list(csv.DictReader(io.StringIO("".join(csv_text(RECORDINGS, Layout(with_reference=True))))))
    assert list(rows[0])[-1] == "reference"
    assert [row["reference"] for row in rows] == ["normal", "wheeze", "crackle"]


def test_json_is_the_answer_of_the_pipeline_with_rounded_numbers():
    found = json.loads("".join(json_text(RECORDINGS)))
    assert found[0].pop("summary")["abstained_share"] == round(19 / 26, 6)
    assert found[0].pop("quality") == [QUALITY | {"value": -61.234568}]
    assert found[0].items() <= RECORDINGS[0].items()
    assert found[1]["duration"] == found[1]["timeline"][0]["end"] == 0.333333


def test_parquet_has_the_rows_of_the_csv_with_types(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    write_parquet(tmp_path / "a.parquet", RECORDINGS, Layout(with_reference=True))
    table = parquet.read_table(tmp_path / "a.parquet")
    rows = list(csv.DictReader(io.StringIO("".join(csv_text(RECORDINGS, Layout(with_reference=True))))))
    assert table.column_names == list(rows[0])
    for row, expected in zip(table.to_pylist(), rows, strict=True):
        assert row.pop("flags") == [name for name in expected.pop("flags").split(";") if name]
        assert row.pop("abstained") is (expected.pop("abstained") == "true")
        assert {name: type(value)(expected[name]) for name, value in row.items()} == row


def test_parquet_of_nothing_and_of_a_name_that_is_no_text(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    write_parquet(tmp_path / "empty.parquet", [])
    assert parquet.read_table(tmp_path / "empty.parquet").num_rows == 0
    write_parquet(tmp_path / "a.parquet", [recording_result("\udcff.wav", 1.0, segment(0, 1, (1, 0, 0, 0)))])
    assert parquet.read_table(tmp_path / "a.parquet")["file"].to_pylist() == ["\\udcff.wav"]


def test_nothing_classified_is_still_a_document():
    assert json.loads("".join(json_text([]))) == []
    assert "".join(csv_text([])).count("\n") == 1
    assert "".join(table_text([])) == ""


def test_the_table_is_aligned_and_summed_up():
    assert "".join(table_text(RECORDINGS, Layout(with_reference=True))) == (
        'a, "b".wav: 3.5 s, 2 cycles: 1 normal, 1 unsure; crackle in 0%, wheeze in 0% of the time; '
        "1 of 2 as annotated\n"
        "    start       end  label      normal  crackle   wheeze     both  reference\n"
        "    0.250     1.125  normal      0.500    0.250    0.125    0.125  normal\n"
        "    1.125     3.500  both?       0.100    0.200    0.300    0.400  wheeze\n"
        "  ?: not sure enough to answer (--min-confidence), or nothing to hear\n"
        "  low level: Faint; record again.\n"
        "\n"
        "c.wav: 0.3 s, 1 cycle: 1 crackle; crackle in 100%, wheeze in 0% of the time; 1 of 1 as annotated\n"
        "    start       end  label      normal  crackle   wheeze     both  reference\n"
        "    0.000     0.333  crackle     0.000    1.000    0.000    0.000  crackle\n"
    )
    windows = recording_result("c.wav", 1.0, segment(0, 1, (1, 0, 0, 0)), cycles_given=False)
    assert "".join(table_text([windows])).startswith("c.wav: 1.0 s, 1 window: 1 normal; ")


def test_each_recording_is_written_before_the_next_one_is_classified():
    for text_of in (csv_text, json_text, table_text):
        asked_for = []
        pieces = text_of(recording for recording in RECORDINGS if not asked_for.append(recording["file"]))
        while "c.wav" not in next(pieces):
            assert "c.wav" not in asked_for


def test_a_summary_has_a_row_a_recording(tmp_path):
    layout = Layout(summary=True, byte_order_mark=True)
    text = "".join(csv_text(RECORDINGS, layout))
    assert text.startswith("\ufefffile,duration")
    rows = list(csv.DictReader(io.StringIO(text.removeprefix("\ufeff"))))
    assert [row["label"] for row in rows] == ["normal", "crackle"]
    assert rows[0]["flags"] == "low_level"
    assert (rows[1]["crackle_share"], rows[1]["duration"]) == ("1.0", "0.333333")
    answers = json.loads("".join(json_text(RECORDINGS, layout)))
    assert all("summary" in answer and "timeline" not in answer for answer in answers)
    assert "".join(table_text(RECORDINGS, layout)).count("\n") == 2
    parquet = pytest.importorskip("pyarrow.parquet")
    write_parquet(tmp_path / "a.parquet", RECORDINGS, layout)
    table = parquet.read_table(tmp_path / "a.parquet").to_pylist()
    assert [row["flags"] for row in table] == [["low_level"], []]
    assert [row["label"] for row in table] == ["normal", "crackle"]


def test_labels_for_audacity_and_raven_are_read_again(tmp_path):
    spans = [(item["start"], item["end"]) for item in RECORDINGS[0]["timeline"]]
    for name, text_of in (("a.txt", audacity_text), ("b.txt", raven_text)):
        path = tmp_path / name
        path.write_text("".join(text_of(RECORDINGS[:1])))
        cycles = read_annotations(path, duration=3.5)
        assert [(cycle.start, cycle.end) for cycle in cycles] == spans
        assert [cycle.label for cycle in cycles] == [0, 3]
    rows = list(csv.DictReader((tmp_path / "b.txt").open(), delimiter="\t"))
    assert [row["Begin File"] for row in rows] == ['a, "b".wav'] * 2


@pytest.mark.parametrize(
    ("flags", "abstained", "said"),
    [
        (["unfamiliar"], False, "no answer: it is unlike the lung sounds"),
        ([], True, "no answer: the model is not sure enough of any part"),
        (["silence"], True, "no answer: there is no sound to judge"),
        ([], False, "crackle in 0%"),
    ],
)
def test_no_share_is_stated_without_an_answer(flags, abstained, said):
    result = recording_result("c.wav", 1.0, segment(0, 1, (1, 0, 0, 0), abstained=abstained, flags=flags))
    (line,) = "".join(table_text([result], Layout(summary=True))).splitlines()
    assert said in line
    assert ("%" in line) == said.endswith("%")
