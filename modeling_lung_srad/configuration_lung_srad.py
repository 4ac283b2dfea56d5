# SPDX-License-Identifier: Apache-2.0 (trf-ignore: TRF028, which wants the whole notice)
"""Lung-SRAD model configuration."""

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .errors import InputError

CLASS_NAMES = ("normal", "crackle", "wheeze", "both")

# Limits of a settings file, which may be a stranger's. More takes minutes to build, or more memory than there is.
MAX_BLOCKS, MAX_WIDTH, MAX_STATES, MAX_RATIO, MAX_MEL_BINS, MAX_LABELS = 200, 65536, 1024, 64, 4096, 10_000
MAX_KERNEL_SIZE, SMALLEST_SIGMA, LARGEST_SIGMA = 1001, 0.01, 1000.0
LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.05, 20.0
AUTO_MAP = {
    "AutoConfig": "configuration_lung_srad.LungSradConfig",
    "AutoModel": "modeling_lung_srad.LungSradModel",
    "AutoModelForAudioClassification": "modeling_lung_srad.LungSradForAudioClassification",
}
PIPELINE_FILE = "pipeline_lung_srad.py"


def class_columns(id2label: Mapping, what: str) -> list[int]:
    """
    Columns of the logits in the order of `CLASS_NAMES`.

    Args:
        id2label (`Mapping`): label of each column, in any order.
        what (`str`): what messages call the model.

    Raises:
        InputError: where the columns 0 to 3 do not have the four classes.
    """
    columns = {str(name): int(column) for column, name in id2label.items()}
    if sorted(columns) != sorted(CLASS_NAMES) or sorted(columns.values()) != list(range(len(CLASS_NAMES))):
        shown = ", ".join(f"{column}: {name}" for column, name in list(id2label.items())[:4])
        raise InputError(
            what,
            f"has {len(id2label)} labels ({shown}{', ...' if len(id2label) > 4 else ''}) where classification "
            f"needs the four {', '.join(CLASS_NAMES)} in the columns 0 to 3, in any order",
            'use it by pipeline("audio-classification", ...), or fine-tune it by `lung-srad train`',
        )
    return [columns[name] for name in CLASS_NAMES]


