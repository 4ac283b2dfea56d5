"""Loading ICBHI 2017: layouts, splits, incomplete copies, counts."""

import logging
import math
import os
import shutil
import stat
import struct
import zipfile

import numpy as np
import pytest

from dataset_scripts import icbhi_files
from dataset_scripts.cycle_dataset import load_cycles
from dataset_scripts.icbhi import count_cycles, load_icbhi
from dataset_scripts.icbhi_files import count_annotations, describe_missing, read_recordings, scan_folder
from dataset_scripts.sprsound import load_sprsound
from modeling_lung_srad.audio import audio_duration
from modeling_lung_srad.errors import InputError
from tests.conftest import shared_path

COLUMNS = ["audio", "label", "recording", "patient", "device", "location", "acquisition_mode", "start", "end"]


@pytest.fixture
def copied_folder(tmp_path, simulated_folder):
    return shutil.copytree(simulated_folder, tmp_path / "copied")


@pytest.fixture
def warnings(monkeypatch, caplog):
    """Texts of the warnings of this test, as if nothing had been said before."""
    monkeypatch.setattr(icbhi_files, "_said", set())
    caplog.set_level(logging.WARNING, logger=icbhi_files.logger.name)
    return lambda: [record.getMessage() for record in caplog.records if record.name == icbhi_files.logger.name]


def test_counts_of_the_official_split_are_the_published_ones(icbhi_annotations):
    counts = count_cycles(icbhi_annotations)
    train, test = counts["train"], counts["test"]
    assert train == {
        "recordings": 539, "cycles": 4142, "normal": 2063, "crackle": 1215, "wheeze": 501, "both": 363,
    }  # fmt: skip
    assert test == {
        "recordings": 381, "cycles": 2756, "normal": 1579, "crackle": 649, "wheeze": 385, "both": 143,
    }  # fmt: skip


def test_counts_of_the_other_splits(icbhi_annotations):
    leak_free = count_cycles(icbhi_annotations, "leak_free")
    assert (leak_free["train"]["cycles"], leak_free["test"]["cycles"]) == (4142, 2636)
    tested = [count_cycles(icbhi_annotations, f"fold{fold}")["test"]["cycles"] for fold in range(5)]
    assert tested == [3455, 704, 536, 759, 1444]
    assert sum(tested) == 6898


def test_native_recordings_load(cache_dir):
    folder = shared_path("data/icbhi_native")
    loaded = load_icbhi(folder, cache_dir=cache_dir)
    assert loaded["test"].num_rows + loaded["train"].num_rows == sum(
        len(path.read_text().split("\n")) - 1 for path in folder.glob("*.txt")
    )
    for row in loaded["train"]:
        assert len(row["audio"]["array"]) == int(row["end"] * 16000) - int(row["start"] * 16000)


def test_schema_and_split_of_a_folder(simulated_folder, cache_dir):
    loaded = load_icbhi(simulated_folder, cache_dir=cache_dir)
    assert list(loaded) == ["train", "test"]
    assert loaded["train"].column_names == COLUMNS
    assert loaded["train"].features["label"].names == ["normal", "crackle", "wheeze", "both"]
    assert {part: len(rows) for part, rows in loaded.items()} == {"train": 48, "test": 32}
    assert set(loaded["test"]["patient"]) == {"107", "108", "109", "110"}
    row = loaded["train"][0]
    assert (row["recording"], row["device"], row["location"]) == ("101_1b1_Tc_sc_Simulated", "Simulated", "Tc")
    assert row["audio"]["array"].dtype == np.float32
    assert len(row["audio"]["array"]) == int(row["end"] * 16000) - int(row["start"] * 16000)


def test_validation_part_is_taken_from_train_without_a_common_patient(simulated_folder, cache_dir):
    loaded = load_icbhi(simulated_folder, validation=0.3, seed=1, cache_dir=cache_dir)
    assert list(loaded) == ["train", "validation", "test"]
    patients = {part: set(rows["patient"]) for part, rows in loaded.items()}
    assert not patients["train"] & patients["validation"]
    assert len(loaded["train"]) + len(loaded["validation"]) == 48
    assert patients["test"] == {"107", "108", "109", "110"}


