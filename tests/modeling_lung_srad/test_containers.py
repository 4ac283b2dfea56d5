"""Files whose headers are wrong: everything that is there is read, and what is missing is said."""

import contextlib
import struct
import warnings

import numpy as np
import pytest

from modeling_lung_srad import load_pipeline
from modeling_lung_srad.audio import audio_duration, decode_source
from modeling_lung_srad.errors import InputError
from tests.modeling_lung_srad.sounds import OF_PHONES, RATE, encoded, noise, recorded


def seconds(content):
    source = decode_source(content)
    return len(source.waveform) / source.sampling_rate


def flags(content):
    return {flag.flag: flag.value for flag in decode_source(content).flags}


def field_of_length(content, file_format):
    """Place, format and unit of the number that says how long the audio is."""
    if file_format == "WAV":
        return content.index(b"data") + 4, "<I"
    if file_format == "RF64":
        return content.index(b"ds64") + 16, "<Q"
    if file_format == "AIFF":
        return content.index(b"SSND") + 4, ">I"
    if file_format == "AU":
        return 8, ">I"
    if file_format == "CAF":
        return content.index(b"data") + 4, ">q"
    return content.index(b"data") + 16, "<q"


CONTAINERS = ["WAV", "RF64", "AIFF", "AU", "CAF", "W64"]


@pytest.mark.parametrize("file_format", CONTAINERS)
@pytest.mark.parametrize("more", [1, 16, 1000])
def test_a_few_bytes_less_than_stated_are_not_worth_a_word(file_format, more):
    content = bytearray(encoded(noise(), file_format, "PCM_16"))
    place, size = field_of_length(content, file_format)
    (stated,) = struct.unpack_from(size, content, place)
    struct.pack_into(size, content, place, stated + more)
    assert decode_source(bytes(content)).flags == ()
    assert seconds(bytes(content)) == pytest.approx(2.0, abs=1e-3)


@pytest.mark.parametrize("file_format", CONTAINERS)
def test_what_is_missing_is_a_flag_or_an_error_by_its_size(file_format):
    content = encoded(noise(4.0), file_format, "PCM_16")
    cut = content[: len(content) - round(0.3 * 2 * RATE)]
    assert flags(cut)["wrong_length"] == pytest.approx(0.3, abs=0.01)
    assert seconds(cut) == pytest.approx(3.7, abs=0.01)
    with pytest.raises(InputError, match=r"is truncated, 2\.\d\d of 4\.\d\d s are missing; copy or export"):
        decode_source(content[: len(content) - 2 * 2 * RATE])


