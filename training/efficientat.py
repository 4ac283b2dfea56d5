"""EfficientAT "mn04" (arXiv 2211.04772): a MobileNetV3 of width 0.4, pretrained on AudioSet, with 0.98 M parameters.

Written from the paper (Schmid, Koutini and Widmer), MobileNetV3-Large (arXiv 1905.02244) and the shapes of the
published state dict, whose names the modules carry. The network takes any log-mel; the original's was of 32 kHz audio:
pre-emphasis 0.97, window 800 and hop 320 samples, 128 Kaldi mel bands, `(ln(power + 1e-5) + 4.5) / 5`.
"""

import json
import os
import pickle
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from modeling_lung_srad.checkpoint_loading import CheckpointError
from modeling_lung_srad.output_files import replaced_when_complete

MODEL_TYPE = "efficientat"
NUM_AUDIOSET_LABELS = 527
WIDTH = 0.4
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
    SafetensorError,
    TypeError,
    ValueError,
)
LAST_LAYER = "classifier.5."
# MobileNetV3-Large, table 1: kernel, expanded channels, channels out, squeeze-excitation, activation, stride.
INVERTED_RESIDUALS = (
    (3, 16, 16, False, nn.ReLU, 1),
    (3, 64, 24, False, nn.ReLU, 2),
    (3, 72, 24, False, nn.ReLU, 1),
    (5, 72, 40, True, nn.ReLU, 2),
    (5, 120, 40, True, nn.ReLU, 1),
    (5, 120, 40, True, nn.ReLU, 1),
    (3, 240, 80, False, nn.Hardswish, 2),
    (3, 200, 80, False, nn.Hardswish, 1),
    (3, 184, 80, False, nn.Hardswish, 1),
    (3, 184, 80, False, nn.Hardswish, 1),
    (3, 480, 112, True, nn.Hardswish, 1),
    (3, 672, 112, True, nn.Hardswish, 1),
    (5, 672, 160, True, nn.Hardswish, 2),
    (5, 960, 160, True, nn.Hardswish, 1),
    (5, 960, 160, True, nn.Hardswish, 1),
)


class EfficientATOutput(NamedTuple):
    """Output of [`EfficientAT`]: `logits` of shape `(batch, num_labels)` and `pooled` of shape `(batch, 384)`."""

    logits: torch.Tensor
    pooled: torch.Tensor


class FinetunedEfficientAT(NamedTuple):
    """A saved model in evaluation mode, with the name of each output and the settings of its features."""

    model: "EfficientAT"
    labels: tuple[str, ...]
    feature_settings: dict[str, Any]


