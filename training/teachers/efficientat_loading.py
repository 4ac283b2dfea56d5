"""EfficientAT to train: from the published weights, from a checkpoint of this trainer, or with random weights."""

import os
import pickle
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError

from modeling_lung_srad.errors import InputError, one_line
from training.arguments import ModelArguments
from training.metrics.icbhi_score.icbhi_measure import CLASS_NAMES
from training.prediction.classifier_loading import load_classifier
from training.teachers.efficientat import NETWORK_MEL_BINS, EfficientATConfig, EfficientATForAudioClassification

EFFICIENTAT_SETTINGS = {"head", "num_mel_bins"}
NUM_AUDIOSET_LABELS = 527
# The unpickler fails in many ways on a damaged file.
READING_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
# The published names count average pooling and flattening as the first two layers of the classifier.
PUBLISHED_PREFIXES = {
    "features.": "efficientat.features.",
    "classifier.2.": "classifier.0.",
    "classifier.5.": "classifier.3.",
}


def build_efficientat(arguments: ModelArguments, num_mel_bins: int) -> EfficientATForAudioClassification:
    """EfficientAT with random weights, those of AudioSet with a new last layer, or those of an earlier run.

    Args:
        arguments (`ModelArguments`): `checkpoint` is the published file, or a folder that a run left.
        num_mel_bins (`int`): of the features.

    Raises:
        InputError: a `config` value that `EfficientATConfig` refuses, or a checkpoint with another head or
            with its classes in another order;
            a checkpoint that cannot be loaded.
    """
    checkpoint = arguments.checkpoint
    if checkpoint is not None and Path(os.path.expanduser(checkpoint)).is_dir():
        return _from_folder(checkpoint, arguments.config)
    config = _config({"num_mel_bins": num_mel_bins} | arguments.config, "model.config")
    model = EfficientATForAudioClassification(config)
    if checkpoint is not None:
        published = load_published(checkpoint)
        model.efficientat.load_state_dict(published.efficientat.state_dict())
        model.classifier[:-1].load_state_dict(published.classifier[:-1].state_dict())
    return model


def _config(settings: dict[str, Any], name: str) -> EfficientATConfig:
    try:
        return EfficientATConfig(**settings)
    except StrictDataclassError as error:
        raise InputError(name, one_line(error.__cause__ or error)) from error


def _from_folder(checkpoint: str, config: dict[str, Any]) -> EfficientATForAudioClassification:
    model, _ = load_classifier(checkpoint)
    labels = [name for _, name in sorted((model.config.id2label or {}).items())]
    if not isinstance(model, EfficientATForAudioClassification) or labels != list(CLASS_NAMES):
        raise InputError(
            "model.checkpoint",
            f"{checkpoint} is of model_type {model.config.model_type!r} with the classes {', '.join(labels)}",
            "name a folder that model.architecture=efficientat left, or the published file",
        )
    for name, value in config.items():
        if getattr(model.config, name) != value:
            raise InputError(
                f"model.config.{name}",
                f"{value!r} is not that of {checkpoint}, {getattr(model.config, name)!r}",
                "leave it out",
            )
    return model


def load_published(path: str | os.PathLike, num_mel_bins: int = NETWORK_MEL_BINS) -> EfficientATForAudioClassification:
    """Loads the published `mn04_as_mAP_432.pt`, with the 527 classes of AudioSet.

    Args:
        path (`str` or `os.PathLike`): a state dict that `torch.save` wrote. Pickled code is refused, never run.
        num_mel_bins (`int`, *optional*, defaults to 128): of `input_values`.

    Returns:
        [`EfficientATForAudioClassification`]: in float32 and in evaluation mode.

    Raises:
        InputError: a missing or damaged file, pickled code, missing, unexpected or non-finite weights, or weights
            of another shape; one line that names file and weight;
            `num_mel_bins` that do not divide 128.
    """
    path = Path(os.path.expanduser(path))
    weights = _read_weights(path)
    config = _config({"num_labels": NUM_AUDIOSET_LABELS, "head": "classes", "num_mel_bins": num_mel_bins}, str(path))
    model = EfficientATForAudioClassification(config)
    _check_weights(path, weights, {_published_name(name): tensor for name, tensor in model.state_dict().items()})
    model.load_state_dict({name: weights[_published_name(name)] for name in model.state_dict()})
    return model.eval()


def _published_name(name: str) -> str:
    published, own = next(pair for pair in PUBLISHED_PREFIXES.items() if name.startswith(pair[1]))
    return published + name.removeprefix(own)


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise InputError(path, "no such file", "fetch mn04_as_mAP_432.pt of EfficientAT, or check the path")
    try:
        weights: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            path, "holds pickled code or is not a file of weights, and code is never run", "save its state dict alone"
        ) from error
    except READING_ERRORS as error:
        raise InputError(path, f"cannot be read ({one_line(error)})", "fetch or save it again") from error
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise InputError(path, "is not a state dict of tensors", "save model.state_dict() alone")
    return weights


def _check_weights(path: Path, weights: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    for problem, names in (("lacks", expected.keys() - weights.keys()), ("has", weights.keys() - expected.keys())):
        if names:
            unexpected = "" if problem == "lacks" else " unexpected"
            raise InputError(
                path,
                f"{problem} {len(names)}{unexpected} weights, such as {min(map(str, names))}",
                "name the published file of mn04",
            )
    for name, tensor in weights.items():
        if tensor.shape != expected[name].shape:
            raise InputError(
                path,
                f"{name} has shape {tuple(tensor.shape)} where {tuple(expected[name].shape)} is needed",
                "name the published file of mn04",
            )
        if not torch.isfinite(tensor).all():
            raise InputError(path, f"{name} has NaN or infinite values", "train or fetch it again")
