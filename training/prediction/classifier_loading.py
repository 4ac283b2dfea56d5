"""Loads a classifier of the four classes, to evaluate or to learn from: Lung-SRAD, AST or EfficientAT."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from transformers import ASTForAudioClassification, PreTrainedModel

from modeling_lung_srad import LungSradFeatureExtractor
from modeling_lung_srad.checkpoint_loading import WEIGHT_FILES, load_checkpoint, load_from_folder
from modeling_lung_srad.errors import InputError
from modeling_lung_srad.modeling_lung_srad import compose_classes
from training.teachers.efficientat import EfficientATConfig, EfficientATForAudioClassification

AST_MODEL_TYPE = "audio-spectrogram-transformer"


def load_classifier(checkpoint: str | os.PathLike) -> tuple[PreTrainedModel, LungSradFeatureExtractor]:
    """Loads model and feature extractor for classification into the four classes.

    Args:
        checkpoint (`str` or `os.PathLike`): whatever `load_checkpoint` takes, or a folder with a
            `LungSradFeatureExtractor` and an `ASTForAudioClassification` or `EfficientATForAudioClassification`.
            Weights are read from safetensors only.

    Returns:
        `tuple[PreTrainedModel, LungSradFeatureExtractor]`: the model in float32 and in evaluation mode.

    Raises:
        InputError: where it is missing, incomplete, of another kind or for other classes.
    """
    folder = Path(os.path.expanduser(checkpoint))
    model_type = _read_json(folder / "config.json").get("model_type")
    if model_type == AST_MODEL_TYPE:
        return _load_ast(folder)
    if model_type == EfficientATConfig.model_type:
        return _load_efficientat(folder)
    return load_checkpoint(checkpoint)


def classify_pooled(classifier: PreTrainedModel, pooled: torch.Tensor) -> torch.Tensor:
    """The part of a classifier after its `base_model`: logits `(batch, num_labels)` of pooled features
    `(batch, hidden_size)`."""
    logits = classifier.get_submodule("head" if hasattr(classifier, "head") else "classifier")(pooled)
    return compose_classes(logits) if getattr(classifier.config, "head", None) == "sounds" else logits


def _load_ast(folder: Path) -> tuple[ASTForAudioClassification, LungSradFeatureExtractor]:
    _check_files(folder)
    model, feature_extractor = load_from_folder(ASTForAudioClassification, folder, folder)
    if model.config.max_length != feature_extractor.num_frames:
        raise InputError(
            folder,
            f"max_length is {model.config.max_length} in config.json, but preprocessor_config.json makes "
            f"inputs of {feature_extractor.num_frames} frames",
            "save both again",
        )
    return model, feature_extractor


def _load_efficientat(folder: Path) -> tuple[EfficientATForAudioClassification, LungSradFeatureExtractor]:
    _check_files(folder)
    model, feature_extractor = load_from_folder(EfficientATForAudioClassification, folder, folder)
    for name, statistic in model.named_buffers():
        if not torch.isfinite(statistic).all():
            raise InputError(folder, f"{name} has NaN or infinite values", "train or download it again")
    return model, feature_extractor


def _check_files(folder: Path) -> None:
    if not any((folder / name).is_file() for name in WEIGHT_FILES):
        raise InputError(folder, "lacks model.safetensors", "save the model with safetensors")
    kind = _read_json(folder / "preprocessor_config.json").get("feature_extractor_type")
    if kind != LungSradFeatureExtractor.__name__:
        raise InputError(
            folder,
            f"preprocessor_config.json has feature_extractor_type {kind!r} where LungSradFeatureExtractor is needed",
            "save the extractor that the model was trained with",
        )


def _read_json(path: Path) -> dict[str, Any]:
    """A JSON object, or an empty one where there is none, about which `load_checkpoint` complains."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
