"""Loads a classifier to evaluate: a Lung-SRAD checkpoint, or an AST that was fine-tuned on the same four classes."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from transformers import ASTForAudioClassification, PreTrainedModel
from transformers.utils import logging

from modeling_lung_srad import LungSradFeatureExtractor
from modeling_lung_srad.checkpoint_loading import LOADING_ERRORS, WEIGHT_FILES, CheckpointError, load_checkpoint
from training.metrics.icbhi_score.icbhi_measure import CLASS_NAMES

AST_MODEL_TYPE = "audio-spectrogram-transformer"


def load_classifier(checkpoint: str | os.PathLike) -> tuple[PreTrainedModel, LungSradFeatureExtractor]:
    """Loads model and feature extractor for classification into the four classes.

    Args:
        checkpoint (`str` or `os.PathLike`): whatever `load_checkpoint` takes, or a folder with an
            `ASTForAudioClassification` and a `LungSradFeatureExtractor`. Weights are read from safetensors only.

    Returns:
        `tuple[PreTrainedModel, LungSradFeatureExtractor]`: the model in float32 and in evaluation mode.

    Raises:
        CheckpointError: where it is missing, incomplete, of another kind or for other classes.
    """
    folder = Path(checkpoint).expanduser()
    if _read_json(folder / "config.json").get("model_type") == AST_MODEL_TYPE:
        return _load_ast(folder)
    return load_checkpoint(checkpoint)


def _load_ast(folder: Path) -> tuple[ASTForAudioClassification, LungSradFeatureExtractor]:
    if not any((folder / name).is_file() for name in WEIGHT_FILES):
        raise CheckpointError(f"{folder}: has no model.safetensors; save the model with safetensors")
    kind = _read_json(folder / "preprocessor_config.json").get("feature_extractor_type")
    if kind != LungSradFeatureExtractor.__name__:
        raise CheckpointError(
            f"{folder}: preprocessor_config.json has feature_extractor_type {kind!r} where LungSradFeatureExtractor "
            "is needed; save the extractor that the model was trained with"
        )
    try:
        model, report = _read_weights(folder)
        feature_extractor = LungSradFeatureExtractor.from_pretrained(folder)
    except LOADING_ERRORS as error:
        problem = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{folder}: cannot be loaded ({problem}); save it again") from error
    _check_fit(model, feature_extractor, report, folder)
    return model.eval(), feature_extractor


def _read_weights(folder: Path) -> tuple[ASTForAudioClassification, dict[str, Any]]:
    verbosity = logging.get_verbosity()
    # What does not fit is told in one line by `_check_fit`, not in a table.
    logging.set_verbosity_error()
    try:
        loaded: Any = ASTForAudioClassification.from_pretrained(
            folder,
            use_safetensors=True,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    finally:
        logging.set_verbosity(verbosity)
    return loaded


def _check_fit(
    model: ASTForAudioClassification, feature_extractor: LungSradFeatureExtractor, report: dict[str, Any], folder: Path
) -> None:
    labels = [str(label) for label in (model.config.id2label or {}).values()]
    if sorted(labels) != sorted(CLASS_NAMES):
        raise CheckpointError(
            f"{folder}: has {len(labels)} labels ({', '.join(labels[:4])}) where the four {', '.join(CLASS_NAMES)} "
            "are needed; fine-tune it by `lung-srad train`"
        )
    for what in ("missing", "unexpected", "mismatched"):
        keys = sorted(key if isinstance(key, str) else str(key[0]) for key in report[f"{what}_keys"])
        if keys:
            raise CheckpointError(
                f"{folder}: config.json and weights do not fit, {len(keys)} {what} weights such as {keys[0]}; "
                "save it again"
            )
    sizes = (
        ("num_mel_bins", model.config.num_mel_bins, feature_extractor.num_mel_bins),
        ("max_length", model.config.max_length, feature_extractor.num_frames),
    )
    for name, wanted, given in sizes:
        if wanted != given:
            raise CheckpointError(
                f"{folder}: {name} is {wanted} in config.json, but preprocessor_config.json makes inputs of {given}; "
                "save both again"
            )
    for name, weight in model.named_parameters():
        if not torch.isfinite(weight).all():
            raise CheckpointError(f"{folder}: {name} has NaN or infinite values; train it again")


def _read_json(path: Path) -> dict[str, Any]:
    """A JSON object, or an empty one where there is none, about which `load_checkpoint` complains."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
