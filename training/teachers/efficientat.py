"""EfficientAT "mn04" (arXiv 2211.04772): a MobileNetV3 of width 0.4, pretrained on AudioSet, with 0.98 M parameters.

Written from the paper (Schmid, Koutini and Widmer), MobileNetV3-Large (arXiv 1905.02244) and the shapes of the
published state dict. The network was trained on log-mel spectrograms of 128 bands of 32 kHz audio: pre-emphasis 0.97,
window 800 and hop 320 samples, Kaldi mel bands, `(ln(power + 1e-5) + 4.5) / 5`.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndNoAttention, ModelOutput

from modeling_lung_srad.configuration_lung_srad import CLASS_NAMES
from modeling_lung_srad.errors import InputError
from modeling_lung_srad.modeling_lung_srad import compose_classes

NUM_SOUNDS = 2
NETWORK_MEL_BINS = 128
WIDTH = 0.4
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


@strict
class EfficientATConfig(PreTrainedConfig):
    r"""
    Configuration of an [`EfficientATForAudioClassification`]. The default labels are the four classes of ICBHI 2017.

    Args:
        num_mel_bins (`int`, *optional*, defaults to 128):
            Mel bins of `input_values`, a divisor of 128; the network sees each of them `128 / num_mel_bins` times.
        head (`str`, *optional*, defaults to `"sounds"`):
            `"sounds"` has two outputs, the log odds of crackle and of wheeze, from which [`compose_classes`] makes the
            logits of the four classes; `"classes"` has an output for each label.
    """

    model_type = "efficientat"
    keys_to_ignore_at_inference = ["pooler_output"]

    num_mel_bins: int = NETWORK_MEL_BINS
    head: Literal["classes", "sounds"] = "sounds"

    def __post_init__(self, **kwargs):
        if self.id2label is None and kwargs.get("num_labels") in (None, len(CLASS_NAMES)):
            self.id2label = dict(enumerate(CLASS_NAMES))
            self.label2id = {name: index for index, name in enumerate(CLASS_NAMES)}
        super().__post_init__(**kwargs)

    @property
    def hidden_size(self) -> int:
        """Width of `pooler_output`."""
        return 6 * round_channels(WIDTH * INVERTED_RESIDUALS[-1][2])

    def validate_network(self):
        """Checks mel bins and labels."""
        if self.num_mel_bins < 1 or NETWORK_MEL_BINS % self.num_mel_bins:
            raise InputError(
                "num_mel_bins", f"must divide {NETWORK_MEL_BINS}, got {self.num_mel_bins}", "use 128, 64 or 32"
            )
        labels = [name for _, name in sorted((self.id2label or {}).items())]
        if self.head == "sounds" and labels != list(CLASS_NAMES):
            raise InputError(
                "head",
                f"'sounds' gives the labels {', '.join(CLASS_NAMES)}, got {', '.join(labels[:4])}",
                "use 'classes' for other ones",
            )


@dataclass
class EfficientATOutput(ModelOutput):
    r"""
    Output of [`EfficientATForAudioClassification`].

    Args:
        loss (`torch.Tensor` of shape `()`, *optional*, returned when `labels` is given): cross-entropy.
        logits (`torch.Tensor` of shape `(batch, num_labels)`): class scores before softmax.
        pooler_output (`torch.Tensor` of shape `(batch, 384)`): features averaged over mel and time.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    pooler_output: torch.Tensor | None = None


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


class EfficientATPreTrainedModel(PreTrainedModel):
    """Initialisation, loading and saving shared by the models of this file."""

    config: EfficientATConfig
    base_model_prefix = "efficientat"
    main_input_name = "input_values"
    input_modalities = "audio"
    _no_split_modules = ["InvertedResidual"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, mode="fan_out")
        elif isinstance(module, nn.Linear):
            init.normal_(module.weight, std=0.01)


