"""Muon for the matrices of a network, AdamW for all else (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon).

An update of Muon is the momentum with its singular values made equal, scaled to the size of the updates of AdamW
(Moonlight, arXiv 2502.16982). `torch.optim.Muon` takes matrices only, not the kernels of convolutions.
"""

from collections.abc import Callable, Iterable

import torch
from torch import nn

MOMENTUM = 0.95
UPDATE_SIZE = 0.2
# Coefficients of the quintic Newton-Schulz iteration.
A, B, C = 3.4445, -4.7750, 2.0315
ITERATIONS = 5
SMALLEST_MATRIX = 16
# Parameters of the scan, which do not map features to features, and the last layer.
LEFT_TO_ADAMW = ("A_logs", "dt_projs", "head", "classifier")


class MuonAdamW(torch.optim.AdamW):
    """
    `torch.optim.AdamW` whose parameter groups with `is_matrix` are updated by Muon.

    Args:
        groups (iterable of `dict`): `params`, `is_matrix` and, optionally, `lr` and `weight_decay`.
        kwargs: as of `torch.optim.AdamW`.
    """

    @torch.no_grad()
    def step(self, closure: Callable | None = None):
        """Performs a step."""
        groups = self.param_groups
        self.param_groups = [group for group in groups if not group["is_matrix"]]
        try:
            loss = super().step(closure)
        finally:
            self.param_groups = groups
        for group in groups:
            for parameter in group["params"] if group["is_matrix"] else ():
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group["lr"], group["weight_decay"])
        return loss

    def _update(
        self, parameter: torch.Tensor, gradient: torch.Tensor, learning_rate: float, weight_decay: float
    ) -> None:
        state = self.state[parameter]
        # AdamW looks for the step in all states that it loads.
        state.setdefault("step", torch.zeros(()))
        momentum = state.setdefault("momentum", torch.zeros_like(parameter))
        momentum.lerp_(gradient, 1 - MOMENTUM)
        update = orthogonalize(gradient.lerp(momentum, MOMENTUM).flatten(1))
        size = UPDATE_SIZE * max(update.shape) ** 0.5
        parameter.mul_(1 - learning_rate * weight_decay)
        parameter.add_(update.view_as(parameter), alpha=-learning_rate * size)


def orthogonalize(matrix: torch.Tensor) -> torch.Tensor:
    """The matrix with its singular values between about 0.7 and 1.2, by five Newton-Schulz iterations."""
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.mT if is_tall else matrix
    x = x / x.norm().clamp_min(1e-7)
    for _ in range(ITERATIONS):
        square = x @ x.mT
        x = A * x + (B * square + C * square @ square) @ x
    return x.mT if is_tall else x


def is_matrix(name: str, parameter: nn.Parameter) -> bool:
    """True if Muon updates a parameter: the weights of linear layers and of convolutions that mix channels."""
    is_map = parameter.ndim in (2, 4) and min(parameter.shape[0], parameter[0].numel()) >= SMALLEST_MATRIX
    return is_map and not set(LEFT_TO_ADAMW) & set(name.split("."))


def build_muon(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    decayed: set[str],
    matrix_learning_rate: float,
    learning_rate: float,
    weight_decay: float,
    **kwargs,
) -> MuonAdamW:
    """
    The optimizer of a model's trained parameters.

    Args:
        named_parameters (iterable of `tuple[str, nn.Parameter]`): of the model.
        decayed (`set[str]`): names of the parameters with weight decay.
        matrix_learning_rate (`float`): of the matrices, see [`is_matrix`].
        learning_rate (`float`): of all others.
        weight_decay (`float`): of the decayed ones.
        kwargs: as of `torch.optim.AdamW`.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in named_parameters:
        if parameter.requires_grad:
            groups.setdefault((is_matrix(name, parameter), name in decayed), []).append(parameter)
    return MuonAdamW(
        [
            {
                "params": parameters,
                "is_matrix": matrices,
                "lr": matrix_learning_rate if matrices else learning_rate,
                "weight_decay": weight_decay if with_decay else 0.0,
            }
            for (matrices, with_decay), parameters in groups.items()
        ],
        lr=learning_rate,
        **kwargs,
    )
