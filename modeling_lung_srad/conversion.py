"""Loads weights that people already have into [`LungSradForAudioClassification`].

Four layouts (arXiv 2407.04082, 2401.10166, 2606.11922 and their releases): DASS `.pth` files, DASS folders of the Hub,
VMamba ImageNet `.pth` files, and the training checkpoints of the Lung-SRAD authors. They differ in prefixes, in the
numbering of the patch embedding and in the shape of the scan's projections; sizes are read off the weights.
"""

import argparse
import json
import os
import pickle
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import PreTrainedConfig
from transformers.utils import logging

from .configuration_lung_srad import LungSradConfig
from .feature_extraction_lung_srad import LungSradFeatureExtractor
from .modeling_lung_srad import NUM_DIRECTIONS, LungSradForAudioClassification

logger = logging.get_logger(__name__)

IMAGENET_INPUT_CHANNELS = 3
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


class ConversionError(ValueError):
    """A checkpoint that cannot be converted. The message is one line: `source: what does not fit; remedy`."""


def convert_checkpoint(
    source: str | os.PathLike, num_labels: int | None = None, **config: Any
) -> LungSradForAudioClassification:
    r"""
    Converts a DASS, VMamba or Lung-SRAD training checkpoint. The result is the original network: no Gaussian
    regularization unless `config` asks for it by `gaussian_blocks`, or the folder's `config.json` is one of ours.

    Args:
        source (`str` or `os.PathLike`): a `.pth` or `.safetensors` file, or a folder with `config.json` and
            `model.safetensors` (the Hub layout of DASS) or `pytorch_model.bin`. Pickles are read with
            `weights_only=True`.
        num_labels (`int`, *optional*): classes wanted. The head is kept where this is `None` or its number of
            classes; otherwise a new one is initialised. ImageNet heads are always dropped.
        **config: further settings of [`LungSradConfig`].

    Returns:
        [`LungSradForAudioClassification`]: in evaluation mode, float32.

    Raises:
        ConversionError: where the file is missing, unreadable or has weights that do not fit, which it names.

    Example (not run):

    ```py
    model = convert_checkpoint("DASS_medium_v2.pth", num_labels=4, gaussian_blocks=(2, 3))
    model.save_pretrained("dass-medium-for-icbhi")
    ```"""
    source = Path(os.path.expanduser(source))
    labels, own_settings = _read_config(source)
    weights = _read_weights(source)
    weights = {_rename(name): tensor.to(torch.float32) for name, tensor in weights.items()}
    embedding = weights.get("lung_srad.patch_embeddings.projection.0.weight")
    if embedding is not None and embedding.ndim == 4 and embedding.shape[1] == IMAGENET_INPUT_CHANNELS:
        weights["lung_srad.patch_embeddings.projection.0.weight"] = embedding.sum(dim=1, keepdim=True)
        weights = {name: tensor for name, tensor in weights.items() if not name.startswith("head.")}
        logger.info(f"{source}: RGB weights were summed for spectrograms and the ImageNet head was dropped.")
    settings: dict[str, Any] = _infer_sizes(source, weights) | {"gaussian_blocks": ()} | own_settings
    head = weights.get("head.weight")
    found = head.shape[0] if head is not None and head.ndim >= 2 and "head.bias" in weights else None
    if found is not None and num_labels in (None, found):
        settings |= labels if len(labels.get("id2label", ())) == found else {"num_labels": found}
    else:
        weights = {name: tensor for name, tensor in weights.items() if not name.startswith("head.")}
        settings |= {} if num_labels is None else {"num_labels": num_labels}
        logger.warning(f"{source}: a new classification head was initialised; train it before use.")
    try:
        model = LungSradForAudioClassification(LungSradConfig(**(settings | config)))
    except (StrictDataclassError, KeyError) as error:
        raise ConversionError(f"{source}: {' '.join(str(error).split())}") from error
    _load(source, model, weights)
    return model.eval()


def convert_feature_extractor(source: str | os.PathLike) -> LungSradFeatureExtractor:
    """The feature extractor that goes with a converted checkpoint: the saved one where `source` is a folder of this
    project's layout, otherwise that of the paper. Raises [`ConversionError`] as [`convert_checkpoint`]."""
    source = Path(os.path.expanduser(source))
    _, own_settings = _read_config(source)
    if own_settings and (source / "preprocessor_config.json").is_file():
        return LungSradFeatureExtractor.from_pretrained(source)
    return LungSradFeatureExtractor()


