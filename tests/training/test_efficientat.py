"""EfficientAT mn04: its architecture against a forward pass written with functions, and what loading refuses."""

import json
import os
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from modeling_lung_srad.checkpoint_loading import CheckpointError
from tests.conftest import shared_path
from training.efficientat import (
    EfficientAT,
    load_efficientat,
    load_finetuned_efficientat,
    round_channels,
    save_efficientat,
)

# The blocks at width 0.4, worked out by hand: channels in, expanded, out, squeezed (0 for none), kernel, stride.
BLOCKS = (
    (8, 8, 8, 0, 3, 1),
    (8, 24, 16, 0, 3, 2),
    (16, 32, 16, 0, 3, 1),
    (16, 32, 16, 8, 5, 2),
    (16, 48, 16, 16, 5, 1),
    (16, 48, 16, 16, 5, 1),
    (16, 96, 32, 0, 3, 2),
    (32, 80, 32, 0, 3, 1),
    (32, 72, 32, 0, 3, 1),
    (32, 72, 32, 0, 3, 1),
    (32, 192, 48, 48, 3, 1),
    (48, 272, 48, 72, 3, 1),
    (48, 272, 64, 72, 5, 2),
    (64, 384, 64, 96, 5, 1),
    (64, 384, 64, 96, 5, 1),
)
FIRST_HARDSWISH_BLOCK = 7
LABELS = ("crackle", "wheeze")
FEATURE_SETTINGS = {"sampling_rate": 8000, "num_mel_bins": 128, "low_frequency": 40.0}


@pytest.fixture
def model():
    """Random weights, with statistics of the batch norms that differ from channel to channel."""
    torch.manual_seed(0)
    model = EfficientAT(num_labels=2)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean, std=0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.1)
    return model.eval()


@pytest.fixture
def published_layout(tmp_path):
    """A file like the published one: a pickled state dict with 527 outputs."""
    torch.manual_seed(1)
    torch.save(EfficientAT().state_dict(), tmp_path / "mn04.pt")
    return tmp_path / "mn04.pt"


