"""Exports a classifier to ONNX for onnxruntime, and keeps it only where its logits are those of torch.

The result is a folder in the layout of `optimum`: `model.onnx`, `config.json` and `preprocessor_config.json`. Smaller
files may stand beside them: `model_fp16.onnx` with float16 weights and `model_quantized.onnx` with int8 weights.
"""

import contextlib
import copy
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from google.protobuf.message import DecodeError
from onnx import helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import nn

from ..errors import InputError
from ..feature_extraction_lung_srad import FEWEST_FRAMES, LungSradFeatureExtractor
from ..files.output_files import partial_folder
from ..modeling_lung_srad import LungSradForAudioClassification
from .onnx_scan import STEP_SIZES, expand_scans, with_exported_scans

OPSET = 20
INPUT, OUTPUT = "input_values", "logits"
MODEL_FILE, FLOAT16_FILE, INT8_FILE = "model.onnx", "model_fp16.onnx", "model_quantized.onnx"
CONFIG_FILES = ("config.json", "preprocessor_config.json")
# Eleven minutes of sound: more is a slip, and memory for it would run out without a word.
MAX_FRAMES = 2**16
LARGEST_DIFFERENCE = 1e-3
CHECKED_BATCHES = (1, 3)
# Biases and norms stay in float32: they are small.
FEWEST_IN_FLOAT16 = 1024


@dataclass(frozen=True)
class OnnxExport:
    """
    What an export wrote.

    Args:
        folder (`Path`): where it is.
        num_frames (`int`): frames of `input_values`.
        differences (`dict[str, float]`): for each network, by file name, `model.onnx` first, the largest difference of
            its logits from those of torch.
    """

    folder: Path
    num_frames: int
    differences: dict[str, float]

    @property
    def files(self) -> list[Path]:
        """The written files, the networks first."""
        return [self.folder / name for name in (*self.differences, *CONFIG_FILES)]


def check_destination(destination: str | os.PathLike, force: bool = False) -> None:
    """
    Checks before any work is done that an export can be written.

    Raises:
        InputError: where the folder holds something and `force` is not set, holds a checkpoint, is a file or lies in
            one, or cannot be written to.
    """
    destination = Path(destination)
    existing = _existing_path(destination)
    if not existing.is_dir():
        place = "is" if existing == Path(os.path.realpath(destination)) else f"{existing} is"
        raise InputError(destination, f"{place} a file", "name a new folder")
    if destination.is_dir():
        names = [path.name for path in destination.iterdir() if not path.name.startswith(".")]
        # A killed export leaves the hidden folder, which shows whose the other files are.
        if names and not force and not _partial(destination).exists():
            raise InputError(destination, "holds something already", "name a new folder, or replace it by --force")
        of_another = MODEL_FILE not in names and any(name in names for name in CONFIG_FILES)
        if of_another or any(name.endswith(".safetensors") for name in names):
            raise InputError(destination, "holds a checkpoint, which --force does not replace", "name a new one")
    if not os.access(existing, os.W_OK):
        raise InputError(destination, f"{existing} is not writable", "choose another folder")


