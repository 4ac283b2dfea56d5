"""Each layout in which weights circulate, made from one set of weights, gives the same network."""

import argparse
import json
import pickle
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from modeling_lung_srad import LungSradFeatureExtractor, LungSradForAudioClassification
from modeling_lung_srad.conversion import convert_checkpoint, convert_feature_extractor
from modeling_lung_srad.errors import InputError
from tests.conftest import FIXTURES, tiny_config


@pytest.fixture(scope="module")
def original():
    """Weights under the names of the original `.pth` files, and an input with the reference's logits."""
    weights = load_file(FIXTURES / "backbone_weights.safetensors")
    outputs = load_file(FIXTURES / "backbone_outputs.safetensors")
    return weights, outputs["short.input_values"], outputs["short.logits"]


def to_hub_names(weights):
    """The renaming of the DASS authors, written down independently of the code under test."""
    patch = {"patch_embed.0": "0", "patch_embed.2": "1", "patch_embed.5": "3", "patch_embed.7": "4"}
    renamed = {}
    for name, tensor in weights.items():
        name = name.removeprefix("module.v.")
        for old, new in patch.items():
            name = name.replace(old, f"patch_embeddings.projection.{new}")
        name = name.replace("x_proj_weight", "x_proj.weight").replace("dt_projs_weight", "dt_projs.weight")
        name = name.replace("downsample.1", "downsample.down").replace("downsample.3", "downsample.norm")
        name = name.removeprefix("classifier.")
        renamed[name if name.startswith("head") else f"dass.{name}"] = tensor
    return renamed


def to_newer_shapes(weights):
    """Stacked scan projections in two dimensions and linear weights as 1x1 convolutions, as newer VMamba has them."""
    reshaped = {}
    for name, tensor in weights.items():
        if "x_proj" in name or "dt_projs_weight" in name or "dt_projs.weight" in name:
            tensor = tensor.flatten(0, 1)
            name = name.replace("_weight", ".weight")
        elif re.search(r"(in_proj|out_proj|fc1|fc2)\.weight$", name):
            tensor = tensor[:, :, None, None]
        reshaped[name] = tensor
    return reshaped


def write_dass_pth(weights, folder):
    torch.save(weights, folder / "dass.pth")
    return folder / "dass.pth"


