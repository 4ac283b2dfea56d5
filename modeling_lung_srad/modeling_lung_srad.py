# SPDX-License-Identifier: Apache-2.0 (trf-ignore: TRF028, which wants the whole notice)
"""Lung-SRAD model in PyTorch.

The backbone is DASS (arXiv 2407.04082), which is VMamba (arXiv 2401.10166, forward type `v05_noz`) on a log-mel
spectrogram; parameter names follow the DASS release on the Hub. The Gaussian convolution inside chosen blocks is the
spectral-aware layer regularization of Lung-SRAD (arXiv 2606.11922). Written from the papers and pinned to numbers of
the reference implementations by the tests.
"""

import copy
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndNoAttention, ModelOutput
from transformers.utils.generic import can_return_tuple
from transformers.utils.output_capturing import capture_outputs

from .configuration_lung_srad import LungSradConfig
from .layers_lung_srad import LungSradLayerNorm, LungSradLayerNorm2d, LungSradLinear, LungSradMLP, in_pieces
from .selective_scan import choose_cpu_backend, selective_scan_2d

# Each checkpoint may set these: trf-ignore: TRF041 config.gaussian_stage, config.scan_backend, config.ssm_state_size
NUM_DIRECTIONS = 4
SOUNDS = ("crackle", "wheeze")


