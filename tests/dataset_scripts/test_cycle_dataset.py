"""The table of cycles: lazy decoding, embedding."""

import pickle

import numpy as np
import pytest
import soundfile
import torch

from dataset_scripts import cycle_dataset
from dataset_scripts.cycle_dataset import CycleAudio, encode_cycle, load_cycles
from dataset_scripts.cycles import decode_cycle
from dataset_scripts.icbhi import load_icbhi
from modeling_lung_srad.errors import InputError


def test_audio_is_decoded_only_when_its_array_is_asked_for(simulated_folder, cache_dir, monkeypatch):
    decoded = []
    monkeypatch.setattr(cycle_dataset, "decode_cycle", lambda *place: decoded.append(place) or np.zeros(1))
    train = load_icbhi(simulated_folder, cache_dir=cache_dir)["train"]
    assert len(list(train["label"])) == len(train["label"][:]) == len(train)
    assert [example["label"] for example in train] == train["label"][:]
    assert train[0]["audio"]["sampling_rate"] == 16000
    assert not decoded
    audio = train[0]["audio"]
    assert len(audio["array"]) == len(audio["array"]) == 1
    assert len(decoded) == 1


def test_audio_does_not_depend_on_the_other_columns(simulated_folder, cache_dir):
    train = load_icbhi(simulated_folder, cache_dir=cache_dir)["train"]
    row = train[3]
    expected = decode_cycle(row["audio"]["path"], row["start"], row["end"])
    np.testing.assert_array_equal(row["audio"]["array"], expected)
    np.testing.assert_array_equal(train.select_columns(["audio", "label"])[3]["audio"]["array"], expected)
    np.testing.assert_array_equal(train["audio"][3]["array"], expected)
    np.testing.assert_array_equal(train.select([3, 1])[:1]["audio"][0]["array"], expected)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(train))[3]["audio"]["array"], expected)


def test_audio_is_a_mapping(simulated_folder, cache_dir):
    audio = load_icbhi(simulated_folder, cache_dir=cache_dir)["test"][0]["audio"]
    plain = dict(audio)
    assert set(plain) == {"array", "sampling_rate", "path"}
    assert plain["path"].startswith(str(simulated_folder))
    assert plain["path"].endswith(".wav")
    assert repr(audio) == f"CycleAudio({plain['path']!r})"
    with pytest.raises(KeyError):
        audio["samples"]


def test_default_collate_makes_plain_dictionaries(simulated_folder, cache_dir):
    test = load_icbhi(simulated_folder, cache_dir=cache_dir)["test"]
    batch = next(iter(torch.utils.data.DataLoader(test, batch_size=1)))
    assert type(batch["audio"]) is dict
    np.testing.assert_array_equal(batch["audio"]["array"][0].numpy(), test[0]["audio"]["array"])
    assert batch["audio"]["path"] == [test[0]["audio"]["path"]]


@pytest.mark.parametrize(("peak", "suffix"), [(1.0, "flac"), (1.3, "wav")])
def test_encoded_cycle_is_exact_to_24_bit_and_not_clipped(peak, suffix):
    waveform = np.random.default_rng(0).uniform(-1, 1, 4000).astype(np.float32)
    waveform[10] = -peak
    data, chosen = encode_cycle(waveform)
    assert chosen == suffix
    decoded = CycleAudio(data, f"a.{suffix}")["array"]
    np.testing.assert_allclose(decoded, waveform, atol=2**-24)


def test_table_is_as_new_as_its_files(tmp_path, simulated_folder):
    name = "101_1b1_Tc_sc_Simulated"
    for suffix in (".wav", ".txt"):
        (tmp_path / f"{name}{suffix}").write_bytes((simulated_folder / f"{name}{suffix}").read_bytes())
    assert len(load_icbhi(tmp_path)["test"]) == 4
    lines = (tmp_path / f"{name}.txt").read_text().splitlines(keepends=True)
    (tmp_path / f"{name}.txt").write_text("".join(lines[:3]))
    assert len(load_icbhi(tmp_path)["test"]) == 3


def test_missing_folders_are_errors(tmp_path):
    with pytest.raises(InputError, match=r"lacks data/.*parquet; make the folder with `lung-srad prepare`"):
        load_cycles(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        load_icbhi(tmp_path / "missing")


def test_recordings_of_other_rates_come_out_at_16_khz(tmp_path):
    soundfile.write(tmp_path / "101_1b1_Al_sc_Simulated.wav", np.full(44100, 0.1), 44100, subtype="PCM_24")
    (tmp_path / "101_1b1_Al_sc_Simulated.txt").write_text("0.25\t0.75\t0\t0\n")
    row = load_icbhi(tmp_path, cache_dir=tmp_path / "cache")["test"][0]
    assert row["audio"]["array"].shape == (8000,)
    assert row["audio"]["array"].dtype == np.float32