def write_dass_hub_folder(weights, folder):
    save_file(
        {name: tensor.contiguous() for name, tensor in to_newer_shapes(to_hub_names(weights)).items()},
        folder / "model.safetensors",
    )
    labels = {str(index): f"sound {index}" for index in range(4)}
    config = {
        "model_type": "dass",
        "dims": [16, 32, 64, 128],
        "depths": [1, 1, 3, 1],
        "num_classes": 4,
        "id2label": labels,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_vmamba_pth(weights, folder):
    weights = {name.removeprefix("module.v."): tensor for name, tensor in weights.items()}
    embedding = weights["patch_embed.0.weight"]
    parts = torch.tensor([0.5, 0.3, 0.2])[None, :, None, None]
    weights |= {"patch_embed.0.weight": embedding * parts, "classifier.head.weight": torch.ones(1000, 128)}
    weights["classifier.head.bias"] = torch.ones(1000)
    torch.save({"model": to_newer_shapes(weights)}, folder / "vmamba.pth")
    return folder / "vmamba.pth"


def write_training_pth(weights, folder):
    model = {name.removeprefix("module."): tensor for name, tensor in weights.items()}
    content = {
        "model": model,
        "optimizer": {"state": {}, "param_groups": []},
        "args": argparse.Namespace(seed=1),
        "epoch": 50,
    }
    torch.save(content, folder / "best.pth")
    return folder / "best.pth"


@pytest.mark.parametrize("write", [write_dass_pth, write_dass_hub_folder, write_training_pth])
def test_a_layout_with_a_head_gives_the_reference_logits(original, write, tmp_path):
    weights, input_values, logits = original
    model = convert_checkpoint(write(weights, tmp_path))
    assert not model.training
    with torch.no_grad():
        torch.testing.assert_close(model(input_values).logits, logits, atol=1e-4, rtol=0)


def test_vmamba_weights_give_the_reference_backbone_and_a_new_head(original, tmp_path):
    weights, input_values, logits = original
    model = convert_checkpoint(write_vmamba_pth(weights, tmp_path), num_labels=4)
    assert model.config.num_labels == 4
    head = {name: weights[f"module.v.classifier.head.{name}"] for name in ("weight", "bias")}
    model.head.load_state_dict(head)
    with torch.no_grad():
        torch.testing.assert_close(model(input_values).logits, logits, atol=1e-4, rtol=0)


def test_loading_a_hub_folder_of_dass_without_converting_names_the_call(original, tmp_path):
    write_dass_hub_folder(original[0], tmp_path)
    with pytest.raises(ValueError, match="convert_checkpoint"):
        LungSradForAudioClassification.from_pretrained(tmp_path)


def test_labels_of_a_hub_folder_are_kept(original, tmp_path):
    model = convert_checkpoint(write_dass_hub_folder(original[0], tmp_path))
    assert model.config.id2label == {index: f"sound {index}" for index in range(4)}


def test_another_number_of_labels_gets_a_new_head(original, tmp_path):
    model = convert_checkpoint(write_dass_pth(original[0], tmp_path), num_labels=7)
    assert model.head.weight.shape == (7, 128)
    assert model.head.weight.std().item() == pytest.approx(0.02, rel=0.2)


def test_the_result_is_the_original_network_unless_regularization_is_asked_for(original, tmp_path):
    path = write_dass_pth(original[0], tmp_path)
    assert list(convert_checkpoint(path).config.gaussian_blocks) == []
    assert list(convert_checkpoint(path, gaussian_blocks=(1, 2)).config.gaussian_blocks) == [1, 2]


def test_the_result_survives_saving(original, tmp_path):
    weights, input_values, logits = original
    convert_checkpoint(write_dass_pth(weights, tmp_path)).save_pretrained(tmp_path / "saved")
    loaded = LungSradForAudioClassification.from_pretrained(tmp_path / "saved")
    with torch.no_grad():
        torch.testing.assert_close(loaded(input_values).logits, logits, atol=1e-4, rtol=0)


@pytest.fixture
def weights():
    """Weights in the original names that need no reference material."""
    model = LungSradForAudioClassification(tiny_config(gaussian_blocks=()))
    return {name.replace("lung_srad.", "dass."): tensor.clone() for name, tensor in model.state_dict().items()}


def expect_error(path, message):
    with pytest.raises(InputError, match=message) as error:
        convert_checkpoint(path)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_an_error(tmp_path):
    expect_error(tmp_path / "none.pth", "no such file")


def test_a_folder_without_config_is_an_error(weights, tmp_path):
    save_file(weights, tmp_path / "model.safetensors")
    expect_error(tmp_path, "config.json: no such file")


def test_a_folder_with_a_broken_config_is_an_error(weights, tmp_path):
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{")
    expect_error(tmp_path, "config.json: is not a JSON")


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_truncated_file_is_an_error(weights, tmp_path, suffix):
    path = tmp_path / f"weights.{suffix}"
    torch.save(weights, path) if suffix == "pth" else save_file(weights, path)
    path.write_bytes(path.read_bytes()[:-2000])
    expect_error(path, "cannot be read|is not a checkpoint")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint at all\n" * 100])
def test_a_file_that_is_no_checkpoint_is_an_error(tmp_path, content):
    (tmp_path / "weights.pth").write_bytes(content)
    expect_error(tmp_path / "weights.pth", "cannot be read|is not a checkpoint")


def test_pickled_code_is_not_run(tmp_path):
    class Exploit:
        def __reduce__(self):
            return (open, (str(tmp_path / "written"), "w"))

    for name, write in (("torch.pth", torch.save), ("plain.pth", lambda x, path: path.write_bytes(pickle.dumps(x)))):
        write({"model": Exploit()}, tmp_path / name)
        expect_error(tmp_path / name, "never run")
    assert not (tmp_path / "written").exists()


def test_weights_of_another_network_are_an_error(tmp_path):
    torch.save({"encoder.layer.0.weight": torch.ones(3, 3)}, tmp_path / "bert.pth")
    expect_error(tmp_path / "bert.pth", "encoder.layer.0.weight")


def test_a_missing_weight_is_named(weights, tmp_path):
    del weights["dass.layers.2.blocks.1.mlp.fc2.bias"]
    torch.save(weights, tmp_path / "weights.pth")
    expect_error(tmp_path / "weights.pth", r"lacks 1 weights, such as layers\.2\.blocks\.1\.mlp\.fc2\.bias")


def test_an_unknown_weight_is_named(weights, tmp_path):
    weights["dass.layers.0.blocks.0.op.gate.weight"] = torch.ones(2)
    torch.save(weights, tmp_path / "weights.pth")
    expect_error(tmp_path / "weights.pth", r"unknown 1 weights, such as layers\.0\.blocks\.0\.op\.gate\.weight")


def test_a_weight_of_another_shape_is_named(weights, tmp_path):
    name = "dass.layers.1.blocks.0.op.in_proj.weight"
    weights[name] = torch.cat([weights[name]] * 2)
    torch.save(weights, tmp_path / "weights.pth")
    expect_error(tmp_path / "weights.pth", r"layers\.1\.blocks\.0\.op\.in_proj\.weight has shape \(32, 16\)")


def test_weights_that_are_not_finite_are_named(weights, tmp_path):
    weights["dass.norm.weight"][0] = float("nan")
    torch.save(weights, tmp_path / "weights.pth")
    expect_error(tmp_path / "weights.pth", "norm.weight has NaN")


@pytest.mark.parametrize(
    "content",
    [
        {0: torch.ones(2)},
        {"a": torch.eye(3).to_sparse()},
        # A file of a kilobyte that would take 8 TB.
        {"a": torch.ones(1, dtype=torch.float64).expand(10**6, 10**6)},
        {"a": "text"},
        [torch.ones(2)],
        torch.ones(2),
    ],
)
def test_a_pickle_that_is_no_state_dict_is_an_error(tmp_path, content):
    torch.save(content, tmp_path / "weights.pth")
    expect_error(tmp_path / "weights.pth", "contains no state dict")


@pytest.mark.parametrize("content", [b"hello world\n", b"RIFF\x24\x00\x00\x00WAVEfmt ", b"(lp0\n."])
def test_any_other_file_is_an_error(tmp_path, content):
    (tmp_path / "weights.pth").write_bytes(content)
    expect_error(tmp_path / "weights.pth", "checkpoint|state dict")


@pytest.mark.parametrize("name", ["op.A_logs", "norm.weight", "mlp.fc1.weight"])
@pytest.mark.parametrize("shape", [(), (0,)])
def test_a_weight_from_which_no_size_can_be_read_is_named(weights, tmp_path, name, shape):
    weights[f"dass.layers.0.blocks.0.{name}"] = torch.zeros(shape)
    torch.save(weights, tmp_path / "weights.pth")
    expect_error(tmp_path / "weights.pth", rf"layers\.0\.blocks\.0\.{name} has shape")


def test_a_scan_of_too_many_axes_is_named(weights, tmp_path):
    weights["dass.layers.0.blocks.0.op.A_logs"] = weights["dass.layers.0.blocks.0.op.A_logs"][..., None].repeat(
        1, 1, 2
    )
    torch.save(weights, tmp_path / "weights.pth")
    expect_error(tmp_path / "weights.pth", r"layers\.0\.blocks\.0\.op\.A_logs has shape \(\d+, \d+, 2\)")


def test_half_a_head_is_replaced(weights, tmp_path, caplog):
    del weights["head.bias"]
    torch.save(weights, tmp_path / "weights.pth")
    model = convert_checkpoint(tmp_path / "weights.pth")
    assert not torch.equal(model.head.weight, weights["head.weight"])


@pytest.mark.parametrize("as_pickle", [False, True])
def test_a_checkpoint_of_this_project_keeps_its_network_and_features(tmp_path, as_pickle):
    model = LungSradForAudioClassification(tiny_config(gaussian_blocks=(1,), gaussian_sigma=2.0)).eval()
    model.save_pretrained(tmp_path)
    LungSradFeatureExtractor(num_frames=512).save_pretrained(tmp_path)
    if as_pickle:
        (tmp_path / "model.safetensors").unlink()
        torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    input_values = torch.randn(1, 64, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(convert_checkpoint(tmp_path)(input_values).logits, model(input_values).logits)
    assert convert_feature_extractor(tmp_path).num_frames == 512


@pytest.mark.parametrize(("blocks", "rate"), [(15, 0.3), (8, 0.2)])
def test_stochastic_depth_is_that_of_the_released_size(blocks, rate, tmp_path):
    model = LungSradForAudioClassification(tiny_config(depths=(2, 2, blocks, 2), gaussian_blocks=()))
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    folder = write_dass_hub_folder({}, tmp_path)
    config = json.loads((folder / "config.json").read_text()) | {"dims": [8, 16, 24, 32], "depths": [2, 2, blocks, 2]}
    (folder / "config.json").write_text(json.dumps(config))
    named = {name.replace("lung_srad.", "dass."): tensor for name, tensor in weights.items()}
    save_file(named, folder / "model.safetensors")
    assert convert_checkpoint(folder).config.drop_path_rate == rate


def test_feature_extractor_that_cannot_be_used_is_named(tmp_path):
    LungSradForAudioClassification(tiny_config()).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match=r"preprocessor_config\.json cannot be used \(.*; save or download it again"):
        convert_feature_extractor(tmp_path)
