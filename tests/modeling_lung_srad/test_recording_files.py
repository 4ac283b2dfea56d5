from pathlib import Path

import pytest

from modeling_lung_srad.recording_files import RecordingsError, find_annotations, find_recordings


def test_a_folder_is_searched_with_the_folders_in_it_and_sorted(tmp_path):
    for name in ("b.mp3", "a.OGG", "z/y/x.Flac", "c.wav", "notes.txt", ".hidden.wav", "wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = [path.relative_to(tmp_path).as_posix() for path in find_recordings(tmp_path)]
    assert found == ["a.OGG", "b.mp3", "c.wav", "z/y/x.Flac"]


def test_a_file_is_taken_whatever_its_name():
    assert find_recordings("stethoscope.aiff") == [Path("stethoscope.aiff")]


def test_a_folder_without_recordings_is_an_error(tmp_path):
    with pytest.raises(RecordingsError, match=r"holds no \.wav, \.flac, \.ogg, \.mp3 file; check the path"):
        find_recordings(tmp_path)


def test_annotations_are_found_by_name_or_given_for_the_only_recording(tmp_path):
    recordings = [Path("x/a.wav"), Path("b.flac")]
    assert find_annotations(tmp_path, recordings) == [tmp_path / "a.txt", tmp_path / "b.txt"]
    assert find_annotations("some.txt", recordings[:1]) == [Path("some.txt")]
    with pytest.raises(RecordingsError, match="one annotation file for 2 recordings"):
        find_annotations("some.txt", recordings)


def test_annotations_beside_recordings_of_the_same_name_are_kept_apart(tmp_path):
    recordings = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        for suffix in (".wav", ".txt"):
            (tmp_path / folder / f"one{suffix}").touch()
        recordings.append(tmp_path / folder / "one.wav")
    assert find_annotations(tmp_path, recordings) == [path.with_suffix(".txt") for path in recordings]
    with pytest.raises(RecordingsError, match=r"put each \.txt beside its recording"):
        find_annotations(tmp_path / "a", recordings)


def test_annotations_are_found_in_folders_inside(tmp_path):
    (tmp_path / "texts" / "inner").mkdir(parents=True)
    (tmp_path / "texts" / "inner" / "one.txt").touch()
    assert find_annotations(tmp_path / "texts", [tmp_path / "one.wav"]) == [tmp_path / "texts" / "inner" / "one.txt"]


def test_an_empty_path_is_an_error():
    with pytest.raises(RecordingsError, match="empty"):
        find_recordings("")