def _read_config(source: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Label maps of a folder's `config.json`, and its settings where it is a [`LungSradConfig`]; empty for a file."""
    if not source.is_dir():
        return {}, {}
    config_file = source / "config.json"
    if not config_file.is_file():
        raise ConversionError(f"{config_file}: no such file; a folder in Hub layout has it beside the weights")
    try:
        content = json.loads(config_file.read_text(encoding="utf-8"))
        id2label = {int(index): name for index, name in (content.get("id2label") or {}).items()}
    except (AttributeError, ValueError) as error:
        raise ConversionError(f"{config_file}: is not a JSON configuration ({error}); download it again") from error
    own = content if content.get("model_type") == LungSradConfig.model_type else {}
    labels = {"id2label": id2label, "label2id": {name: index for index, name in id2label.items()}}
    return labels, {name: value for name, value in own.items() if name in OWN_SETTINGS}


def _read_weights(source: Path) -> dict[str, torch.Tensor]:
    """Weights by their original names."""
    if source.is_dir():
        source = next((source / name for name in WEIGHT_FILES if (source / name).is_file()), source / WEIGHT_FILES[0])
    if not source.is_file():
        raise ConversionError(f"{source}: no such file; name a .pth or .safetensors file, or a folder in Hub layout")
    content: Any
    try:
        if source.suffix == ".safetensors":
            content = load_file(source)
        else:
            # The authors' files hold their command line as a Namespace, which is plain data.
            with torch.serialization.safe_globals([argparse.Namespace]):
                content = torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ConversionError(
            f"{source}: holds more than weights or is no checkpoint, and pickled code is never run; "
            "save its state dict alone"
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
        raise ConversionError(f"{source}: holds no state dict; name a checkpoint of DASS, VMamba or Lung-SRAD")
    return content


def _unreadable(source: Path, error: Exception) -> ConversionError:
    reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
    return ConversionError(f"{source}: cannot be read as a checkpoint ({reason}); check the file or download it again")


def _is_weight(entry: tuple[Any, Any]) -> bool:
    name, value = entry
    is_dense = isinstance(value, torch.Tensor) and value.layout == torch.strided
    return isinstance(name, str) and is_dense and not value.is_quantized and not value.is_meta


def _rename(name: str) -> str:
    for pattern, replacement in RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


def _infer_sizes(source: Path, weights: dict[str, torch.Tensor]) -> dict[str, Any]:
    """The settings of [`LungSradConfig`] that shapes tell."""
    blocks = [re.match(r"lung_srad\.layers\.(\d+)\.blocks\.(\d+)\.op\.A_logs$", name) for name in weights]
    found = {(int(match[1]), int(match[2])) for match in blocks if match}
    if not found:
        raise ConversionError(
            f"{source}: has no layers.*.blocks.*.op.A_logs, so it is no VMamba network; its first weight is "
            f"{next(iter(weights), 'none').removeprefix('lung_srad.')}. Name a checkpoint of DASS, VMamba or Lung-SRAD"
        )
    num_stages = 1 + max(stage for stage, _ in found)
    depths = [1 + max((block for at, block in found if at == stage), default=-1) for stage in range(num_stages)]

    def shape(stage: int, name: str, num_axes: int) -> torch.Size:
        short_name = f"layers.{stage}.blocks.0.{name}"
        weight = weights.get(f"lung_srad.{short_name}")
        if weight is None:
            raise ConversionError(f"{source}: lacks {short_name}; download it again")
        if weight.ndim < num_axes or not weight.numel():
            raise ConversionError(f"{source}: {short_name} has shape {tuple(weight.shape)}; download it again")
        return weight.shape

    dims = [shape(stage, "norm.weight", 1)[0] for stage in range(num_stages)]
    scan_rows, state_size = shape(0, "op.A_logs", 2)
    return {
        "dims": dims,
        "depths": depths,
        "ssm_state_size": state_size,
        "ssm_ratio": scan_rows / NUM_DIRECTIONS / dims[0],
        "mlp_ratio": shape(0, "mlp.fc1.weight", 2)[0] / dims[0],
        "drop_path_rate": 0.3 if sum(depths) > sum(LungSradConfig.small().depths) else 0.2,
    }


def _load(source: Path, model: LungSradForAudioClassification, weights: dict[str, torch.Tensor]) -> None:
    expected = model.state_dict()
    missing = [name for name in expected if name not in weights and not name.startswith("head.")]
    unexpected = [name for name in weights if name not in expected]
    for what, names in (("lacks", missing), ("has unknown", unexpected)):
        if names:
            shown = ", ".join(name.removeprefix("lung_srad.") for name in names[:3])
            raise ConversionError(
                f"{source}: {what} {len(names)} weights, such as {shown}; the network must be VMamba of type v05_noz"
            )
    fitted = {}
    for name, tensor in weights.items():
        shape = expected[name].shape
        # Stacked projections come as (4, rows, columns), their bias also flat, linear weights also as (out, in, 1, 1).
        rows_fit = tensor.ndim == 1 or (tensor.ndim > 1 and tensor.shape[-1] in (1, shape[-1]))
        if tensor.numel() != shape.numel() or not rows_fit:
            raise ConversionError(
                f"{source}: {name.removeprefix('lung_srad.')} has shape {tuple(tensor.shape)} where {tuple(shape)} is "
                "needed; the network must be VMamba of type v05_noz"
            )
        if not torch.isfinite(tensor).all():
            raise ConversionError(f"{source}: {name.removeprefix('lung_srad.')} has NaN or infinite values")
        fitted[name] = tensor.reshape(shape)
    model.load_state_dict(fitted, strict=False)
