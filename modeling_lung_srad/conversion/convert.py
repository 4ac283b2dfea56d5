"""Loads weights that people already have into [`LungSradForAudioClassification`].

Four layouts (arXiv 2407.04082, 2401.10166, 2606.11922 and their releases): DASS `.pth` files, DASS folders of the Hub,
VMamba ImageNet `.pth` files, and the training checkpoints of the Lung-SRAD authors. They differ in prefixes, in the
numbering of the patch embedding and in the shape of the scan's projections; sizes are read off the weights.
"""

import os
import re
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers.utils import logging

from ..configuration_lung_srad import LungSradConfig
from ..errors import InputError, one_line
from ..feature_extraction_lung_srad import LungSradFeatureExtractor
from ..modeling_lung_srad import NUM_DIRECTIONS, LungSradForAudioClassification
from .source import read_config, read_weights, rename

logger = logging.get_logger(__name__)

IMAGENET_INPUT_CHANNELS = 3


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
        InputError: where the file is missing, unreadable or has weights that do not fit, which it names.

    Example (not run):

    ```py
    model = convert_checkpoint("DASS_medium_v2.pth", num_labels=4, gaussian_blocks=(2, 3))
    model.save_pretrained("dass-medium-for-icbhi")
    ```"""
    source = Path(os.path.expanduser(source))
    labels, own_settings = read_config(source)
    weights = read_weights(source)
    weights = {rename(name): tensor.to(torch.float32) for name, tensor in weights.items()}
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
        raise InputError(source, one_line(error)) from error
    _load(source, model, weights)
    return model.eval()


def convert_feature_extractor(source: str | os.PathLike) -> LungSradFeatureExtractor:
    """The feature extractor that goes with a converted checkpoint: the saved one where `source` is a folder of this
    project's layout, otherwise that of the paper. Raises [`InputError`] as [`convert_checkpoint`]."""
    source = Path(os.path.expanduser(source))
    _, own_settings = read_config(source)
    if own_settings and (source / "preprocessor_config.json").is_file():
        try:
            return LungSradFeatureExtractor.from_pretrained(source)
        except (ArithmeticError, OSError, TypeError, ValueError) as error:
            problem = f"preprocessor_config.json cannot be used ({one_line(error)})"
            raise InputError(source, problem, "save or download it again") from error
    return LungSradFeatureExtractor()


def _infer_sizes(source: Path, weights: dict[str, torch.Tensor]) -> dict[str, Any]:
    """The settings of [`LungSradConfig`] that shapes tell."""
    blocks = [re.match(r"lung_srad\.layers\.(\d+)\.blocks\.(\d+)\.op\.A_logs$", name) for name in weights]
    found = {(int(match[1]), int(match[2])) for match in blocks if match}
    if not found:
        raise InputError(
            source,
            "lacks layers.*.blocks.*.op.A_logs, so it is not a VMamba network",
            f"its first weight is {next(iter(weights), 'none').removeprefix('lung_srad.')}. Name a checkpoint "
            "of DASS, VMamba or Lung-SRAD",
        )
    num_stages = 1 + max(stage for stage, _ in found)
    depths = [1 + max((block for at, block in found if at == stage), default=-1) for stage in range(num_stages)]

    def shape(stage: int, name: str, num_axes: int) -> torch.Size:
        short_name = f"layers.{stage}.blocks.0.{name}"
        weight = weights.get(f"lung_srad.{short_name}")
        if weight is None:
            raise InputError(source, f"lacks {short_name}", "download it again")
        if weight.ndim < num_axes or not weight.numel():
            raise InputError(source, f"{short_name} has shape {tuple(weight.shape)}", "download it again")
        return weight.shape

    dims = [shape(stage, "norm.weight", 1)[0] for stage in range(num_stages)]
    scan_rows, state_size = shape(0, "op.A_logs", 2)[:2]
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
            raise InputError(
                source, f"{what} {len(names)} weights, such as {shown}", "the network must be VMamba of type v05_noz"
            )
    fitted = {}
    for name, tensor in weights.items():
        shape = expected[name].shape
        # Stacked projections come as (4, rows, columns), their bias also flat, linear weights also as (out, in, 1, 1).
        rows_fit = tensor.ndim == 1 or (tensor.ndim > 1 and tensor.shape[-1] in (1, shape[-1]))
        if tensor.numel() != shape.numel() or not rows_fit:
            raise InputError(
                source,
                f"{name.removeprefix('lung_srad.')} has shape {tuple(tensor.shape)} where {tuple(shape)} is needed",
                "the network must be VMamba of type v05_noz",
            )
        if not torch.isfinite(tensor).all():
            raise InputError(source, f"{name.removeprefix('lung_srad.')} has NaN or infinite values")
        fitted[name] = tensor.reshape(shape)
    model.load_state_dict(fitted, strict=False)
