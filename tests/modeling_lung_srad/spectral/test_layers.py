import pytest
import torch
from transformers import ASTConfig, ASTForAudioClassification, ConvNextConfig, ConvNextModel

from modeling_lung_srad import LungSradFeatureExtractor, LungSradForAudioClassification, LungSradModel
from modeling_lung_srad.errors import InputError
from modeling_lung_srad.selective_scan import selective_scan_2d
from modeling_lung_srad.spectral.layers import MixingLayer, layer_matrices, list_layers
from tests.conftest import tiny_config

FRAMES = 96
AST_SIZE = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}


def build_model(seed=0, **config):
    torch.manual_seed(seed)
    return LungSradForAudioClassification(tiny_config(num_mel_bins=32, initializer_range=0.3, **config)).eval()


def build_ast():
    torch.manual_seed(0)
    config = ASTConfig(max_length=64, num_mel_bins=48, initializer_range=0.5, **AST_SIZE)
    return ASTForAudioClassification(config).eval()


def random_input(batch=1, frames=FRAMES, mel_bins=32):
    return torch.randn(batch, frames, mel_bins, generator=torch.Generator().manual_seed(1))


def frozen_scan(op, hidden_states):
    """The scan of a block as a linear function of its input alone: step sizes, B and C are those of `hidden_states`.

    They are computed by the block itself; what the scan makes of a sum of inputs then follows by their products.
    """
    projected = op.x_proj(hidden_states).unflatten(-1, (4, -1)).movedim(-2, 0)
    low_rank, B, C = projected.split([op.rank, op.state_size, op.state_size], dim=-1)

    def run(inputs):
        return selective_scan_2d(
            inputs,
            low_rank,
            op.dt_projs.weight.unflatten(0, (4, -1)),
            op.dt_projs_bias,
            A=-torch.exp(op.A_logs).unflatten(0, (4, -1)),
            B=B,
            C=C,
            D=torch.zeros(4, op.inner_width, dtype=torch.float64),
            backend="torch",
        )

    return run


def jacobian_of_channel_mean(function, grid, channels):
    """How the mean of the output over channels depends on an input that is the same in all channels."""

    def of_map(values):
        inputs = values.view(1, *grid, 1).expand(-1, -1, -1, channels)
        return function(inputs).mean(-1).flatten()

    zeros = torch.zeros(grid[0] * grid[1], dtype=torch.float64)
    return torch.autograd.functional.jacobian(of_map, zeros)


def inputs_of(module, model, input_values):
    kept = []
    handle = module.register_forward_pre_hook(lambda module, arguments: kept.append(arguments[0]))
    with torch.no_grad():
        model(input_values)
    handle.remove()
    return kept[0]


@pytest.mark.parametrize("state_size", [1, 4])
@pytest.mark.parametrize("position", ["scan_input", "scan_output", "block_output"])
def test_matrix_of_a_block_is_the_jacobian_of_its_scan_and_convolution(position, state_size):
    model = build_model(gaussian_position=position, ssm_state_size=state_size).double()
    layer = MixingLayer(2, 3)
    block = model.lung_srad.layers[2].blocks[3]
    hidden_states = inputs_of(block.op.x_proj, model, random_input().double())
    scan, grid, channels = frozen_scan(block.op, hidden_states), (2, 6), block.op.inner_width
    blur = block.gaussian_blur if position == "block_output" else block.op.gaussian_blur
    together = (lambda x: scan(blur(x))) if position == "scan_input" else (lambda x: blur(scan(x)))

    for gaussian, function in {"included": together, "left_out": scan}.items():
        [found] = layer_matrices(model, random_input().double(), [layer], gaussian=gaussian)
        assert (found.layer, found.grid) == (layer, grid)
        expected = jacobian_of_channel_mean(function, grid, channels)
        torch.testing.assert_close(found.matrix[0], expected, rtol=0, atol=1e-8)


def test_switched_off_convolution_leaves_the_network_without_any():
    with_gaussian, without = build_model(), build_model(gaussian_blocks=())
    without.load_state_dict(with_gaussian.state_dict())
    switched_off = list(layer_matrices(with_gaussian, random_input(), gaussian="switched_off"))
    for found, expected in zip(switched_off, layer_matrices(without, random_input()), strict=True):
        torch.testing.assert_close(found.matrix, expected.matrix)
    left_out = list(layer_matrices(with_gaussian, random_input(), gaussian="left_out"))
    assert torch.equal(left_out[2].matrix, switched_off[2].matrix)
    assert not torch.allclose(left_out[-1].matrix, switched_off[-1].matrix)


@pytest.mark.parametrize("position", ["scan_input", "scan_output", "block_output"])
def test_convolution_of_training_alone_is_no_part_of_the_matrix(position):
    model = build_model(gaussian_at_inference=False, gaussian_position=position).train()
    layers = [MixingLayer(2, 2)]
    [included] = layer_matrices(model, random_input(), layers)
    [left_out] = layer_matrices(model, random_input(), layers, gaussian="left_out")
    torch.testing.assert_close(included.matrix, left_out.matrix)


