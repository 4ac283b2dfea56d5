"""EfficientAT mn04: its architecture against a forward pass written with functions, and its two heads."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from torch.nn import functional
from transformers import AutoFeatureExtractor, AutoModel, AutoModelForAudioClassification

from modeling_lung_srad import LungSradFeatureExtractor
from tests.training.conftest import SHORT_INPUT
from training.teachers.efficientat import (
    EfficientATConfig,
    EfficientATForAudioClassification,
    EfficientATModel,
    compose_classes,
    round_channels,
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


@pytest.fixture
def model():
    """Random weights, with statistics of the batch norms that differ from channel to channel."""
    torch.manual_seed(0)
    model = EfficientATForAudioClassification(EfficientATConfig(head="classes"))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean, std=0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.1)
    return model.eval()


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

    states = hardswish(convolve(log_mel, "efficientat.features.0", stride=2))
    for number, (channels, expanded, out, squeezed, _, stride) in enumerate(BLOCKS, start=1):
        activation = hardswish if number >= FIRST_HARDSWISH_BLOCK else lambda states: states.clamp(min=0)
        before, layer = states, 0
        if channels != expanded:
            states = activation(convolve(states, f"efficientat.features.{number}.block.0"))
            layer = 1
        states = activation(convolve(states, f"efficientat.features.{number}.block.{layer}", stride, groups=expanded))
        if squeezed:
            layer += 1
            name = f"efficientat.features.{number}.block.{layer}.conc_se_layers.0"
            squeeze = states.mean(dim=(2, 3)) @ weights[f"{name}.fc1.weight"].T + weights[f"{name}.fc1.bias"]
            gate = squeeze.clamp(min=0) @ weights[f"{name}.fc2.weight"].T + weights[f"{name}.fc2.bias"]
            states = states / (1 + torch.exp(-gate))[:, :, None, None]
        states = convolve(states, f"efficientat.features.{number}.block.{layer + 1}")
        if channels == out and stride == 1:
            states = states + before
    pooled = hardswish(convolve(states, "efficientat.features.16")).mean(dim=(2, 3))
    hidden = hardswish(pooled @ weights["classifier.0.weight"].T + weights["classifier.0.bias"])
    return hidden @ weights["classifier.3.weight"].T + weights["classifier.3.bias"], pooled


@pytest.mark.parametrize(("batch", "frames"), [(2, 100), (1, 33), (1, 1)])
def test_forward_is_that_of_the_functions(model, batch, frames):
    input_values = torch.randn(batch, frames, 128, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        logits, pooled = forward_by_functions(model.state_dict(), input_values.transpose(1, 2).unsqueeze(1))
        output = model(input_values)
    assert output.logits.shape == (batch, 4)
    assert output.pooler_output.shape == (batch, model.config.hidden_size) == (batch, 384)
    torch.testing.assert_close(output.pooler_output, pooled, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(output.logits, logits, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("bins", [64, 32, 1])
def test_fewer_mel_bins_are_each_given_several_times(model, bins):
    input_values = torch.randn(2, 40, bins, generator=torch.Generator().manual_seed(2))
    narrow = EfficientATForAudioClassification(EfficientATConfig(head="classes", num_mel_bins=bins)).eval()
    narrow.load_state_dict(model.state_dict())
    repeated = torch.stack([input_values[..., number * bins // 128] for number in range(128)], dim=-1)
    with torch.no_grad():
        torch.testing.assert_close(narrow(input_values).logits, model(repeated).logits)


@pytest.mark.parametrize("shape", [(2, 40, 64), (40, 128), (1, 1, 40, 128)])
def test_inputs_of_another_shape_are_refused(model, shape):
    with pytest.raises(ValueError, match=r"must have shape \(batch, frames, 128\), got"):
        model(torch.zeros(shape))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_mel_bins": 100}, "num_mel_bins: must divide 128, got 100; use 128, 64 or 32"),
        ({"num_mel_bins": 0}, "must divide 128, got 0"),
        ({"num_mel_bins": 256}, "must divide 128, got 256"),
        ({"num_labels": 527}, "head: 'sounds' gives the labels normal, crackle, wheeze, both, got LABEL_0"),
        ({"id2label": dict(enumerate(["normal", "wheeze", "crackle", "both"]))}, "got normal, wheeze, crackle, both"),
        ({"head": "events"}, "head"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(StrictDataclassError, match=message):
        EfficientATConfig(**settings)


def test_sounds_are_independent_and_their_cross_entropy_is_the_sum_of_two_binary_ones():
    log_odds = torch.tensor([[0.3, -1.2], [2.0, 0.5], [-4.0, 3.0], [-0.1, -0.2]], dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 3])
    crackle, wheeze = torch.sigmoid(log_odds).unbind(dim=1)
    expected = [(1 - crackle) * (1 - wheeze), crackle * (1 - wheeze), (1 - crackle) * wheeze, crackle * wheeze]
    logits = compose_classes(log_odds)
    torch.testing.assert_close(logits.softmax(dim=-1), torch.stack(expected, dim=-1))
    sounds = torch.tensor([[0, 0], [1, 0], [0, 1], [1, 1]], dtype=torch.float64)
    binary = functional.binary_cross_entropy_with_logits(log_odds, sounds, reduction="sum")
    torch.testing.assert_close(functional.cross_entropy(logits, labels, reduction="sum"), binary)


def test_head_of_two_sounds_is_the_default_and_gives_the_loss_of_four_classes():
    torch.manual_seed(0)
    model = EfficientATForAudioClassification(EfficientATConfig()).eval()
    assert model.classifier[-1].out_features == 2
    output = model(torch.randn(3, 40, 128), labels=torch.tensor([0, 3, 1]))
    assert output.logits.shape == (3, 4)
    torch.testing.assert_close(output.logits[:, 3], output.logits[:, 1] + output.logits[:, 2])
    log_probability = output.logits.log_softmax(dim=-1)
    assert output.loss.item() == pytest.approx(-log_probability[[0, 1, 2], [0, 3, 1]].mean().item(), rel=1e-5)


def test_auto_classes_load_what_was_saved(model, tmp_path):
    model.save_pretrained(tmp_path)
    LungSradFeatureExtractor(**SHORT_INPUT).save_pretrained(tmp_path)
    loaded = AutoModelForAudioClassification.from_pretrained(tmp_path, use_safetensors=True)
    assert isinstance(loaded, EfficientATForAudioClassification)
    assert (loaded.config.head, loaded.config.id2label) == ("classes", model.config.id2label)
    weights = model.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in loaded.state_dict().items())
    assert isinstance(AutoModel.from_pretrained(tmp_path), EfficientATModel)
    assert AutoFeatureExtractor.from_pretrained(tmp_path).num_frames == SHORT_INPUT["num_frames"]
    assert {path.suffix for path in tmp_path.glob("model*")} == {".safetensors"}


def test_random_weights_keep_the_scale_of_the_signal():
    torch.manual_seed(0)
    model = EfficientATForAudioClassification(EfficientATConfig()).train()
    pooled = model(torch.randn(8, 64, 128)).pooler_output
    assert 0.05 < pooled.std().item() < 5


@pytest.mark.parametrize(("channels", "rounded"), [(1, 8), (9.6, 16), (25.6, 24), (28.8, 32), (12, 16), (268.8, 272)])
def test_channels_are_multiples_of_8_and_never_under_90_percent(channels, rounded):
    assert round_channels(channels) == rounded


def test_gradients_reach_every_parameter_in_training(model):
    model.train()
    model(torch.randn(4, 64, 128)).logits.square().sum().backward()
    without = [name for name, parameter in model.named_parameters() if not parameter.grad.abs().sum() > 0]
    assert not without


def test_training_draws_dropout_and_moves_the_statistics_by_one_percent(model):
    model.train()
    input_values = torch.randn(2, 64, 128, generator=torch.Generator().manual_seed(3))
    stem = model.efficientat.features[0]
    norm = stem[1]
    before = norm.running_mean.clone()
    with torch.no_grad():
        batch_mean = stem[0](input_values.transpose(1, 2).unsqueeze(1)).mean(dim=(0, 2, 3))
        first, second = model(input_values), model(input_values)
    assert not torch.equal(first.logits, second.logits)
    torch.testing.assert_close(first.pooler_output, second.pooler_output)
    torch.testing.assert_close(norm.running_mean, 0.99**2 * before + (1 - 0.99**2) * batch_mean)
    # A fifth of the 512 hidden values is dropped and the others are scaled up.
    dropped = model.classifier[2](torch.ones(100, 512))
    assert (dropped == 0).float().mean().item() == pytest.approx(0.2, abs=0.02)
