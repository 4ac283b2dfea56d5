"""The arguments of the Trainer: those of transformers, with other defaults, four more, and checks."""

import math
from dataclasses import dataclass, field, fields

import torch
from transformers import TrainingArguments
from transformers.integrations import get_available_reporting_integrations
from transformers.trainer_utils import IntervalStrategy, SaveStrategy, SchedulerType
from transformers.utils.logging import log_levels

from modeling_lung_srad.errors import InputError
from training.arguments import check_choice
from training.metrics.icbhi_score.icbhi_measure import RATES

SELECTIONS = ("validation", "last", "test")
MIN_LR_RATE = 0.001
LARGEST_SEED = 2**32 - 1
# Arguments that this trainer replaces or lacks, and the remedy: an error rather than a setting ignored.
NOT_FOLLOWED = {
    "batch_eval_metrics": "the rates are of all cycles at once; leave it out",
    "bf16_full_eval": "would round the weights that are saved afterwards; use bf16",
    "dataloader_drop_last": "would leave out cycles to be scored; an epoch is whole batches anyway",
    "eval_do_concat_batches": "the rates are of all cycles at once; leave it out",
    "fp16_full_eval": "would round the weights that are saved afterwards; use fp16",
    "greater_is_better": "follows from metric_for_best_model; leave it out",
    "ignore_data_skip": "would go on with other cycles than an uninterrupted run; leave it out",
    "include_for_metrics": "the rates follow from the predictions alone; leave it out",
    "label_names": "the labels are always `labels`; leave it out",
    "neftune_noise_alpha": "is for embeddings of words; see the section augmentation",
    "prediction_loss_only": "would leave out the rates; leave it out, or set eval_strategy to no",
    "push_to_hub": "is not done by a run; upload its folder when it is done, by `lung-srad publish model`",
    "resume_from_checkpoint": "the same command goes on by itself from the last checkpoint in output_dir",
    "save_only_model": "would leave nothing to go on from after an interruption; leave it out",
    "train_sampling_strategy": "see the section sampling",
    "use_liger_kernel": "does not support this network; leave it out",
}


