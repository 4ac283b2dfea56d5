"""The settings of a training run, by section: data, model, objective, augmentation, sampling and teacher."""

import difflib
import math
from collections.abc import Iterable
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from dataset_scripts.icbhi_splits import SPLITS
from modeling_lung_srad.errors import InputError

ARCHITECTURES = ("lung_srad", "ast", "efficientat")
AXES_OF_MODE = {"none": (), "time": ("time",), "mel": ("mel",), "dual": ("time", "mel"), "2d": ("2d",)}
TARGETS = ("grad_block", "grad_flow", "project_block", "project_flow")
PROJECTORS = ("trained", "frozen")
NEGATIVES = ("all", "diff_label")
FEATURES = ("pooled", "map")
LARGEST_CLASS_BALANCE = 10


def check_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    """Raises `InputError` for a value that is not one of `choices`; the message names the nearest one."""
    choices = list(choices)
    if value not in choices:
        nearest = difflib.get_close_matches(str(value), choices, n=1, cutoff=0.0)[0]
        raise InputError(name, f"{value!r} is not one of {', '.join(choices)}", f"the nearest is {nearest}")


def _check_paths(section: Any, name: str, keys: Iterable[str]) -> None:
    for key in keys:
        if getattr(section, key) == "":
            raise InputError(f"{name}.{key}", "the path is empty", "name one, or write null for none")


@dataclass
class DataArguments:
    """Which labelled cycles to learn from.

    Args:
        icbhi (`str`, *optional*): folder or zip of ICBHI 2017, as published.
        sprsound (`str`, *optional*): folder of SPRSound (BioCAS 2022). Its events are training data, never selected
            on.
        simulated (`int`, *optional*, defaults to 0): number of simulated patients. They take the place of ICBHI for
            validation when `icbhi` is not given.
        split (`str`, *optional*, defaults to `"official"`): `official`, `leak_free` or `fold0` to `fold4`.
        validation (`float`, *optional*, defaults to 0.2): share of the training patients kept for validation; 0 for
            none, where `selection` does not need them.
        validation_seed (`int`, *optional*, defaults to 0): draw of those patients. Apart from `seed`, so that runs
            with several seeds are selected on the same patients.
        sprsound_validation (`float`, *optional*, defaults to 0.0): share of the training patients of SPRSound kept
            out, to fit temperature and thresholds to both databases after training.
        simulated_events (`int`, *optional*, defaults to 0): number of simulated recordings with one planted crackle
            burst or wheeze to train on; goes with `augmentation.stretch_frames`.
        other_sounds (`int`, *optional*, defaults to 0): number of computed recordings of speech, tones and noise, for
            a stage that learns the features of a teacher alone; goes with `augmentation.stretch_frames`.
    """

    icbhi: str | None = None
    sprsound: str | None = None
    simulated: int = 0
    split: str = "official"
    validation: float = 0.2
    validation_seed: int = 0
    sprsound_validation: float = 0.0
    simulated_events: int = 0
    other_sounds: int = 0

    def __post_init__(self):
        check_choice("data.split", self.split, SPLITS)
        _check_paths(self, "data", ("icbhi", "sprsound"))
        if not 0 <= self.sprsound_validation < 1:
            raise InputError("data.sprsound_validation", f"{self.sprsound_validation} should be a share below 1")
        for name in ("simulated_events", "other_sounds"):
            if getattr(self, name) < 0:
                raise InputError(f"data.{name}", f"{getattr(self, name)} should be a number of recordings")
        if self.simulated < 0 or self.simulated == 1:
            raise InputError("data.simulated", f"{self.simulated} patients: use 2 or more, or 0 for none")


