"""The official, leak-free and five-fold splits of ICBHI 2017."""

import pytest

from dataset_scripts.icbhi_splits import (
    FOLD_PATIENTS,
    LEAKED_RECORDINGS,
    PATIENTS,
    SPLITS,
    TEST_PATIENTS,
    assign_parts,
    parse_recording_name,
    published_counts,
    read_split_file,
)
from modeling_lung_srad.errors import InputError
from tests.conftest import shared_path


def test_name_of_a_recording_is_taken_apart():
    name = parse_recording_name("156_2b3_Al_mc_AKGC417L")
    assert (name.patient, name.index, name.location) == ("156", "2b3", "Al")
    assert (name.acquisition_mode, name.device) == ("mc", "AKGC417L")
    for other in ("ICBHI_challenge_train_test", "101_1b1_Al_Meditron", "._101_1b1_Al_sc_Meditron", "notes"):
        assert parse_recording_name(other) is None


def test_known_official_split_is_the_published_one():
    listed = read_split_file(shared_path("data/icbhi_official_split.txt"))
    assert assign_parts(listed, "official") == listed
    assert sorted(listed.values()) == ["test"] * 381 + ["train"] * 539


def test_leak_free_split_has_no_patient_on_both_sides():
    listed = shared_path("data/icbhi_official_split.txt")
    names = list(read_split_file(listed))
    parts = assign_parts(names, "leak_free")
    assert set(names) - set(parts) == LEAKED_RECORDINGS
    assert assign_parts(names, "leak_free", listed) == parts
    sides = [{name[:3] for name, part in parts.items() if part == side} for side in ("train", "test")]
    assert not sides[0] & sides[1]
    assert sides[1] == TEST_PATIENTS


def test_folds_take_every_patient_once():
    assert sum(len(fold) for fold in FOLD_PATIENTS) == len(PATIENTS) == 126
    names = [f"{patient}_1b1_Al_sc_Meditron" for patient in sorted(PATIENTS)]
    tested = [name for fold in range(5) for name, part in assign_parts(names, f"fold{fold}").items() if part == "test"]
    assert sorted(tested) == names


def test_published_counts_add_up():
    for split in SPLITS:
        counts = published_counts(split)
        left_out = (12, 120) if split == "leak_free" else (0, 0)
        assert counts["train"][0] + counts["test"][0] + left_out[0] == 920
        assert counts["train"][1] + counts["test"][1] + left_out[1] == 6898


def test_split_file_wins_over_the_known_split(tmp_path):
    (tmp_path / "a.txt").write_text("101_1b1_Al_sc_Meditron\ttrain\n101_1b1_Pr_sc_Meditron.wav TEST\n\n")
    names = ["101_1b1_Al_sc_Meditron", "101_1b1_Pr_sc_Meditron"]
    assert assign_parts(names, "official") == dict.fromkeys(names, "test")
    assert list(assign_parts(names, "official", tmp_path / "a.txt").values()) == ["train", "test"]
    assert assign_parts(names, "leak_free", tmp_path / "a.txt") == {names[0]: "train"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("101_1b1_Al_sc_Meditron\ttrain\n102_1b1_Ar_sc_Meditron\n", "line 2: .* is not a recording and its part"),
        ("101_1b1_Al_sc_Meditron\tvalidation\n", "line 1: .*; write the name, a tab, and train or test"),
        ("101_1b1_Al_sc_Meditron\ttrain\n101_1b1_Al_sc_Meditron\ttest\n", "line 2: .* is in both parts"),
        ("\n", "names no recordings"),
        ("102_1b1_Ar_sc_Meditron\ttest\n", "does not name 101_1b1_Al_sc_Meditron; add it"),
    ],
)
def test_bad_split_file_names_file_and_line(tmp_path, text, message):
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(InputError, match=message) as error:
        assign_parts(["101_1b1_Al_sc_Meditron"], "official", tmp_path / "a.txt")
    assert str(error.value).startswith(f"{tmp_path / 'a.txt'}: ")


def test_unknown_split_or_patient_is_an_error():
    with pytest.raises(InputError, match="split: 'fold5' is not known; choose one of official, leak_free, fold0"):
        assign_parts([], "fold5")
    with pytest.raises(InputError, match="patient 300 is in no fold"):
        assign_parts(["300_1b1_Al_sc_Meditron"], "fold0")