def export_onnx(
    model: LungSradForAudioClassification,
    feature_extractor: LungSradFeatureExtractor,
    destination: str | os.PathLike,
    waveforms: Sequence[np.ndarray],
    num_frames: int | None = None,
    float16: bool = False,
    int8: bool = False,
    force: bool = False,
    say: Callable[[str], object] = lambda step: None,
) -> OnnxExport:
    r"""
    Writes a classifier as ONNX with a batch of any size and a fixed number of frames.

    The result is checked by `onnx.checker` and, on features of `waveforms` in batches of 1 and 3, against torch. It is
    moved to its place when all is done: an export that fails or is interrupted leaves nothing, and one that is killed
    at most a hidden folder.

    Args:
        model ([`LungSradForAudioClassification`]): in float32 and on a CPU.
        feature_extractor ([`LungSradFeatureExtractor`]): the one that goes with it.
        destination (`str` or `os.PathLike`): folder to make.
        waveforms (sequence of at least three `np.ndarray`): sounds at the rate of the extractor to check it with.
        num_frames (`int`, *optional*): frames of `input_values`, from 32 to 65536; those of the extractor by default.
            The saved extractor makes as many.
        float16 (`bool`, *optional*, defaults to `False`): whether to write `model_fp16.onnx` too.
        int8 (`bool`, *optional*, defaults to `False`): whether to write `model_quantized.onnx` too.
        force (`bool`, *optional*, defaults to `False`): whether the files of an earlier export may be replaced.
        say (callable, *optional*): is told which step comes.

    Returns:
        [`OnnxExport`]

    Raises:
        InputError: where `num_frames` is too small or too large, or the logits differ from those of torch by more
            than 1e-3;
            as [`check_destination`].
    """
    destination = Path(destination)
    check_destination(destination, force)
    num_frames = feature_extractor.num_frames if num_frames is None else num_frames
    if num_frames < FEWEST_FRAMES:
        raise InputError("frames", f"{num_frames} is too few for four stages", f"give {FEWEST_FRAMES} or more")
    if num_frames > MAX_FRAMES:
        raise InputError("frames", f"{num_frames} is too many", f"give {MAX_FRAMES} or fewer")
    feature_extractor = copy.deepcopy(feature_extractor)
    feature_extractor.num_frames = num_frames
    input_values = feature_extractor(
        list(waveforms), sampling_rate=feature_extractor.sampling_rate, return_tensors="pt"
    )[INPUT]

    with partial_folder(_partial(destination), destination) as temporary:
        say("trace and translate")
        onnx_model = build_onnx(model, num_frames)
        _describe(onnx_model, model, feature_extractor)
        say("check")
        onnx.checker.check_model(onnx_model, full_check=True)
        onnx.save(onnx_model, temporary / MODEL_FILE)
        difference = largest_difference(temporary / MODEL_FILE, model, input_values)
        if not difference <= LARGEST_DIFFERENCE:
            raise InputError(
                destination,
                f"not written, as its logits differ from those of torch by {difference:.2g}, more than "
                f"{LARGEST_DIFFERENCE:g}",
                "report this with the versions of torch, onnx and onnxruntime",
            )
        differences = {MODEL_FILE: difference}
        if float16:
            say("store weights in float16")
            store_in_float16(temporary / MODEL_FILE, temporary / FLOAT16_FILE)
            differences[FLOAT16_FILE] = largest_difference(temporary / FLOAT16_FILE, model, input_values)
        if int8:
            say("make int8 weights")
            quantize_weights(temporary / MODEL_FILE, temporary / INT8_FILE)
            differences[INT8_FILE] = largest_difference(temporary / INT8_FILE, model, input_values)
        model.config.to_json_file(temporary / "config.json")
        feature_extractor.to_json_file(temporary / "preprocessor_config.json")
        result = OnnxExport(destination, num_frames, differences)
        if destination.is_dir():
            # Those of an earlier export would not belong to the new network.
            for name in (FLOAT16_FILE, INT8_FILE):
                (destination / name).unlink(missing_ok=True)
            for path in result.files:
                (temporary / path.name).replace(path)
        else:
            place = Path(os.path.realpath(destination))
            place.parent.mkdir(parents=True, exist_ok=True)
            temporary.replace(place)
    return result


def _partial(destination: str | os.PathLike) -> Path:
    """The hidden folder to write to: in the destination, or in what exists nearest above it."""
    return _existing_path(destination) / f".{Path(destination).name}.partial"


def _existing_path(destination: str | os.PathLike) -> Path:
    """The destination, or what exists nearest above it; links are followed."""
    path = Path(os.path.realpath(destination))
    return next(existing for existing in (path, *path.parents) if existing.exists())


