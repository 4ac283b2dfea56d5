from dataclasses import fields

import numpy as np
import pytest

from modeling_lung_srad.errors import InputError
from tests.training.report.conftest import made_up_cycles, with_validation
from training.report.predictions import COLUMNS, CyclePredictions, read_predictions, write_predictions

HEADER = "recording,start,end,label,prediction,normal,crackle,wheeze,both,patient,device,location,part"
ROW = "101_1b1_Al_sc_Meditron,0.5,2.25,normal,crackle,0.25,0.5,0.125,0.125,101,Meditron,Al,test"


def test_what_is_written_is_read_back_exactly(tmp_path):
    cycles = with_validation(made_up_cycles())
    write_predictions(tmp_path / "predictions.csv", cycles)
    again = read_predictions(tmp_path / "predictions.csv")
    for field in fields(CyclePredictions):
        assert (getattr(again, field.name) == getattr(cycles, field.name)).all(), field.name
    assert set(again.part) == {"test", "validation"}


def test_columns_and_digits(tmp_path):
    write_predictions(tmp_path / "predictions.csv", made_up_cycles(3))
    lines = (tmp_path / "predictions.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == HEADER == ",".join(COLUMNS)
    assert len(lines) == 4
    assert len(lines[1].split(",")[5].lstrip("0.")) >= 8


def test_probabilities_too_small_for_single_precision_are_kept():
    table = {name: ["a"] for name in ("recording", "patient", "device", "location")}
    probabilities = np.array([[1.0, 1e-60, 0.0, 0.0]])
    cycles = CyclePredictions.from_table(table | {"start": [0.0], "end": [1.0], "label": [1]}, probabilities, "test")
    assert cycles.probabilities[0, 1] == 1e-60


def test_further_columns_and_a_byte_order_mark_do_no_harm(tmp_path):
    path = tmp_path / "predictions.csv"
    path.write_text(f"{HEADER},remark\n{ROW},mine\n", encoding="utf-8-sig")
    cycles = read_predictions(path)
    assert (cycles.recording[0], cycles.end[0], cycles.label[0], cycles.prediction[0]) == (
        ROW.split(",")[0],
        2.25,
        0,
        1,
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "lacks the column recording, start"),
        (HEADER, "contains no cycles"),
        (HEADER.replace(",part", "") + f"\n{ROW}", "lacks the column part"),
        (f"{HEADER}\n{ROW}\n{ROW.replace('0.25,0.5', '0.25,x')}", "line 3: crackle: 'x' is not a finite number"),
        (f"{HEADER}\n{ROW.replace('0.25,0.5', '0.25,nan')}", "line 2: crackle: 'nan' is not a finite number"),
        (f"{HEADER}\n{ROW.replace('0.25,0.5', '0.3,0.5')}", "do not add up to 1"),
        (f"{HEADER}\n{ROW.replace('0.25,0.5', '-0.25,1')}", "do not add up to 1"),
        (f"{HEADER}\n{ROW.replace('normal,crackle', 'rhonchi,crackle')}", "line 2: label: 'rhonchi' is not one of"),
        (f"{HEADER}\n{ROW.replace('normal,crackle', 'normal,wheeze')}", "prediction: 'wheeze' is not the class of"),
        (f"{HEADER}\n{ROW.replace(',test', ',dev')}", "line 2: part: 'dev' is not one of test, validation, train"),
        (f"{HEADER}\n{ROW[:40]}", "line 2"),
        (b"\xff\xfe\x00", "is not a CSV file in UTF-8"),
    ],
)
def test_file_that_cannot_be_used_is_named_with_line_and_field(tmp_path, content, message):
    path = tmp_path / "predictions.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as error:
        read_predictions(path)
    assert str(error.value).startswith(f"{path}: ")
    assert message in str(error.value)
    assert "evaluate again" in str(error.value)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere.csv: no such file"):
        read_predictions(tmp_path / "nowhere.csv")