@pytest.mark.parametrize("file_format", ["WAV", "RF64", "AU", "W64"])
def test_audio_after_the_stated_end_is_read_with_a_flag(file_format):
    content = bytearray(encoded(noise(), file_format, "PCM_16"))
    place, size = field_of_length(content, file_format)
    (stated,) = struct.unpack_from(size, content, place)
    struct.pack_into(size, content, place, stated // 4 * 2)
    assert seconds(bytes(content)) == pytest.approx(2.0, abs=1e-3)
    assert flags(bytes(content))["wrong_length"] == pytest.approx(-1.0, abs=0.01)


def test_other_chunks_after_the_audio_are_no_audio():
    content = encoded(noise()) + b"LIST" + struct.pack("<I", 400) + bytes(400)
    assert seconds(content) == 2.0
    assert flags(content) == {}


@pytest.mark.parametrize(("file_format", "length"), [("AU", 0xFFFFFFFF), ("CAF", -1), ("AU", 0)])
def test_a_length_that_the_writer_did_not_know(file_format, length):
    content = bytearray(encoded(noise(), file_format, "PCM_16"))
    place, size = field_of_length(content, file_format)
    struct.pack_into(size, content, place, length)
    assert seconds(bytes(content)) == pytest.approx(2.0, abs=1e-3)
    assert flags(bytes(content)) == {}


@pytest.mark.parametrize(
    ("file_format", "subtype"), [("FLAC", None), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", None)]
)
def test_streams_one_after_the_other_are_all_read(file_format, subtype):
    content = encoded(noise(), file_format, subtype) + encoded(noise(3.0, seed=1), file_format, subtype)
    assert seconds(content) == pytest.approx(5.0, abs=0.2)
    assert "wrong_length" not in flags(content)


def test_streams_of_different_rates_are_an_error():
    content = encoded(noise(), "FLAC") + encoded(noise(), "FLAC", rate=8000)
    with pytest.raises(InputError, match="parts of different sampling rates"):
        decode_source(content)


def without_table(content):
    """An MP3 file without its first frame, the table of contents."""
    assert b"Xing" in content[:60] or b"Info" in content[:60]
    second = content.index(content[:2], 4)
    return content[second:]


def varied_mp3(rate):
    """Loud noise, then faint: a guess from the first frames is far off."""
    waveform = np.concatenate([noise(2.0, rate), 1e-4 * noise(8.0, rate, seed=1)])
    return encoded(waveform, "MP3", rate=rate, bitrate_mode="VARIABLE", compression_level=0.2)


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_mp3_of_varying_rate_without_a_table_is_read_to_its_end(rate):
    content = without_table(varied_mp3(rate))
    assert seconds(content) == pytest.approx(10.0, abs=0.2)
    tagged = b"ID3\x04\0\0\0\0\x01\0" + bytes(128) + content + b"TAG" + bytes(125)
    assert seconds(tagged) == seconds(content)


def test_mp3_that_lacks_frames_of_its_table():
    content = encoded(noise(8.0), "MP3", bitrate_mode="CONSTANT")
    assert flags(content[: round(0.95 * len(content))])["wrong_length"] == pytest.approx(0.4, abs=0.1)
    with pytest.raises(InputError, match="is truncated"):
        decode_source(content[: len(content) // 2])


def test_mp3_inside_wav_is_read():
    content = encoded(noise(), "MP3")
    head = struct.pack("<HHIIHHH", 0x55, 1, RATE, 4000, 1, 0, 12) + bytes(12)
    chunks = b"fmt " + struct.pack("<I", len(head)) + head + b"data" + struct.pack("<I", len(content)) + content
    content = b"RIFF" + struct.pack("<I", len(chunks) + 4) + b"WAVE" + chunks
    assert seconds(content) == pytest.approx(2.0, abs=0.2)


def test_ogg_that_ends_within_its_last_page():
    content = encoded(noise(), "OGG", "VORBIS")
    assert 0.05 < flags(content[:-300])["wrong_length"] < 1.0


def test_low_bit_rates_are_flagged():
    assert flags(encoded(noise(rate=RATE), "MP3", bitrate_mode="CONSTANT", compression_level=0.9))["lossy"] < 64000
    loud = encoded(noise(rate=44100), "MP3", rate=44100, bitrate_mode="CONSTANT", compression_level=0.1)
    assert "lossy" not in flags(loud)


def test_notes_of_the_decoder_do_not_reach_the_user(capfd):
    content = bytearray(encoded(noise(8.0), "MP3", bitrate_mode="CONSTANT"))
    for place in range(3000, len(content) - 3000, 1500):
        content[place : place + 40] = bytes(range(40))
    with contextlib.suppress(InputError):
        decode_source(bytes(content))
    assert capfd.readouterr().err == ""


def test_flags_of_the_file_are_in_the_answer():
    content = encoded(np.stack([noise(4.0), np.zeros(4 * RATE)], axis=1))
    assert "one_channel" in [flag["flag"] for flag in load_pipeline()(content)["quality"]]


def test_a_header_that_states_less_than_nothing_has_no_duration(tmp_path):
    content = bytearray(recorded("asf", "wmav2", 16000))
    properties = content.index(bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365"))
    content[properties + 80 : properties + 88] = (10**6).to_bytes(8, "little")  # the start-up time in ms
    (tmp_path / "a.wma").write_bytes(content)
    assert audio_duration(tmp_path / "a.wma") == 0
    assert seconds(bytes(content)) == pytest.approx(4, abs=0.2)


@pytest.mark.parametrize(("file_format", "codec", "rate"), OF_PHONES)
def test_formats_of_phones_and_browsers_are_read(tmp_path, file_format, codec, rate):
    content = recorded(file_format, codec, rate)
    assert seconds(content) == pytest.approx(4.0, abs=0.1)
    (tmp_path / "a").write_bytes(content)
    if file_format not in ("adts", "amr"):
        assert audio_duration(tmp_path / "a") == pytest.approx(4.0, abs=0.1)


@pytest.mark.parametrize(("file_format", "codec", "rate"), OF_PHONES)
def test_without_pyav_the_extra_is_named(monkeypatch, file_format, codec, rate):
    content = recorded(file_format, codec, rate)
    monkeypatch.setattr("modeling_lung_srad.containers.av", None)
    with pytest.raises(
        InputError, match=r"is (MPEG-4|WebM|AAC|AMR|Windows Media).*; install PyAV by .*lung-srad\[formats\].*ffmpeg"
    ):
        decode_source(content)


def test_a_truncated_file_of_a_phone():
    content = recorded("webm", "libopus", 48000)
    assert flags(content[: round(0.9 * len(content))])["wrong_length"] == pytest.approx(0.4, abs=0.1)
    with pytest.raises(InputError, match="is truncated"):
        decode_source(content[: len(content) // 2])
    with pytest.raises(InputError, match="truncated or without sound; copy it again, or convert it"):
        decode_source(recorded("mp4", "aac", 44100)[:9000])


@pytest.mark.parametrize(
    "content", [b"ffconcat version 1.0\nfile /etc/passwd\n", b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n"]
)
def test_playlists_open_no_other_file(content):
    with pytest.raises(InputError, match="is not readable audio"):
        decode_source(content)


def test_flac_that_ends_early_is_read_up_to_there():
    content = encoded(noise(6.0, 48000), "FLAC", rate=48000)
    assert flags(content[: round(0.95 * len(content))])["wrong_length"] == pytest.approx(0.4, abs=0.1)
    assert seconds(content[: round(0.95 * len(content))]) == pytest.approx(5.6, abs=0.1)
    with pytest.raises(InputError, match=r"is truncated, 1\.\d\d of 6\.00 s are missing"):
        decode_source(content[: round(0.7 * len(content))])
    with pytest.raises(InputError, match="more than 0 million samples"):
        decode_source(content, max_samples=1000)


@pytest.mark.parametrize(("file_format", "place"), [("WAV", 24), ("AU", 16), ("CAF", 20)])
def test_a_rate_of_zero_is_an_error(file_format, place):
    content = bytearray(encoded(noise(), file_format, "PCM_16"))
    content[place : place + (8 if file_format == "CAF" else 4)] = bytes(8 if file_format == "CAF" else 4)
    with pytest.raises(InputError):
        decode_source(bytes(content))


def test_a_file_that_ends_before_it_states_its_rate_has_no_duration(tmp_path):
    (tmp_path / "a.aac").write_bytes(recorded("adts", "aac", 16000)[:400])
    with pytest.raises(InputError, match=r"a\.aac: states no sampling rate or no channels"):
        audio_duration(tmp_path / "a.aac")


def test_a_signalling_nan_is_an_error_without_a_warning():
    samples = np.full(8000, 0x7FA00000, dtype=np.uint32).view(np.float32)
    content = encoded(noise(0.5), "WAV", "FLOAT")
    content = content[: len(content) - samples.nbytes] + samples.tobytes()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InputError, match="has NaN or infinite samples"):
            decode_source(content)


def test_damage_of_any_kind_is_an_error_of_the_input():
    generator = np.random.default_rng(0)
    originals = [encoded(noise(0.3), *kind) for kind in (("WAV",), ("AIFF",), ("FLAC",), ("OGG", "VORBIS"), ("MP3",))]
    for trial in range(600):
        content = bytearray(originals[trial % len(originals)])
        for place in generator.integers(0, min(len(content), (64, 400, len(content))[trial % 3]), 3):
            content[place] = generator.integers(256)
        with contextlib.suppress(InputError):
            decode_source(bytes(content[: generator.integers(1, len(content) + 1)]))
