"""The teachers of a run: frozen classifiers, loaded once and checked against the run that learns from them."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import ASTForAudioClassification, PreTrainedModel

from modeling_lung_srad import LungSradFeatureExtractor
from modeling_lung_srad.configuration_lung_srad import CLASS_NAMES, class_columns
from modeling_lung_srad.errors import InputError
from training.arguments import RunArguments, TeacherArguments
from training.model_setup import feature_settings
from training.prediction.classifier_loading import classify_pooled, load_classifier
from training.record.earlier_stages import read_earlier_stages
from training.record.training_record import TrainingRecord
from training.teachers.efficientat_loading import load_published

CLIP_CONSTANTS = {"mean", "std"}


@dataclass(frozen=True)
class Teacher:
    """
    Args:
        checkpoint (`str`): as in the configuration.
        classifier (`PreTrainedModel`): in evaluation mode and without gradients.
        columns (`tuple[int, ...]`, *optional*): its logits in the order of `CLASS_NAMES`; `None` for other classes.
        sha256 (`str`): of the file of its weights; of several files, of their hashes in the order of their names.
        record (`TrainingRecord`, *optional*): of the run that made it, where it is known.
        description (`dict`): what the summary of the run keeps.
    """

    checkpoint: str
    classifier: PreTrainedModel
    columns: tuple[int, ...] | None
    sha256: str
    record: TrainingRecord | None
    description: dict[str, Any]


class TeacherOutput(NamedTuple):
    """`logits` `(teachers, batch, 4)` and `features`, pooled `(teachers, batch, width)` or as maps `(teachers, batch,
    width, mel, time)`; each is `None` if its weight is zero."""

    logits: torch.Tensor | None
    features: torch.Tensor | None


class Teachers(nn.Module):
    """
    Frozen classifiers, always in evaluation mode.

    Args:
        teachers (`list[Teacher]`): at least one.
        arguments (`TeacherArguments`): weights, which say what the teachers are asked for.
    """

    def __init__(self, teachers: list[Teacher], arguments: TeacherArguments):
        super().__init__()
        self.arguments = arguments
        self.names = [teacher.checkpoint for teacher in teachers]
        self.columns = [teacher.columns for teacher in teachers]
        self.classifiers = nn.ModuleList(teacher.classifier for teacher in teachers)
        self.requires_grad_(False).eval()

    @property
    def width(self) -> int:
        """Width of the pooled features."""
        classifier: Any = self.classifiers[0]
        return classifier.config.hidden_size

    def train(self, mode: bool = True) -> "Teachers":
        """Stays in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, input_values: torch.Tensor) -> TeacherOutput:
        """Logits and features of `input_values` `(batch, frames, num_mel_bins)`."""
        classifiers: Any = self.classifiers
        outputs = [classifier.base_model(input_values) for classifier in classifiers]
        pooled = [output.pooler_output for output in outputs]
        logits = None
        if self.arguments.weight > 0:
            parts = zip(classifiers, pooled, self.columns, strict=True)
            logits = torch.stack(
                [classify_pooled(classifier, part)[:, columns] for classifier, part, columns in parts]
            )
        if self.arguments.feature_weight == 0:
            return TeacherOutput(logits, None)
        maps = [output.last_hidden_state for output in outputs]
        return TeacherOutput(logits, torch.stack(maps if self.arguments.features == "map" else pooled))

    def not_finite(self, input_values: torch.Tensor) -> list[str]:
        """Names of the teachers that answer `input_values` with NaN or infinite values."""
        answers = [answer.flatten(1) for answer in self(input_values) if answer is not None]
        return [
            name
            for number, name in enumerate(self.names)
            if not all(torch.isfinite(answer[number]).all() for answer in answers)
        ]