@dataclass
class LungSradClassifierOutput(ModelOutput):
    r"""
    Output of [`LungSradForAudioClassification`].

    Args:
        loss (`torch.Tensor` of shape `()`, *optional*, returned when `labels` is given):
            Of the kind that `config.problem_type` says: cross-entropy, binary cross-entropy or squared error.
        logits (`torch.Tensor` of shape `(batch, num_labels)`):
            Class scores before softmax.
        pooler_output (`torch.Tensor` of shape `(batch, dims[-1])`):
            Normalised features of the last stage, averaged over the grid.
        hidden_states (`tuple[torch.Tensor]`, *optional*, returned when `output_hidden_states=True`):
            The patch embedding and the stage outputs, each `(batch, channels, mel, time)`.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    pooler_output: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None


class LungSradDropPath(nn.Module):
    """Stochastic depth per sample (arXiv 1603.09382); identity outside training."""

    def __init__(self, drop_prob: float = 0.0):
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if self.drop_prob == 0.0 or not self.training:
            return hidden_states
        keep_prob = 1 - self.drop_prob
        shape = (hidden_states.shape[0],) + (1,) * (hidden_states.ndim - 1)
        return hidden_states * hidden_states.new_empty(shape).bernoulli_(keep_prob).div_(keep_prob)

    def extra_repr(self) -> str:
        return f"p={self.drop_prob}"


class LungSradGaussianBlur(nn.Module):
    """Spectral-aware layer regularization: a fixed separable Gaussian convolution over mel and time, zero padded.

    Takes and returns `(batch, mel, time, channels)`.
    """

    def __init__(self, config: LungSradConfig):
        super().__init__()
        self.kernel_size = config.gaussian_kernel_size
        self.sigma = config.gaussian_sigma
        self.at_inference = config.gaussian_at_inference

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if not (self.training or self.at_inference):
            return hidden_states
        radius = self.kernel_size // 2
        offsets = torch.arange(-radius, radius + 1, device=hidden_states.device, dtype=torch.float32)
        kernel = torch.softmax(-offsets.square() / (2 * self.sigma**2), dim=0).to(hidden_states.dtype)
        channels = hidden_states.shape[-1]
        hidden_states = hidden_states.permute(0, 3, 1, 2)
        over_mel = kernel.view(1, 1, -1, 1).expand(channels, 1, -1, 1)
        over_time = kernel.view(1, 1, 1, -1).expand(channels, 1, 1, -1)
        hidden_states = F.conv2d(hidden_states, over_mel, padding=(radius, 0), groups=channels)
        hidden_states = F.conv2d(hidden_states, over_time, padding=(0, radius), groups=channels)
        return hidden_states.permute(0, 2, 3, 1)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, sigma={self.sigma}, at_inference={self.at_inference}"


class LungSradPatchEmbeddings(nn.Module):
    """Turns `input_values` `(batch, frames, mel)` into patches `(batch, channels, mel / 4, frames / 4)`."""

    def __init__(self, config: LungSradConfig):
        super().__init__()
        width = config.dims[0]
        self.num_mel_bins = config.num_mel_bins
        # trf-ignore: TRF036, since the DASS release names its weights by these places.
        self.projection = nn.Sequential(
            nn.Conv2d(1, width // 2, kernel_size=3, stride=2, padding=1),
            LungSradLayerNorm2d(width // 2, eps=config.layer_norm_eps),
            ACT2FN[config.hidden_act],
            nn.Conv2d(width // 2, width, kernel_size=3, stride=2, padding=1),
            LungSradLayerNorm2d(width, eps=config.layer_norm_eps),
        )

    def forward(self, input_values: torch.Tensor) -> torch.Tensor:
        if input_values.ndim != 3 or input_values.shape[-1] != self.num_mel_bins:
            raise ValueError(
                f"`input_values` must have shape (batch, frames, {self.num_mel_bins}), got "
                f"{tuple(input_values.shape)}; LungSradFeatureExtractor makes them from waveforms."
            )
        dtype: torch.dtype = self.projection[0].weight.dtype  # type: ignore[assignment]
        return self.projection(input_values.to(dtype).transpose(1, 2).unsqueeze(1))


class LungSradStepProjections(nn.Module):
    """Projections to the step sizes, which the scan applies; stacked in one weight `(4 * channels, rank)`, as in DASS.

    Called as a module, so that offloading hooks run.
    """

    def __init__(self, rank: int, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(NUM_DIRECTIONS * channels, rank))

    def forward(self) -> torch.Tensor:
        """The weights `(4, channels, rank)`."""
        return self.weight.unflatten(0, (NUM_DIRECTIONS, -1))


class LungSradSS2D(nn.Module):
    """Token mixer: depthwise convolution, then a selective scan along four directions of the mel-time grid.

    Takes and returns `(batch, mel, time, channels)`.
    """

    def __init__(self, config: LungSradConfig, width: int, regularized: bool):
        super().__init__()
        self.state_size = config.ssm_state_size
        self.inner_width = int(config.ssm_ratio * width)
        self.rank = math.ceil(width / 16)
        self.scan_backend: str = config.scan_backend
        self.gaussian_position = config.gaussian_position if regularized else None

        self.in_proj = LungSradLinear(width, self.inner_width, bias=False)
        self.conv2d = nn.Conv2d(
            self.inner_width, self.inner_width, kernel_size=3, padding=1, groups=self.inner_width, bias=False
        )
        self.act = nn.SiLU()
        self.x_proj = LungSradLinear(self.inner_width, NUM_DIRECTIONS * (self.rank + 2 * self.state_size), bias=False)
        self.dt_projs = LungSradStepProjections(self.rank, self.inner_width)
        self.dt_projs_bias = nn.Parameter(torch.empty(NUM_DIRECTIONS, self.inner_width))
        self.A_logs = nn.Parameter(torch.empty(NUM_DIRECTIONS * self.inner_width, self.state_size))
        self.Ds = nn.Parameter(torch.empty(NUM_DIRECTIONS * self.inner_width))
        self.out_norm = LungSradLayerNorm(self.inner_width, eps=config.layer_norm_eps)
        self.out_proj = LungSradLinear(self.inner_width, width, bias=False)
        self.gaussian_blur = LungSradGaussianBlur(config) if regularized else nn.Identity()

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        hidden_states = self.in_proj(hidden_states)
        hidden_states = self.act(self.conv2d(hidden_states.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)
        if self.gaussian_position == "scan_input":
            hidden_states = self.gaussian_blur(hidden_states)
        scanned = self.scan(hidden_states)
        if self.gaussian_position == "scan_output":
            scanned = self.gaussian_blur(scanned)
        return self.out_proj(self.out_norm(scanned).to(hidden_states.dtype))

    def scan(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """The four-direction scan with its input-dependent parameters, in float32."""
        projected = self.x_proj(hidden_states).unflatten(-1, (NUM_DIRECTIONS, -1)).movedim(-2, 0)
        low_rank, B, C = projected.split([self.rank, self.state_size, self.state_size], dim=-1)
        return selective_scan_2d(
            hidden_states,
            low_rank,
            delta_weight=self.dt_projs(),
            delta_bias=self.dt_projs_bias,
            A=-torch.exp(self.A_logs.float()).unflatten(0, (NUM_DIRECTIONS, -1)),
            B=B,
            C=C,
            D=self.Ds.unflatten(0, (NUM_DIRECTIONS, -1)),
            backend=self.scan_backend,
        )


class LungSradBlock(GradientCheckpointingLayer):
    """Pre-norm residual block on `(batch, mel, time, channels)`."""

    def __init__(self, config: LungSradConfig, width: int, drop_path_rate: float, regularized: bool):
        super().__init__()
        self.norm = LungSradLayerNorm(width, eps=config.layer_norm_eps)
        self.op = LungSradSS2D(config, width, regularized and config.gaussian_position != "block_output")
        self.drop_path = LungSradDropPath(drop_path_rate)
        self.norm2 = LungSradLayerNorm(width, eps=config.layer_norm_eps)
        self.mlp = LungSradMLP(config, width)
        blurs_output = regularized and config.gaussian_position == "block_output"
        self.gaussian_blur = LungSradGaussianBlur(config) if blurs_output else nn.Identity()

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        hidden_states = hidden_states + self.drop_path(self.op(self.norm(hidden_states)))
        hidden_states = hidden_states + self.drop_path(self.mlp(self.norm2(hidden_states)))
        return self.gaussian_blur(hidden_states)


class LungSradDownsample(nn.Module):
    """Halves mel and time and widens the channels of `(batch, channels, mel, time)`."""

    def __init__(self, config: LungSradConfig, width: int, next_width: int):
        super().__init__()
        self.down = nn.Conv2d(width, next_width, kernel_size=3, stride=2, padding=1)
        self.norm = LungSradLayerNorm2d(next_width, eps=config.layer_norm_eps)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.norm(self.down(hidden_states))


class LungSradStage(nn.Module):
    """Blocks of one width, then the downsampling to the next stage, on `(batch, channels, mel, time)`."""

    def __init__(self, config: LungSradConfig, stage: int, drop_path_rates: list[float]):
        super().__init__()
        width = config.dims[stage]
        regularized = set(config.gaussian_blocks) if stage == config.gaussian_stage else set()
        self.blocks = nn.ModuleList(
            LungSradBlock(config, width, rate, regularized=block in regularized)
            for block, rate in enumerate(drop_path_rates)
        )
        is_last = stage == len(config.dims) - 1
        self.downsample = nn.Identity() if is_last else LungSradDownsample(config, width, config.dims[stage + 1])

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        # The widest tensors of a stage are those inside the MLP, four times as wide by default.
        return in_pieces(self._apply_blocks, hidden_states, dim=0, elements=4 * hidden_states.numel())

    def _apply_blocks(self, hidden_states: torch.Tensor) -> torch.Tensor:
        hidden_states = hidden_states.permute(0, 2, 3, 1).contiguous()
        for block in self.blocks:
            hidden_states = block(hidden_states)
        return self.downsample(hidden_states.permute(0, 3, 1, 2))


class LungSradPreTrainedModel(PreTrainedModel):
    """Initialisation, loading and saving shared by the models of this file."""

    config: LungSradConfig
    base_model_prefix = "lung_srad"
    main_input_name = "input_values"
    input_modalities = "audio"
    supports_gradient_checkpointing = True
    _no_split_modules = ["LungSradBlock"]
    _can_record_outputs = {"hidden_states": LungSradStage}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        std = self.config.initializer_range
        if isinstance(module, nn.Linear):
            init.trunc_normal_(module.weight, std=module.in_features**-0.5 if std is None else std)
        elif isinstance(module, nn.Conv2d) and std is None:
            init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Conv2d):
            fan_in = module.weight[0].numel()
            init.uniform_(module.weight, -(fan_in**-0.5), fan_in**-0.5)
            if module.bias is not None:
                init.uniform_(module.bias, -(fan_in**-0.5), fan_in**-0.5)
        elif isinstance(module, LungSradSS2D):
            init.uniform_(module.dt_projs.weight, -(module.rank**-0.5), module.rank**-0.5)
            # softplus(bias) is log-uniform in [0.001, 0.1], so the states forget over 10 to 1000 positions.
            step = torch.empty_like(module.dt_projs_bias, dtype=torch.float32)
            step = step.uniform_(math.log(1e-3), math.log(1e-1)).exp().clamp(min=1e-4)
            init.copy_(module.dt_projs_bias, step + torch.log(-torch.expm1(-step)))
            states = torch.arange(1, module.state_size + 1, dtype=torch.float32, device=module.A_logs.device)
            init.copy_(module.A_logs, states.log().expand_as(module.A_logs))
            init.ones_(module.Ds)

    def fix_scan_backend(self, frames: float) -> None:
        """
        Settles which back end runs the scans on a CPU, where `scan_backend` of the configuration is `"auto"`.

        That goes by what a process has scanned so far. A job that is shared out among processes, or goes on after an
        interruption, gives the same to the last bit if each of its processes calls this with the size of the whole
        job. The configuration stays as it is; a model on another device is left alone.

        Args:
            frames (`float`): frames of all input of the job.
        """
        config = self.config
        if config.scan_backend != "auto" or self.device.type != "cpu":
            return
        # The first stage has a position for 4 x 4 inputs, each further one for 2 x 2 positions of the one before.
        elements = sum(
            depth * int(config.ssm_ratio * width) * config.num_mel_bins / 4 ** (stage + 2)
            for stage, (depth, width) in enumerate(zip(config.depths, config.dims, strict=True))
        )
        backend = choose_cpu_backend(frames * elements) if config.ssm_state_size == 1 else "torch"
        for module in self.modules():
            if isinstance(module, LungSradSS2D):
                module.scan_backend = backend


class LungSradModel(LungSradPreTrainedModel):
    r"""
    The backbone: patch embedding, four stages, layer norm and average over the grid.

    Example:

    ```python
    >>> import torch
    >>> from modeling_lung_srad import LungSradConfig, LungSradModel

    >>> model = LungSradModel(LungSradConfig.tiny()).eval()
    >>> outputs = model(torch.zeros(1, 1024, 128), output_hidden_states=True)
    >>> outputs.pooler_output.shape
    torch.Size([1, 192])
    >>> [tuple(states.shape[1:]) for states in outputs.hidden_states]
    [(24, 32, 256), (48, 16, 128), (96, 8, 64), (192, 4, 32), (192, 4, 32)]

    ```"""

    def __init__(self, config: LungSradConfig):
        super().__init__(config)
        self.patch_embeddings = LungSradPatchEmbeddings(config)
        total = sum(config.depths)
        rates = [config.drop_path_rate * block / max(total - 1, 1) for block in range(total)]
        self.layers = nn.ModuleList()
        for stage, depth in enumerate(config.depths):
            first = sum(config.depths[:stage])
            self.layers.append(LungSradStage(config, stage, rates[first : first + depth]))
        self.norm = LungSradLayerNorm2d(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    def get_input_embeddings(self) -> LungSradPatchEmbeddings:
        return self.patch_embeddings

    @capture_outputs(tie_last_hidden_states=False)
    def forward(self, input_values: torch.Tensor, **kwargs) -> BaseModelOutputWithPoolingAndNoAttention:
        r"""
        Args:
            input_values (`torch.Tensor` of shape `(batch, frames, num_mel_bins)`):
                Normalised log-mel spectrogram of [`LungSradFeatureExtractor`]; any number of frames.

        Returns:
            [`~transformers.modeling_outputs.BaseModelOutputWithPoolingAndNoAttention`]: `last_hidden_state` is the
            normalised map `(batch, dims[-1], mel, time)`, `pooler_output` its average `(batch, dims[-1])`;
            `hidden_states` are the patch embedding and the outputs of the stages, each after its downsampling.

        Raises:
            ValueError: if `input_values` has another shape.
        """
        hidden_states = self.patch_embeddings(input_values)
        for stage in self.layers:
            hidden_states = stage(hidden_states)
        last_hidden_state = self.norm(hidden_states)
        return BaseModelOutputWithPoolingAndNoAttention(
            last_hidden_state=last_hidden_state, pooler_output=last_hidden_state.mean((-2, -1))
        )


def compose_classes(log_odds: torch.Tensor) -> torch.Tensor:
    """
    Logits of normal, crackle, wheeze and both, whose softmax is the product of two independent probabilities.

    Args:
        log_odds (`torch.Tensor` of shape `(batch, 2)`): of crackle and of wheeze.

    Returns:
        `torch.Tensor` of shape `(batch, 4)`.
    """
    crackle, wheeze = log_odds.unbind(-1)
    return torch.stack((torch.zeros_like(crackle), crackle, wheeze, crackle + wheeze), dim=-1)


class LungSradForAudioClassification(LungSradPreTrainedModel):
    r"""
    The backbone with a linear classifier on the pooled features.

    Example:

    ```python
    >>> import torch
    >>> from modeling_lung_srad import LungSradConfig, LungSradForAudioClassification

    >>> model = LungSradForAudioClassification(LungSradConfig.tiny()).eval()
    >>> model(torch.zeros(2, 1024, 128)).logits.shape
    torch.Size([2, 4])

    ```"""

    # The loss is a plain mean, so the Trainer must scale it under gradient accumulation.
    accepts_loss_kwargs = False

    def __init__(self, config: LungSradConfig):
        super().__init__(config)
        self.lung_srad = LungSradModel(config)
        # CODEPATH: lung-srad-tiny has the head "sounds", DASS and the recipes of the paper have "classes".
        outputs = len(SOUNDS) if config.head == "sounds" else config.num_labels or 0
        self.head = nn.Linear(config.hidden_size, outputs)
        self.post_init()

    @can_return_tuple
    def forward(
        self, input_values: torch.Tensor, labels: torch.Tensor | None = None, **kwargs
    ) -> LungSradClassifierOutput:
        r"""
        Args:
            input_values (`torch.Tensor` of shape `(batch, frames, num_mel_bins)`):
                Normalised log-mel spectrogram of [`LungSradFeatureExtractor`]; any number of frames.
            labels (`torch.Tensor` of shape `(batch,)` or `(batch, num_labels)`, *optional*):
                Class indices, for their cross-entropy; floats of 0 and 1 for each label are for binary cross-entropy,
                and where there is one label, floats are for squared error. `config.problem_type` settles which.

        Raises:
            ValueError: if `input_values` has another shape.
        """
        outputs = self.lung_srad(input_values, **kwargs)
        logits = self.head(outputs.pooler_output)
        # CODEPATH: as above.
        if self.config.head == "sounds":
            logits = compose_classes(logits)
        # A copy, since the loss writes the kind of problem that it infers into the configuration.
        loss = None if labels is None else self.loss_function(labels, logits.float(), copy.copy(self.config))
        return LungSradClassifierOutput(
            loss=loss,
            logits=logits,
            pooler_output=outputs.pooler_output,
            hidden_states=outputs.hidden_states,
        )


__all__ = ["LungSradForAudioClassification", "LungSradModel", "LungSradPreTrainedModel", "compose_classes"]
