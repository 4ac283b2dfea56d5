import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from modeling_lung_srad.audio import read_audio
from modeling_lung_srad.errors import InputError
from modeling_lung_srad.recording import cut_cycle, fade_recording, load_recording


def waveform_of(seconds=0.5, rate=4000):
    return (0.1 * np.random.default_rng(0).standard_normal(round(seconds * rate))).astype(np.float32)


def test_fade_is_linear_over_a_sixteenth_of_a_second():
    waveform = np.ones(16000, dtype=np.float32)
    faded = fade_recording(waveform, 16000)
    np.testing.assert_allclose(faded[:1000], np.arange(1000) / 999, atol=1e-6)
    np.testing.assert_allclose(faded[-1000:], np.arange(1000)[::-1] / 999, atol=1e-6)
    assert (faded[1000:-1000] == 1).all()
    assert (waveform == 1).all()
    assert fade_recording(np.ones(10)).shape == (10,)


def test_cut_takes_whole_samples_from_start_to_end():
    waveform = np.arange(100, dtype=np.float32)
    np.testing.assert_array_equal(cut_cycle(waveform, 10, 1.29, 2.0), np.arange(12, 20))
    assert len(cut_cycle(waveform, 10, 9.5, 12.0)) == 5
    with pytest.raises(ValueError, match=r"no audio between 10\.0 s and 11\.0 s"):
        cut_cycle(waveform, 10, 10.0, 11.0)


@pytest.fixture
def wav_file(tmp_path):
    soundfile.write(tmp_path / "a.wav", waveform_of(), 4000, subtype="FLOAT")
    return tmp_path / "a.wav"


@pytest.mark.parametrize("kind", ["name", "path", "bytes", "bytes in a mapping", "path in a mapping", "raw", "array"])
def test_whatever_holds_a_recording_gives_the_same_waveform(wav_file, kind):
    content = wav_file.read_bytes()
    source = {
        "name": str(wav_file),
        "path": wav_file,
        "bytes": content,
        "bytes in a mapping": {"bytes": content, "path": None},
        "path in a mapping": {"bytes": None, "path": str(wav_file)},
        "raw": {"raw": waveform_of(), "sampling_rate": 4000},
        "array": {"array": waveform_of().astype(np.float64), "sampling_rate": np.int64(4000), "path": "b.wav"},
    }[kind]
    recording = load_recording(source)
    np.testing.assert_array_equal(recording.waveform, read_audio(wav_file))
    np.testing.assert_array_equal(recording.source_waveform, waveform_of())
    assert (recording.sampling_rate, recording.source_rate, recording.duration) == (16000, 4000, 0.5)
    expected = {"name": str(wav_file), "path": str(wav_file), "path in a mapping": str(wav_file), "array": "b.wav"}
    assert recording.file == expected.get(kind)


@pytest.mark.parametrize("make", [np.asarray, torch.tensor, list])
def test_a_bare_waveform_has_the_rate_of_the_model(make):
    recording = load_recording(make(waveform_of()))
    np.testing.assert_array_equal(recording.waveform, waveform_of())
    assert recording.source_rate == 16000


@pytest.mark.parametrize(("bits", "value"), [(8, -64), (16, -16384), (32, -(2**30))])
def test_integers_are_scaled_by_their_range(bits, value):
    recording = load_recording({"raw": np.full(1000, value, dtype=f"int{bits}"), "sampling_rate": 16000.0})
    assert set(recording.waveform.tolist()) == {-0.5}