def test_known_split_is_used_without_a_split_file(copied_folder, tmp_path):
    (copied_folder / "simulated_train_test.txt").unlink()
    loaded = load_icbhi(copied_folder, cache_dir=tmp_path / "cache")
    assert set(loaded["test"]["patient"]) == {"101", "102", "104", "109"}
    assert set(load_icbhi(copied_folder, "fold1", cache_dir=tmp_path / "cache")["test"]["patient"]) == {"101", "108"}


def test_files_may_lie_deeper_and_the_split_file_above_them(copied_folder, tmp_path):
    deeper = tmp_path / "download" / "ICBHI_final_database" / "audio_and_txt_files"
    deeper.parent.mkdir(parents=True)
    copied_folder.rename(deeper)
    (deeper / "simulated_train_test.txt").rename(tmp_path / "download" / "ICBHI_challenge_TRAIN_TEST.txt")
    (tmp_path / "download" / "__MACOSX").mkdir()
    assert len(load_icbhi(tmp_path / "download", cache_dir=tmp_path / "cache")["test"]) == 32


def test_two_split_files_are_an_error(copied_folder):
    (copied_folder / "other_train_test.txt").write_text("101_1b1_Al_sc_Meditron\ttrain\n")
    with pytest.raises(InputError, match="different split files; keep one"):
        load_icbhi(copied_folder)


def test_hidden_file_is_no_split_file(copied_folder, cache_dir):
    (split_file,) = copied_folder.glob("*train_test*")
    shutil.copy(split_file, copied_folder / f"._{split_file.name}")
    assert load_icbhi(copied_folder, cache_dir=cache_dir)["train"].num_rows == 48


@pytest.mark.parametrize("moved_to", ["more", "more/inner"])
def test_recordings_in_two_folders_are_an_error_that_names_both(copied_folder, moved_to):
    (copied_folder / moved_to).mkdir(parents=True)
    moved = sorted(copied_folder.glob("*.wav"))[-1]
    for file in (moved, moved.with_suffix(".txt")):
        file.rename(copied_folder / moved_to / file.name)
    message = rf"{copied_folder / moved_to}: has other recordings than {copied_folder}; put all into one folder"
    with pytest.raises(InputError, match=message):
        load_icbhi(copied_folder)
    shutil.copytree(copied_folder / moved_to, copied_folder, dirs_exist_ok=True)
    assert count_cycles(copied_folder)["train"]["cycles"] == 48


def test_incomplete_copy_works_and_says_once_what_is_missing(copied_folder, tmp_path, warnings):
    (copied_folder / "101_1b1_Tc_sc_Simulated.wav").unlink()
    (copied_folder / "110_2b1_Ar_sc_Simulated.txt").unlink(missing_ok=True)
    annotated = sorted(path.stem for path in copied_folder.glob("110*.txt"))
    for _ in range(2):
        loaded = load_icbhi(copied_folder, cache_dir=tmp_path / "cache")
    assert len(loaded["train"]) == 44
    assert len(loaded["test"]) == 32 - 4 * (2 - len(annotated))
    said = warnings()
    assert any("train has 11 of 12 recordings (44 cycles)" in text for text in said)
    assert any("1 annotations without audio are left out, 101_1b1_Tc_sc_Simulated first" in text for text in said)
    assert len(said) == len(set(said))


def test_part_of_the_real_database_says_what_is_missing(warnings, tmp_path):
    load_icbhi(shared_path("data/icbhi_native"), cache_dir=tmp_path)
    (said,) = warnings()
    assert "incomplete copy, split official: train has 6 of 539 recordings" in said
    assert "test has 1 of 381 recordings" in said
    assert "of 4,142 cycles" in said


