"""Recordings that are accepted and refused, before and after decoding."""

import io

import numpy as np
import pytest
import soundfile

from modeling_lung_srad.errors import InputError
from space_demo.recordings import check_length, load_upload, shown_name
from tests.space_demo.conftest import breath


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path.resolve() / "private"
    folder.mkdir()
    return folder


def content(waveform, rate, file_format, **options):
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, rate, format=file_format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("file_format", ["WAV", "FLAC", "OGG", "MP3"])
def test_recording_is_read_at_both_rates(folder, file_format):
    path = folder / f"left.{file_format.lower()}"
    path.write_bytes(content(breath(2, 8000), 8000, file_format))
    recording = load_upload(str(path), folder)
    assert (recording.file, recording.source_rate, recording.sampling_rate) == (path.name, 8000, 16000)
    assert recording.duration == pytest.approx(2, abs=0.1)


def test_nothing_is_refused(folder):
    with pytest.raises(InputError, match="recording: there is none yet"):
        load_upload(None, folder)


@pytest.mark.parametrize("path", ["/etc/passwd", "{folder}/../outside.wav", "{folder}/link.wav"])
def test_what_is_no_upload_is_refused(folder, path):
    outside = folder.parent / "outside.wav"
    outside.write_bytes(content(breath(1), 8000, "WAV"))
    (folder / "link.wav").symlink_to(outside)
    with pytest.raises(InputError, match="is not an upload of this page"):
        load_upload(path.format(folder=folder), folder)


def test_upload_that_is_gone_is_refused(folder):
    with pytest.raises(InputError, match=r"^left\.wav: was removed"):
        load_upload(str(folder / "left.wav"), folder)


def test_large_file_is_refused_unread(folder):
    path = folder / "large.wav"
    with path.open("wb") as file:
        file.truncate(50_000_001)
    with pytest.raises(InputError, match=r"^large\.wav: is larger than 50 MB"):
        load_upload(str(path), folder)


def test_error_names_the_file_without_its_folder(folder):
    path = folder / "notes.wav"
    path.write_text("no audio")
    with pytest.raises(InputError, match=r"^notes\.wav: is not readable audio"):
        load_upload(str(path), folder)


def test_ten_minutes_are_taken_and_a_second_more_is_not():
    check_length(content(np.zeros(600 * 2000), 2000, "FLAC"), "ten.flac")
    with pytest.raises(InputError, match="longer than 10 minutes"):
        check_length(content(np.zeros(601 * 2000), 2000, "FLAC"), "more.flac")


def test_more_samples_than_memory_is_meant_for_are_refused():
    with pytest.raises(InputError, match="more than 28 million; export it at 48 kHz or less"):
        check_length(content(np.zeros(160 * 192000, dtype=np.int16), 192000, "FLAC"), "fine.flac")


def test_a_header_that_states_less_lets_no_more_in(folder, monkeypatch):
    data = content(breath(8, 16000), 16000, "MP3")
    # The number of frames in a header of LAME's kind.
    place = max(data.find(b"Xing"), data.find(b"Info")) + 8
    assert place > 8
    path = folder / "lying.mp3"
    path.write_bytes(data[:place] + (20).to_bytes(4, "big") + data[place + 4 :])
    assert load_upload(str(path), folder).duration == pytest.approx(8, abs=0.2)
    monkeypatch.setattr("space_demo.recordings.MAX_SECONDS", 6)
    with pytest.raises(InputError, match="longer than 10 minutes"):
        load_upload(str(path), folder)
    monkeypatch.setattr("modeling_lung_srad.audio.BLOCK_FRAMES", 4000)
    monkeypatch.setattr("space_demo.recordings.MAX_FRAMES", 50000)
    with pytest.raises(InputError, match="more than 0 million samples; cut it into parts"):
        load_upload(str(path), folder)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("left lung.wav", "left lung.wav"),
        ("=HYPERLINK(1).wav", "HYPERLINK(1).wav"),
        ("+-@1.wav", "1.wav"),
        ("a\nb\x1b[31m.wav", "ab[31m.wav"),
        ("\u202egnp.wav", "gnp.wav"),
        ("\n", "recording"),
        ("x" * 200 + ".wav", "x" * 40 + "…" + "x" * 36 + ".wav"),
    ],
)
def test_name_is_printable_short_and_no_formula(name, shown):
    assert shown_name(name) == shown