def test_layers_come_in_the_order_in_which_they_are_asked_for():
    model = build_model()
    assert len(list_layers(model)) == 7
    everything = {found.layer: found for found in layer_matrices(model, random_input())}
    assert list(everything) == list_layers(model)
    assert [everything[MixingLayer(stage, 0)].grid for stage in range(4)] == [(8, 24), (4, 12), (2, 6), (1, 3)]
    wanted = [MixingLayer(2, 1), MixingLayer(0, 0)]
    for layer, found in zip(wanted, layer_matrices(model.lung_srad, random_input(), wanted), strict=True):
        assert torch.equal(found.matrix, everything[layer].matrix)


def test_samples_of_a_batch_are_apart(monkeypatch):
    monkeypatch.setattr("modeling_lung_srad.layers_lung_srad.ELEMENTS_AT_ONCE", 1)  # A sample a piece.
    model, layers = build_model(), [MixingLayer(1, 0)]
    [both] = layer_matrices(model, random_input(batch=2), layers)
    [second] = layer_matrices(model, random_input(batch=2)[1:], layers)
    torch.testing.assert_close(both.matrix[1:], second.matrix)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_silence_and_half_precision_give_finite_matrices(dtype):
    silence = LungSradFeatureExtractor(num_mel_bins=32, cycle_seconds=1.0, num_frames=FRAMES)(
        torch.zeros(16000), sampling_rate=16000, return_tensors="pt"
    )["input_values"]
    for found in layer_matrices(build_model().to(dtype), silence):
        assert found.matrix.isfinite().all()
        assert found.matrix.any()


def test_attention_of_ast_is_the_mean_over_heads_between_patches():
    model = build_ast()
    inputs = random_input(batch=2, frames=64, mel_bins=48)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        attentions = model(inputs, output_attentions=True).attentions
    model.set_attn_implementation("sdpa")
    for found, attention in zip(layer_matrices(model, inputs), attentions, strict=True):
        # (48 - 16) / 10 + 1 rows and (64 - 16) / 10 + 1 columns, of which the first two tokens are no part.
        assert found.grid == (4, 5)
        torch.testing.assert_close(found.matrix.float(), attention.mean(1)[:, 2:, 2:])
        assert (found.matrix.sum(-1) < 1).all()


@pytest.mark.parametrize("is_training", [True, False])
@pytest.mark.parametrize("build", [build_model, build_ast])
def test_nothing_about_the_model_changes(build, is_training):
    model = build().train(is_training)
    next(iter(model.base_model.layers)).eval()
    inputs = random_input() if build is build_model else random_input(frames=64, mel_bins=48)
    modes = [module.training for module in model.modules()]
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    random_state = torch.get_rng_state()
    list(layer_matrices(model, inputs, gaussian="switched_off"))
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(weight.grad is None and weight.requires_grad for weight in model.parameters())


def test_nothing_stays_behind_after_an_error(monkeypatch):
    model = build_model().train()
    block = model.lung_srad.layers[3].blocks[0]

    def fail(*args, **kwargs):
        raise RuntimeError("in the middle of the network")

    monkeypatch.setattr(block.mlp, "forward", fail)
    with pytest.raises(RuntimeError, match="in the middle"):
        list(layer_matrices(model, random_input(), gaussian="switched_off"))
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (
            MixingLayer(4, 0),
            "^stage 4 block 0: does not exist; stage 0 has blocks 0 to 0, .*stage 3 has blocks 0 to 0$",
        ),
        (MixingLayer(2, 4), "^stage 2 block 4: does not exist; .*stage 2 has blocks 0 to 3"),
        (MixingLayer(-1, 0), "^stage -1 block 0: does not exist; "),
        (MixingLayer(None, 0), "^layer 0: does not exist; stage 0 has"),
    ],
)
def test_block_that_does_not_exist_is_named(layer, message):
    with pytest.raises(InputError, match=message):
        layer_matrices(build_model(), random_input(), [layer])


def test_layer_of_ast_that_does_not_exist_is_named():
    with pytest.raises(InputError, match=r"^layer 3: does not exist; AST has layers 0 to 2 here, and no stages$"):
        layer_matrices(build_ast(), random_input(), [MixingLayer(None, 3)])


def test_input_of_the_wrong_length_for_ast_is_named():
    with pytest.raises(InputError, match=r"shape \(1, 96, 32\); this AST takes \(batch, 64, 48\)$"):
        list(layer_matrices(build_ast(), random_input()))


def test_unknown_choice_is_named():
    with pytest.raises(InputError, match=r"^gaussian: 'off' is not one of included, left_out, switched_off"):
        layer_matrices(build_model(), random_input(), gaussian="off")


def test_other_models_are_refused():
    model = ConvNextModel(ConvNextConfig(depths=[1, 1, 1, 1], hidden_sizes=[4, 4, 4, 4]))
    with pytest.raises(InputError, match=r"^model: is of type 'convnext', which has neither SS2D blocks nor"):
        list_layers(model)


def test_input_too_long_for_a_dense_matrix_is_refused_with_its_size():
    model = LungSradModel(tiny_config(dims=(2, 2), depths=(1, 1), gaussian_stage=1, gaussian_blocks=()))
    matrices = layer_matrices(model, torch.zeros(1, 2048, 128), [MixingLayer(0, 0)])
    message = r"^stage 0 block 0 has a grid of 32 x 512: 16384 positions make a dense matrix of 2\.0 GiB, "
    with pytest.raises(InputError, match=message):
        next(matrices)
