"""Loads a checkpoint for classification, from a folder or the Hub, without unpickling and without running its code."""

import json
import os
from pathlib import Path
from typing import Any, TypeVar

import huggingface_hub
import torch
from huggingface_hub.errors import GatedRepoError, HFValidationError, StrictDataclassError
from safetensors import SafetensorError
from transformers import PreTrainedModel
from transformers.utils import logging

from .configuration_lung_srad import LungSradConfig, class_columns
from .errors import InputError, one_line
from .feature_extraction_lung_srad import LungSradFeatureExtractor
from .modeling_lung_srad import LungSradForAudioClassification
from .pipeline_lung_srad import LungSoundPipeline

DEFAULT_CHECKPOINT = Path(__file__).resolve().parent / "checkpoints" / "lung-srad-tiny"
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json")
LOADING_ERRORS = (
    ArithmeticError,
    AttributeError,
    ImportError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    SafetensorError,
    StrictDataclassError,
)
Classifier = TypeVar("Classifier", bound=PreTrainedModel)


def load_pipeline(
    checkpoint: str | os.PathLike | None = None, revision: str | None = None, **settings: Any
) -> LungSoundPipeline:
    """
    Loads the pipeline for whole recordings, without running code of the checkpoint or unpickling anything.

    Args:
        checkpoint (`str` or `os.PathLike`, *optional*): a folder that `save_pretrained` wrote, or the id of one on the
            Hub; by default `lung-srad-tiny`, which comes with the package.
        revision (`str`, *optional*): branch, tag or commit of a checkpoint on the Hub.
        settings: those of [`LungSoundPipeline`], such as `window`.

    Raises:
        InputError: where it cannot be used.
    """
    model, feature_extractor = load_checkpoint(DEFAULT_CHECKPOINT if checkpoint is None else checkpoint, revision)
    return LungSoundPipeline(model=model, feature_extractor=feature_extractor, **settings)


LungSoundPipeline.from_checkpoint = staticmethod(load_pipeline)


def load_checkpoint(
    checkpoint: str | os.PathLike, revision: str | None = None
) -> tuple[LungSradForAudioClassification, LungSradFeatureExtractor]:
    """
    Loads model and feature extractor for classification into the four classes.

    Weights are read from safetensors only: a pickle can run code while it is loaded and is never opened. No code of
    the checkpoint is run either. The model comes in float32 and in evaluation mode.

    Args:
        checkpoint (`str` or `os.PathLike`): a folder that `save_pretrained` wrote, or the id of one on the Hub, with a
            revision as `USER/NAME@REVISION` where wanted.
        revision (`str`, *optional*): branch, tag or commit of a checkpoint on the Hub.

    Returns:
        `tuple[LungSradForAudioClassification, LungSradFeatureExtractor]`

    Raises:
        InputError: where it is missing, incomplete, of another kind or for other classes.
    """
    folder = _checkpoint_folder(checkpoint, revision)
    _check_files(folder, checkpoint)
    _check_size(folder, checkpoint)
    return load_from_folder(LungSradForAudioClassification, folder, checkpoint)


def load_from_folder(
    model_class: type[Classifier], folder: Path, checkpoint: str | os.PathLike
) -> tuple[Classifier, LungSradFeatureExtractor]:
    """
    Loads a classifier of any class of transformers, with a Lung-SRAD feature extractor, and checks that they are whole
    and fit each other: the weights, the four classes and the mel bins.

    Args:
        model_class (`type`): what the weights are of, such as [`LungSradForAudioClassification`].
        folder (`Path`): with `config.json`, safetensors and `preprocessor_config.json`.
        checkpoint (`str` or `os.PathLike`): what messages call it.

    Returns:
        `tuple[PreTrainedModel, LungSradFeatureExtractor]`: the model in float32 and in evaluation mode.

    Raises:
        InputError: where anything cannot be read or does not fit.
    """
    try:
        model, report = _read_weights(model_class, folder)
        feature_extractor = LungSradFeatureExtractor.from_pretrained(folder)
    except LOADING_ERRORS as error:
        raise InputError(checkpoint, f"cannot be loaded ({one_line(error)})", "save or download it again") from error
    class_columns(model.config.id2label or {}, str(checkpoint))
    for what in ("missing", "unexpected", "mismatched"):
        keys = sorted(key if isinstance(key, str) else str(key[0]) for key in report[f"{what}_keys"])
        if keys:
            raise InputError(
                checkpoint,
                f"config.json and weights do not fit, {len(keys)} {what} weights such as {keys[0]}",
                "save or convert it again",
            )
    if feature_extractor.num_mel_bins != model.config.num_mel_bins:
        raise InputError(
            checkpoint,
            f"num_mel_bins is {model.config.num_mel_bins} in config.json and {feature_extractor.num_mel_bins} "
            "in preprocessor_config.json",
            "save both again",
        )
    for name, weight in model.named_parameters():
        if not torch.isfinite(weight).all():
            raise InputError(checkpoint, f"{name} has NaN or infinite values", "train or download it again")
    # All callers take outputs by their names.
    model.config.return_dict = True
    return model.eval(), feature_extractor


