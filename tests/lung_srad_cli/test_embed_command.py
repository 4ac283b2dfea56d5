"""`lung-srad embed`: the features before the classifier, a row a window."""

import numpy as np
import pytest
import torch

from modeling_lung_srad import load_pipeline
from tests.lung_srad_cli.conftest import noise


@pytest.fixture
def recordings(write_recording):
    return [
        write_recording(name, noise(seconds, seed))
        for seed, (name, seconds) in enumerate((("a.wav", 7), ("b.wav", 3)))
    ]


def test_embeddings_are_what_the_classifier_takes(run, recordings, tmp_path):
    assert run("embed", *recordings, "--output", tmp_path / "out.npz").exit_code == 0
    written = np.load(tmp_path / "out.npz")
    lung_sounds = load_pipeline()
    lung_sounds.model.config.context_weight = None
    answers = lung_sounds(list(map(str, recordings)))
    segments = [segment for answer in answers for segment in answer["timeline"]]
    assert written["start"].tolist() == [segment["start"] for segment in segments]
    assert written["end"].tolist() == [segment["end"] for segment in segments]
    assert written["recording"].tolist() == [str(recordings[0])] * 6 + [str(recordings[1])] * 2
    assert written["embeddings"].shape == (8, lung_sounds.model.config.hidden_size)
    odds = lung_sounds.model.head(torch.from_numpy(written["embeddings"])) / lung_sounds.model.config.temperature
    crackle = [segment["probabilities"]["crackle"] + segment["probabilities"]["both"] for segment in segments]
    np.testing.assert_allclose(odds[:, 0].sigmoid().detach(), crackle, atol=1e-4)


def test_parquet_has_the_same_columns(run, recordings, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    assert run("embed", *recordings, "--output", tmp_path / "out.parquet", "--window", 2).exit_code == 0
    table = parquet.read_table(tmp_path / "out.parquet")
    assert table.column_names == ["recording", "start", "end", "embeddings"]
    assert len(set(map(len, table["embeddings"].to_pylist()))) == 1
    assert table["start"].to_pylist() == [0, 1, 2, 3, 4, 5, 0, 1]


def test_cycles_are_embedded_in_python(recordings):
    found = load_pipeline().embed(str(recordings[0]), cycles=[(0.5, 2.0), (2.0, 6.5)])
    assert found.start.tolist() == [0.5, 2.0]
    assert found.embeddings.dtype == np.float32


def test_wrong_names_are_said_before_the_work(run, recordings, tmp_path):
    outcome = run("embed", *recordings, "--output", tmp_path / "out.txt")
    assert outcome.exit_code == 2
    assert ".txt says no format; use .npz or .parquet" in outcome.errors[0]
    outcome = run("embed", recordings[0], tmp_path / "nosuch.wav", "--output", tmp_path / "out.npz")
    assert outcome.exit_code == 2
    assert "nosuch.wav: no such file" in outcome.errors[0]
    assert len(np.load(tmp_path / "out.npz")["start"]) == 6
