"""Reads the folder or file to convert: its settings, its weights, and the names that the weights have here."""

import argparse
import json
import pickle
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import PreTrainedConfig

from ..configuration_lung_srad import LungSradConfig
from ..errors import InputError

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
OWN_SETTINGS = {item.name for item in fields(LungSradConfig)} - {item.name for item in fields(PreTrainedConfig)}

# The original counts the permutations around its layer norms as modules.
PATCH_EMBED_INDEX = {"0": "0", "2": "1", "5": "3", "7": "4"}
# Applied in this order; the first block strips wrappers, the second renames what is left.
RENAMES = (
    (r"^(module\.)?(v|dass|lung_srad)\.", ""),
    (r"^module\.", ""),
    (r"^classifier\.(norm|head)\.", r"\1."),
    (
        r"^patch_embed\.(\d)\.",
        lambda match: f"patch_embeddings.projection.{PATCH_EMBED_INDEX.get(match[1], match[1])}.",
    ),
    (r"\.downsample\.1\.", ".downsample.down."),
    (r"\.downsample\.3\.", ".downsample.norm."),
    (r"\.op\.(x_proj|dt_projs)_weight$", r".op.\1.weight"),
    (r"^(?!head\.)", "lung_srad."),
)


def read_config(source: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Label maps of a folder's `config.json`, and its settings where it is a [`LungSradConfig`]; empty for a file."""
    if not source.is_dir():
        return {}, {}
    config_file = source / "config.json"
    if not config_file.is_file():
        raise InputError(config_file, "no such file", "a folder in Hub layout has it beside the weights")
    try:
        content = json.loads(config_file.read_text(encoding="utf-8"))
        id2label = {int(index): name for index, name in (content.get("id2label") or {}).items()}
    except (AttributeError, ValueError) as error:
        raise InputError(config_file, f"is not a JSON configuration ({error})", "download it again") from error
    own = content if content.get("model_type") == LungSradConfig.model_type else {}
    labels = {"id2label": id2label, "label2id": {name: index for index, name in id2label.items()}}
    return labels, {name: value for name, value in own.items() if name in OWN_SETTINGS}


def read_weights(source: Path) -> dict[str, torch.Tensor]:
    """Weights by their original names."""
    if source.is_dir():
        source = next((source / name for name in WEIGHT_FILES if (source / name).is_file()), source / WEIGHT_FILES[0])
    if not source.is_file():
        raise InputError(source, "no such file", "name a .pth or .safetensors file, or a folder in Hub layout")
    content: Any
    try:
        if source.suffix == ".safetensors":
            content = load_file(source)
        else:
            # The authors' files hold their command line as a Namespace, which is plain data.
            with torch.serialization.safe_globals([argparse.Namespace]):
                content = torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            source,
            "holds more than weights or is not a checkpoint, and pickled code is never run",
            "save its state dict alone",
        ) from error
    # The unpickler fails in many ways on a file that is something else.
    except (SafetensorError, ArithmeticError, AttributeError, EOFError, LookupError, OSError) as error:
        raise _unreadable(source, error) from error
    except (AssertionError, MemoryError, RuntimeError, TypeError, ValueError) as error:
        raise _unreadable(source, error) from error
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(map(_is_weight, content.items())):
        raise InputError(source, "contains no state dict", "name a checkpoint of DASS, VMamba or Lung-SRAD")
    return content


def _unreadable(source: Path, error: Exception) -> InputError:
    reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
    return InputError(source, f"cannot be read as a checkpoint ({reason})", "check the file or download it again")


def _is_weight(entry: tuple[Any, Any]) -> bool:
    name, value = entry
    if not isinstance(name, str) or not isinstance(value, torch.Tensor) or value.layout != torch.strided:
        return False
    # A view may repeat a few numbers of a small file any number of times.
    is_whole = value.nbytes <= value.untyped_storage().nbytes()
    return is_whole and not value.is_quantized and not value.is_meta


def rename(name: str) -> str:
    """The name that a weight of any of the four layouts has in [`LungSradForAudioClassification`]."""
    for pattern, replacement in RENAMES:
        name = re.sub(pattern, replacement, name)
    return name