def test_complete_copy_says_nothing(simulated_folder, cache_dir, warnings):
    load_icbhi(simulated_folder, cache_dir=cache_dir)
    load_icbhi(simulated_folder, split="leak_free", cache_dir=cache_dir)
    assert warnings() == []


def test_part_without_recordings_is_empty(copied_folder, tmp_path):
    for path in copied_folder.glob("1*"):
        if path.name[:3] > "106":
            path.unlink()
    loaded = load_icbhi(copied_folder, cache_dir=tmp_path / "cache")
    assert {part: len(rows) for part, rows in loaded.items()} == {"train": 48, "test": 0}
    assert loaded["test"].column_names == COLUMNS


def test_bad_files_are_named(copied_folder, tmp_path):
    annotation = copied_folder / "101_1b1_Tc_sc_Simulated.txt"
    good = annotation.read_text()
    annotation.write_text("1.0\t0.5\t0\t0\n" + good)
    with pytest.raises(InputError, match=rf"{annotation}: line 1: end 0\.5 s is not after"):
        load_icbhi(copied_folder, cache_dir=tmp_path / "cache")
    annotation.write_text(good + "60.0\t61.0\t0\t0\n")
    with pytest.raises(InputError, match=r"line 5: end 61 s is beyond the recording"):
        load_icbhi(copied_folder, cache_dir=tmp_path / "cache")
    annotation.write_text(good)
    audio = annotation.with_suffix(".wav")
    audio.write_text("no audio")
    with pytest.raises(InputError, match=f"{audio}: is not readable audio"):
        load_icbhi(copied_folder, cache_dir=tmp_path / "cache")


def test_published_annotation_may_end_a_little_beyond_its_recording(copied_folder, tmp_path):
    audio = copied_folder / "101_1b1_Tc_sc_Simulated.wav"
    duration = audio_duration(audio)
    audio.with_suffix(".txt").write_text(f"0.5\t{duration + 0.9:.3f}\t0\t0\n")
    row = load_icbhi(copied_folder, cache_dir=tmp_path / "cache")["train"][0]
    assert row["end"] == duration
    assert len(row["audio"]["array"]) > 16000


def test_wrong_arguments_and_folders_are_errors(tmp_path, simulated_folder):
    with pytest.raises(InputError, match="split: 'best' is not known"):
        load_icbhi(simulated_folder, split="best")
    with pytest.raises(InputError, match=r"validation: 1\.0 is not a fraction"):
        load_icbhi(simulated_folder, validation=1.0)
    with pytest.raises(InputError, match="contains no ICBHI recordings"):
        load_icbhi(tmp_path)
    with pytest.raises(InputError, match="no such folder; check the path, or pass download=True"):
        load_icbhi(tmp_path / "missing")
    (tmp_path / "101_1b1_Al_sc_Meditron.txt").write_text("0.0\t1.0\t0\t0\n")
    with pytest.raises(InputError, match="1 annotations but no audio to them"):
        load_icbhi(tmp_path)
    (tmp_path / "101_1b1_Al_sc_Meditron.txt").rename(tmp_path / "101_1b1_Al_sc_Meditron.wav")
    with pytest.raises(InputError, match=r"1 audio files but no annotations to them; add the \.txt files"):
        load_icbhi(tmp_path)


def test_empty_path_is_not_the_current_folder(copied_folder, monkeypatch):
    monkeypatch.chdir(copied_folder)
    for load in (load_icbhi, load_sprsound, load_cycles, count_cycles):
        with pytest.raises(InputError, match="data_dir: is empty; name a folder"):
            load("")


def test_cycle_too_short_for_the_features_is_named(copied_folder):
    annotation = copied_folder / "101_1b1_Tc_sc_Simulated.txt"
    annotation.write_text("1.0\t1.025\t0\t0\n1.1\t1.124\t0\t0\n")
    with pytest.raises(InputError, match=rf"{annotation}: line 2: 24 ms .* too short; at least 25 ms"):
        load_icbhi(copied_folder)


