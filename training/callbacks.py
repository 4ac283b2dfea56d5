"""Callbacks of the Trainer: averaged weights, and the best checkpoint of a run that goes on."""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR


class FindBestCheckpoint(TrainerCallback):
    """Finds the best checkpoint of a run that goes on in the present folder, which may have been moved meanwhile."""

    def on_train_begin(self, args, state, control, **kwargs):
        best = Path(args.output_dir, f"{PREFIX_CHECKPOINT_DIR}-{state.best_global_step}")
        if best.is_dir():
            state.best_model_checkpoint = str(best)


class AverageWeights(TrainerCallback):
    """After every step the trained weights become `beta * old + (1 - beta) * new`, the `ma_beta` of the recipe of
    arXiv 2606.11922. Buffers, such as the running statistics of batch norms, are left as they are."""

    def __init__(self, beta: float):
        self.beta = beta
        self.before: list[torch.Tensor] = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.before = [parameter.detach().clone() for parameter in _trained(model)]

    def on_optimizer_step(self, args, state, control, model=None, **kwargs):
        with torch.no_grad():
            for parameter, before in zip(_trained(model), self.before, strict=True):
                parameter.lerp_(before, self.beta)
        self.before = []


def _trained(model: Any) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]