@dataclass
class LungSradTrainingArguments(TrainingArguments):
    """`transformers.TrainingArguments` with the defaults of this project (AdamW, cosine to lr/1000, the best epoch by
    validation Score) and four settings more.

    Args:
        selection (`str`, *optional*, defaults to `"validation"`): epoch that is kept: the best one on `validation`
            patients, the `last` one, or the best one on the `test` part. The latter is the protocol of the paper and
            of most of the field; it is optimistic, and every output of such a run says so.
        record_test (`bool`, *optional*, defaults to `False`): whether the test part is scored after every epoch as
            well, for the record of what each rule of selection would have reported. It never changes the epoch kept.
        lr_per_epoch (`bool`, *optional*, defaults to `False`): whether the cosine schedule moves once an epoch, as
            in the paper, from the first step below `learning_rate` to its minimum in the last epoch.
        ma_beta (`float`, *optional*, defaults to 0.0): after every step the weights become `ma_beta * old + (1 -
            ma_beta) * new`, by learning rates of `1 - ma_beta` times those given; 0.5 in the paper.
        muon_learning_rate (`float`, *optional*, defaults to 0.0): above 0, Muon updates the matrices, at this rate,
            and AdamW, at `learning_rate`, all else; see `training/muon.py`.

    Raises:
        InputError: naming the key, for a value that the Trainer would stumble over later, ignore, or not train with at
            all.
    """

    lr_scheduler_type: SchedulerType | str = SchedulerType.COSINE_WITH_MIN_LR
    eval_strategy: IntervalStrategy | str = IntervalStrategy.EPOCH
    save_strategy: SaveStrategy | str = SaveStrategy.EPOCH
    logging_strategy: IntervalStrategy | str = IntervalStrategy.EPOCH
    metric_for_best_model: str | None = "score"
    save_total_limit: int | None = 2
    remove_unused_columns: bool = False
    report_to: str | list[str] | None = "none"
    dataloader_pin_memory: bool = field(default_factory=torch.cuda.is_available)
    selection: str = "validation"
    record_test: bool = False
    lr_per_epoch: bool = False
    ma_beta: float = 0.0
    muon_learning_rate: float = 0.0

    def __post_init__(self):
        for item in fields(self):
            if item.name in NOT_FOLLOWED and getattr(self, item.name) not in (item.default, []):
                raise InputError(item.name, NOT_FOLLOWED[item.name])
        check_choice("selection", self.selection, SELECTIONS)
        self.load_best_model_at_end = self.selection != "last"
        self.metric_for_best_model = self.metric_for_best_model or "score"
        self.greater_is_better = self.metric_for_best_model != "loss"
        if self.lr_scheduler_type == SchedulerType.COSINE_WITH_MIN_LR and self.lr_scheduler_kwargs is None:
            self.lr_scheduler_kwargs = {"min_lr_rate": MIN_LR_RATE}
        self._check_values()
        super().__post_init__()

    def _check_values(self) -> None:
        batches = ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps")
        for name in ("learning_rate", *batches):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(name, f"{getattr(self, name)} should be above 0")
        for name in ("weight_decay", "max_grad_norm", "adam_epsilon", "dataloader_num_workers", "muon_learning_rate"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(name, f"{getattr(self, name)} should be 0 or more")
        for name in ("seed", "data_seed"):
            if not 0 <= (getattr(self, name) or 0) <= LARGEST_SEED:
                raise InputError(name, f"{getattr(self, name)} should be 0 to {LARGEST_SEED}")
        for name in ("ma_beta", "adam_beta1", "adam_beta2", "label_smoothing_factor"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(name, f"{getattr(self, name)} should be at least 0 and below 1")
        if self.max_steps <= 0 and not 0 < self.num_train_epochs < math.inf:
            raise InputError("num_train_epochs", f"{self.num_train_epochs} should be above 0")
        for name in ("log_level", "log_level_replica"):
            check_choice(name, getattr(self, name), ("passive", *log_levels))
        self._check_reporting()
        self._check_selection()
        self._check_schedule()

    def _check_reporting(self) -> None:
        wanted = [self.report_to] if isinstance(self.report_to, str) else self.report_to or []
        usable = ("none", "all", *get_available_reporting_integrations())
        for name in wanted:
            if name not in usable:
                raise InputError(
                    "report_to",
                    f"{name!r} is not installed, or not known",
                    f"install it, or use {' or '.join(usable)}",
                )

    def _check_selection(self) -> None:
        metrics = ("loss", *RATES)
        if self.metric_for_best_model not in metrics:
            raise InputError(
                "metric_for_best_model", f"{self.metric_for_best_model!r} is not one of {', '.join(metrics)}"
            )
        if not self.load_best_model_at_end:
            return
        if "no" in (self.eval_strategy, self.save_strategy):
            raise InputError(
                "selection",
                f"{self.selection!r} needs eval_strategy and save_strategy",
                "set both to epoch, or selection to last",
            )
        if self.save_strategy not in (self.eval_strategy, SaveStrategy.BEST):
            save, evaluate = SaveStrategy(self.save_strategy).value, IntervalStrategy(self.eval_strategy).value
            raise InputError(
                "save_strategy",
                f"{save!r} is not eval_strategy, {evaluate!r}, and selection {self.selection!r} keeps what was scored",
                "set both to the same, or selection to last",
            )
        for name in ("eval_steps", "save_steps"):
            if self.eval_strategy == IntervalStrategy.STEPS and not (getattr(self, name) or 0) > 0:
                raise InputError(name, f"{getattr(self, name)} should be above 0 where the strategy is steps")
        of_epochs = self.max_steps <= 0 and self.eval_strategy == IntervalStrategy.EPOCH
        if of_epochs and (self.eval_delay or 0) >= self.num_train_epochs:
            raise InputError("eval_delay", f"{self.eval_delay} leaves no epoch to choose from", "make it smaller")

    def _check_schedule(self) -> None:
        is_cosine = self.lr_scheduler_type == SchedulerType.COSINE_WITH_MIN_LR
        if self.lr_per_epoch and (not is_cosine or self.warmup_steps):
            raise InputError("lr_per_epoch", "goes with lr_scheduler_type cosine_with_min_lr and warmup_steps 0 only")
        if is_cosine and isinstance(self.lr_scheduler_kwargs, dict):
            if self.lr_per_epoch and self.lr_scheduler_kwargs.keys() != {"min_lr_rate"}:
                raise InputError("lr_scheduler_kwargs", "has the key min_lr_rate, and no other, with lr_per_epoch")
            rate = self.lr_scheduler_kwargs.get("min_lr_rate", MIN_LR_RATE)
            if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate <= 1:
                raise InputError("lr_scheduler_kwargs.min_lr_rate", f"{rate!r} should be a number from 0 to 1")
