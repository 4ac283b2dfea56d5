"""What a training run is told, by section: data, model, augmentation, sampling, and the arguments of the Trainer."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.trainer_utils import IntervalStrategy, SaveStrategy, SchedulerType

from training.metrics.icbhi_score.icbhi_measure import RATES


@dataclass
class DataArguments:
    """Which labelled cycles to learn from.

    Args:
        icbhi (`str`, *optional*): folder or zip of ICBHI 2017, as published.
        sprsound (`str`, *optional*): folder of SPRSound (BioCAS 2022). Its events are training data only.
        simulated (`int`, *optional*, defaults to 0): number of simulated recordings. They take the place of ICBHI for
            validation when `icbhi` is not given.
        split (`str`, *optional*, defaults to `"official"`): `official`, `leak_free` or `fold0` to `fold4`.
        validation (`float`, *optional*, defaults to 0.2): share of the training patients kept for validation.
        validation_seed (`int`, *optional*, defaults to 0): draw of those patients. Apart from `seed`, so that runs
            with several seeds are selected on the same patients.
    """

    icbhi: str | None = None
    sprsound: str | None = None
    simulated: int = 0
    split: str = "official"
    validation: float = 0.2
    validation_seed: int = 0


@dataclass
class ModelArguments:
    """Which network to train.

    Args:
        size (`str`, *optional*, defaults to `"tiny"`): `tiny`, `small` or `medium`, initialised at random.
        checkpoint (`str`, *optional*): folder or file to start from instead, in any layout that `lung-srad convert`
            reads. A head for another number of classes is replaced.
        config (`dict`, *optional*): values of `LungSradConfig` to set, such as `{drop_path_rate: 0.1}`.
        feature_extractor (`dict`, *optional*): values of `LungSradFeatureExtractor`, such as `{num_frames: 512}`.
    """

    size: str = "tiny"
    checkpoint: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    feature_extractor: dict[str, Any] = field(default_factory=dict)


@dataclass
class AugmentationArguments:
    """Changes made to the log-mel spectrogram of a training cycle, drawn anew at every access.

    Args:
        frequency_masks (`int`, *optional*, defaults to 2): SpecAugment bands of mel bins per cycle.
        frequency_mask_bins (`int`, *optional*, defaults to 48): widest such band.
        time_masks (`int`, *optional*, defaults to 2): SpecAugment stretches of frames per cycle.
        time_mask_frames (`int`, *optional*, defaults to 160): longest such stretch, before the resize (10 ms each).
        roll (`bool`, *optional*, defaults to `False`): rotate the repeat-padded cycle by a random number of frames.
        equalizer_decibels (`float`, *optional*, defaults to 0.0): standard deviation of a random smooth gain over the
            mel bins: stethoscopes differ in their frequency response.
        crop_frames (`int`, *optional*): frames of a random stretch of the network's input to train on. The network
            averages over time, so it may see more at inference than in training, where short inputs cost less.
    """

    frequency_masks: int = 2
    frequency_mask_bins: int = 48
    time_masks: int = 2
    time_mask_frames: int = 160
    roll: bool = False
    equalizer_decibels: float = 0.0
    crop_frames: int | None = None

    def __post_init__(self):
        for name in ("frequency_masks", "frequency_mask_bins", "time_masks", "time_mask_frames", "equalizer_decibels"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"augmentation.{name}: {getattr(self, name)} should be 0 or more")
        if self.crop_frames is not None and self.crop_frames < 1:
            raise ValueError(f"augmentation.crop_frames: {self.crop_frames} should be at least 1, or null for all")


@dataclass
class SamplingArguments:
    """How often a training cycle is drawn. With the defaults every cycle is seen once per epoch.

    Args:
        class_balance (`float`, *optional*, defaults to 0.0): a cycle's chance is proportional to the number of cycles
            of its class to the power `-class_balance`: 0 leaves the classes as they are, 1 makes them equal.
        icbhi, sprsound, simulated (`float`, *optional*, defaults to 1.0): relative chance of a cycle of that source.
        cycles_per_epoch (`int`, *optional*): draws that make an epoch; as many as there are cycles when not given.
    """

    class_balance: float = 0.0
    icbhi: float = 1.0
    sprsound: float = 1.0
    simulated: float = 1.0
    cycles_per_epoch: int | None = None

    def __post_init__(self):
        for name in ("class_balance", "icbhi", "sprsound", "simulated"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"sampling.{name}: {getattr(self, name)} should be a finite number")


@dataclass
class RunArguments:
    """The sections of a configuration that `transformers.TrainingArguments` does not have."""

    data: DataArguments = field(default_factory=DataArguments)
    model: ModelArguments = field(default_factory=ModelArguments)
    augmentation: AugmentationArguments = field(default_factory=AugmentationArguments)
    sampling: SamplingArguments = field(default_factory=SamplingArguments)


@dataclass
class LungSradTrainingArguments(TrainingArguments):
    """`transformers.TrainingArguments` with the defaults of this project: AdamW, cosine to lr/1000, and the best
    epoch by validation Score.

    Raises:
        ValueError: naming the key, for a value that the Trainer would stumble over later or not train with at all.
    """

    lr_scheduler_type: SchedulerType | str = SchedulerType.COSINE_WITH_MIN_LR
    eval_strategy: IntervalStrategy | str = IntervalStrategy.EPOCH
    save_strategy: SaveStrategy | str = SaveStrategy.EPOCH
    logging_strategy: IntervalStrategy | str = IntervalStrategy.EPOCH
    load_best_model_at_end: bool = True
    metric_for_best_model: str | None = "score"
    save_total_limit: int | None = 2
    remove_unused_columns: bool = False
    report_to: str | list[str] | None = "none"
    dataloader_pin_memory: bool = field(default_factory=torch.cuda.is_available)

    def __post_init__(self):
        if self.lr_scheduler_type == SchedulerType.COSINE_WITH_MIN_LR and self.lr_scheduler_kwargs is None:
            self.lr_scheduler_kwargs = {"min_lr_rate": 0.001}
        super().__post_init__()
        self._check_values()

    def _check_values(self) -> None:
        batches = ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps")
        for name in ("learning_rate", *batches):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}: {getattr(self, name)} should be above 0")
        for name in ("seed", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}: {getattr(self, name)} should be 0 or more")
        if self.max_steps <= 0 and not 0 < self.num_train_epochs < math.inf:
            raise ValueError(f"num_train_epochs: {self.num_train_epochs} should be above 0")
        metrics = ("loss", *RATES)
        if self.metric_for_best_model is not None and self.metric_for_best_model.removeprefix("eval_") not in metrics:
            raise ValueError(
                f"metric_for_best_model: {self.metric_for_best_model!r} is not one of {', '.join(metrics)}"
            )
