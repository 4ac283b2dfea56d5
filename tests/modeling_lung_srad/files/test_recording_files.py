import io
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from modeling_lung_srad.errors import InputError
from modeling_lung_srad.files.recording_files import find_annotations, find_recordings, sum_durations


def test_a_folder_is_searched_with_the_folders_in_it_and_sorted(tmp_path):
    for name in ("b.mp3", "a.OGG", "z/y/x.Flac", "c.wav", "notes.txt", ".hidden.wav", "wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = [path.relative_to(tmp_path).as_posix() for path in find_recordings(tmp_path)]
    assert found == ["a.OGG", "b.mp3", "c.wav", "z/y/x.Flac"]


def test_a_file_is_taken_whatever_its_name():
    assert find_recordings("stethoscope.aiff") == [Path("stethoscope.aiff")]


def test_a_folder_without_recordings_is_an_error(tmp_path):
    with pytest.raises(InputError, match=r"contains no recordings; check the path; known are \.wav, \.flac"):
        find_recordings(tmp_path)


def test_annotations_are_found_by_name_or_given_for_the_only_recording(tmp_path):
    recordings = [Path("x/a.wav"), Path("b.flac")]
    assert find_annotations(tmp_path, recordings) == [tmp_path / "a.txt", tmp_path / "b.txt"]
    assert find_annotations("some.txt", recordings[:1]) == [Path("some.txt")]
    with pytest.raises(InputError, match="one annotation file for 2 recordings"):
        find_annotations("some.txt", recordings)


def test_annotations_beside_recordings_of_the_same_name_are_kept_apart(tmp_path):
    recordings = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        for suffix in (".wav", ".txt"):
            (tmp_path / folder / f"one{suffix}").touch()
        recordings.append(tmp_path / folder / "one.wav")
    assert find_annotations(tmp_path, recordings) == [path.with_suffix(".txt") for path in recordings]
    with pytest.raises(InputError, match=r"put each \.txt beside its recording"):
        find_annotations(tmp_path / "a", recordings)


def test_annotations_beside_linked_recordings_are_kept_apart(tmp_path):
    (tmp_path / "blobs").mkdir()
    recordings = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        for suffix in (".wav", ".txt"):
            (tmp_path / "blobs" / (folder + suffix)).touch()
            (tmp_path / folder / f"one{suffix}").symlink_to(tmp_path / "blobs" / (folder + suffix))
        recordings.append(tmp_path / folder / "one.wav")
    assert find_annotations(tmp_path, recordings) == [path.with_suffix(".txt") for path in recordings]


def test_annotations_are_found_in_folders_inside(tmp_path):
    (tmp_path / "texts" / "inner").mkdir(parents=True)
    (tmp_path / "texts" / "inner" / "one.txt").touch()
    assert find_annotations(tmp_path / "texts", [tmp_path / "one.wav"]) == [tmp_path / "texts" / "inner" / "one.txt"]


def test_an_empty_path_is_an_error():
    with pytest.raises(InputError, match="empty"):
        find_recordings("")


def audio_content(suffix="wav", samples=8000):
    buffer = io.BytesIO()
    soundfile.write(buffer, 0.1 * np.random.default_rng(0).standard_normal(samples), 16000, format=suffix.upper())
    return buffer.getvalue()


def write_zip(path, *members, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_a_recording_in_a_zip_is_read_whole(tmp_path, suffix, compression):
    content = audio_content(suffix)
    path = write_zip(tmp_path / "a.zip", (f"deep/a.{suffix}", content), compression=compression)
    (recording,) = find_recordings(path)
    assert str(recording) == f"{path}/deep/a.{suffix}"
    assert recording.read() == content


def test_an_mp3_with_a_tag_is_read(tmp_path):
    content = b"ID3\4\0\0\0\0\0\0" + audio_content("mp3")
    assert find_recordings(write_zip(tmp_path / "a.zip", ("a.mp3", content)))[0].read() == content


def test_what_is_no_audio_is_refused_before_it_is_decompressed(tmp_path):
    (recording,) = find_recordings(write_zip(tmp_path / "a.zip", ("a.wav", bytes(2 * 10**7))))
    tracemalloc.start()
    with pytest.raises(InputError, match=r"a\.zip/a\.wav: is not readable audio; convert it"):
        recording.read()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10**6


def test_the_content_of_a_long_recording_is_in_memory_once(tmp_path):
    content = audio_content(samples=100) + bytes(2 * 10**7)
    (recording,) = find_recordings(write_zip(tmp_path / "a.zip", ("a.wav", content)))
    tracemalloc.start()
    assert len(recording.read()) == len(content)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.3 * len(content)


def test_an_empty_recording_in_a_zip_is_named(tmp_path):
    (recording,) = find_recordings(write_zip(tmp_path / "a.zip", ("a.wav", b"")))
    with pytest.raises(InputError, match=r"a\.zip/a\.wav: is empty \(0 bytes\)"):
        recording.read()


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compression_without_a_bound_is_refused(tmp_path, compression):
    path = write_zip(tmp_path / "a.zip", ("a.wav", audio_content()), compression=compression)
    with pytest.raises(InputError, match=r"a\.zip/a\.wav: is not compressed by deflate; unpack the zip"):
        find_recordings(path)[0].read()


def test_a_size_that_is_a_lie_is_an_error(tmp_path):
    path = write_zip(tmp_path / "a.zip", ("a.wav", audio_content()))
    content = bytearray(path.read_bytes())
    entry = content.rfind(b"PK\1\2")
    content[entry + 24 : entry + 28] = struct.pack("<I", 1000)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.wav: cannot be read \(Bad CRC-32"):
        find_recordings(path)[0].read()


@pytest.mark.parametrize("seed", range(5))
def test_a_damaged_zip_is_read_or_named(tmp_path, seed):
    path = write_zip(
        tmp_path / "a.zip", ("a.wav", audio_content(samples=500)), ("\xe4/b.mp3", audio_content("mp3", 500))
    )
    intact = path.read_bytes()
    random = np.random.default_rng(seed)
    for _ in range(100):
        damaged = bytearray(intact)
        # The names and sizes of the members are at the end.
        places = [*range(60), *range(len(intact) - 150, len(intact))]
        for place in random.choice(places, random.integers(1, 4)):
            damaged[place] = random.integers(256)
        path.write_bytes(damaged)
        try:
            for recording in find_recordings(path):
                recording.read()
        except InputError as error:
            assert str(error).startswith(f"{path}")  # noqa: PT017


@pytest.mark.parametrize("name", ["../a.wav", "deep/../../a.wav", "/a.wav", "deep\\..\\a.wav", "C:\\a.wav"])
def test_a_name_that_leads_out_of_the_zip_is_refused(tmp_path, name):
    path = write_zip(tmp_path / "a.zip", ("good.wav", audio_content()), (name, audio_content()))
    with pytest.raises(InputError, match="leads out of the zip") as error:
        find_recordings(path)
    assert str(error.value).startswith(f"{path}/{name}: ")


def test_a_zip_with_two_recordings_of_one_name_is_refused(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate name"):
        path = write_zip(tmp_path / "a.zip", ("a.wav", audio_content()), ("a.wav", audio_content(samples=9000)))
    with pytest.raises(InputError, match=r"a\.zip/a\.wav: is in the zip 2 times"):
        find_recordings(path)


def test_folders_in_a_zip_are_no_recordings(tmp_path):
    path = write_zip(tmp_path / "a.zip", ("folder.wav/", b""), ("folder.wav/a.wav", audio_content()))
    assert [recording.member for recording in find_recordings(path)] == ["folder.wav/a.wav"]


def test_a_recording_in_a_zip_that_does_not_fit_into_memory_is_named(monkeypatch, tmp_path):
    def exhaust_memory(*arguments):
        raise MemoryError

    (recording,) = find_recordings(write_zip(tmp_path / "a.zip", ("a.wav", audio_content())))
    monkeypatch.setattr("modeling_lung_srad.files.recording_files.shutil.copyfileobj", exhaust_memory)
    with pytest.raises(InputError, match=r"a\.zip/a\.wav: does not fit into memory; cut it"):
        recording.read()


def test_durations_are_summed_over_files_and_members_of_a_zip_until_there_is_enough(tmp_path):
    for name, seconds in (("a.wav", 2), ("b.flac", 3), ("c.wav", 4)):
        soundfile.write(tmp_path / name, np.zeros(seconds * 1000), 1000)
    (tmp_path / "bad.wav").write_text("no sound")
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.write(tmp_path / "a.wav", "a.wav")
    recordings = [*find_recordings(tmp_path), *find_recordings(tmp_path / "all.zip"), tmp_path / "missing.wav"]
    assert sum_durations(recordings, enough=100) == 2 + 3 + 4 + 2
    assert sum_durations(recordings, enough=5) == 5
