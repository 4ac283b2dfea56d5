"""Reading audio files: formats, rates, bad files, and the resampling that the published features were made with."""

import math
import os
import wave

import numpy as np
import pytest
import soundfile
from safetensors.numpy import load_file

from modeling_lung_srad.audio import audio_duration, decode_audio, read_audio, read_source, resample
from modeling_lung_srad.containers import read_streams
from modeling_lung_srad.errors import InputError
from tests.conftest import shared_path


def tone(sampling_rate=16000, seconds=0.5, frequency=440.0):
    time = np.arange(int(sampling_rate * seconds)) / sampling_rate
    return (0.5 * np.sin(2 * np.pi * frequency * time)).astype(np.float32)


def slow_resample(waveform, source_rate, sampling_rate):
    """Each output sample by the formula of windowed-sinc interpolation, one at a time, in float64."""
    cutoff = 0.99 * min(1.0, sampling_rate / source_rate)
    output = []
    for index in range(math.ceil(len(waveform) * sampling_rate / source_rate)):
        position = index * source_rate / sampling_rate
        total = 0.0
        for sample, value in enumerate(waveform):
            distance = (sample - position) * cutoff
            if abs(distance) < 6:
                total += value * cutoff * np.sinc(distance) * np.cos(np.pi * distance / 12) ** 2
        output.append(total)
    return np.array(output)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
def test_wav_of_any_bit_depth_gives_the_same_waveform(tmp_path, subtype):
    soundfile.write(tmp_path / "a.wav", tone(), 16000, subtype=subtype)
    waveform = read_audio(tmp_path / "a.wav")
    assert waveform.dtype == np.float32
    np.testing.assert_allclose(waveform, tone(), atol=1e-2 if subtype == "PCM_U8" else 5e-5)


@pytest.mark.parametrize(("suffix", "tolerance"), [("flac", 1e-3), ("ogg", 0.05), ("mp3", 0.05)])
def test_compressed_formats_are_read(tmp_path, suffix, tolerance):
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, tone(44100), 44100)
    waveform = read_audio(str(path))
    assert len(waveform) == pytest.approx(8000, abs=8)
    middle = slice(1000, 7000)
    np.testing.assert_allclose(waveform[middle], tone()[middle], atol=tolerance)


def test_stereo_is_averaged(tmp_path):
    channels = np.stack([tone(), tone(frequency=200.0)], axis=1)
    soundfile.write(tmp_path / "a.wav", channels, 16000, subtype="FLOAT")
    np.testing.assert_allclose(read_audio(tmp_path / "a.wav"), channels.mean(axis=1), atol=1e-7)


@pytest.mark.parametrize("dead", [np.zeros(8000), np.full(8000, 0.2), 1e-3 * tone(frequency=3000.0)])
@pytest.mark.parametrize("side", [0, 1])
def test_a_dead_channel_is_left_out(tmp_path, dead, side):
    channels = [tone(), dead] if side == 0 else [dead, tone()]
    soundfile.write(tmp_path / "a.wav", np.stack(channels, axis=1), 16000, subtype="FLOAT")
    source = read_source(tmp_path / "a.wav")
    np.testing.assert_allclose(source.waveform, tone(), atol=1e-6)
    assert [flag.flag for flag in source.flags] == ["one_channel"]
    assert f"The {'right' if side == 0 else 'left'} channel holds no sound" in source.flags[0].message


def test_channels_that_cancel_are_not_averaged(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.stack([0.9 * tone(), -tone()], axis=1), 16000, subtype="FLOAT")
    source = read_source(tmp_path / "a.wav")
    np.testing.assert_allclose(source.waveform, -tone(), atol=1e-6)
    assert "The channels cancel, so the right one was used alone" in source.flags[0].message


@pytest.mark.parametrize("source_rate", [2000, 4000, 8000, 10000, 22050, 44100, 48000, 96000, 16001])
def test_any_rate_from_2_khz_is_resampled(tmp_path, source_rate):
    soundfile.write(tmp_path / "a.wav", tone(source_rate, 1.0), source_rate)
    waveform = read_audio(tmp_path / "a.wav")
    assert waveform.shape == (16000,)
    np.testing.assert_allclose(waveform[2000:-2000], tone(16000, 1.0)[2000:-2000], atol=2e-2)