def build_onnx(model: LungSradForAudioClassification, num_frames: int) -> onnx.ModelProto:
    """The network from `input_values` `(batch, num_frames, mel)` to `logits` `(batch, labels)`, unchecked."""
    example = torch.zeros(2, num_frames, model.config.num_mel_bins)
    with _quiet_exporter(), torch.no_grad():
        program: Any = torch.onnx.export(
            _Logits(with_exported_scans(model)).eval(),
            (example,),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            input_names=[INPUT],
            output_names=[OUTPUT],
            opset_version=OPSET,
            verbose=False,
        )
    return expand_scans(program.model_proto)


def largest_difference(path: Path, model: LungSradForAudioClassification, input_values: torch.Tensor) -> float:
    """Between the logits of an ONNX file in onnxruntime and those of torch, in each of `CHECKED_BATCHES`."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    differences = []
    for size in CHECKED_BATCHES:
        batch = input_values[:size]
        with torch.inference_mode():
            expected = model(batch).logits.numpy()
        (logits,) = session.run([OUTPUT], {INPUT: batch.numpy()})
        differences.append(np.abs(logits - expected).max())
    return float(np.max(differences))


def store_in_float16(source: Path, destination: Path) -> None:
    """Writes a network whose large weights are stored in float16 and cast when it is loaded; it runs in float32."""
    network = onnx.load(source)
    casts = []
    for tensor in network.graph.initializer:
        weights = numpy_helper.to_array(tensor)
        if weights.dtype == np.float32 and weights.size >= FEWEST_IN_FLOAT16:
            stored = f"{tensor.name}_float16"
            casts.append(helper.make_node("Cast", [stored], [tensor.name], to=onnx.TensorProto.FLOAT))
            tensor.CopyFrom(numpy_helper.from_array(weights.astype(np.float16), stored))
    nodes = [*casts, *network.graph.node]
    del network.graph.node[:]
    network.graph.node.extend(nodes)
    onnx.save(network, destination)


def quantize_weights(source: Path, destination: Path) -> None:
    """Writes a network whose linear layers have int8 weights, with a scale for each output, and int8 activations.

    The projections of the step sizes stay in float32: they are small, and errors of the steps add up over a sequence.

    Raises:
        InputError: where the disk is full.
    """
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # It recommends a preparation that changes nothing here.
    names = [node.name for node in onnx.load(source).graph.node]
    try:
        quantize_dynamic(
            source,
            destination,
            op_types_to_quantize=["MatMul"],
            nodes_to_exclude=[name for name in names if name.startswith(STEP_SIZES)],
            per_channel=True,
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )
    except DecodeError as error:
        # onnx notices no full disk when it writes the file that onnxruntime then reads.
        raise InputError(
            destination, "cannot be written whole", "free space on its disk and start the same command again"
        ) from error
    finally:
        root.setLevel(level)


class _Logits(nn.Module):
    """The classifier with one tensor in and one out."""

    def __init__(self, model: LungSradForAudioClassification):
        super().__init__()
        self.model = model

    def forward(self, input_values: torch.Tensor) -> torch.Tensor:
        return self.model(input_values).logits


def _describe(
    onnx_model: onnx.ModelProto, model: LungSradForAudioClassification, feature_extractor: LungSradFeatureExtractor
) -> None:
    """Writes what a user of the file alone needs into its metadata."""
    onnx_model.producer_name = "lung-srad"
    onnx_model.doc_string = "Lung-SRAD. Research software, not a medical device."
    labels = {str(index): name for index, name in sorted((model.config.id2label or {}).items())}
    about = {
        "opset": OPSET,
        "input": f"{INPUT} (batch, {feature_extractor.num_frames}, {feature_extractor.num_mel_bins}) float32",
        "output": f"{OUTPUT} (batch, {len(labels)}) float32",
        "frames": feature_extractor.num_frames,
        "sampling_rate": feature_extractor.sampling_rate,
        "labels": json.dumps(labels),
    }
    helper.set_model_props(onnx_model, {name: str(value) for name, value in about.items()})


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Without what the exporter says about torchvision and about deprecated parts of torch itself."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
