"""Writes `tests/fixtures/recipe_losses.json`, to be run when a recipe, the simulated sounds or the start changes.

The trainer only says which cycles make a batch and which random numbers mix it. All else is done again, by another way
than the one that is tested: float64, a scan that takes one position after another, a pass for each view, the objective
and the schedule written out.
"""

import copy
import json
import math
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from benchmarks.peers import replaced_scan, sequential_scan_2d
from tests.conftest import FIXTURES
from training.configuration import CONFIGS, read_configuration
from training.patch_mix import draw_patch_mix
from training.run_training import build_trainer, prepare
from training.trainer import LungSradTrainer

RECIPES = {
    "cross_entropy": ["objective.mode=none", "model.config.gaussian_blocks=[]"],
    "paper": ["objective.mode=dual", "model.config.gaussian_blocks=[0]"],
}
STEPS, LEARNING_RATE, MIN_LR_RATE, MAX_GRAD_NORM, TEMPERATURE = 5, 3e-3, 1e-3, 1.0, 0.2
Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def recipe_trainer(name: str, folder: Path) -> LungSradTrainer:
    """The trainer of `smoke.yaml` with other settings, for 5 steps of 8 cycles; every step is logged."""
    settings = ["data.simulated=4", "data.validation=0", "model.feature_extractor.num_frames=64", "use_cpu=true"]
    settings += ["selection=last", "save_strategy=no", "logging_strategy=steps", "logging_steps=1"]
    settings += [f"max_steps={STEPS}", f"output_dir={folder / name}"]
    return build_trainer(prepare(*read_configuration(str(CONFIGS / "smoke.yaml"), [*settings, *RECIPES[name]])))


def logged_losses(trainer: LungSradTrainer) -> list[dict[str, float]]:
    """The objective and its parts in every step of a training."""
    parts = ("loss", "cross_entropy", "contrastive_time", "contrastive_mel")
    return [{part: log[part] for part in parts if part in log} for log in trainer.state.log_history if "loss" in log]


def record_batches(trainer: LungSradTrainer) -> list[Batch]:
    """Trains, and returns input, labels and the state of the random numbers in every step."""
    batches = []

    def record(module, inputs, keywords):
        batches.append((keywords["input_values"].double(), keywords["labels"], torch.get_rng_state()))

    trainer.training_model.register_forward_pre_hook(record, with_kwargs=True)
    trainer.train()
    return batches


def train_slowly(trained: nn.Module, batches: list[Batch], axes: tuple[str, ...]) -> list[dict[str, float]]:
    """Trains classifier and projector on recorded batches, and returns what [`logged_losses`] should."""
    trained = trained.double().train()
    optimizer = torch.optim.AdamW(trained.parameters(), lr=LEARNING_RATE, weight_decay=1e-6)
    losses = []
    for step, (input_values, labels, random_state) in enumerate(batches):
        torch.set_rng_state(random_state)
        patches = trained.classifier.get_input_embeddings()(input_values)
        draws = {axis: draw_patch_mix(patches, axis) for axis in axes}
        clean = pool(trained.classifier.base_model, patches)
        log_probability = trained.classifier.head(clean).log_softmax(-1)
        parts = {"cross_entropy": -log_probability[torch.arange(len(labels)), labels].mean()}
        for axis, draw in draws.items():
            mixed = pool(trained.classifier.base_model, draw.mask * patches[draw.index] + ~draw.mask * patches)
            parts[f"contrastive_{axis}"] = contrast(trained.projector(mixed), clean.detach(), draw.index, draw.lam)
        loss = sum(parts.values())
        losses.append({"loss": loss.item(), **{name: part.item() for name, part in parts.items()}})
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained.parameters(), MAX_GRAD_NORM)
        cosine = (1 + math.cos(math.pi * step / STEPS)) / 2
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * (MIN_LR_RATE + (1 - MIN_LR_RATE) * cosine)
        optimizer.step()
    return losses


def pool(backbone: nn.Module, patches: torch.Tensor) -> torch.Tensor:
    """Features `(batch, width)` of patches `(batch, channels, mel, time)`."""
    for stage in backbone.layers:
        patches = stage(patches)
    return backbone.norm(patches).flatten(2).sum(-1) / patches[0, 0].numel()


def contrast(mixed: torch.Tensor, clean: torch.Tensor, index: torch.Tensor, lam: float) -> torch.Tensor:
    """Equation 3 of arXiv 2305.14032, for features `(batch, width)`."""
    similarities = torch.cosine_similarity(mixed.unsqueeze(1), clean.unsqueeze(0), dim=-1) / TEMPERATURE
    log_probability = similarities - similarities.logsumexp(1, keepdim=True)
    own = torch.arange(len(index))
    return -(lam * log_probability[own, own] + (1 - lam) * log_probability[own, index]).mean()


def main() -> None:
    expected = {}
    for name in RECIPES:
        with TemporaryDirectory() as folder:
            trainer = recipe_trainer(name, Path(folder))
            start = copy.deepcopy(trainer.training_model)
            batches = record_batches(trainer)
        with replaced_scan(sequential_scan_2d):
            expected[name] = train_slowly(start, batches, start.arguments.axes)
        pairs = zip(expected[name], logged_losses(trainer), strict=True)
        difference = max(abs(slow[part] - logged[part]) for slow, logged in pairs for part in slow)
        print(f"{name}: the trainer logs the same to {difference:.1e}")
    (FIXTURES / "recipe_losses.json").write_text(json.dumps(expected, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