@pytest.mark.parametrize(("source_rate", "sampling_rate"), [(4000, 16000), (10000, 16000), (44100, 16000), (7, 5)])
def test_resample_equals_the_formula(source_rate, sampling_rate):
    waveform = np.random.default_rng(0).standard_normal(150).astype(np.float32)
    expected = slow_resample(waveform, source_rate, sampling_rate)
    np.testing.assert_allclose(resample(waveform, source_rate, sampling_rate), expected, atol=2e-6)


def test_resample_to_the_same_rate_changes_nothing():
    np.testing.assert_array_equal(resample(tone(), 16000, 16000), tone())


def test_resample_refuses_a_rate_of_zero():
    with pytest.raises(ValueError, match="must be positive"):
        resample(tone(), 16000, 0)


@pytest.mark.parametrize("source_rate", [4000, 10000, 44100])
def test_resampling_agrees_with_the_published_features(tmp_path, source_rate):
    golden = load_file(shared_path("golden/audio_pipeline.safetensors"))
    soundfile.write(tmp_path / "a.wav", golden[f"sr{source_rate}.pcm16"], source_rate)
    waveform = read_audio(tmp_path / "a.wav")
    ramp = np.linspace(0, 1, 1000, dtype=np.float32)
    head = waveform[:4000].copy()
    head[:1000] *= ramp
    np.testing.assert_allclose(head, golden[f"sr{source_rate}.resampled_faded_head"], atol=1e-6)
    np.testing.assert_allclose(waveform[40000:44000], golden[f"sr{source_rate}.resampled_faded_mid"], atol=1e-6)


def test_native_recordings_of_16_24_and_32_bit_are_read():
    subtypes = set()
    for path in sorted(shared_path("data/icbhi_native").glob("*.wav")):
        subtypes.add(soundfile.info(path).subtype)
        waveform = read_audio(path)
        assert np.abs(waveform).max() > 1e-3
        assert len(waveform) == math.ceil(audio_duration(path) * 16000)
    assert subtypes == {"PCM_16", "PCM_24", "PCM_32"}


def test_content_in_memory_is_decoded_like_the_file(tmp_path):
    soundfile.write(tmp_path / "a.flac", tone(8000), 8000)
    np.testing.assert_array_equal(decode_audio((tmp_path / "a.flac").read_bytes()), read_audio(tmp_path / "a.flac"))
    with pytest.raises(InputError, match="the clip: is empty"):
        decode_audio(b"", "the clip")


def write_wav(path, samples, sampling_rate=16000, channels=1, subtype="PCM_16"):
    shape = (len(samples), channels) if channels > 1 else (len(samples),)
    data = np.repeat(np.asarray(samples)[:, None], channels, axis=1).reshape(shape)
    soundfile.write(path, data, sampling_rate, subtype=subtype)


def truncated(path, keep):
    content = path.read_bytes()
    path.write_bytes(content[:keep])


