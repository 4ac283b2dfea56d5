"""The training loop: `transformers.Trainer` with the objective and the recipe of the paper."""

import math
import pickle
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from torch.utils.data import Dataset, Sampler
from transformers import PreTrainedModel, Trainer, TrainerCallback
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from modeling_lung_srad import LungSradForAudioClassification
from modeling_lung_srad.errors import InputError, one_line
from training.arguments import ObjectiveArguments
from training.data.sampling import CycleSampler
from training.muon import build_muon
from training.objective import ObjectiveOutput, PatchMixTraining
from training.teachers.distillation import Distillation
from training.teachers.teachers import Teachers
from training.training_arguments import MIN_LR_RATE, LungSradTrainingArguments

PROJECTOR_WEIGHTS, DISTILLATION_WEIGHTS = "projector.safetensors", "distillation.safetensors"
CLASSIFIER_PREFIX = "classifier."
# Parts of the training model that only resuming needs, beside the classifier.
TRAINING_PARTS = {"projector.": PROJECTOR_WEIGHTS, "distillation.": DISTILLATION_WEIGHTS}
SHOWN_CYCLES = 16
# Words of the RuntimeError that torch.save raises on a full disk.
TORCH_WRITER = ("write", "inline_container")


class LungSradTrainer(Trainer):
    """
    `transformers.Trainer` for respiratory cycles: the objective of [`PatchMixTraining`], cycles drawn by weight,
    weights averaged with those before each step, and a stop where the loss is NaN or infinite.

    Checkpoints hold the classifier as `save_pretrained` writes it, and beside it the projector of the objective and
    the projection of the distillation, but no teacher.

    Args:
        model (`PreTrainedModel`):
            [`LungSradForAudioClassification`], `transformers.ASTForAudioClassification` or
            [`EfficientATForAudioClassification`]; it is trained in place.
        objective (`ObjectiveArguments`, *optional*): cross-entropy alone when not given.
        class_weights (`torch.Tensor` of shape `(num_labels,)`, *optional*): weights of the cross-entropy.
        cycle_weights (`np.ndarray`, *optional*): relative chance of each training cycle; each once per epoch when not
            given.
        cycles_per_epoch (`int`, *optional*): draws per epoch; the number of training cycles when not given.
        cycle_names (sequence of `str`, *optional*): what error messages call the training cycles.
        teachers (`Teachers`, *optional*): moved to the device of the model and asked in every training step.
        recorded_dataset (`Dataset`, *optional*):
            scored at every evaluation under the prefix `test`, for the record; nothing depends on it.
        kwargs: those of `transformers.Trainer`. Items of the data sets are dictionaries with `input_values`, `labels`
            and, for error messages, `index`.

    Example (see `training/run_training.py` for a whole run):

    ```py
    trainer = LungSradTrainer(
        model=LungSradForAudioClassification(LungSradConfig.tiny()),
        args=LungSradTrainingArguments(output_dir="runs/first", ma_beta=0.5),
        objective=ObjectiveArguments(mode="dual"),
        train_dataset=training_cycles,
        eval_dataset=validation_cycles,
        compute_metrics=compute_metrics,
    )
    trainer.train()
    ```
    """

    # `compute_loss` returns the mean over a batch.
    loss_is_scaled_for_ga = False

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        args: LungSradTrainingArguments,
        objective: ObjectiveArguments | None = None,
        class_weights: torch.Tensor | None = None,
        cycle_weights: np.ndarray | None = None,
        cycles_per_epoch: int | None = None,
        cycle_names: Sequence[str] | None = None,
        recorded_dataset: Dataset | None = None,
        teachers: Teachers | None = None,
        **kwargs: Any,
    ):
        objective = objective or ObjectiveArguments()
        distillation = None
        if teachers is not None:
            distillation = Distillation(teachers.arguments, model.config.hidden_size, teachers.width)
        trained = PatchMixTraining(model, objective, class_weights, args.label_smoothing_factor, distillation)
        super().__init__(model=trained, args=args, **kwargs)
        if isinstance(model, LungSradForAudioClassification) and args.device.type == "cpu":
            # A run that goes on may begin by an evaluation, for which alone another back end would do.
            model.fix_scan_backend(math.inf)
        # Outside the model, so that no wrapper for several devices and no checkpoint has the teachers.
        self.teachers = None if teachers is None else teachers.to(args.device)
        self.cycle_weights = cycle_weights
        self.cycles_per_epoch = cycles_per_epoch
        self.cycle_names = cycle_names
        self.recorded_dataset = recorded_dataset
        self._unlogged_parts: dict[str, list[torch.Tensor]] = {}
        self.add_callback(SetSamplerEpoch(self))
        self.add_callback(FindBestCheckpoint())

    @property
    def training_model(self) -> PatchMixTraining:
        """Classifier and projector, without the wrappers for several devices."""
        return self.accelerator.unwrap_model(self.model)

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler:
        dataset: Any = train_dataset if train_dataset is not None else self.train_dataset
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        batch_size = self._train_batch_size * self.args.world_size
        self.cycle_sampler = CycleSampler(
            len(dataset), batch_size, seed, weights=self.cycle_weights, draws=self.cycles_per_epoch
        )
        return self.cycle_sampler

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """As in `transformers.Trainer`.

        Raises:
            InputError: an optimizer that is not installed, or settings that it refuses.
        """
        if self.optimizer is not None:
            return self.optimizer
        args: Any = self.args
        if args.muon_learning_rate:
            trained = self.training_model
            # Names as the classifier has them: in the training model all begin with its own.
            self.optimizer = build_muon(
                [(name.removeprefix(CLASSIFIER_PREFIX), x) for name, x in trained.named_parameters()],
                {name.removeprefix(CLASSIFIER_PREFIX) for name in self.get_decay_parameter_names(trained)},
                args.muon_learning_rate,
                args.learning_rate,
                args.weight_decay,
                betas=(args.adam_beta1, args.adam_beta2),
                eps=args.adam_epsilon,
            )
        try:
            optimizer = super().create_optimizer(model)
        except (ImportError, TypeError, ValueError) as error:
            raise InputError(
                "optim, optim_args",
                f"{self.args.optim} with {self.args.optim_args!r} cannot be used ({one_line(error)})",
                "correct them, or leave both out",
            ) from error
        for group in optimizer.param_groups:
            # An update is proportional to the learning rate, so this averages the weights with those before the step.
            group["lr"] *= 1 - args.ma_beta
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LRScheduler:
        """As in `transformers.Trainer`, and with `lr_per_epoch` the schedule of the paper.

        Raises:
            InputError: `lr_scheduler_kwargs` that the schedule does not have.
        """
        args: Any = self.args
        if not args.lr_per_epoch or self.lr_scheduler is not None:
            try:
                return super().create_scheduler(num_training_steps, optimizer)
            except (TypeError, ValueError) as error:
                raise InputError(
                    "lr_scheduler_kwargs",
                    f"{args.lr_scheduler_kwargs} do not go with lr_scheduler_type {args.lr_scheduler_type} "
                    f"({one_line(error)})",
                    "correct them, or leave them out",
                ) from error
        epochs = math.ceil(args.num_train_epochs) if args.max_steps <= 0 else None
        steps_per_epoch = math.ceil(len(self.cycle_sampler) / self._steps_divisor())
        epochs = epochs or math.ceil(num_training_steps / steps_per_epoch)
        min_lr_rate = args.lr_scheduler_kwargs.get("min_lr_rate", MIN_LR_RATE)
        scheduled: Any = optimizer or self.optimizer
        self.lr_scheduler = LambdaLR(
            scheduled, lambda step: cosine_per_epoch(step, steps_per_epoch, epochs, min_lr_rate)
        )
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def _steps_divisor(self) -> int:
        return self._train_batch_size * self.args.world_size * self.args.gradient_accumulation_steps

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Computes the objective and keeps its parts for the log."""
        answers = {}
        if self.teachers is not None and model.training:
            with self.accelerator.autocast():
                taught = self.teachers(inputs["input_values"])
            answers = {"teacher_logits": taught.logits, "teacher_features": taught.features}
        outputs: ObjectiveOutput = model(input_values=inputs["input_values"], labels=inputs["labels"], **answers)
        if outputs.cross_entropy is not None:
            parts = {f"contrastive_{axis}": loss for axis, loss in (outputs.contrastive or {}).items()}
            parts |= outputs.taught or {}
            for name, loss in {"cross_entropy": outputs.cross_entropy, **parts}.items():
                self._unlogged_parts.setdefault(name, []).append(loss.detach())
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As in `transformers.Trainer`; beside `loss` stand its parts, as means over steps and processes."""
        if "loss" in logs:
            for name, losses in self._unlogged_parts.items():
                logs[name] = float(self.accelerator.gather(torch.stack(losses).mean().reshape(1)).mean())
            self._unlogged_parts = {}
        super().log(logs, start_time)

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """As in `transformers.Trainer`.

        Raises:
            InputError: naming step and cycles, or the teacher, where the loss is NaN or infinite. Nothing was
                updated by it.
        """
        loss = super().training_step(model, inputs, num_items_in_batch)
        if not torch.isfinite(loss):
            self._check_teachers(inputs)
            raise InputError(
                f"step {self.state.global_step + 1} (epoch {self.state.epoch or 0:.2f})",
                f"the loss is {loss.item()}",
                f"the last checkpoint in {self.args.output_dir} is kept. The batch: "
                f"{self._describe_batch(inputs)}. Lower learning_rate, or look at these cycles",
            )
        return loss

    def _check_teachers(self, inputs: dict[str, Any]) -> None:
        values = inputs["input_values"].to(self.args.device)
        if self.teachers is None or not torch.isfinite(values).all():
            return
        with self.accelerator.autocast():
            broken = self.teachers.not_finite(values)
        if broken:
            raise InputError(
                f"step {self.state.global_step + 1}",
                f"the teacher {broken[0]} answers with NaN or infinite values",
                f"the last checkpoint in {self.args.output_dir} is kept. Choose another teacher, or bf16=false "
                "fp16=false",
            )

    def _describe_batch(self, inputs: dict[str, Any]) -> str:
        values = inputs["input_values"]
        indices = inputs["index"].tolist() if "index" in inputs else list(range(len(values)))
        names = [self.cycle_names[index] if self.cycle_names else f"cycle {index}" for index in indices]
        finite = torch.isfinite(values).all(dim=-1).all(dim=-1).tolist()
        broken = [name for name, is_finite in zip(names, finite, strict=True) if not is_finite]
        shown = [f"{name} (its input is not finite)" for name in broken] or names
        left_out = f" and {len(shown) - SHOWN_CYCLES} more" if len(shown) > SHOWN_CYCLES else ""
        return ", ".join(shown[:SHOWN_CYCLES]) + left_out

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """As in `transformers.Trainer`; `recorded_dataset` is scored as well, under `test_`."""
        metrics = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        if eval_dataset is None and self.recorded_dataset is not None:
            # A data loader draws from the global generator, which the training that follows must not notice.
            with torch.random.fork_rng(devices=[]):
                metrics |= super().evaluate(self.recorded_dataset, ignore_keys, "test")
        return metrics

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        for name, parameter in self.training_model.named_parameters():
            if not torch.isfinite(parameter).all():
                raise InputError(
                    f"step {self.state.global_step}",
                    f"{name} has NaN or infinite values, so no checkpoint is written",
                    f"the last one in {self.args.output_dir} is kept. Lower learning_rate",
                )
        folder = Path(str(self.args.output_dir), f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")
        try:
            super()._save_checkpoint(model, trial)
        except (OSError, SafetensorError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not any(word in str(error) for word in TORCH_WRITER):
                raise
            shutil.rmtree(folder, ignore_errors=True)
            raise InputError(
                folder,
                f"cannot be written ({one_line(error)})",
                "free space on its disk and start the same command again, which goes on from the last "
                "complete checkpoint",
            ) from error

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if not self.args.should_save:
            return
        folder = Path(output_dir or str(self.args.output_dir))
        state = self.training_model.state_dict() if state_dict is None else state_dict
        self.training_model.classifier.save_pretrained(folder, state_dict=_part(state, CLASSIFIER_PREFIX))
        if folder != Path(str(self.args.output_dir)):
            for prefix, name in TRAINING_PARTS.items():
                if part := _part(state, prefix):
                    save_file(part, folder / name)
        if self.processing_class is not None:
            self.processing_class.save_pretrained(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            with _read_from(resume_from_checkpoint):
                self._load_weights(Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        if self.is_fsdp_enabled:
            super()._load_best_model()
        elif self.state.best_model_checkpoint is not None:
            with _read_from(self.state.best_model_checkpoint):
                self._load_weights(Path(self.state.best_model_checkpoint))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None and not self.is_fsdp_enabled:
            for name in (OPTIMIZER_NAME, SCHEDULER_NAME):
                if not Path(checkpoint, name).is_file():
                    raise _unusable(checkpoint, f"lacks {name}")
        with _read_from(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        name = "rng_state.pth" if self.args.world_size == 1 else f"rng_state_{self.args.process_index}.pth"
        if checkpoint is not None and not Path(checkpoint, name).is_file():
            raise _unusable(checkpoint, f"lacks {name}, without which the run would go on with other random numbers")
        with _read_from(checkpoint):
            super()._load_rng_state(checkpoint)

    def _load_weights(self, folder: Path) -> None:
        classifier = self.training_model.classifier
        # `save_pretrained` may write weights under other names than the modules have, as it does for AST.
        saved = type(classifier).from_pretrained(folder, use_safetensors=True, dtype=torch.float32)
        classifier.load_state_dict(saved.state_dict())
        for prefix, name in TRAINING_PARTS.items():
            if _part(self.training_model.state_dict(), prefix):
                part = self.training_model.get_submodule(prefix.rstrip("."))
                part.load_state_dict(load_file(folder / name))


class FindBestCheckpoint(TrainerCallback):
    """Finds the best checkpoint of a run that goes on in the present folder, which may have been moved meanwhile."""

    def on_train_begin(self, args, state, control, **kwargs):
        best = Path(args.output_dir, f"{PREFIX_CHECKPOINT_DIR}-{state.best_global_step}")
        if best.is_dir():
            state.best_model_checkpoint = str(best)


class SetSamplerEpoch(TrainerCallback):
    """Tells the sampler which epoch begins, also when a run goes on in the middle of one."""

    def __init__(self, trainer: LungSradTrainer):
        self.trainer = trainer

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.trainer.cycle_sampler.epoch = int(state.epoch or 0)


def cosine_per_epoch(step: int, steps_per_epoch: int, epochs: int, min_lr_rate: float) -> float:
    """Factor of the learning rate that is the same for all steps of an epoch.

    Epochs count from 1, which the paper leaves open: the first is a step below 1, the last is `min_lr_rate`.
    """
    epoch = min(step // steps_per_epoch + 1, epochs)
    return min_lr_rate + (1 - min_lr_rate) * (1 + math.cos(math.pi * epoch / epochs)) / 2


@contextmanager
def _read_from(checkpoint: str | None) -> Iterator[None]:
    """Turns errors of reading a damaged checkpoint into a [`InputError`] that names it and the remedy."""
    try:
        yield
    except (OSError, RuntimeError, ValueError, KeyError, EOFError, SafetensorError, pickle.UnpicklingError) as error:
        if checkpoint is None or isinstance(error, torch.OutOfMemoryError):
            raise
        raise _unusable(checkpoint, f"cannot be read ({one_line(error)})") from error


def _unusable(checkpoint: str, problem: str) -> InputError:
    return InputError(
        checkpoint,
        problem,
        "remove this folder and start the same command again, which goes on from the checkpoint before it, "
        "if there is one",
    )


def _part(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {
        name.removeprefix(prefix): tensor.contiguous() for name, tensor in state.items() if name.startswith(prefix)
    }