class EfficientATModel(EfficientATPreTrainedModel):
    """The backbone: a stem, 15 inverted residual blocks, a 1x1 convolution and the average over mel and time."""

    def __init__(self, config: EfficientATConfig):
        super().__init__(config)
        channels = round_channels(WIDTH * 16)
        features: list[nn.Module] = [convolution(1, channels, 3, nn.Hardswish, stride=2)]
        for kernel, expanded, out, squeeze_excitation, activation, stride in INVERTED_RESIDUALS:
            expanded, out = round_channels(WIDTH * expanded), round_channels(WIDTH * out)
            features.append(InvertedResidual(channels, expanded, out, kernel, squeeze_excitation, activation, stride))
            channels = out
        features.append(convolution(channels, config.hidden_size, 1, nn.Hardswish))
        self.features = nn.Sequential(*features)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.features[0]

    def forward(self, input_values: torch.Tensor, **kwargs) -> BaseModelOutputWithPoolingAndNoAttention:
        r"""
        Args:
            input_values (`torch.Tensor` of shape `(batch, frames, num_mel_bins)`):
                Normalised log-mel spectrogram, any number of frames.

        Returns:
            [`~transformers.modeling_outputs.BaseModelOutputWithPoolingAndNoAttention`]: `last_hidden_state` is the map
            `(batch, 384, 4, frames / 32)`, `pooler_output` its average `(batch, 384)`.

        Raises:
            ValueError: if `input_values` has another shape.
        """
        bins = self.config.num_mel_bins
        if input_values.ndim != 3 or input_values.shape[-1] != bins:
            raise ValueError(
                f"`input_values` must have shape (batch, frames, {bins}), got {tuple(input_values.shape)}; "
                "LungSradFeatureExtractor makes them from waveforms."
            )
        log_mel = input_values.repeat_interleave(NETWORK_MEL_BINS // bins, dim=-1).transpose(1, 2).unsqueeze(1)
        hidden_states = self.features(log_mel)
        return BaseModelOutputWithPoolingAndNoAttention(
            last_hidden_state=hidden_states, pooler_output=hidden_states.mean(dim=(2, 3))
        )


class EfficientATForAudioClassification(EfficientATPreTrainedModel):
    r"""
    The backbone with a classifier of one hidden layer on the pooled features.

    Example:

    ```python
    >>> model = EfficientATForAudioClassification(EfficientATConfig(num_mel_bins=64)).eval()
    >>> output = model(torch.zeros(1, 256, 64))
    >>> output.logits.shape, output.pooler_output.shape
    (torch.Size([1, 4]), torch.Size([1, 384]))

    ```"""

    # The loss is a plain mean, so the Trainer must scale it under gradient accumulation.
    accepts_loss_kwargs = False

    def __init__(self, config: EfficientATConfig):
        super().__init__(config)
        self.efficientat = EfficientATModel(config)
        hidden = round_channels(WIDTH * 1280)
        outputs = NUM_SOUNDS if config.head == "sounds" else config.num_labels or 0
        self.classifier = nn.Sequential(
            nn.Linear(config.hidden_size, hidden), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(hidden, outputs)
        )
        self.post_init()

    def forward(self, input_values: torch.Tensor, labels: torch.Tensor | None = None, **kwargs) -> EfficientATOutput:
        r"""
        Args:
            input_values (`torch.Tensor` of shape `(batch, frames, num_mel_bins)`): as for [`EfficientATModel`].
            labels (`torch.Tensor` of shape `(batch,)`, *optional*): class indices, for their cross-entropy.

        Raises:
            ValueError: if `input_values` has another shape.
        """
        pooled = self.efficientat(input_values).pooler_output
        logits = self.classifier(pooled)
        if self.config.head == "sounds":
            logits = compose_classes(logits)
        loss = None if labels is None else F.cross_entropy(logits.float(), labels)
        return EfficientATOutput(loss=loss, logits=logits, pooler_output=pooled)