def make_bad_file(kind, path):
    """Writes a file that is wrong in the way that `kind` says."""
    if kind == "folder":
        path.mkdir()
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("this is not audio\n" * 50)
    elif kind == "web page":
        path.write_text("<!DOCTYPE html>\n<html></html>" * 50)
    elif kind == "pointer":
        path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 32044\n")
    elif kind == "header only":
        write_wav(path, tone())
        truncated(path, 30)
    elif kind == "truncated":
        write_wav(path, tone(seconds=4))
        truncated(path, 64044)
    elif kind == "no samples":
        write_wav(path, [])
    elif kind == "10 ms":
        write_wav(path, tone(seconds=0.01))
    elif kind == "8 channels":
        write_wav(path, tone(), channels=8)
    elif kind == "0 channels":
        write_wav(path, tone())
        content = bytearray(path.read_bytes())
        content[22:24] = b"\0\0"
        path.write_bytes(content)
    elif kind == "99.999989 MHz":
        write_wav(path, np.tile(tone(), 400), 99999989)
    elif kind == "empty chunks":
        path.write_bytes(b"RIFF\xff\xff\xff\x7fWAVE" + bytes(8 * 10**5))
    elif kind == "1 kHz":
        write_wav(path, tone(1000, frequency=100), 1000)
    elif kind == "zeros":
        write_wav(path, np.zeros(16000))
    elif kind in ("nan", "infinite"):
        samples = tone()
        samples[100] = np.nan if kind == "nan" else np.inf
        write_wav(path, samples, subtype="FLOAT")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "no such file; check the path"),
        ("folder", "is a folder; name an audio file"),
        ("empty", "is empty"),
        ("text", "is not readable audio .*; .*convert it to wav"),
        ("web page", "is a web page or XML and not a recording; download"),
        ("pointer", "is a pointer of Git LFS .*; fetch it by `git lfs pull`"),
        ("header only", "is not readable audio"),
        ("truncated", "is truncated, 2.00 of 4.00 s are missing; copy or export"),
        ("no samples", "lasts 0.0 ms; at least 25 ms"),
        ("10 ms", "lasts 10.0 ms; at least 25 ms"),
        ("8 channels", "has 8 channels; export one channel"),
        ("0 channels", "is not readable audio"),
        ("1 kHz", "has a sampling rate of 1000 Hz; .*at least 2000 Hz"),
        ("99.999989 MHz", "has a sampling rate above 768000 Hz; correct the rate"),
        ("empty chunks", "has no audio among its chunks; copy or export"),
        ("zeros", "is silent"),
        ("nan", "has NaN or infinite samples"),
        ("infinite", "has NaN or infinite samples"),
    ],
)
def test_bad_file_gets_one_line_naming_file_and_remedy(tmp_path, kind, message):
    path = tmp_path / "bad.wav"
    make_bad_file(kind, path)
    with pytest.raises(InputError, match=message) as error:
        read_audio(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", ["flac", "ogg", "mp3"])
def test_truncated_compressed_file_is_an_error(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    noise = 0.1 * np.random.default_rng(0).standard_normal(48000)
    soundfile.write(path, noise, 16000)
    truncated(path, path.stat().st_size // 2)
    with pytest.raises(InputError, match="truncated"):
        read_audio(path)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize("left", [0, 0.5])
def test_a_file_that_is_shortened_while_it_is_read_is_an_error(monkeypatch, tmp_path, suffix, left):
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal(160000), 16000)

    def find_and_shorten(content, name):
        streams = read_streams(content, name)
        os.truncate(path, int(left * path.stat().st_size))
        return streams

    monkeypatch.setattr("modeling_lung_srad.audio.read_streams", find_and_shorten)
    with pytest.raises(InputError, match="became shorter while it was read"):
        read_source(path)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize("read", [read_source, audio_duration])
def test_a_file_that_is_shortened_before_its_header_is_read_is_an_error(monkeypatch, tmp_path, suffix, read):
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, tone(), 16000)

    def shorten_and_find(content, name):
        os.truncate(path, 3)
        return read_streams(content, name)

    monkeypatch.setattr("modeling_lung_srad.audio.read_streams", shorten_and_find)
    with pytest.raises(InputError, match="became shorter while it was read"):
        read(path)


def replaced(path, first, values):
    content = bytearray(path.read_bytes())
    content[first : first + len(values)] = values
    path.write_bytes(content)


@pytest.mark.parametrize("length", [0, 0x7FFFF000, 0x7FFFFFDB, 0x80000000, 0xFFFFFFFF])
def test_wav_whose_writer_did_not_know_the_length_is_read(tmp_path, length):
    path = tmp_path / "a.wav"
    write_wav(path, tone())
    for first, value in ((4, length + 36), (40, length)):
        replaced(path, first, min(value, 0xFFFFFFFF).to_bytes(4, "little"))
    assert len(read_audio(path)) == 8000


@pytest.fixture
def flac_of_unknown_length(tmp_path):
    path = tmp_path / "a.flac"
    soundfile.write(path, tone(), 16000)
    replaced(path, 21, b"\xf0" + bytes(4))
    return path


@pytest.mark.parametrize("read", [read_audio, audio_duration])
def test_flac_of_unknown_length_needs_pyav(monkeypatch, flac_of_unknown_length, read):
    monkeypatch.setattr("modeling_lung_srad.containers.av", None)
    with pytest.raises(InputError, match=r"is FLAC of unknown length; install PyAV .* or convert it"):
        read(flac_of_unknown_length)


def test_flac_of_unknown_length_is_read_to_its_end(flac_of_unknown_length):
    pytest.importorskip("av")
    np.testing.assert_allclose(read_audio(flac_of_unknown_length), tone(), atol=1e-3)


@pytest.mark.parametrize("name", ["a\0b.wav", "\ud800.wav"])
def test_a_name_that_no_file_can_have_is_an_error(name):
    with pytest.raises(InputError, match=r"is not a valid file name .*; check the path"):
        read_audio(name)


@pytest.mark.parametrize("step", ["_decode", "resample"])
@pytest.mark.parametrize("read", [read_audio, lambda path: decode_audio(path.read_bytes(), str(path))])
def test_a_recording_that_does_not_fit_into_memory_is_an_error(monkeypatch, tmp_path, step, read):
    def exhaust_memory(*arguments):
        raise MemoryError

    write_wav(tmp_path / "a.wav", tone())
    monkeypatch.setattr(f"modeling_lung_srad.audio.{step}", exhaust_memory)
    with pytest.raises(InputError, match=r"a\.wav: does not fit into memory; cut it into shorter files"):
        read(tmp_path / "a.wav")


def test_silence_is_read_where_it_is_allowed(tmp_path):
    write_wav(tmp_path / "a.wav", np.zeros(1600))
    assert not read_audio(tmp_path / "a.wav", allow_silence=True).any()


def test_duration_comes_from_the_header(tmp_path):
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((1, 2, 4000, 0, "NONE", ""))
        file.writeframes(bytes(2 * 5000))
    assert audio_duration(tmp_path / "a.wav") == 1.25
    with pytest.raises(InputError, match="no such file"):
        audio_duration(tmp_path / "b.wav")


def test_a_name_that_is_no_text_is_read(tmp_path):
    path = os.fsencode(tmp_path) + b"/caf\xe9.wav"
    soundfile.write(tmp_path / "text.wav", np.full(8000, 0.1), 8000)
    os.rename(os.fsencode(tmp_path / "text.wav"), path)
    assert read_audio(os.fsdecode(path)).shape == (16000,)


@pytest.mark.parametrize("channels", [1, 2])
def test_samples_far_beyond_full_scale_are_an_error(tmp_path, channels):
    samples = np.full((8000, channels), 0.1, dtype=np.float32)
    samples[100] = 3e38
    soundfile.write(tmp_path / "garbage.wav", samples, 8000, subtype="FLOAT")
    with pytest.raises(InputError, match=r"garbage.wav: has samples of up to 3e\+38"):
        read_audio(tmp_path / "garbage.wav")


def test_a_truncated_rf64_file_is_an_error(tmp_path):
    soundfile.write(tmp_path / "long.wav", np.full(16000, 0.1), 8000, format="RF64")
    content = (tmp_path / "long.wav").read_bytes()
    assert read_audio(tmp_path / "long.wav").shape == (32000,)
    (tmp_path / "long.wav").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="truncated"):
        read_audio(tmp_path / "long.wav")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_named_pipe_is_an_error_instead_of_a_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    with pytest.raises(InputError, match="not a regular file"):
        read_audio(tmp_path / "pipe.wav")


@pytest.mark.parametrize("rate", [4000, 10000, 44100, 48000])
@pytest.mark.parametrize("samples_at_once", [1, 1000, 4097])
def test_resampling_in_pieces_changes_nothing(monkeypatch, rate, samples_at_once):
    waveform = np.random.default_rng(0).standard_normal(9000).astype(np.float32)
    whole = resample(waveform, rate, 16000)
    monkeypatch.setattr("modeling_lung_srad.audio.SAMPLES_AT_ONCE", samples_at_once)
    np.testing.assert_allclose(resample(waveform, rate, 16000), whole, atol=1e-6)