def load_teachers(arguments: RunArguments, feature_extractor: LungSradFeatureExtractor) -> list[Teacher]:
    """The teachers of a configuration, none where it names none.

    Args:
        arguments (`RunArguments`): the run.
        feature_extractor (`LungSradFeatureExtractor`): of the network that learns.

    Raises:
        InputError: naming the teacher: one that cannot be loaded, with other features or inputs than the run,
            without lung classes where those are asked for, or with features of another width than the first one's.
    """
    teachers: list[Teacher] = []
    for checkpoint in arguments.teacher.checkpoints:
        name = f"teacher.checkpoints: {checkpoint}"
        teacher = load_teacher(checkpoint, feature_extractor)
        if teacher.columns is None and arguments.teacher.weight > 0:
            raise InputError(
                name,
                f"has the classes of AudioSet, not {', '.join(CLASS_NAMES)}",
                "set teacher.weight=0 and teacher.feature_weight to learn its features, or fine-tune it first "
                "by model.architecture=efficientat",
            )
        takes_all_frames = isinstance(teacher.classifier, ASTForAudioClassification)
        if takes_all_frames and arguments.augmentation.crop_frames is not None:
            raise InputError(
                name,
                "is an AST, which takes all frames only",
                "leave augmentation.crop_frames out, or choose another teacher",
            )
        is_cut = arguments.augmentation.stretch_frames not in (None, feature_extractor.num_frames)
        if takes_all_frames and (is_cut or arguments.teacher.features == "map"):
            raise InputError(
                name,
                "is an AST, which takes all frames only and has its patches in a row",
                "leave augmentation.stretch_frames and teacher.features out, or choose another teacher",
            )
        width = teacher.classifier.config.hidden_size
        if teachers and arguments.teacher.feature_weight > 0 and width != teachers[0].classifier.config.hidden_size:
            raise InputError(
                name,
                f"has {width} pooled features and {teachers[0].checkpoint} has "
                f"{teachers[0].classifier.config.hidden_size}, so they cannot be averaged",
                "set teacher.feature_weight=0, or choose teachers of one size",
            )
        teachers.append(teacher)
    return teachers


def load_teacher(checkpoint: str, feature_extractor: LungSradFeatureExtractor) -> Teacher:
    """Loads one teacher; raises `InputError` as `load_teachers`."""
    path = Path(os.path.expanduser(checkpoint))
    try:
        if path.suffix == ".pt" or path.is_file():
            return _load_published_teacher(path, checkpoint, feature_extractor)
        classifier, own_features = load_classifier(checkpoint)
        record, kept = read_earlier_stages(checkpoint)
    except InputError as error:
        raise error.within("teacher.checkpoints") from error
    differing = different_settings(own_features, feature_extractor)
    if differing:
        shown = ", ".join(
            f"{name} {getattr(own_features, name)} there and {getattr(feature_extractor, name)} here"
            for name in differing
        )
        raise InputError(
            "teacher.checkpoints",
            f"{checkpoint}: has other features than this run ({shown})",
            "set model.feature_extractor to those of the teacher",
        )
    columns = tuple(class_columns(classifier.config.id2label or {}, checkpoint))
    sha256 = _sha256(sorted(Path(str(classifier.name_or_path)).glob("model*.safetensors")))
    description = (kept or {"checkpoint": path.name, "unknown": True}) | {"sha256": sha256}
    return Teacher(checkpoint, classifier, columns, sha256, record, description)


def different_settings(first: LungSradFeatureExtractor, second: LungSradFeatureExtractor) -> list[str]:
    """Names of the settings that make two extractors give different `input_values`."""
    is_by_clip = first.normalization == second.normalization == "clip"
    names = feature_settings() - (CLIP_CONSTANTS if is_by_clip else set())
    return sorted(name for name in names if getattr(first, name) != getattr(second, name))


def _load_published_teacher(path: Path, checkpoint: str, feature_extractor: LungSradFeatureExtractor) -> Teacher:
    classifier = load_published(path, num_mel_bins=feature_extractor.num_mel_bins)
    sha256 = _sha256([path])
    return Teacher(checkpoint, classifier, None, sha256, None, {"checkpoint": path.name, "sha256": sha256})


def _sha256(files: list[Path]) -> str:
    hashes = []
    for file in files:
        with open(file, "rb") as opened:
            hashes.append(hashlib.file_digest(opened, "sha256").hexdigest())
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()