@dataclass
class ModelArguments:
    """Which network to train.

    Args:
        architecture (`str`, *optional*, defaults to `"lung_srad"`): `lung_srad`, `ast` for the Audio Spectrogram
            Transformer of transformers, the baseline of the paper, or `efficientat` for EfficientAT mn04, a teacher.
        size (`str`, *optional*, defaults to `"tiny"`): `tiny`, `small` or `medium`, initialised at random. AST has
            the size that `config` gives, by default AST-base; EfficientAT has one size.
        checkpoint (`str`, *optional*): folder or file to start from instead, in any layout that `lung-srad convert`
            reads; for AST a folder or a Hub id, for EfficientAT a folder or the published file. A head for another
            number of classes is replaced.
        config (`dict`, *optional*): values of `LungSradConfig`, `ASTConfig` or `EfficientATConfig` to set, such as
            `{drop_path_rate: 0.1}`.
        feature_extractor (`dict`, *optional*): values of `LungSradFeatureExtractor`, such as `{num_frames: 512}`.
    """

    architecture: str = "lung_srad"
    size: str = "tiny"
    checkpoint: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    feature_extractor: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        check_choice("model.architecture", self.architecture, ARCHITECTURES)
        _check_paths(self, "model", ("checkpoint",))


@dataclass
class ObjectiveArguments:
    """The objective: cross-entropy, and the contrastive loss of mixed views (arXiv 2606.11922).

    Args:
        mode (`str`, *optional*, defaults to `"none"`): views that are mixed: `none`, `time` (columns), `mel` (rows),
            `dual` (both, each with its own draw), or `2d` (single patches, the only one that AST has).
        targets (`str`, *optional*, defaults to `"grad_block"`): what mixed views are compared with: the clean
            features with (`grad_block`) or without (`grad_flow`) a stopped gradient, or their projections
            (`project_block`, `project_flow`).
        projector (`str`, *optional*, defaults to `"trained"`): `trained` as in Patch-Mix CL, or `frozen`, a random
            one as in the public code of the Lung-SRAD authors.
        temperature (`float`, *optional*, defaults to 0.2): of the contrastive softmax.
        negatives (`str`, *optional*, defaults to `"all"`): `all`, or `diff_label`, which leaves other samples of the
            same class out.
        alpha (`float`, *optional*, defaults to 1.0): the share that is mixed comes from Beta(alpha, alpha).
        time_weight, mel_weight, patch_weight (`float`, *optional*, defaults to 1.0): weight of the contrastive loss of
            the time axis, the mel axis, and of single patches (`2d`).
        class_balance (`float`, *optional*, defaults to 0.0): the weight of a class in the cross-entropy is its number
            of cycles to the power `-class_balance`: 0 for none, 1 for classes of equal total weight.
    """

    mode: str = "none"
    targets: str = "grad_block"
    projector: str = "trained"
    temperature: float = 0.2
    negatives: str = "all"
    alpha: float = 1.0
    time_weight: float = 1.0
    mel_weight: float = 1.0
    patch_weight: float = 1.0
    class_balance: float = 0.0

    def __post_init__(self):
        choices = {"mode": AXES_OF_MODE, "targets": TARGETS, "projector": PROJECTORS, "negatives": NEGATIVES}
        for name, known in choices.items():
            check_choice(f"objective.{name}", getattr(self, name), known)
        for name in ("temperature", "alpha"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"objective.{name}", f"{getattr(self, name)} should be above 0")
        for name in ("time_weight", "mel_weight", "patch_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"objective.{name}", f"{getattr(self, name)} should be 0 or more")
        if not 0 <= self.class_balance <= LARGEST_CLASS_BALANCE:
            raise InputError(
                "objective.class_balance",
                f"{self.class_balance} should be 0 to {LARGEST_CLASS_BALANCE}",
                "1 makes the classes equal",
            )

    @property
    def axes(self) -> tuple[str, ...]:
        """The axes that are mixed, in the order of their losses."""
        return AXES_OF_MODE[self.mode]

    def weight(self, axis: str) -> float:
        """Weight of the contrastive loss of an axis."""
        return {"time": self.time_weight, "mel": self.mel_weight, "2d": self.patch_weight}[axis]


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
        stretch_frames (`int`, *optional*): train on stretches of this many frames, 10 ms each, cut anywhere in cycles
            and, with `sampling.windows`, in whole recordings, instead of on padded cycles.
        speed (`float`, *optional*, defaults to 0.0): by how much, at most, a stretch is made slower or faster.
        mel_shift_bins (`int`, *optional*, defaults to 0): by how many mel bins, at most, it is moved up or down.
        breath_share (`float`, *optional*, defaults to 0.0): chance to add another patient's normal breath.
        noise_share, hum_share (`float`, *optional*, defaults to 0.0): chance to add noise, and hum.
        bandwidth_share (`float`, *optional*, defaults to 0.0): chance to take away the highest bins, and the lowest.
    """

    frequency_masks: int = 2
    frequency_mask_bins: int = 48
    time_masks: int = 2
    time_mask_frames: int = 160
    roll: bool = False
    equalizer_decibels: float = 0.0
    crop_frames: int | None = None
    stretch_frames: int | None = None
    speed: float = 0.0
    mel_shift_bins: int = 0
    breath_share: float = 0.0
    noise_share: float = 0.0
    hum_share: float = 0.0
    bandwidth_share: float = 0.0

    def __post_init__(self):
        numbers = ("frequency_masks", "frequency_mask_bins", "time_masks", "time_mask_frames", "mel_shift_bins")
        for name in (*numbers, "equalizer_decibels"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"augmentation.{name}", f"{getattr(self, name)} should be 0 or more")
        for name in ("speed", "breath_share", "noise_share", "hum_share", "bandwidth_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"augmentation.{name}", f"{getattr(self, name)} should be 0 to 1")
        for name in ("crop_frames", "stretch_frames"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise InputError(
                    f"augmentation.{name}", f"{getattr(self, name)} should be at least 1, or null for all"
                )
        if self.stretch_frames is None and (self.speed or self.breath_share):
            raise InputError(
                "augmentation.speed, augmentation.breath_share", "go with augmentation.stretch_frames only"
            )
        if self.stretch_frames is not None and (self.crop_frames is not None or self.roll):
            raise InputError(
                "augmentation.stretch_frames", "cuts at random by itself", "leave out crop_frames and roll"
            )


@dataclass
class SamplingArguments:
    """How often a training cycle is drawn. With the defaults every cycle is seen once per epoch.

    Args:
        class_balance (`float`, *optional*, defaults to 0.0): a cycle's chance is proportional to the number of cycles
            of its class to the power `-class_balance`: 0 leaves the classes as they are, 1 makes them equal.
        icbhi, sprsound, simulated (`float`, *optional*, defaults to 1.0): relative chance of a cycle of that source;
            with 0 its training part is left out.
        windows (`float`, *optional*, defaults to 0.0): relative chance of a window cut anywhere in a whole recording
            of SPRSound; goes with `augmentation.stretch_frames`.
        other_sounds (`float`, *optional*, defaults to 1.0): relative chance of one of `data.other_sounds`.
        patient_balance (`float`, *optional*, defaults to 0.0): within a class, a patient's chance is proportional to
            the number of their cycles to the power `1 - patient_balance`.
        device_balance (`float`, *optional*, defaults to 0.0): how far the classes of each stethoscope are brought to
            their shares over all: 0 leaves them, 1 makes them equal, so that no stethoscope stands for a class.
        cycles_per_epoch (`int`, *optional*): draws that make an epoch; as many as there are cycles when not given.
    """

    class_balance: float = 0.0
    icbhi: float = 1.0
    sprsound: float = 1.0
    simulated: float = 1.0
    windows: float = 0.0
    other_sounds: float = 1.0
    patient_balance: float = 0.0
    device_balance: float = 0.0
    cycles_per_epoch: int | None = None

    def __post_init__(self):
        for name in (
            "class_balance",
            "icbhi",
            "sprsound",
            "simulated",
            "windows",
            "other_sounds",
            "patient_balance",
            "device_balance",
        ):
            if not math.isfinite(getattr(self, name)):
                raise InputError(f"sampling.{name}", f"{getattr(self, name)} should be a finite number")

    @property
    def left_out(self) -> tuple[str, ...]:
        """Sources from which no cycle is drawn."""
        return tuple(name for name in ("icbhi", "sprsound", "simulated") if getattr(self, name) == 0)


@dataclass
class TeacherArguments:
    """Frozen classifiers whose answers to the same augmented input the network learns (arXiv 1503.02531, 2106.05237).

    Args:
        checkpoints (`list[str]`, *optional*): the teachers; none when empty. A folder with a Lung-SRAD, AST or
            EfficientAT classifier of the four classes, a Hub id of Lung-SRAD, or the published file of EfficientAT,
            which has pooled features alone. The logits of several teachers are averaged, and so are their features.
        weight (`float`, *optional*, defaults to 0.5): share of the teachers' class probabilities in the loss, 0 to 1.
        temperature (`float`, *optional*, defaults to 1.0): of both softmaxes in the Kullback-Leibler divergence, which
            is multiplied by its square.
        feature_weight (`float`, *optional*, defaults to 0.0): weight of the mean squared error between the features,
            the network's after a trained linear projection, both layer-normalised without weights.
        features (`str`, *optional*, defaults to `"pooled"`): `pooled` features, or the `map` before the pooling, the
            teacher's averaged to the grid of the network's.
        label_weight (`float`, *optional*): weight of the cross-entropy with the labels; `1 - weight` when not given.
            0 with `weight` 0 learns features alone.
    """

    checkpoints: list[str] = field(default_factory=list)
    weight: float = 0.5
    temperature: float = 1.0
    feature_weight: float = 0.0
    features: str = "pooled"
    label_weight: float | None = None

    def __post_init__(self):
        check_choice("teacher.features", self.features, FEATURES)
        if not all(isinstance(checkpoint, str) and checkpoint for checkpoint in self.checkpoints):
            raise InputError("teacher.checkpoints", f"{self.checkpoints} should be a list of paths or Hub ids")
        if not 0 <= self.weight <= 1:
            raise InputError("teacher.weight", f"{self.weight} should be 0 to 1")
        if not 0 < self.temperature < math.inf:
            raise InputError("teacher.temperature", f"{self.temperature} should be above 0")
        for name in ("feature_weight", "label_weight"):
            if not 0 <= (getattr(self, name) or 0) < math.inf:
                raise InputError(f"teacher.{name}", f"{getattr(self, name)} should be 0 or more")
        given = [item.name for item in fields(self) if item.default not in (MISSING, getattr(self, item.name))]
        if given and not self.checkpoints:
            raise InputError(
                f"teacher.{given[0]}",
                "is given without a teacher",
                "name one in teacher.checkpoints, or set teacher=null",
            )
        if self.checkpoints and self.weight == self.feature_weight == 0:
            raise InputError(
                "teacher.weight", "0 and feature_weight 0 leave nothing to learn from teacher.checkpoints", "set one"
            )

    @property
    def weight_of_labels(self) -> float:
        """Weight of the cross-entropy with the labels: 1 without teachers."""
        if not self.checkpoints:
            return 1.0
        return 1 - self.weight if self.label_weight is None else self.label_weight


@dataclass
class RunArguments:
    """The sections of a configuration that `transformers.TrainingArguments` does not have."""

    data: DataArguments = field(default_factory=DataArguments)
    model: ModelArguments = field(default_factory=ModelArguments)
    objective: ObjectiveArguments = field(default_factory=ObjectiveArguments)
    augmentation: AugmentationArguments = field(default_factory=AugmentationArguments)
    sampling: SamplingArguments = field(default_factory=SamplingArguments)
    teacher: TeacherArguments = field(default_factory=TeacherArguments)