def forward_by_functions(weights, log_mel):
    """Logits and pooled features from the weights by their names alone, in evaluation mode."""

    def convolve(states, name, stride=1, groups=1):
        kernel = weights[f"{name}.0.weight"]
        states = functional.conv2d(states, kernel, stride=stride, padding=(kernel.shape[-1] - 1) // 2, groups=groups)
        mean, variance, scale, shift = (
            weights[f"{name}.1.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (states - mean) / torch.sqrt(variance + 0.001) * scale + shift

    def hardswish(states):
        return states * (states + 3).clamp(0, 6) / 6

    states = hardswish(convolve(log_mel, "features.0", stride=2))
    for number, (channels, expanded, out, squeezed, _, stride) in enumerate(BLOCKS, start=1):
        activation = hardswish if number >= FIRST_HARDSWISH_BLOCK else lambda states: states.clamp(min=0)
        before, layer = states, 0
        if channels != expanded:
            states = activation(convolve(states, f"features.{number}.block.0"))
            layer = 1
        states = activation(convolve(states, f"features.{number}.block.{layer}", stride, groups=expanded))
        if squeezed:
            layer += 1
            name = f"features.{number}.block.{layer}.conc_se_layers.0"
            squeeze = states.mean(dim=(2, 3)) @ weights[f"{name}.fc1.weight"].T + weights[f"{name}.fc1.bias"]
            gate = squeeze.clamp(min=0) @ weights[f"{name}.fc2.weight"].T + weights[f"{name}.fc2.bias"]
            states = states / (1 + torch.exp(-gate))[:, :, None, None]
        states = convolve(states, f"features.{number}.block.{layer + 1}")
        if channels == out and stride == 1:
            states = states + before
    pooled = hardswish(convolve(states, "features.16")).mean(dim=(2, 3))
    hidden = hardswish(pooled @ weights["classifier.2.weight"].T + weights["classifier.2.bias"])
    return hidden @ weights["classifier.5.weight"].T + weights["classifier.5.bias"], pooled


@pytest.mark.parametrize("shape", [(2, 1, 128, 100), (1, 1, 64, 33), (1, 1, 1, 1)])
def test_forward_is_that_of_the_functions(model, shape):
    log_mel = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        logits, pooled = forward_by_functions(model.state_dict(), log_mel)
        output = model(log_mel)
    assert output.logits.shape == (shape[0], 2)
    assert output.pooled.shape == (shape[0], 384)
    torch.testing.assert_close(output.pooled, pooled, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(output.logits, logits, atol=1e-5, rtol=1e-4)


def test_names_and_shapes_are_those_of_the_published_weights():
    def norm(name, channels):
        parts = dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (channels,))
        return {f"{name}.1.{part}": shape for part, shape in (parts | {"num_batches_tracked": ()}).items()}

    expected = {"features.0.0.weight": (8, 1, 3, 3), "features.16.0.weight": (384, 64, 1, 1)}
    expected |= norm("features.0", 8) | norm("features.16", 384)
    for number, (channels, expanded, out, squeezed, kernel, _) in enumerate(BLOCKS, start=1):
        kernels = [(expanded, 1, kernel, kernel), (out, expanded, 1, 1)]
        if channels != expanded:
            kernels.insert(0, (expanded, channels, 1, 1))
        layers = list(range(len(kernels)))
        if squeezed:
            layers[-1] += 1
            name = f"features.{number}.block.{layers[-1] - 1}.conc_se_layers.0"
            expected |= {f"{name}.fc1.weight": (squeezed, expanded), f"{name}.fc1.bias": (squeezed,)}
            expected |= {f"{name}.fc2.weight": (expanded, squeezed), f"{name}.fc2.bias": (expanded,)}
        for layer, shape in zip(layers, kernels, strict=True):
            expected[f"features.{number}.block.{layer}.0.weight"] = shape
            expected |= norm(f"features.{number}.block.{layer}", shape[0])
    expected |= {"classifier.2.weight": (512, 384), "classifier.2.bias": (512,)}
    expected |= {"classifier.5.weight": (527, 512), "classifier.5.bias": (527,)}
    model = EfficientAT()
    assert {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()} == expected
    assert sum(parameter.numel() for parameter in model.parameters()) == 983_599


@pytest.mark.parametrize(("channels", "rounded"), [(1, 8), (9.6, 16), (25.6, 24), (28.8, 32), (12, 16), (268.8, 272)])
def test_channels_are_multiples_of_8_and_never_under_90_percent(channels, rounded):
    assert round_channels(channels) == rounded


@pytest.mark.parametrize("prefix", ["", "odd."])
def test_published_weights_give_the_reference_output(prefix):
    model = load_efficientat(shared_path("weights/efficientat_mn04_as.pt"))
    reference = load_file(shared_path("golden/efficientat_mn04.safetensors"))
    with torch.no_grad():
        output = model(reference[f"{prefix}input"])
    torch.testing.assert_close(output.logits, reference[f"{prefix}logits"], atol=1e-4, rtol=0)
    torch.testing.assert_close(output.pooled, reference[f"{prefix}pooled"], atol=1e-4, rtol=0)


def test_published_weights_have_the_names_of_the_network():
    weights = torch.load(shared_path("weights/efficientat_mn04_as.pt"), weights_only=True)
    EfficientAT().load_state_dict(weights, strict=True)


def test_gradients_reach_every_parameter_in_training(model):
    model.train()
    model(torch.randn(4, 1, 128, 64)).logits.square().sum().backward()
    without = [name for name, parameter in model.named_parameters() if not parameter.grad.abs().sum() > 0]
    assert not without


def test_training_draws_dropout_and_moves_the_statistics_by_one_percent(model):
    model.train()
    log_mel = torch.randn(2, 1, 128, 64, generator=torch.Generator().manual_seed(3))
    norm = model.features[0][1]
    before = norm.running_mean.clone()
    with torch.no_grad():
        batch_mean = model.features[0][0](log_mel).mean(dim=(0, 2, 3))
        first, second = model(log_mel), model(log_mel)
    assert not torch.equal(first.logits, second.logits)
    torch.testing.assert_close(first.pooled, second.pooled)
    torch.testing.assert_close(norm.running_mean, 0.99**2 * before + (1 - 0.99**2) * batch_mean)
    # A fifth of the 512 hidden values is dropped and the others are scaled up.
    dropped = model.classifier[4](torch.ones(100, 512))
    assert (dropped == 0).float().mean().item() == pytest.approx(0.2, abs=0.02)


def test_loading_keeps_the_weights_and_is_in_evaluation_mode(published_layout):
    weights = torch.load(published_layout, weights_only=True)
    for loaded in (load_efficientat(published_layout), load_efficientat(str(published_layout), num_labels=527)):
        assert not loaded.training
        assert loaded.num_labels == 527
        assert all(torch.equal(tensor, weights[name]) for name, tensor in loaded.state_dict().items())


def test_another_number_of_labels_replaces_the_last_layer_only(published_layout):
    weights = torch.load(published_layout, weights_only=True)
    model = load_efficientat(published_layout, num_labels=2)
    assert model.num_labels == 2
    assert model(torch.zeros(1, 1, 128, 32)).logits.shape == (1, 2)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, weights[name])}
    assert changed == {"classifier.5.weight", "classifier.5.bias"}
    with pytest.raises(ValueError, match="num_labels: 0 is below 1"):
        load_efficientat(published_layout, num_labels=0)


def test_saving_and_loading_gives_the_same_model(model, tmp_path):
    save_efficientat(tmp_path / "runs" / "first", model, LABELS, FEATURE_SETTINGS)
    loaded = load_finetuned_efficientat(tmp_path / "runs" / "first")
    assert loaded.labels == LABELS
    assert loaded.feature_settings == FEATURE_SETTINGS
    weights = model.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in loaded.model.state_dict().items())
    assert not loaded.model.training
    assert load_efficientat(tmp_path / "runs" / "first" / "model.safetensors", num_labels=5).num_labels == 5
    assert sorted(os.listdir(tmp_path / "runs" / "first")) == ["config.json", "model.safetensors"]


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def refused(path):
    with pytest.raises(CheckpointError) as error:
        load_efficientat(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)
    return str(error.value).removeprefix(f"{path}: ")