def _read_weights(model_class: type[Classifier], folder: Path) -> tuple[Classifier, dict[str, Any]]:
    """The model, and the names of the weights that do not fit it."""
    progress_was_enabled, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    # `load_from_folder` names mismatches in one line, not in a table.
    logging.set_verbosity_error()
    try:
        loaded: Any = model_class.from_pretrained(
            folder,
            use_safetensors=True,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    finally:
        logging.set_verbosity(verbosity)
        if progress_was_enabled:
            logging.enable_progress_bar()
    return loaded


def _checkpoint_folder(checkpoint: str | os.PathLike, revision: str | None) -> Path:
    if not os.fspath(checkpoint):
        raise InputError("checkpoint", "the name is empty", "name a folder or an id of the Hub")
    try:
        folder = Path(os.path.expanduser(checkpoint))
        if "@" in folder.name and not folder.exists():
            checkpoint, _, revision = str(checkpoint).rpartition("@")
            folder = Path(os.path.expanduser(checkpoint))
        is_folder = folder.is_dir()
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(checkpoint, f"is not a path ({error})", "check it") from error
    if is_folder and revision is not None:
        raise InputError(checkpoint, f"is a folder, so revision {revision} cannot be chosen", "leave revision out")
    if is_folder:
        return folder
    if folder.exists():
        raise InputError(
            checkpoint, "is a file", "name the folder that holds config.json, or make one by `lung-srad convert`"
        )
    if folder.is_absolute() or str(checkpoint).startswith((".", "~")) or len(folder.parts) > 2:
        raise InputError(checkpoint, "no such folder", "check the path")
    try:
        # Not what lies in folders: checkpoints of the training run and its logs.
        patterns: Any = {"allow_patterns": ["*.json", "*.safetensors"], "ignore_patterns": ["*/*"]}
        return Path(huggingface_hub.snapshot_download(str(checkpoint), revision=revision, **patterns))
    except GatedRepoError as error:
        raise InputError(
            checkpoint, "access must be asked for on the Hub", "then log in by `hf auth login`"
        ) from error
    except (OSError, HFValidationError) as error:
        raise InputError(
            checkpoint,
            "neither a folder here nor a model that can be fetched from the Hugging Face Hub",
            "check the name, the revision and the network, and log in by `hf auth login` if it is private",
        ) from error


def _check_files(folder: Path, checkpoint: str | os.PathLike) -> None:
    config = _read_config(folder, checkpoint)
    if config.get("model_type") != "lung_srad":
        raise InputError(
            checkpoint,
            f"config.json is of model_type {config.get('model_type')!r}, not 'lung_srad'",
            "name a Lung-SRAD checkpoint, or make one by `lung-srad convert`",
        )
    files = sorted(path.name for path in folder.iterdir())
    if not set(WEIGHT_FILES) & set(files):
        pickles = [name for name in files if name.endswith(PICKLE_SUFFIXES)]
        if pickles:
            raise InputError(
                checkpoint,
                f"has its weights as a pickle only ({pickles[0]}), which can run code",
                f"make model.safetensors of it by `lung-srad convert {checkpoint} NEW_FOLDER`",
            )
        raise InputError(checkpoint, "lacks model.safetensors", "save or download it again")
    if "preprocessor_config.json" not in files:
        raise InputError(
            checkpoint,
            "lacks preprocessor_config.json, the settings of the features",
            "write it by LungSradFeatureExtractor().save_pretrained(folder)",
        )


def _check_size(folder: Path, checkpoint: str | os.PathLike) -> None:
    """Raises `InputError` for a configuration of far more weights than there are, which would fill the memory before
    they are found missing."""
    try:
        config = LungSradConfig.from_pretrained(folder)
    except LOADING_ERRORS as error:
        raise InputError(checkpoint, f"cannot be loaded ({one_line(error)})", "save or download it again") from error
    # Those of the linear layers, a part of all.
    widths = zip(config.depths, config.dims, strict=True)
    described = sum(depth * width * width for depth, width in widths) * (config.mlp_ratio + config.ssm_ratio)
    described += len(config.id2label or ()) * config.hidden_size
    stored = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    # Without any here, an index names others, which are looked for before the network is built.
    if described > stored > 0:
        raise InputError(
            checkpoint,
            f"cannot be loaded (config.json describes {described:.0f} weights or more, stored are {stored} bytes)",
            "save or download it again",
        )


def _read_config(folder: Path, checkpoint: str | os.PathLike) -> dict:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            checkpoint, "lacks config.json", "name a folder that save_pretrained or `lung-srad convert` wrote"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(checkpoint, f"config.json cannot be read ({error})", "save or download it again") from error
    if not isinstance(config, dict):
        raise InputError(checkpoint, "config.json is not a mapping", "save or download it again")
    return config
