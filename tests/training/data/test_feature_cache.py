import hashlib
import json
import os
import shutil
from pathlib import Path

import datasets
import pyarrow as pa
import pytest
import torch

from dataset_scripts.cycle_dataset import FEATURES, Recording, cycle_rows, embed_cycle, with_decoding
from dataset_scripts.cycles import Cycle
from modeling_lung_srad import LungSradFeatureExtractor
from modeling_lung_srad.errors import InputError
from training.data import feature_cache
from training.data.cycle_sources import CycleSource
from training.data.feature_cache import cached_log_mel, default_cache_dir
from training.data.log_mel_dataset import compute_log_mel

SETTINGS = {"cycle_seconds": 1.0, "num_frames": 64, "num_mel_bins": 32}
TIMES = ((0.0, 1.5), (1.5, 2.75), (2.75, 4.0))
REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture
def extractor():
    return LungSradFeatureExtractor(**SETTINGS)


@pytest.fixture
def recordings(simulated_folder, tmp_path):
    """Two audio files of their own, which a test may change."""
    files = sorted(simulated_folder.glob("*.wav"))[:2]
    return [Path(shutil.copy(file, tmp_path / f"{number}.wav")) for number, file in enumerate(files)]


def source_of(recordings, times=TIMES, embed=False, name="icbhi"):
    """Cycles at the given times of each recording."""
    cycles = tuple(Cycle(start, end, label=0) for start, end in times)
    rows = [
        embed_cycle(row) if embed else row
        for path in recordings
        for row in cycle_rows(Recording(path, path.stem, "101", "Simulated", "Tc", "sc", cycles))
    ]
    table = pa.Table.from_pylist(rows, schema=FEATURES.arrow_schema)
    loaded = datasets.Dataset(table, info=datasets.DatasetInfo(features=FEATURES))
    return CycleSource(name, with_decoding({"train": loaded})["train"])


@pytest.fixture
def forbid_computing(monkeypatch):
    def forbid():
        def fail(*_):
            raise AssertionError("spectrograms were computed although they are in the cache")

        monkeypatch.setattr(feature_cache, "iterate_log_mel", fail)

    return forbid


@pytest.mark.parametrize("embed", [False, True], ids=["recordings", "embedded"])
def test_spectrograms_are_the_computed_ones_and_are_computed_once(
    recordings, extractor, tmp_path, forbid_computing, embed
):
    source = source_of(recordings, embed=embed)
    expected = compute_log_mel([source], extractor, torch.float16)
    assert expected.shape == (6, 98, 32)
    first = cached_log_mel([source], extractor, tmp_path / "cache")
    forbid_computing()
    second = cached_log_mel([source_of(recordings, embed=embed)], extractor, tmp_path / "cache")
    for spectrograms in (first, second):
        assert spectrograms.dtype == torch.float16
        assert torch.equal(spectrograms, expected)


def test_several_sources_reuse_the_files_of_each(recordings, extractor, tmp_path, monkeypatch, forbid_computing):
    sources = [source_of(recordings[:1]), source_of(recordings[1:], name="sprsound")]
    expected = compute_log_mel(sources, extractor, torch.float16)
    cached_log_mel(sources[:1], extractor, tmp_path / "cache")
    computed = []
    iterate = feature_cache.iterate_log_mel
    monkeypatch.setattr(
        feature_cache, "iterate_log_mel", lambda given, *rest: computed.extend(given) or iterate(given, *rest)
    )
    assert torch.equal(cached_log_mel(sources, extractor, tmp_path / "cache"), expected)
    assert computed == sources[1:]
    forbid_computing()
    assert torch.equal(cached_log_mel(sources, extractor, tmp_path / "cache"), expected)
    swapped = torch.cat([expected[3:], expected[:3]])
    assert torch.equal(cached_log_mel(sources[::-1], extractor, tmp_path / "cache"), swapped)