def test_missing_file_and_folder_are_refused(tmp_path):
    assert "no such file" in refused(tmp_path / "missing.pt")
    assert "is a folder; name a file" in refused(tmp_path)


@pytest.mark.parametrize(
    "save", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content, protocol=2))]
)
def test_pickled_code_is_refused_and_not_run(tmp_path, save):
    save({"features.0.0.weight": Touch(str(tmp_path / "touched"))}, tmp_path / "code.pt")
    assert "holds pickled code" in refused(tmp_path / "code.pt")
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_truncated_files_are_refused(tmp_path, model, published_layout, share):
    save_efficientat(tmp_path / "saved", model, LABELS, {})
    for path in (published_layout, tmp_path / "saved" / "model.safetensors"):
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])
        assert "fetch or save it again" in refused(path)


def test_other_content_is_refused(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "epoch.pt")
    assert "is not a state dict of tensors" in refused(tmp_path / "epoch.pt")
    torch.save([torch.zeros(3)], tmp_path / "list.pt")
    assert "is not a state dict of tensors" in refused(tmp_path / "list.pt")
    (tmp_path / "text.pt").write_text("404: Not Found")
    assert "is not a file of weights" in refused(tmp_path / "text.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features.3.block.1.0.weight": None}, "lacks 1 weights, such as features.3.block.1.0.weight;"),
        ({"classifier.5.weight": None}, "lacks 1 weights, such as classifier.5.weight;"),
        ({"v.head": torch.zeros(3), "v.a": torch.zeros(3)}, "has 2 unexpected weights, such as v.a;"),
        (
            {"features.0.0.weight": torch.zeros(16, 1, 3, 3)},
            "features.0.0.weight has shape (16, 1, 3, 3) where (8, 1, 3, 3) is needed;",
        ),
        ({"classifier.5.bias": torch.zeros(3)}, "classifier.5.bias has shape (3,) where (2,) is needed;"),
        ({"classifier.5.weight": torch.zeros(2)}, "classifier.5.weight has shape (2,) where (2, 512) is needed;"),
        ({"classifier.2.bias": torch.full((512,), torch.nan)}, "classifier.2.bias has NaN or infinite values;"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(tmp_path, model, change, message):
    weights = {name: tensor for name, tensor in (model.state_dict() | change).items() if tensor is not None}
    save_file(weights, tmp_path / "model.safetensors")
    torch.save(weights, tmp_path / "model.pt")
    assert refused(tmp_path / "model.safetensors").startswith(message)
    assert refused(tmp_path / "model.pt").startswith(message)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "no such file"),
        ("{", "cannot be read"),
        ("[]", "model_type is not 'efficientat'"),
        ({"model_type": "lung_srad"}, "model_type is not 'efficientat'"),
        ({"model_type": "efficientat", "feature_settings": {}}, "lacks the list labels"),
        ({"model_type": "efficientat", "labels": ["a", "b"]}, "lacks the list labels or the mapping feature_settings"),
        ({"model_type": "efficientat", "labels": ["a"], "feature_settings": {}}, "has 1 labels, but .* has 2 outputs"),
    ],
)
def test_bad_configuration_of_a_saved_model_names_the_file(tmp_path, model, config, message):
    save_efficientat(tmp_path, model, LABELS, {})
    file = tmp_path / "config.json"
    file.unlink()
    if config is not None:
        file.write_text(config if isinstance(config, str) else json.dumps(config))
    with pytest.raises(CheckpointError, match=message) as error:
        load_finetuned_efficientat(tmp_path)
    assert str(error.value).startswith(f"{file}: ")
    assert "\n" not in str(error.value)


def test_saving_refuses_labels_that_do_not_fit_and_keeps_what_was_there(tmp_path, model):
    save_efficientat(tmp_path / "saved", model, LABELS, {})
    before = (tmp_path / "saved" / "config.json").read_text()
    for labels in (("crackle",), ("crackle", "crackle")):
        with pytest.raises(ValueError, match="are not 2 different names"):
            save_efficientat(tmp_path / "saved", model, labels, {})
    with pytest.raises(TypeError, match="not JSON serializable"):
        save_efficientat(tmp_path / "saved", EfficientAT(2), LABELS, {"mean": torch.zeros(1)})
    assert (tmp_path / "saved" / "config.json").read_text() == before
    assert torch.equal(
        load_finetuned_efficientat(tmp_path / "saved").model.features[0][0].weight, model.features[0][0].weight
    )
    with pytest.raises(CheckpointError, match="cannot be written to"):
        save_efficientat(tmp_path / "saved" / "config.json", model, LABELS, {})


def test_input_of_another_shape_is_refused(model):
    with pytest.raises(ValueError, match=r"log_mel has shape \(1, 128, 64\); give \(batch, 1, mel, frames\)"):
        model(torch.zeros(1, 128, 64))
    with pytest.raises(ValueError, match=r"log_mel has shape \(1, 3, 128, 64\)"):
        model(torch.zeros(1, 3, 128, 64))
