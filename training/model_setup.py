"""The network and the feature extractor that a configuration asks for."""

import difflib
import inspect
import os
import typing
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import ASTForAudioClassification, PreTrainedModel
from transformers.activations import ACT2FN

from modeling_lung_srad import LungSradConfig, LungSradFeatureExtractor, LungSradForAudioClassification
from modeling_lung_srad.conversion import OWN_SETTINGS, convert_checkpoint, convert_feature_extractor
from modeling_lung_srad.errors import InputError, one_line
from training.arguments import ModelArguments, RunArguments
from training.ast_baseline import AST_FEATURES, AST_SETTINGS, build_ast
from training.configuration import coerce
from training.data.log_mel_dataset import check_sampling_rate
from training.metrics.icbhi_score.icbhi_measure import CLASS_NAMES
from training.prediction.classifier_loading import load_classifier
from training.teachers.efficientat import EfficientATForAudioClassification
from training.teachers.efficientat_loading import EFFICIENTAT_SETTINGS, build_efficientat

SIZES = {"tiny": LungSradConfig.tiny, "small": LungSradConfig.small, "medium": LungSradConfig.medium}


def build_model(arguments: ModelArguments) -> PreTrainedModel:
    """A network of a named size with random weights, or one that starts from a checkpoint.

    Raises:
        InputError: unknown size, a `config` key or value that the configuration of the network refuses, or a
            checkpoint for four other classes;
            a checkpoint that cannot be read.
    """
    if arguments.architecture == "ast":
        _check_keys("model.config", arguments.config, AST_SETTINGS)
        return build_ast(arguments)
    if arguments.architecture == "efficientat":
        _check_keys("model.config", arguments.config, EFFICIENTAT_SETTINGS)
        return build_efficientat(arguments, build_feature_extractor(arguments).num_mel_bins)
    _check_keys("model.config", arguments.config, OWN_SETTINGS)
    hidden_act = arguments.config.get("hidden_act", LungSradConfig.hidden_act)
    if hidden_act not in ACT2FN:
        raise InputError("model.config.hidden_act", f"{hidden_act!r} is not one of {', '.join(ACT2FN)}")
    if arguments.checkpoint is None and arguments.size not in SIZES:
        raise InputError("model.size", f"{arguments.size!r} is not one of {', '.join(SIZES)}")
    try:
        if arguments.checkpoint is not None:
            return _from_checkpoint(arguments.checkpoint, arguments.config)
        return LungSradForAudioClassification(SIZES[arguments.size](**arguments.config))
    except StrictDataclassError as error:
        raise InputError("model.config", one_line(error.__cause__ or error)) from error


def build_feature_extractor(arguments: ModelArguments) -> LungSradFeatureExtractor:
    """The feature extractor of the checkpoint to start from, or the default one, with the values of the configuration.
    That of AST normalises with the mean and standard deviation of AudioSet.

    Raises:
        InputError: a key that `LungSradFeatureExtractor` does not have, or a value of the wrong type;
            a value that it refuses, or another sampling rate than that of decoded cycles.
    """
    names = feature_settings()
    _check_keys("model.feature_extractor", arguments.feature_extractor, names)
    hints = typing.get_type_hints(LungSradFeatureExtractor.__init__)
    settings = {
        key: coerce(value, hints[key], f"model.feature_extractor.{key}")
        for key, value in arguments.feature_extractor.items()
    }
    if arguments.architecture == "ast":
        settings = AST_FEATURES | settings
    elif arguments.checkpoint is not None:
        saved = _saved_feature_extractor(arguments.architecture, arguments.checkpoint)
        settings = {name: getattr(saved, name) for name in names} | settings
    try:
        feature_extractor = LungSradFeatureExtractor(**settings)
    except InputError as error:
        raise error.within("model.feature_extractor") from error
    check_sampling_rate(feature_extractor, "model.feature_extractor.sampling_rate")
    return feature_extractor


def feature_settings() -> set[str]:
    """Names of the settings of `LungSradFeatureExtractor`."""
    signature = inspect.signature(LungSradFeatureExtractor.__init__).parameters.values()
    return {item.name for item in signature if item.kind is item.POSITIONAL_OR_KEYWORD} - {"self"}


def check_fit(model: PreTrainedModel, feature_extractor: LungSradFeatureExtractor, run: RunArguments) -> None:
    """Checks that network, features and objective go together.

    Raises:
        InputError: different numbers of mel bins or, for AST, of frames; or views that the network cannot mix.
    """
    pairs = {"num_mel_bins": ("num_mel_bins", model.config.num_mel_bins)}
    if isinstance(model, EfficientATForAudioClassification) and run.objective.mode != "none":
        raise InputError(
            "objective.mode", f"{run.objective.mode!r} mixes patches of a grid, which EfficientAT lacks", "use none"
        )
    if isinstance(model, ASTForAudioClassification):
        pairs["num_frames"] = ("max_length", model.config.max_length)
        if run.objective.mode not in ("none", "2d"):
            raise InputError(
                "objective.mode",
                f"{run.objective.mode!r} mixes rows or columns of a grid, and AST has its patches in a row",
                "use 2d or none",
            )
        if run.augmentation.crop_frames is not None or run.augmentation.stretch_frames is not None:
            raise InputError(
                "augmentation.crop_frames, augmentation.stretch_frames",
                "AST's position embeddings are made for all frames",
                "leave them out",
            )
        if run.teacher.features == "map":
            raise InputError("teacher.features", "'map' needs a grid, and AST has its patches in a row", "use pooled")
    for setting, (name, value) in pairs.items():
        if getattr(feature_extractor, setting) != value:
            raise InputError(
                f"model.config.{name}",
                f"{value} is not model.feature_extractor.{setting}, {getattr(feature_extractor, setting)}",
                "set both to the same number",
            )


def _saved_feature_extractor(architecture: str, checkpoint: str) -> LungSradFeatureExtractor:
    folder = Path(os.path.expanduser(checkpoint))
    if architecture == "efficientat":
        return load_classifier(folder)[1] if folder.is_dir() else LungSradFeatureExtractor()
    return convert_feature_extractor(checkpoint)


def _from_checkpoint(checkpoint: str, config: dict[str, Any]) -> LungSradForAudioClassification:
    model = convert_checkpoint(checkpoint, num_labels=len(CLASS_NAMES), **config)
    labels = [name for _, name in sorted((model.config.id2label or {}).items())]
    if labels != list(CLASS_NAMES):
        raise InputError(
            "model.checkpoint",
            f"the classes of {checkpoint} are {', '.join(labels)} and not {', '.join(CLASS_NAMES)}",
            "start from a checkpoint with these classes, or with another number of them, whose head is replaced",
        )
    return model


def _check_keys(section: str, values: dict[str, Any], known: set[str]) -> None:
    for key in values:
        if key not in known:
            nearest = difflib.get_close_matches(str(key), known, n=1, cutoff=0.0)[0]
            raise InputError(f"{section}.{key}", "unknown key", f"the nearest valid one is {section}.{nearest}")
