"""The network against the reference implementation, and the promises of its public surface."""

import json

import accelerate
import pytest
import torch
import torch.nn.functional as F
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file

from modeling_lung_srad import LungSradConfig, LungSradForAudioClassification, LungSradModel
from modeling_lung_srad.conversion import convert_checkpoint
from modeling_lung_srad.modeling_lung_srad import LungSradGaussianBlur
from tests.conftest import FIXTURES, tiny_config
from tests.modeling_lung_srad.conversion.test_convert import to_hub_names

STATES = ("patch_embed", "stage0", "stage1", "stage2", "stage3")


@pytest.fixture
def reference():
    """The converted network of the reference weights, and the outputs of the reference implementation."""
    model = convert_checkpoint(FIXTURES / "backbone_weights.safetensors")
    return model, load_file(FIXTURES / "backbone_outputs.safetensors")


def random_input(batch=2, frames=64, mel=128, seed=0):
    return torch.randn(batch, frames, mel, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("case", ["short", "odd"])
def test_logits_pooled_and_stage_outputs_match_the_reference(reference, case):
    model, golden = reference
    with torch.no_grad():
        outputs = model(golden[f"{case}.input_values"], output_hidden_states=True)
    torch.testing.assert_close(outputs.logits, golden[f"{case}.logits"], atol=1e-4, rtol=0)
    torch.testing.assert_close(outputs.pooler_output, golden[f"{case}.pooled"], atol=1e-4, rtol=0)
    compared = [state for state in STATES if f"{case}.{state}" in golden]
    assert compared
    for state in compared:
        actual = outputs.hidden_states[STATES.index(state)]
        torch.testing.assert_close(actual, golden[f"{case}.{state}"], atol=1e-4, rtol=0)


def test_loss_and_every_gradient_norm_match_the_reference(reference):
    model, golden = reference
    outputs = model(golden["short.input_values"], labels=golden["short.labels"])
    torch.testing.assert_close(outputs.loss, golden["short.loss"], atol=1e-5, rtol=0)
    outputs.loss.backward()
    actual = {name: parameter.grad.norm().item() for name, parameter in model.named_parameters()}
    norms = {name.removeprefix("grad_norm."): norm.item() for name, norm in golden.items() if "grad_norm." in name}
    expected = {name.replace("dass.", "lung_srad."): norm for name, norm in to_hub_names(norms).items()}
    assert len(expected) == 132
    assert actual == pytest.approx(expected, rel=1e-3)


def test_the_named_sizes_have_the_published_numbers_of_parameters():
    with torch.device("meta"):
        sizes = {
            name: LungSradForAudioClassification(getattr(LungSradConfig, name)())
            for name in ("small", "medium", "tiny")
        }
    assert sizes["small"].num_parameters() / 1e6 == pytest.approx(29.5, abs=0.05)
    assert sizes["medium"].num_parameters() / 1e6 == pytest.approx(48.2, abs=0.05)
    assert sizes["tiny"].num_parameters() < 4e6


def test_the_blur_is_the_reference_convolution():
    golden = load_file(FIXTURES / "losses.safetensors")
    for name, size, sigma in (("blur.k5_s3.0", 5, 3.0), ("blur.k7_s1.5", 7, 1.5)):
        blur = LungSradGaussianBlur(tiny_config(gaussian_kernel_size=size, gaussian_sigma=sigma))
        actual = blur(golden["blur.input"].permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        torch.testing.assert_close(actual, golden[name], atol=1e-5, rtol=0)


def test_the_blur_is_a_two_dimensional_gaussian():
    size, sigma = 5, 2.0
    offsets = torch.arange(size) - size // 2
    kernel = torch.exp(-(offsets[:, None] ** 2 + offsets[None, :] ** 2) / (2 * sigma**2))
    maps = torch.randn(2, 9, 11, 3, generator=torch.Generator().manual_seed(0))
    expected = F.conv2d(maps.permute(0, 3, 1, 2), (kernel / kernel.sum()).expand(3, 1, -1, -1), padding=2, groups=3)
    blur = LungSradGaussianBlur(tiny_config(gaussian_kernel_size=size, gaussian_sigma=sigma))
    torch.testing.assert_close(blur(maps), expected.permute(0, 2, 3, 1), atol=1e-6, rtol=0)


@pytest.mark.parametrize("position", ["scan_input", "scan_output", "block_output"])
def test_regularization_acts_in_the_chosen_blocks_only(position):
    torch.manual_seed(0)
    regularized = LungSradModel(tiny_config(gaussian_position=position)).eval()
    plain = LungSradModel(tiny_config(gaussian_blocks=())).eval()
    plain.load_state_dict(regularized.state_dict())
    blurs = [name for name, module in regularized.named_modules() if isinstance(module, LungSradGaussianBlur)]
    assert len(blurs) == 2
    assert all(name.startswith(("layers.2.blocks.2.", "layers.2.blocks.3.")) for name in blurs)
    with torch.no_grad():
        with_blur = regularized(random_input(), output_hidden_states=True).hidden_states
        without = plain(random_input(), output_hidden_states=True).hidden_states
    for before in range(3):
        torch.testing.assert_close(with_blur[before], without[before], atol=0, rtol=0)
    assert not torch.allclose(with_blur[3], without[3], atol=1e-6)


def test_regularization_can_be_kept_to_training():
    torch.manual_seed(0)
    model = LungSradModel(tiny_config(gaussian_at_inference=False))
    plain = LungSradModel(tiny_config(gaussian_blocks=()))
    plain.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert not torch.allclose(model.train()(random_input())[0], plain.train()(random_input())[0], atol=1e-6)
        torch.testing.assert_close(model.eval()(random_input())[0], plain.eval()(random_input())[0], atol=0, rtol=0)


@pytest.mark.parametrize("frames", [1, 7, 100, 250, 1024, 1999])
def test_any_number_of_frames_works(frames):
    model = LungSradForAudioClassification(tiny_config()).eval()
    with torch.no_grad():
        assert torch.isfinite(model(random_input(1, frames)).logits).all()


def test_samples_of_a_batch_do_not_influence_each_other():
    torch.manual_seed(0)
    model = LungSradForAudioClassification(tiny_config(drop_path_rate=0.3)).eval()
    with torch.no_grad():
        batch = model(random_input(3)).logits
        alone = torch.cat([model(sample[None]).logits for sample in random_input(3)])
    torch.testing.assert_close(batch, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("state_size", [1, 2])
def test_all_parameters_receive_gradients(state_size):
    model = LungSradForAudioClassification(tiny_config(ssm_state_size=state_size))
    model(random_input(), labels=torch.tensor([0, 3])).loss.backward()
    without = [
        name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()
    ]
    assert without == []


def test_gradient_checkpointing_does_not_change_the_gradients():
    torch.manual_seed(0)
    model = LungSradForAudioClassification(tiny_config()).train()
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.activation_checkpointing_enable()
        model.zero_grad()
        model(random_input(), labels=torch.tensor([1, 2])).loss.backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-4)


def test_autocast_trains_with_a_loss_close_to_that_of_float32():
    torch.manual_seed(0)
    model = LungSradForAudioClassification(tiny_config()).train()
    losses = []
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            loss = model(random_input(), labels=torch.tensor([1, 2])).loss
        loss.backward()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=2e-2)


def test_initial_step_sizes_decays_and_skips_are_those_of_the_paper():
    torch.manual_seed(0)
    op = LungSradModel(LungSradConfig.tiny(ssm_state_size=3)).layers[2].blocks[0].op
    steps = F.softplus(op.dt_projs_bias)
    assert steps.min() >= 0.999e-3
    assert steps.max() <= 0.1001
    assert steps.log10().mean().item() == pytest.approx(-2, abs=0.1)
    torch.testing.assert_close(op.A_logs.exp(), torch.tensor([1.0, 2.0, 3.0]).expand(op.A_logs.shape))
    assert (op.Ds == 1).all()
    bound = op.rank**-0.5
    assert 0.9 * bound < op.dt_projs.weight.abs().max() <= bound
    assert op.in_proj.weight.std().item() == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize(
    ("settings", "labels", "expected"),
    [
        ({}, torch.tensor([1, 3]), F.cross_entropy),
        ({"num_labels": 2}, torch.eye(2), F.binary_cross_entropy_with_logits),
        ({"problem_type": "multi_label_classification"}, torch.ones(2, 4), F.binary_cross_entropy_with_logits),
        ({"problem_type": "regression"}, torch.ones(2, 4), F.mse_loss),
        ({"num_labels": 1}, torch.ones(2, 1), F.mse_loss),
    ],
)
def test_the_loss_is_that_of_the_kind_of_labels(settings, labels, expected):
    model = LungSradForAudioClassification(tiny_config(**settings)).eval()
    outputs = model(random_input(), labels=labels)
    torch.testing.assert_close(outputs.loss, expected(outputs.logits, labels), atol=0, rtol=0)


def test_the_loss_leaves_the_configuration_as_it_is():
    model = LungSradForAudioClassification(tiny_config())
    model(random_input(), labels=torch.tensor([1, 3]))
    assert model.config.problem_type is None


def test_weights_may_be_offloaded():
    torch.manual_seed(0)
    model = LungSradForAudioClassification(tiny_config()).eval()
    with torch.no_grad():
        expected = model(random_input()).logits
        accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
        assert all(parameter.is_meta for parameter in model.parameters())
        torch.testing.assert_close(model(random_input()).logits, expected, atol=0, rtol=0)


def test_outputs_may_be_asked_for_as_a_tuple():
    model = LungSradForAudioClassification(tiny_config()).eval()
    with torch.no_grad():
        logits, pooled = model(random_input(), return_dict=False)
    assert logits.shape == (2, 4)
    assert pooled.shape == (2, 32)


@pytest.mark.parametrize("shape", [(64, 128), (1, 128, 64), (1, 1, 64, 128)])
def test_an_input_of_another_shape_is_an_error_that_says_which_is_needed(shape):
    model = LungSradForAudioClassification(tiny_config())
    with pytest.raises(ValueError, match=r"\(batch, frames, 128\)"):
        model(torch.zeros(shape))


@pytest.mark.parametrize(
    "setting",
    [
        {"gaussian_kernel_size": 4},
        {"gaussian_sigma": 0.0},
        {"gaussian_stage": 4},
        {"gaussian_blocks": (20,)},
        {"gaussian_position": "everywhere"},
        {"drop_path_rate": 1.0},
        {"depths": (2, 2)},
        {"ssm_state_size": 0},
        {"ssm_state_size": 10**9},
        {"ssm_ratio": 1e308},
        {"ssm_ratio": 0.01},
        {"mlp_ratio": float("inf")},
        {"num_labels": 2**31},
        {"num_labels": "4"},
        {"output_hidden_states": ["a"]},
        {"gaussian_kernel_size": 2**63 + 1},
        {"gaussian_sigma": 1e-300},
        {"gaussian_sigma": 2**63},
        {"dims": "96"},
    ],
)
def test_a_setting_out_of_range_is_an_error_that_names_it(setting):
    with pytest.raises(Exception, match=next(iter(setting))):
        LungSradConfig(**setting)


@pytest.mark.parametrize("num_labels", [1, 2, 7])
def test_the_configuration_survives_saving(tmp_path, num_labels):
    config = tiny_config(gaussian_blocks=(), ssm_state_size=4, num_labels=num_labels)
    model = LungSradForAudioClassification(config)
    model.save_pretrained(tmp_path)
    loaded = LungSradForAudioClassification.from_pretrained(tmp_path)
    assert tuple(loaded.config.depths) == (1, 1, 4, 1)
    assert (loaded.config.ssm_state_size, list(loaded.config.gaussian_blocks)) == (4, [])
    assert (loaded.config.num_labels, loaded.config.id2label) == (num_labels, config.id2label)
    assert loaded.config.label2id == config.label2id
    torch.testing.assert_close(loaded.head.weight, model.head.weight, atol=0, rtol=0)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "lung_srad"


def test_a_batch_worked_through_in_pieces_gives_the_same(monkeypatch):
    torch.manual_seed(0)
    model = LungSradForAudioClassification(LungSradConfig.tiny()).eval()
    inputs = torch.randn(3, 96, 128)
    with torch.no_grad():
        expected = model(inputs, output_hidden_states=True)
        monkeypatch.setattr("modeling_lung_srad.layers_lung_srad.ELEMENTS_AT_ONCE", 2000)
        outputs = model(inputs, output_hidden_states=True)
    torch.testing.assert_close(outputs.logits, expected.logits, atol=1e-6, rtol=1e-5)
    for states, others in zip(outputs.hidden_states, expected.hidden_states, strict=True):
        torch.testing.assert_close(states, others, atol=1e-5, rtol=1e-5)


def test_parameters_may_be_given_by_torch_func():
    model = LungSradForAudioClassification(tiny_config()).eval()
    inputs = random_input(frames=32)
    doubled = {name: x.detach().double() for name, x in model.named_parameters()}
    logits = torch.func.functional_call(model, doubled, (inputs,)).logits
    assert logits.dtype == torch.float64
    torch.testing.assert_close(logits.float(), model(inputs).logits, atol=1e-5, rtol=1e-4)


def test_every_linear_layer_takes_an_input():
    """Adapters and quantizers replace linear layers by others of one input."""
    model = LungSradForAudioClassification(tiny_config()).eval()
    layers = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    taken = []
    for layer in layers:
        layer.register_forward_hook(lambda layer, inputs, output: taken.append(len(inputs)))
    model(random_input(frames=32))
    assert taken == [1] * len(layers)


def test_shapes_can_be_had_without_memory():
    with torch.device("meta"):
        model = LungSradForAudioClassification(LungSradConfig.tiny())
        assert model(torch.zeros(2, 64, 128)).logits.shape == (2, 4)


def test_a_head_for_two_sounds_gives_the_product_of_their_probabilities():
    torch.manual_seed(0)
    model = LungSradForAudioClassification(tiny_config(head="sounds")).eval()
    torch.nn.init.normal_(model.head.weight, std=1.0)
    outputs = model(torch.randn(3, 64, 128))
    odds = outputs.pooler_output @ model.head.weight.T + model.head.bias
    crackle, wheeze = torch.sigmoid(odds).unbind(-1)
    expected = [(1 - crackle) * (1 - wheeze), crackle * (1 - wheeze), (1 - crackle) * wheeze, crackle * wheeze]
    torch.testing.assert_close(torch.softmax(outputs.logits, dim=-1), torch.stack(expected, dim=-1))
    assert model.head.weight.shape[0] == 2
    with pytest.raises(StrictDataclassError, match="head"):
        tiny_config(head="sounds", num_labels=3)


def test_without_a_range_weights_start_by_their_number_of_inputs():
    torch.manual_seed(0)
    model = LungSradForAudioClassification(LungSradConfig.tiny(initializer_range=None))
    linear, convolution = model.lung_srad.layers[3].blocks[0].mlp.fc1, model.lung_srad.layers[2].downsample.down
    assert linear.weight.std().item() == pytest.approx(192**-0.5, rel=0.03)
    assert convolution.weight.std().item() == pytest.approx((2 / (96 * 9)) ** 0.5, rel=0.03)
    assert convolution.bias.abs().max() == 0


@pytest.mark.parametrize("initializer_range", [0.02, None])
def test_convolutions_start_as_documented(initializer_range):
    torch.manual_seed(0)
    model = LungSradModel(tiny_config(dims=(16, 32, 64, 128), initializer_range=initializer_range))
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            fan_in = module.weight[0].numel()
            # Kaiming's normal distribution, or the uniform one between -1 / sqrt(fan_in) and its opposite.
            expected = (2 / fan_in) ** 0.5 if initializer_range is None else (3 * fan_in) ** -0.5
            assert module.weight.std().item() == pytest.approx(expected, rel=0.2), name
            if initializer_range is None and module.bias is not None:
                assert not module.bias.any()


@pytest.mark.parametrize("head", ["classes", "sounds"])
def test_lora_on_all_linear_layers_trains_merges_and_saves(tmp_path, head):
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    model = LungSradForAudioClassification(LungSradConfig.tiny(head=head))
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules="all-linear", r=2, init_lora_weights=False))
    input_values, labels = torch.randn(2, 64, 128), torch.tensor([0, 3])
    adapted(input_values=input_values, labels=labels).loss.backward()
    trained = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    assert trained
    assert all(parameter.grad is not None for parameter in trained)
    adapted.eval()
    expected = adapted(input_values=input_values).logits
    merged = adapted.merge_and_unload()
    torch.testing.assert_close(merged(input_values).logits, expected, atol=1e-4, rtol=1e-4)
    merged.save_pretrained(tmp_path)
    loaded = LungSradForAudioClassification.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(loaded(input_values).logits, expected, atol=1e-4, rtol=1e-4)