def zip_folder(folder, archive, prefix="ICBHI_final_database/"):
    with zipfile.ZipFile(archive, "w") as opened:
        for path in sorted(folder.iterdir()):
            opened.write(path, prefix + path.name)
    return archive


def test_zip_of_the_database_is_unpacked_to_the_cache(tmp_path, simulated_folder):
    archive = zip_folder(simulated_folder, tmp_path / "ICBHI_final_database.zip")
    for _ in range(2):
        loaded = load_icbhi(archive, cache_dir=tmp_path / "cache")
        assert {part: len(rows) for part, rows in loaded.items()} == {"train": 48, "test": 32}
    assert count_cycles(archive, cache_dir=tmp_path / "cache")["train"]["cycles"] == 48
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ICBHI_final_database.zip", "cache"]


def test_zip_without_recordings_is_named_itself(tmp_path):
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as opened:
        opened.writestr("notes.txt", "nothing")
    for load in (load_icbhi, count_cycles):
        with pytest.raises(InputError, match=rf"^{tmp_path / 'other.zip'}: contains no ICBHI recordings"):
            load(tmp_path / "other.zip", cache_dir=tmp_path / "cache")


def test_zip_that_cannot_be_unpacked_is_named_and_leaves_nothing(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as opened:
        opened.writestr("101_1b1_Al_sc_Meditron.txt", "0.0\t1.0\t0\t0\n")
    content = (tmp_path / "a.zip").read_bytes()
    entry = content.index(b"PK\x01\x02")
    # Fields of the central directory entry: version needed at 6, compression method at 10 (both in the local one too).
    for name, offset, local_offset, value in (("method", 10, 8, 96), ("version", 6, 4, 99)):
        damaged = bytearray(content)
        damaged[entry + offset] = damaged[local_offset] = value
        (tmp_path / f"{name}.zip").write_bytes(damaged)
        with pytest.raises(InputError, match=rf"{name}\.zip: .*; unpack the archive by hand and name the folder"):
            load_icbhi(tmp_path / f"{name}.zip", cache_dir=tmp_path / "cache")
    assert not list(tmp_path.rglob("*.partial*"))


@pytest.mark.parametrize("name", ["../outside.txt", "a/../../outside.txt", "/outside.txt", "C:\\outside.txt", "..\\b"])
def test_zip_that_leads_out_of_its_folder_is_an_error(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as opened:
        opened.writestr("101_1b1_Al_sc_Meditron.txt", "0.0\t1.0\t0\t0\n")
        opened.writestr(name, "x")
    with pytest.raises(InputError, match=r"a\.zip: member .* leads out of the folder; do not use") as error:
        load_icbhi(tmp_path / "a.zip", cache_dir=tmp_path / "cache" / "inner")
    assert repr(name) in str(error.value)
    assert [path.name for path in tmp_path.rglob("*.[tz]*") if path.is_file()] == ["a.zip"]


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_zip_of_a_compression_without_bound_is_an_error(tmp_path, compression):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", compression) as opened:
        opened.writestr("101_1b1_Al_sc_Meditron.txt", "0.0\t1.0\t0\t0\n")
    message = r"a\.zip: member '101_1b1_Al_sc_Meditron\.txt' is not compressed by deflate; unpack the archive by hand"
    with pytest.raises(InputError, match=message):
        load_icbhi(tmp_path / "a.zip", cache_dir=tmp_path / "cache")


def test_zip_with_a_link_and_broken_zips_are_errors(tmp_path):
    link = zipfile.ZipInfo("101_1b1_Al_sc_Meditron.txt")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as opened:
        opened.writestr(link, "/etc/hostname")
    with pytest.raises(InputError, match="is a link"):
        load_icbhi(tmp_path / "link.zip", cache_dir=tmp_path / "cache")
    (tmp_path / "broken.zip").write_bytes((tmp_path / "link.zip").read_bytes()[:-30])
    with pytest.raises(InputError, match=r"is not a whole zip archive .*; delete it"):
        load_icbhi(tmp_path / "broken.zip", cache_dir=tmp_path / "cache")


@pytest.fixture
def complete_copy(tmp_path, icbhi_annotations):
    """All 920 recordings of ICBHI, their audio replaced by silence, as a popular copy of it nests them, twice."""
    annotations = {path.stem: path.read_text() for path in icbhi_annotations.rglob("*.txt")}
    ends = {name: float(text.split()[-3]) for name, text in annotations.items()}
    outer = tmp_path / "archive"
    folders = [
        outer / "Respiratory_Sound_Database" / "audio_and_txt_files",
        outer / "respiratory_sound_database" / "Respiratory_Sound_Database" / "audio_and_txt_files",
        outer / "__MACOSX" / "audio_and_txt_files",
    ]
    for folder in folders:
        folder.mkdir(parents=True)
    for name, text in annotations.items():
        frames = math.ceil(ends[name] * 100)
        head = struct.pack("<4sI4s4sIHHIIHH", b"RIFF", 36 + frames, b"WAVE", b"fmt ", 16, 1, 1, 100, 100, 1, 8)
        audio = head + struct.pack("<4sI", b"data", frames) + b"\x80" * frames
        (folders[0] / f"{name}.txt").write_text(text)
        (folders[0] / f"{name}.wav").write_bytes(audio)
        os.link(folders[0] / f"{name}.txt", folders[1] / f"{name}.txt")
        os.link(folders[0] / f"{name}.wav", folders[1] / f"{name}.wav")
        (folders[2] / f"._{name}.wav").write_bytes(b"\0\x05\x16\x07")
    for name in ("patient_diagnosis.csv", "demographic_info.txt", "filename_differences.txt", "filename_format.txt"):
        (folders[0].parent / name).write_text("101\tURTI\n")
    return outer


def publishers_split(both_names=False):
    """The publisher's file, whose name of one recording is not the archive's; some copies have both names."""
    lines = shared_path("data/icbhi_official_split.txt").read_text().splitlines()
    fitting = "226_1b1_Pl_sc_LittC2SE\ttrain"
    published = [line.replace("LittC2SE", "Meditron") if line == fitting else line for line in lines]
    assert published != lines
    return "\r\n".join([*published, fitting] if both_names else published) + "\r\n"


@pytest.mark.parametrize(
    ("name", "both_names"),
    [
        ("ICBHI_challenge_train_test.txt", False),
        ("ICBHI_challenge_train_test.txt", True),
        ("official_split.txt", False),
    ],
)
def test_published_split_file_fits_the_published_archive(complete_copy, name, both_names):
    (complete_copy / name).write_bytes(publishers_split(both_names).encode())
    folder = scan_folder(complete_copy)
    assert len(folder.audio) == len(folder.annotations) == 920
    assert folder.split_file == complete_copy / name
    for split, test_cycles in (("official", 2756), ("leak_free", 2636)):
        counts = count_annotations(folder, split)
        assert (counts["train"]["cycles"], counts["test"]["cycles"]) == (4142, test_cycles)
        recordings = read_recordings(folder, split)
        assert len(recordings["train"]) == 539
        assert "226_1b1_Pl_sc_LittC2SE" in {recording.name for recording in recordings["train"]}
        assert describe_missing(folder, split, recordings) == []


def test_one_split_twice_is_one_split(complete_copy):
    for folder in (complete_copy, complete_copy / "Respiratory_Sound_Database"):
        (folder / "official_split.txt").write_bytes(publishers_split().encode())
    assert scan_folder(complete_copy).split_file is not None


def test_published_split_file_fits_the_published_archive_as_a_zip(complete_copy, tmp_path):
    (complete_copy / "ICBHI_challenge_train_test.txt").write_bytes(publishers_split().encode())
    shutil.make_archive(tmp_path / "icbhi", "zip", tmp_path, "archive")
    counts = count_cycles(tmp_path / "icbhi.zip", "leak_free", cache_dir=tmp_path / "cache")
    assert (counts["train"]["cycles"], counts["test"]["cycles"]) == (4142, 2636)
