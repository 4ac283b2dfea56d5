import json
import pickle
import shutil

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification, pipeline

from modeling_lung_srad import (
    LungSoundPipeline,
    LungSradFeatureExtractor,
    LungSradForAudioClassification,
    load_pipeline,
)
from modeling_lung_srad.checkpoint_loading import DEFAULT_CHECKPOINT, load_checkpoint
from modeling_lung_srad.errors import InputError
from tests.conftest import tiny_config


def _save(folder, model):
    model.save_pretrained(folder)
    LungSradFeatureExtractor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return LungSradForAudioClassification(tiny_config())


@pytest.fixture
def folder(model, tmp_path):
    return _save(tmp_path / "checkpoint", model)


def _edit_config(folder, **values):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def _edit_preprocessor(folder, **values):
    file = folder / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_loads_what_save_pretrained_wrote(folder, model):
    LungSradFeatureExtractor(num_frames=512, normalization="dataset").save_pretrained(folder)
    loaded, feature_extractor = load_checkpoint(folder)
    assert not loaded.training
    assert (feature_extractor.num_frames, feature_extractor.normalization) == (512, "dataset")
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], weight, rtol=0, atol=0)


def test_outputs_have_names_whatever_the_settings_file_says(folder):
    _edit_config(folder, return_dict=False)
    model, _ = load_checkpoint(folder)
    with torch.inference_mode():
        assert model(torch.zeros(1, 64, model.config.num_mel_bins)).logits.shape == (1, 4)


def test_half_precision_weights_are_computed_with_in_float32(model, tmp_path):
    half = LungSradForAudioClassification(model.config)
    half.load_state_dict(model.state_dict())
    loaded, _ = load_checkpoint(_save(tmp_path / "half", half.half()))
    assert {weight.dtype for weight in loaded.state_dict().values()} == {torch.float32}


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_pickle_beside_the_weights_is_never_opened(folder, tmp_path):
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    load_checkpoint(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="as a pickle only"):
        load_checkpoint(folder)
    assert not (tmp_path / "exploded").exists()


def test_code_in_the_folder_is_never_run(folder, tmp_path):
    code = list(folder.glob("*.py"))
    for file in code:
        file.write_text(f"open({str(tmp_path / 'exploded')!r}, 'w')")
    assert folder / "modeling_lung_srad.py" in code
    load_checkpoint(folder)
    AutoFeatureExtractor.from_pretrained(folder)
    AutoModelForAudioClassification.from_pretrained(folder)
    pipeline("audio-classification", model=str(folder))
    assert not (tmp_path / "exploded").exists()


def _truncate(file):
    file.write_bytes(file.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "config.json").unlink(), "lacks config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json cannot be read"),
        (lambda folder: (folder / "config.json").write_text("[]"), "not a mapping"),
        (lambda folder: (folder / "preprocessor_config.json").unlink(), "lacks preprocessor_config.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), "lacks model.safetensors"),
        (lambda folder: _truncate(folder / "model.safetensors"), "cannot be loaded"),
        (lambda folder: _edit_config(folder, model_type="wav2vec2"), "'wav2vec2', not 'lung_srad'"),
        (lambda folder: _edit_config(folder, dims="wide"), "cannot be loaded"),
        (lambda folder: _edit_config(folder, depths=[1, 1, 5, 1]), "missing weights such as lung_srad.layers.2"),
        (lambda folder: _edit_config(folder, depths=[1, 1, 3, 1], gaussian_blocks=[]), "unexpected weights such as"),
        (lambda folder: _edit_config(folder, dims=[8, 16, 24, 48]), "mismatched weights such as head.weight"),
        (lambda folder: _edit_config(folder, id2label={"0": "normal", "1": "abnormal"}), "has 2 labels"),
        (
            lambda folder: _edit_config(folder, dims=[8, 16, 24, 65536]),
            "config.json describes 21475111744 weights or more",
        ),
        (lambda folder: _edit_config(folder, depths=[1, 1, 150, 1]), "config.json describes 438848 weights or more"),
        (lambda folder: _edit_config(folder, num_labels=10**9), "num_labels: must be a whole number"),
        (lambda folder: _edit_config(folder, quantization_config={"quant_method": "gptq"}), "cannot be loaded"),
        (lambda folder: _edit_preprocessor(folder, mean=10**400), "cannot be loaded"),
        (lambda folder: _edit_config(folder, num_mel_bins=64), "num_mel_bins is 64 in config.json and 128 in"),
        (lambda folder: _edit_config(folder, hidden_act="nosuch"), "cannot be loaded"),
        (lambda folder: _edit_config(folder, scan_backend="cuda"), "cannot be loaded"),
        (lambda folder: _spoil_weights(folder / "model.safetensors"), "head.bias has NaN"),
        (lambda folder: _edit_config(folder, id2label={str(i): f"sound {i}" for i in range(4)}), "has 4 labels"),
    ],
)
def test_what_cannot_be_used_is_named_in_one_line_with_the_remedy(folder, damage, said):
    damage(folder)
    with pytest.raises(InputError) as raised:
        load_checkpoint(folder)
    message = str(raised.value)
    assert message.startswith(f"{folder}: ")
    assert said in message
    assert ";" in message
    assert "\n" not in message


