"""Muon, against a singular value decomposition, and AdamW, against that of torch."""

import copy

import pytest
import torch

from modeling_lung_srad import LungSradConfig, LungSradForAudioClassification
from training.muon import MOMENTUM, MuonAdamW, build_muon, is_matrix, orthogonalize
from training.trainer import LungSradTrainer
from training.training_arguments import LungSradTrainingArguments


@pytest.mark.parametrize("shape", [(5, 20), (20, 5), (16, 16)])
def test_orthogonalize_keeps_directions_and_evens_sizes(shape):
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    found = orthogonalize(matrix)
    sizes = torch.linalg.svdvals(found)
    assert sizes.min() > 0.5
    assert sizes.max() < 1.3
    in_their_basis = left.mT @ found @ right.mT
    torch.testing.assert_close(in_their_basis, torch.diag(in_their_basis.diagonal()), atol=1e-4, rtol=0)


def test_a_step_of_a_matrix_is_the_scaled_orthogonal_momentum():
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(16, 32, 3, 3))
    before = weight.detach().clone()
    optimizer = build_muon([("layer.weight", weight)], {"layer.weight"}, 0.1, 0.5, 0.01)
    weight.grad = torch.randn_like(weight)
    optimizer.step()
    momentum = (1 - MOMENTUM) * weight.grad
    nesterov = (1 - MOMENTUM) * weight.grad + MOMENTUM * momentum
    update = 0.2 * 288**0.5 * orthogonalize(nesterov.flatten(1)).view_as(weight)
    torch.testing.assert_close(weight.detach(), before * (1 - 0.1 * 0.01) - 0.1 * update)


def test_all_else_is_updated_as_by_adamw():
    torch.manual_seed(0)
    ours, theirs = (torch.nn.Parameter(torch.ones(7)) for _ in range(2))
    matrix = torch.nn.Parameter(torch.ones(16, 16))
    optimizer = build_muon([("bias", ours), ("fc1.weight", matrix)], set(), 0.1, 0.01, 0.5)
    reference = torch.optim.AdamW([theirs], lr=0.01, weight_decay=0.0)
    for _ in range(5):
        ours.grad = theirs.grad = torch.randn(7)
        matrix.grad = torch.randn(16, 16)
        optimizer.step()
        reference.step()
    torch.testing.assert_close(ours, theirs)
    assert not torch.equal(matrix, torch.ones(16, 16))


def test_its_state_can_be_saved_and_loaded():
    def make():
        torch.manual_seed(0)
        parameters = {"a.weight": torch.nn.Parameter(torch.randn(16, 16)), "b": torch.nn.Parameter(torch.randn(3))}
        return parameters, build_muon(parameters.items(), {"a.weight"}, 0.1, 0.01, 0.1)

    def step(parameters, optimizer, seed):
        generator = torch.Generator().manual_seed(seed)
        for parameter in parameters.values():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()

    straight, optimizer = make()
    step(straight, optimizer, 1)
    state, weights = copy.deepcopy(optimizer.state_dict()), {name: x.detach().clone() for name, x in straight.items()}
    step(straight, optimizer, 2)
    resumed, optimizer = make()
    optimizer.load_state_dict(state)
    for name, parameter in resumed.items():
        parameter.data.copy_(weights[name])
    step(resumed, optimizer, 2)
    for name, parameter in resumed.items():
        assert torch.equal(parameter, straight[name])


def test_the_scan_the_head_and_what_mixes_no_channels_is_left_to_adamw():
    square = torch.nn.Parameter(torch.zeros(32, 32))
    assert is_matrix("layers.0.blocks.0.mlp.fc1.weight", square)
    for name in ("layers.0.blocks.0.op.A_logs", "layers.0.blocks.0.op.dt_projs.weight", "head.weight"):
        assert not is_matrix(name, square)
    assert not is_matrix("conv2d.weight", torch.nn.Parameter(torch.zeros(32, 1, 3, 3)))


def test_a_run_with_a_rate_for_matrices_uses_it():
    arguments = LungSradTrainingArguments(
        output_dir="unused", muon_learning_rate=0.1, use_cpu=True, eval_strategy="no", selection="last"
    )
    trainer = LungSradTrainer(model=LungSradForAudioClassification(LungSradConfig.tiny()), args=arguments)
    optimizer = trainer.create_optimizer()
    assert isinstance(optimizer, MuonAdamW)
    rates = {group["is_matrix"]: group["lr"] for group in optimizer.param_groups}
    assert rates == {True: 0.1, False: arguments.learning_rate}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(trainer.model.parameters()))