def test_a_recording_is_returned_as_it_is():
    recording = load_recording(waveform_of())
    assert load_recording(recording) is recording


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("https://example.org/a.wav", "is an address"),
        ("HTTP://example.org/a.wav", "HTTP://example.org/a.wav: is an address"),
        ("missing.wav", "no such file"),
        ("a\0b.wav", "is not a valid file name"),
        (None, "is of type NoneType"),
        (5, "is of type int"),
        (np.float32(1), "is of type float32"),
        (Path("."), "is a folder"),
        (b"", "is empty"),
        (b"RIFF", "not readable audio"),
        (np.zeros(16000), "silent"),
        (np.zeros((2, 16000)), r"has the shape \(2, 16000\)"),
        (np.full(16000, np.nan), "NaN or infinite"),
        (np.full(16000, 1e12), "samples of up to 1e\\+12"),
        (np.ones(100), "lasts 6.2 ms"),
        (np.ones(16000, dtype=np.uint8), "samples of type uint8"),
        (np.array(["a"] * 1000), "samples of type"),
        (np.full(1000, 16384), "has 64-bit integers"),
        ([16384] * 1000, "has 64-bit integers"),
        (np.full(1000, 1e300), "NaN or infinite"),
        (torch.ones(1000, dtype=torch.bfloat16), "not readable as an array .*BFloat16"),
        (torch.ones(1000).to_sparse(), "not readable as an array"),
        (torch.ones(1000, device="meta"), "not readable as an array"),
        ({"raw": [[0.1, 0.2], [0.3]], "sampling_rate": 16000}, "not readable as an array"),
        ({"bytes": "text"}, '"bytes" of type str'),
        ({"path": 5}, "has a path of type int"),
        ({"raw": waveform_of(), "sampling_rate": 16000.9}, r"sampling_rate 16000\.9"),
        ({"raw": waveform_of(), "sampling_rate": np.float32(np.inf)}, "sampling_rate .*inf"),
        ({"raw": waveform_of(), "sampling_rate": float("nan")}, "sampling_rate nan"),
        ({"raw": waveform_of(), "sampling_rate": True}, "sampling_rate True"),
        ({"raw": waveform_of(), "sampling_rate": 10**30}, "sampling rate above 768000 Hz"),
        ({"raw": waveform_of(), "sampling_rate": 10**400}, "sampling rate above 768000 Hz"),
        ({"raw": waveform_of(), "sampling_rate": 1000}, "sampling rate of 1000 Hz"),
        ({"raw": waveform_of()}, "sampling_rate None"),
        ({"raw": waveform_of(), "sampling_rate": "16k"}, "sampling_rate '16k'"),
        ({"sampling_rate": 16000}, "mapping with the keys sampling_rate"),
        ({}, "mapping with the keys none"),
    ],
)
def test_what_cannot_be_used_is_named_with_the_remedy(source, said):
    with pytest.raises(InputError, match=f"{said}.*; "):
        load_recording(source)


def test_empty_bytes_are_no_reason_to_read_the_path(wav_file):
    with pytest.raises(InputError, match=r"a\.wav: is empty \(0 bytes\)"):
        load_recording({"bytes": b"", "path": str(wav_file)})


def test_a_recording_that_does_not_fit_into_memory_is_named(monkeypatch):
    def exhaust_memory(*arguments):
        raise MemoryError

    monkeypatch.setattr("modeling_lung_srad.recording.resample", exhaust_memory)
    with pytest.raises(InputError, match=r"^b\.wav: does not fit into memory; cut it into shorter files$"):
        load_recording({"raw": waveform_of(), "sampling_rate": 4000, "path": "b.wav"})


def test_silence_can_be_allowed():
    assert not load_recording(np.zeros(16000), allow_silence=True).waveform.any()


def test_a_file_longer_than_a_block_is_read_whole(monkeypatch, tmp_path):
    monkeypatch.setattr("modeling_lung_srad.audio.BLOCK_FRAMES", 7)
    stereo = np.stack([waveform_of(), waveform_of()[::-1]], axis=1)
    soundfile.write(tmp_path / "a.wav", stereo, 16000, subtype="FLOAT")
    np.testing.assert_allclose(load_recording(tmp_path / "a.wav").waveform, stereo.mean(axis=1), atol=1e-7)


def test_an_mp3_in_memory_is_read():
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform_of(2.0, 16000), 16000, format="MP3")
    assert load_recording(buffer.getvalue()).duration == pytest.approx(2.0, abs=0.1)