def test_another_number_of_labels_is_refused(tmp_path):
    folder = _save(tmp_path / "audioset", LungSradForAudioClassification(tiny_config(num_labels=527)))
    with pytest.raises(InputError, match=r"has 527 labels \(.*, \.\.\.\) where classification needs the four normal"):
        load_checkpoint(folder)


@pytest.mark.parametrize("name", ["missing/of/three", "./missing", "/nowhere/at/all", "~/nowhere-at-all"])
def test_a_folder_that_is_missing_is_not_looked_up_on_the_hub(name, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)
    with pytest.raises(InputError, match="no such folder"):
        load_checkpoint(name)


def test_a_file_is_not_a_checkpoint(tmp_path):
    file = tmp_path / "model.pth"
    file.write_bytes(b"")
    with pytest.raises(InputError, match="lung-srad convert"):
        load_checkpoint(file)


@pytest.mark.parametrize("name", ["nobody/no-such-model", "no such name!"])
def test_what_the_hub_does_not_have_is_named(name):
    with pytest.raises(InputError, match=f"{name}: neither a folder here nor a model"):
        load_checkpoint(name)


def test_a_hub_id_fetches_neither_code_nor_pickles(folder, monkeypatch, tmp_path):
    def download(name, revision, allow_patterns, ignore_patterns):
        assert (name, ignore_patterns) == ("someone/lung-srad", ["*/*"])
        revisions.append(revision)
        fetched = tmp_path / "cache"
        fetched.mkdir()
        for pattern in allow_patterns:
            for file in folder.glob(pattern):
                shutil.copy(file, fetched)
        return str(fetched)

    revisions = []
    (folder / "training_args.bin").write_bytes(b"")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    lung_sounds = load_pipeline("someone/lung-srad", revision="v1.0", window=2.0)
    assert lung_sounds.choose_window(2.0) == (2.0, 1.0)
    shutil.rmtree(tmp_path / "cache")
    load_pipeline("someone/lung-srad@v2.0")
    assert revisions == ["v1.0", "v2.0"]
    assert sorted(file.suffix for file in (tmp_path / "cache").iterdir()) == [".json", ".json", ".safetensors"]


def test_a_folder_has_no_revision(folder):
    for name, revision in ((folder, "main"), (f"{folder}@main", None)):
        with pytest.raises(InputError, match="is a folder, so revision main cannot be chosen; leave revision out"):
            load_pipeline(name, revision=revision)


def test_the_embedded_checkpoint_is_the_default_of_the_pipeline():
    assert load_pipeline().model.config.name_or_path == str(DEFAULT_CHECKPOINT)
    assert LungSoundPipeline.from_checkpoint is load_pipeline


def _spoil_weights(path):
    weights = load_file(path)
    weights["head.bias"][0] = float("nan")
    save_file(weights, path, metadata={"format": "pt"})
