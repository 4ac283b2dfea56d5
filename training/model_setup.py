"""The network and the feature extractor that a configuration asks for."""

import dataclasses
import difflib
import inspect
import json
import typing
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN

from modeling_lung_srad import LungSradConfig, LungSradFeatureExtractor, LungSradForAudioClassification
from modeling_lung_srad.conversion import convert_checkpoint
from training.arguments import ModelArguments
from training.configuration import ConfigurationError, coerce
from training.log_mel_dataset import check_sampling_rate
from training.metrics.icbhi_score.icbhi_measure import CLASS_NAMES

OWN_SETTINGS = {item.name for item in dataclasses.fields(LungSradConfig)} - {
    item.name for item in dataclasses.fields(PreTrainedConfig)
}
SIZES = {"tiny": LungSradConfig.tiny, "small": LungSradConfig.small, "medium": LungSradConfig.medium}


def build_model(arguments: ModelArguments) -> LungSradForAudioClassification:
    """A network of a named size with random weights, or one that starts from a checkpoint.

    Raises:
        ConfigurationError: unknown size, a `config` key or value that `LungSradConfig` refuses, or a checkpoint for
            four other classes.
        ValueError: a checkpoint that cannot be read.
    """
    _check_keys("model.config", arguments.config, OWN_SETTINGS)
    hidden_act = arguments.config.get("hidden_act", LungSradConfig.hidden_act)
    if hidden_act not in ACT2FN:
        raise ConfigurationError(f"model.config.hidden_act: {hidden_act!r} is not one of {', '.join(ACT2FN)}")
    if arguments.checkpoint is None and arguments.size not in SIZES:
        raise ConfigurationError(f"model.size: {arguments.size!r} is not one of {', '.join(SIZES)}")
    try:
        if arguments.checkpoint is not None:
            return _from_checkpoint(arguments.checkpoint, arguments.config)
        return LungSradForAudioClassification(SIZES[arguments.size](**arguments.config))
    except StrictDataclassError as error:
        raise ConfigurationError(f"model.config: {error.__cause__ or error}") from error


def build_feature_extractor(arguments: ModelArguments) -> LungSradFeatureExtractor:
    """The feature extractor of the checkpoint to start from, or the default one, with the values of the configuration.

    Raises:
        ConfigurationError: a key that `LungSradFeatureExtractor` does not have, or a value of the wrong type.
        ValueError: a value that it refuses, or another sampling rate than that of decoded cycles.
    """
    signature = inspect.signature(LungSradFeatureExtractor.__init__).parameters.values()
    names = {item.name for item in signature if item.kind is item.POSITIONAL_OR_KEYWORD} - {"self"}
    _check_keys("model.feature_extractor", arguments.feature_extractor, names)
    hints = typing.get_type_hints(LungSradFeatureExtractor.__init__)
    settings = {
        key: coerce(value, hints[key], f"model.feature_extractor.{key}")
        for key, value in arguments.feature_extractor.items()
    }
    if arguments.checkpoint is not None and Path(arguments.checkpoint, "preprocessor_config.json").exists():
        feature_extractor = LungSradFeatureExtractor.from_pretrained(arguments.checkpoint, **settings)
    else:
        feature_extractor = LungSradFeatureExtractor(**settings)
    check_sampling_rate(feature_extractor, "model.feature_extractor.sampling_rate")
    return feature_extractor


def _from_checkpoint(checkpoint: str, config: dict[str, Any]) -> LungSradForAudioClassification:
    settings = _own_settings(Path(checkpoint)) | config
    model = convert_checkpoint(checkpoint, num_labels=len(CLASS_NAMES), **settings)
    labels = [name for _, name in sorted((model.config.id2label or {}).items())]
    if labels != list(CLASS_NAMES):
        raise ConfigurationError(
            f"model.checkpoint: the classes of {checkpoint} are {', '.join(labels)} and not {', '.join(CLASS_NAMES)}; "
            "start from a checkpoint with these classes, or with another number of them, whose head is replaced"
        )
    return model


def _own_settings(checkpoint: Path) -> dict[str, Any]:
    """The settings of a checkpoint of this project; none for other layouts, whose sizes the conversion infers."""
    file = checkpoint / "config.json"
    saved = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if not isinstance(saved, dict) or saved.get("model_type") != LungSradConfig.model_type:
        return {}
    return {key: value for key, value in saved.items() if key in OWN_SETTINGS}


def _check_keys(section: str, values: dict[str, Any], known: set[str]) -> None:
    for key in values:
        if key not in known:
            nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.0)[0]
            raise ConfigurationError(f"there is no key {section}.{key}; the nearest valid one is {section}.{nearest}")