def test_sources_without_cycles_add_nothing(recordings, extractor, tmp_path):
    empty = source_of(recordings, times=())
    assert cached_log_mel([empty], extractor, tmp_path / "cache").shape == (0, 98, 32)
    assert cached_log_mel([], extractor, tmp_path / "cache").shape == (0, 98, 32)
    assert not (tmp_path / "cache").exists()
    source = source_of(recordings)
    expected = compute_log_mel([source], extractor, torch.float16)
    assert torch.equal(cached_log_mel([empty, source], extractor, tmp_path / "cache"), expected)


def test_spectrograms_are_mapped_from_disk_and_writing_to_them_changes_no_file(recordings, extractor, tmp_path):
    source = source_of(recordings)
    spectrograms = cached_log_mel([source], extractor, tmp_path / "cache")
    (file,) = (tmp_path / "cache").glob("*.npy")
    maps = Path("/proc/self/maps")
    if maps.exists():
        assert str(file) in maps.read_text()
    before = file.read_bytes()
    spectrograms.zero_()
    assert file.read_bytes() == before
    assert torch.equal(
        cached_log_mel([source], extractor, tmp_path / "cache"), compute_log_mel([source], extractor, torch.float16)
    )


@pytest.mark.parametrize(
    "changed",
    [
        {"sampling_rate": 8000},
        {"num_mel_bins": 40},
        {"cycle_seconds": 2.0},
        {"padding_mode": "zero"},
        {"fade_seconds": 0.125},
        {"num_frames": 128},
        {"normalization": "dataset"},
        {"mean": -4.0},
        {"std": 4.0},
        {"feature_size": 2},
        {"padding_value": 1.0},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_every_setting_changes_the_key(recordings, tmp_path, changed):
    source = source_of(recordings)
    for settings in (SETTINGS, SETTINGS | changed):
        extractor = LungSradFeatureExtractor(**settings)
        spectrograms = cached_log_mel([source], extractor, tmp_path / "cache")
        assert torch.equal(spectrograms, compute_log_mel([source], extractor, torch.float16))
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 2


def flip_bit(monkeypatch, recordings):
    content = bytearray(recordings[1].read_bytes())
    content[-1] ^= 1
    recordings[1].write_bytes(content)


def edit_code(monkeypatch, recordings):
    monkeypatch.setattr(feature_cache, "CODE", {**feature_cache.CODE, "dataset_scripts.cycles": "another digest"})


def other_torch(monkeypatch, recordings):
    monkeypatch.setattr(torch, "__version__", "9.9")


def other_numpy(monkeypatch, recordings):
    monkeypatch.setattr(feature_cache.np, "__version__", "9.9")


def other_decoder(monkeypatch, recordings):
    monkeypatch.setattr(feature_cache.soundfile, "__libsndfile_version__", "9.9")


def other_format(monkeypatch, recordings):
    monkeypatch.setattr(feature_cache, "FORMAT", feature_cache.FORMAT + 1)


@pytest.mark.parametrize("change", [flip_bit, edit_code, other_torch, other_numpy, other_decoder, other_format])
def test_audio_code_and_versions_change_the_key(recordings, extractor, tmp_path, monkeypatch, change):
    cached_log_mel([source_of(recordings)], extractor, tmp_path / "cache")
    change(monkeypatch, recordings)
    spectrograms = cached_log_mel([source_of(recordings)], extractor, tmp_path / "cache")
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 2
    assert torch.equal(spectrograms, compute_log_mel([source_of(recordings)], extractor, torch.float16))


def test_an_embedded_cycle_that_changes_changes_the_key(recordings, extractor, tmp_path):
    cached_log_mel([source_of(recordings, embed=True)], extractor, tmp_path / "cache")
    recordings.reverse()
    source = source_of(recordings, embed=True)
    spectrograms = cached_log_mel([source], extractor, tmp_path / "cache")
    assert torch.equal(spectrograms, compute_log_mel([source], extractor, torch.float16))


def test_code_is_that_of_every_step_from_file_to_spectrogram():
    assert set(feature_cache.CODE) == {
        "modeling_lung_srad.audio",
        "modeling_lung_srad.feature_extraction_lung_srad",
        "dataset_scripts.cycles",
        "dataset_scripts.cycle_dataset",
        "iterate_log_mel",
    }
    source = (REPOSITORY / "modeling_lung_srad" / "audio.py").read_bytes()
    assert feature_cache.CODE["modeling_lung_srad.audio"] == hashlib.sha256(source).hexdigest()


def test_moved_or_touched_audio_and_the_origin_of_the_settings_change_nothing(
    recordings, extractor, tmp_path, forbid_computing
):
    expected = cached_log_mel([source_of(recordings)], extractor, tmp_path / "cache")
    extractor.save_pretrained(tmp_path / "saved")
    forbid_computing()
    moved = [path.rename(path.with_name(f"moved_{path.name}")) for path in recordings]
    for path in moved:
        os.utime(path)
    loaded = LungSradFeatureExtractor.from_pretrained(tmp_path / "saved")
    assert torch.equal(cached_log_mel([source_of(moved)], loaded, tmp_path / "cache"), expected)


@pytest.mark.parametrize(
    "times",
    [
        ((0.0, 1.5), (1.5, 2.75), (2.75, 3.999)),
        ((0.001, 1.5), (1.5, 2.75), (2.75, 4.0)),
        ((1.5, 2.75), (0.0, 1.5), (2.75, 4.0)),
        ((0.0, 1.5), (1.5, 2.75)),
    ],
    ids=["end", "start", "order", "fewer"],
)
def test_every_annotation_changes_the_key(recordings, extractor, tmp_path, times):
    cached_log_mel([source_of(recordings)], extractor, tmp_path / "cache")
    source = source_of(recordings, times)
    spectrograms = cached_log_mel([source], extractor, tmp_path / "cache")
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 2
    assert torch.equal(spectrograms, compute_log_mel([source], extractor, torch.float16))


def test_the_description_says_what_a_file_holds(recordings, extractor, tmp_path):
    cached_log_mel([source_of(recordings)], extractor, tmp_path / "cache")
    (file,) = (tmp_path / "cache").glob("*.json")
    description = json.loads(file.read_text(encoding="utf-8"))
    assert (description["source"], description["recordings"], description["shape"]) == ("icbhi", 2, [6, 98, 32])
    assert description["feature_extractor"]["cycle_seconds"] == 1.0
    assert description["versions"]["torch"] == torch.__version__
    assert description["created"][:2] == "20"
    assert file.with_suffix(".npy").exists()


def test_audio_that_changes_meanwhile_is_named_and_nothing_is_kept(recordings, extractor, tmp_path, monkeypatch):
    iterate = feature_cache.iterate_log_mel

    def change_and_iterate(*arguments):
        yield from iterate(*arguments)
        flip_bit(None, recordings)

    monkeypatch.setattr(feature_cache, "iterate_log_mel", change_and_iterate)
    with pytest.raises(InputError, match=r"1\.wav: changed while"):
        cached_log_mel([source_of(recordings)], extractor, tmp_path / "cache")
    assert {path.suffix for path in (tmp_path / "cache").iterdir()} <= {".lock"}


def test_missing_audio_is_named(recordings, extractor, tmp_path):
    source = source_of(recordings)
    recordings[1].unlink()
    with pytest.raises(InputError, match=r"1\.wav: cannot be read \(No such file or directory\)"):
        cached_log_mel([source], extractor, tmp_path / "cache")


def test_folder_is_that_of_the_environment_or_of_the_user(monkeypatch, tmp_path, recordings, extractor):
    monkeypatch.setenv("LUNG_SRAD_CACHE", str(tmp_path / "elsewhere"))
    cached_log_mel([source_of(recordings)], extractor)
    assert len(list((tmp_path / "elsewhere" / "features").glob("icbhi-*.npy"))) == 1
    monkeypatch.setenv("LUNG_SRAD_CACHE", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / ".cache" / "lung-srad" / "features"
