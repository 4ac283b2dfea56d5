"""The baseline of the paper: the Audio Spectrogram Transformer (arXiv 2104.01778) of transformers, trained alike."""

from dataclasses import fields
from typing import Any

import torch
from huggingface_hub.errors import HFValidationError, StrictDataclassError
from safetensors import SafetensorError
from transformers import ASTConfig, ASTForAudioClassification, PreTrainedConfig
from transformers.utils import logging

from modeling_lung_srad.errors import InputError, one_line
from training.arguments import ModelArguments
from training.metrics.icbhi_score.icbhi_measure import CLASS_NAMES

AST_SETTINGS = {item.name for item in fields(ASTConfig)} - {item.name for item in fields(PreTrainedConfig)}
# Mean and standard deviation of AudioSet, which AST was pretrained with, are the extractor's own defaults.
AST_FEATURES: dict[str, Any] = {"normalization": "dataset"}
HEAD_PREFIX = "classifier."


def build_ast(arguments: ModelArguments) -> ASTForAudioClassification:
    """AST with random weights, or from a checkpoint whose head is replaced where it has other classes.

    Raises:
        InputError: a `config` value that `ASTConfig` refuses, or a checkpoint that cannot be loaded or whose
            weights, other than the head, are not those of the network. Weights are read from safetensors only.
    """
    labels: dict[str, Any] = {
        "id2label": dict(enumerate(CLASS_NAMES)),
        "label2id": {name: index for index, name in enumerate(CLASS_NAMES)},
    }
    try:
        if arguments.checkpoint is None:
            return ASTForAudioClassification(ASTConfig(**labels, **arguments.config))
        # The table of weights that do not fit is the new head.
        verbosity = logging.get_verbosity()
        logging.set_verbosity_error()
        try:
            loaded: Any = ASTForAudioClassification.from_pretrained(
                arguments.checkpoint,
                use_safetensors=True,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                **labels,
                **arguments.config,
            )
        finally:
            logging.set_verbosity(verbosity)
        model, loading = loaded
        _check_loaded(arguments.checkpoint, loading)
        return model
    except StrictDataclassError as error:
        raise InputError("model.config", one_line(error.__cause__ or error)) from error
    except (OSError, HFValidationError, SafetensorError) as error:
        raise InputError(
            "model.checkpoint",
            f"{arguments.checkpoint} cannot be loaded as AST ({one_line(error)})",
            "name a folder with config.json and model.safetensors, or a Hub id such as "
            "MIT/ast-finetuned-audioset-10-10-0.4593",
        ) from error


def _check_loaded(checkpoint: str, loading: dict[str, Any]) -> None:
    mismatched = {name for name, *_ in loading["mismatched_keys"]}
    names = mismatched.union(loading["missing_keys"], loading["unexpected_keys"])
    others = sorted(name for name in names if not name.startswith(HEAD_PREFIX))
    if others:
        raise InputError(
            "model.checkpoint",
            f"{len(others)} weights of {checkpoint} are missing, of another size or not known, {others[0]} the first",
            "set model.config to the size of the checkpoint, or name another one",
        )