def round_channels(channels: float) -> int:
    """The nearest multiple of 8, at least 8 and never under 90 % of `channels`."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8


def convolution(
    channels_in: int, channels_out: int, kernel: int, activation: type[nn.Module], stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Convolution that keeps the size at stride 1, BatchNorm and activation."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(channels_out, eps=1e-3, momentum=0.01),
        activation(),
    )


class SqueezeExcitation(nn.Module):
    """Scales each channel by a gate that the averages of all channels give.

    The list is the original's, which can hold further gates over mel bands and frames.
    """

    def __init__(self, channels: int):
        super().__init__()
        squeezed = round_channels(channels / 4)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["fc1"] = nn.Linear(channels, squeezed)
        layers["relu"] = nn.ReLU()
        layers["fc2"] = nn.Linear(squeezed, channels)
        layers["sigmoid"] = nn.Sigmoid()
        self.conc_se_layers = nn.ModuleList([nn.Sequential(layers)])

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        gate = self.conc_se_layers[0](hidden_states.mean(dim=(2, 3)))
        return hidden_states * gate[:, :, None, None]


class InvertedResidual(nn.Module):
    """Expands by a 1x1 convolution, filters each channel, weighs the channels, and projects to fewer of them."""

    def __init__(
        self,
        channels_in: int,
        expanded: int,
        channels_out: int,
        kernel: int,
        squeeze_excitation: bool,
        activation: type[nn.Module],
        stride: int,
    ):
        super().__init__()
        layers: list[nn.Module] = []
        if expanded != channels_in:
            layers.append(convolution(channels_in, expanded, 1, activation))
        layers.append(convolution(expanded, expanded, kernel, activation, stride, groups=expanded))
        if squeeze_excitation:
            layers.append(SqueezeExcitation(expanded))
        layers.append(convolution(expanded, channels_out, 1, nn.Identity))
        self.block = nn.Sequential(*layers)
        self.has_residual = stride == 1 and channels_in == channels_out

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        filtered = self.block(hidden_states)
        return hidden_states + filtered if self.has_residual else filtered


class EfficientAT(nn.Module):
    """
    The network "mn04": a stem, 15 inverted residual blocks, average pooling and a classifier with one hidden layer.

    Args:
        num_labels (`int`, *optional*, defaults to 527): outputs; the default is AudioSet's.

    Raises:
        ValueError: where `num_labels` is below 1.

    Example:

    ```python
    >>> model = EfficientAT(num_labels=2).eval()
    >>> output = model(torch.zeros(1, 1, 128, 256))
    >>> output.logits.shape, output.pooled.shape
    (torch.Size([1, 2]), torch.Size([1, 384]))

    ```
    """

    def __init__(self, num_labels: int = NUM_AUDIOSET_LABELS):
        super().__init__()
        if num_labels < 1:
            raise ValueError(f"num_labels: {num_labels} is below 1; give the number of outputs")
        self.num_labels = num_labels
        channels = round_channels(WIDTH * 16)
        features: list[nn.Module] = [convolution(1, channels, 3, nn.Hardswish, stride=2)]
        for kernel, expanded, out, squeeze_excitation, activation, stride in INVERTED_RESIDUALS:
            expanded, out = round_channels(WIDTH * expanded), round_channels(WIDTH * out)
            features.append(InvertedResidual(channels, expanded, out, kernel, squeeze_excitation, activation, stride))
            channels = out
        features.append(convolution(channels, 6 * channels, 1, nn.Hardswish))
        self.features = nn.Sequential(*features)
        hidden = round_channels(WIDTH * 1280)
        # The first two give the pooled features.
        self.classifier = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(6 * channels, hidden),
            nn.Hardswish(),
            nn.Dropout(0.2),
            nn.Linear(hidden, num_labels),
        )

    def forward(self, log_mel: torch.Tensor) -> EfficientATOutput:
        """
        Classifies log-mel spectrograms of any length.

        Args:
            log_mel (`torch.Tensor` of shape `(batch, 1, mel, frames)`): 128 mel bands and frames of 10 ms in training
                on AudioSet.

        Returns:
            [`EfficientATOutput`]: `logits` `(batch, num_labels)` and `pooled` `(batch, 384)`.

        Raises:
            ValueError: for another number of axes or channels.
        """
        if log_mel.ndim != 4 or log_mel.shape[1] != 1:
            raise ValueError(f"log_mel has shape {tuple(log_mel.shape)}; give (batch, 1, mel, frames)")
        pooled = self.classifier[:2](self.features(log_mel))
        return EfficientATOutput(logits=self.classifier[2:](pooled), pooled=pooled)


def load_efficientat(path: str | os.PathLike, num_labels: int | None = None) -> EfficientAT:
    """
    Loads weights from a file: the published `mn04_as_mAP_432.pt` or a `model.safetensors` of [`save_efficientat`].

    Args:
        path (`str` or `os.PathLike`): a `.safetensors` file, or a state dict that `torch.save` wrote. Pickled code is
            refused, never run.
        num_labels (`int`, *optional*): outputs wanted. The last layer is kept where this is `None` or its number of
            outputs; otherwise it becomes a new one with random weights.

    Returns:
        [`EfficientAT`]: in float32 and in evaluation mode.

    Raises:
        CheckpointError: a `ValueError` of one line, naming file and weight: a missing or damaged file, pickled code,
            missing, unexpected or non-finite weights, or weights of another shape.
        ValueError: where `num_labels` is below 1.
    """
    path = Path(os.path.expanduser(path))
    weights = _read_weights(path)
    last_weight = weights.get(f"{LAST_LAYER}weight", torch.empty(NUM_AUDIOSET_LABELS, 0))
    stored_labels = last_weight.shape[0] if last_weight.ndim else NUM_AUDIOSET_LABELS
    with torch.device("meta"):
        expected = EfficientAT(max(1, stored_labels)).state_dict()
    _check_weights(path, weights, expected)
    model = EfficientAT(stored_labels if num_labels is None else num_labels)
    if model.num_labels != stored_labels:
        weights |= {name: tensor for name, tensor in model.state_dict().items() if name.startswith(LAST_LAYER)}
    model.load_state_dict(weights)
    return model.eval()


def save_efficientat(
    folder: str | os.PathLike, model: EfficientAT, labels: Sequence[str], feature_settings: dict[str, Any]
) -> None:
    """
    Writes `model.safetensors` and `config.json`, which [`load_finetuned_efficientat`] reads.

    Args:
        folder (`str` or `os.PathLike`): made where it is missing; files of these names in it are replaced.
        model ([`EfficientAT`]): the model.
        labels (sequence of `str`): name of each output.
        feature_settings (`dict`): what the log-mel was computed by, in values that JSON has.

    Raises:
        ValueError: where the labels are not one name for each output.
        CheckpointError: where the folder cannot be written to.
    """
    if len(labels) != model.num_labels or len(set(labels)) != model.num_labels:
        raise ValueError(
            f"labels: {list(labels)} are not {model.num_labels} different names; give one for each output"
        )
    config = {"model_type": MODEL_TYPE, "labels": list(labels), "feature_settings": feature_settings}
    written_config = json.dumps(config, indent=2) + "\n"
    folder = Path(os.path.expanduser(folder))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with replaced_when_complete(folder / "model.safetensors") as temporary:
            save_file(model.state_dict(), temporary, metadata={"format": "pt"})
        with replaced_when_complete(folder / "config.json") as temporary:
            temporary.write_text(written_config, encoding="utf-8")
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be written to ({error.strerror}); choose another folder") from error


def load_finetuned_efficientat(folder: str | os.PathLike) -> FinetunedEfficientAT:
    """
    Loads a folder that [`save_efficientat`] wrote.

    Raises:
        CheckpointError: as [`load_efficientat`], or a `config.json` that is missing, damaged, of another model or with
            labels that do not fit the weights.
    """
    folder = Path(os.path.expanduser(folder))
    file = folder / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{file}: no such file; name a folder that save_efficientat wrote") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: cannot be read ({error}); save the model again") from error
    if not isinstance(config, dict) or config.get("model_type") != MODEL_TYPE:
        raise CheckpointError(f"{file}: model_type is not {MODEL_TYPE!r}; name a folder that save_efficientat wrote")
    labels, feature_settings = config.get("labels"), config.get("feature_settings")
    if not isinstance(labels, list) or not isinstance(feature_settings, dict):
        raise CheckpointError(f"{file}: lacks the list labels or the mapping feature_settings; save the model again")
    model = load_efficientat(folder / "model.safetensors")
    if len(labels) != model.num_labels:
        raise CheckpointError(
            f"{file}: has {len(labels)} labels, but model.safetensors has {model.num_labels} outputs; save both again"
        )
    return FinetunedEfficientAT(model, tuple(labels), feature_settings)


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    if path.is_dir():
        raise CheckpointError(f"{path}: is a folder; name a file of weights, or use load_finetuned_efficientat")
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; fetch mn04_as_mAP_432.pt of EfficientAT, or check the path")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        weights: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: holds pickled code or is not a file of weights, and code is never run; save its state dict alone"
        ) from error
    except READING_ERRORS as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{path}: cannot be read ({reason}); fetch or save it again") from error
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise CheckpointError(f"{path}: is not a state dict of tensors; save model.state_dict() alone")
    return weights


def _check_weights(path: Path, weights: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    for problem, names in (("lacks", expected.keys() - weights.keys()), ("has", weights.keys() - expected.keys())):
        if names:
            unexpected = "" if problem == "lacks" else " unexpected"
            raise CheckpointError(
                f"{path}: {problem} {len(names)}{unexpected} weights, such as {min(map(str, names))}; "
                "name a checkpoint of EfficientAT mn04"
            )
    for name, tensor in weights.items():
        if tensor.shape != expected[name].shape:
            raise CheckpointError(
                f"{path}: {name} has shape {tuple(tensor.shape)} where {tuple(expected[name].shape)} is needed; "
                "name a checkpoint of EfficientAT mn04"
            )
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path}: {name} has NaN or infinite values; train or fetch it again")