@strict
class LungSradConfig(PreTrainedConfig):
    r"""
    Configuration of a [`LungSradModel`]: the DASS backbone (arXiv 2407.04082) with the spectral-aware layer
    regularization of Lung-SRAD (arXiv 2606.11922). [`LungSradConfig.tiny`], [`LungSradConfig.small`] and
    [`LungSradConfig.medium`] are the named sizes. The default labels are the four classes of ICBHI 2017.

    Args:
        dims (`tuple[int, ...]`, *optional*, defaults to `(96, 192, 384, 768)`):
            Channels of the stages.
        depths (`tuple[int, ...]`, *optional*, defaults to `(2, 2, 20, 2)`):
            Blocks per stage.
        ssm_state_size (`int`, *optional*, defaults to 1):
            Size N of the state of each channel.
        ssm_ratio (`float`, *optional*, defaults to 1.0):
            Channels inside the scan, as a multiple of those of the stage.
        mlp_ratio (`float`, *optional*, defaults to 4.0):
            Hidden width of the MLP, as a multiple of the channels of the stage.
        hidden_act (`str`, *optional*, defaults to `"gelu"`):
            Activation of the MLP and of the patch embedding.
        drop_path_rate (`float`, *optional*, defaults to 0.3):
            Stochastic depth of the last block; it rises linearly from 0.
        num_mel_bins (`int`, *optional*, defaults to 128):
            Mel bins of `input_values`.
        initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation of the truncated normal that initialises linear weights. `None`: the inverse root of
            their number of inputs, and He's for convolutions (arXiv 1502.01852), with which narrow networks learn
            faster from random weights.
        layer_norm_eps (`float`, *optional*, defaults to 1e-05):
            Epsilon of all layer norms.
        gaussian_stage (`int`, *optional*, defaults to 2):
            Stage, counted from 0, whose blocks are regularized.
        gaussian_blocks (`tuple[int, ...]`, *optional*, defaults to `(2, 3)`):
            Regularized blocks of that stage, counted from 0. Empty: no regularization.
        gaussian_kernel_size (`int`, *optional*, defaults to 5):
            Odd width of the Gaussian kernel, in patches.
        gaussian_sigma (`float`, *optional*, defaults to 3.0):
            Standard deviation of the Gaussian kernel, in patches.
        gaussian_position (`str`, *optional*, defaults to `"scan_input"`):
            Where it acts: `"scan_input"` (after depthwise convolution and SiLU), `"scan_output"` (before the output
            norm) or `"block_output"`. The paper does not say; the default is this project's choice.
        gaussian_at_inference (`bool`, *optional*, defaults to `True`):
            Whether it also acts outside training. The paper does not say; the default is this project's choice.
        scan_backend (`str`, *optional*, defaults to `"auto"`):
            Back end of [`selective_scan`]: `"auto"`, `"torch"`, `"numba"`, `"triton"` or `"mamba_ssm"`. One that
            cannot run where the model is falls back to torch and says so once.
        head (`str`, *optional*, defaults to `"classes"`):
            `"classes"`: a linear layer with an output for each label. `"sounds"`: two outputs, the log odds of crackle
            and of wheeze, from which the logits of the four classes are composed as if the two were independent.
        window_seconds (`float`, *optional*):
            Window of [`LungSoundPipeline`] by default, of a model that learnt from stretches of recordings: it hears
            windows as long as they are. `None`: 8 seconds, or what the model hears at once if less, and shorter
            windows are repeated as cycles are.
        crackle_threshold, wheeze_threshold (`float`, *optional*):
            Calibrated probability from which [`LungSoundPipeline`] names the sound in the label of a window or cycle,
            fitted on validation patients; `None`: the label is the most probable class.
        context_weight (`float`, *optional*):
            How much the windows around it count in the answer of [`LungSoundPipeline`] for a window, see
            [`add_context`]; `None`: not at all. It goes with the head `"sounds"`.
        temperature (`float`, *optional*):
            What [`LungSoundPipeline`] divides the logits by before the softmax, fitted on validation patients
            (arXiv 1706.04599); `None`: the probabilities are not calibrated. The logits of the model are not scaled.
            Who trains the weights further sets it to `None`, as `lung-srad train` does.
        familiarity_digest (`str`, *optional*):
            `digest` of the `familiarity.safetensors` that was fitted to the training cycles of these weights; the
            pipeline uses no other. Who trains the weights further sets it to `None`.

    Example:

    ```python
    >>> from modeling_lung_srad import LungSradConfig, LungSradModel

    >>> config = LungSradConfig.tiny()
    >>> model = LungSradModel(config)
    >>> config.id2label
    {0: 'normal', 1: 'crackle', 2: 'wheeze', 3: 'both'}

    ```"""

    model_type = "lung_srad"
    keys_to_ignore_at_inference = ["pooler_output", "hidden_states"]

    dims: list[int] | tuple[int, ...] = (96, 192, 384, 768)
    depths: list[int] | tuple[int, ...] = (2, 2, 20, 2)
    ssm_state_size: int = 1
    ssm_ratio: float | int = 1.0
    mlp_ratio: float | int = 4.0
    hidden_act: str = "gelu"
    drop_path_rate: float | int = 0.3
    num_mel_bins: int = 128
    initializer_range: float | None = 0.02
    layer_norm_eps: float = 1e-5
    gaussian_stage: int = 2
    gaussian_blocks: list[int] | tuple[int, ...] = (2, 3)
    gaussian_kernel_size: int = 5
    gaussian_sigma: float | int = 3.0
    gaussian_position: Literal["scan_input", "scan_output", "block_output"] = "scan_input"
    gaussian_at_inference: bool = True
    scan_backend: Literal["auto", "torch", "numba", "triton", "mamba_ssm"] = "auto"
    head: Literal["classes", "sounds"] = "classes"
    window_seconds: float | int | None = None
    context_weight: float | None = None
    crackle_threshold: float | None = None
    wheeze_threshold: float | None = None
    temperature: float | int | None = None
    familiarity_digest: str | None = None

    def __post_init__(self, **kwargs):
        given_type = kwargs.get("model_type", self.model_type)
        if given_type != self.model_type:
            raise InputError(
                "model_type",
                f"is {given_type!r}, so these weights have other names",
                "load those of DASS by modeling_lung_srad.conversion.convert_checkpoint",
            )
        num_labels = kwargs.get("num_labels")
        # Each label gets a name.
        if num_labels is not None and not (isinstance(num_labels, int) and 0 < num_labels <= MAX_LABELS):
            raise InputError("num_labels", f"must be a whole number from 1 to {MAX_LABELS}, got {num_labels!r}")
        if not isinstance(self.output_hidden_states, bool | None):
            raise InputError("output_hidden_states", f"must be true or false, got {self.output_hidden_states!r}")
        if self.id2label is None and kwargs.get("num_labels") in (None, len(CLASS_NAMES)):
            self.id2label = dict(enumerate(CLASS_NAMES))
            self.label2id = {name: index for index, name in enumerate(CLASS_NAMES)}
        super().__post_init__(**kwargs)

    @property
    def hidden_size(self) -> int:
        """Width of `pooler_output`."""
        return self.dims[-1]

    @property
    def num_hidden_layers(self) -> int:
        """Number of stages, which are what `hidden_states` holds after the patch embedding."""
        return len(self.depths)

    def to_diff_dict(self) -> dict[str, Any]:
        """The settings that `config.json` has: with the labels, as transformers leaves out its own two, and, beside a
        model, with the classes of backbone and classifier, as transformers names the saved one alone."""
        settings = super().to_diff_dict() | {"id2label": self.id2label, "label2id": self.label2id}
        if {"AutoModel", "AutoModelForAudioClassification"} & (settings.get("auto_map") or {}).keys():
            settings["auto_map"] = settings["auto_map"] | AUTO_MAP
        return settings

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any) -> None:
        """As in transformers. The pipeline of a loaded checkpoint is named only where its code was saved before."""
        saved = self
        if hasattr(self, "custom_pipelines") and not Path(save_directory, PIPELINE_FILE).exists():
            saved = copy.deepcopy(self)
            del saved.custom_pipelines
        super(LungSradConfig, saved).save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)

    def validate_backbone(self):
        """Checks widths and depths."""
        if not self.dims or len(self.dims) != len(self.depths):
            raise InputError(
                "dims, depths", f"need one entry per stage, got {len(self.dims)} and {len(self.depths)} entries"
            )
        if min(self.dims) < 2 or min(self.depths) < 1:
            raise InputError("dims, depths", f"must be at least 2 and 1, got {self.dims} and {self.depths}")
        largest = {
            "ssm_state_size": MAX_STATES,
            "ssm_ratio": MAX_RATIO,
            "mlp_ratio": MAX_RATIO,
            "num_mel_bins": MAX_MEL_BINS,
        }
        for name, most in largest.items():
            if not 0 < getattr(self, name) <= most:
                raise InputError(name, f"must be positive and at most {most}, got {getattr(self, name)}")
        if int(min(self.ssm_ratio, self.mlp_ratio) * min(self.dims)) < 1:
            raise InputError("ssm_ratio, mlp_ratio", f"leave no channel of {min(self.dims)}", "make them larger")
        if sum(self.depths) > MAX_BLOCKS or max(self.dims) > MAX_WIDTH:
            raise InputError(
                "depths, dims",
                f"must have at most {MAX_BLOCKS} blocks in all and {MAX_WIDTH} channels, got {self.depths} and "
                f"{self.dims}",
            )
        if self.temperature is not None and not LOWEST_TEMPERATURE <= self.temperature <= HIGHEST_TEMPERATURE:
            raise InputError(
                "temperature",
                f"must be None, or {LOWEST_TEMPERATURE} to {HIGHEST_TEMPERATURE}, got {self.temperature}",
            )
        for name in ("crackle_threshold", "wheeze_threshold"):
            if getattr(self, name) is not None and not 0 < getattr(self, name) < 1:
                raise InputError(name, f"must be None or between 0 and 1, got {getattr(self, name)}")
        if self.context_weight is not None and (self.head != "sounds" or not 0 <= self.context_weight <= 1):
            raise InputError(
                "context_weight", f"must be None, or 0 to 1 with head 'sounds', got {self.context_weight}"
            )
        if self.window_seconds is not None and not self.window_seconds > 0:
            raise InputError("window_seconds", f"must be None or positive, got {self.window_seconds}")
        if self.head == "sounds" and self.num_labels != len(CLASS_NAMES):
            raise InputError("head", f"'sounds' composes {len(CLASS_NAMES)} labels, not {self.num_labels}")
        if not 0 <= self.drop_path_rate < 1:
            raise InputError("drop_path_rate", f"must be in [0, 1), got {self.drop_path_rate}")

    def validate_gaussian(self):
        """Checks the regularization."""
        if not self.gaussian_blocks:
            return
        if not 1 <= self.gaussian_kernel_size <= MAX_KERNEL_SIZE or self.gaussian_kernel_size % 2 == 0:
            raise InputError(
                "gaussian_kernel_size",
                f"must be odd, positive and at most {MAX_KERNEL_SIZE}, got {self.gaussian_kernel_size}",
            )
        if not SMALLEST_SIGMA <= self.gaussian_sigma <= LARGEST_SIGMA:
            raise InputError(
                "gaussian_sigma", f"must be {SMALLEST_SIGMA} to {LARGEST_SIGMA}, got {self.gaussian_sigma}"
            )
        if not 0 <= self.gaussian_stage < len(self.depths):
            raise InputError("gaussian_stage", f"must be 0 to {len(self.depths) - 1}, got {self.gaussian_stage}")
        depth = self.depths[self.gaussian_stage]
        if not all(0 <= block < depth for block in self.gaussian_blocks):
            raise InputError(
                "gaussian_blocks",
                f"must be 0 to {depth - 1}, the blocks of stage {self.gaussian_stage}, got "
                f"{tuple(self.gaussian_blocks)}",
                "an empty tuple switches the regularization off",
            )

    @classmethod
    def tiny(cls, **kwargs: Any) -> "LungSradConfig":
        """The size of the embedded checkpoint, 1.5 M parameters: trains on a laptop."""
        settings: dict[str, Any] = {"dims": (24, 48, 96, 192), "depths": (1, 2, 4, 2), "drop_path_rate": 0.1}
        return cls(**(settings | kwargs))

    @classmethod
    def small(cls, **kwargs: Any) -> "LungSradConfig":
        """DASS-small, 29.5 M parameters."""
        settings: dict[str, Any] = {"depths": (2, 2, 8, 2), "drop_path_rate": 0.2}
        return cls(**(settings | kwargs))

    @classmethod
    def medium(cls, **kwargs: Any) -> "LungSradConfig":
        """DASS-medium, the size of the paper, 48.2 M parameters."""
        return cls(**kwargs)


__all__ = ["LungSradConfig"]
