"""The Score of an exported network on labelled cycles."""

import os
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from torch import nn

from modeling_lung_srad import LungSradConfig, LungSradFeatureExtractor
from modeling_lung_srad.export.onnx_export import INPUT, OUTPUT
from modeling_lung_srad.modeling_lung_srad import LungSradClassifierOutput
from training.data.cycle_sources import CycleSource
from training.metrics.icbhi_score.icbhi_measure import icbhi_score
from training.prediction.evaluate_checkpoint import predict
from training.prediction.evaluated_cycles import load_evaluated_cycles
from training.record.training_record import read_training_record


class OnnxClassifier(nn.Module):
    """An ONNX file in the place of a [`LungSradForAudioClassification`], as far as `predict` uses one."""

    device = torch.device("cpu")
    dtype = torch.float32

    def __init__(self, path: str | os.PathLike, config: LungSradConfig):
        super().__init__()
        self.config = config
        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def forward(self, input_values: torch.Tensor) -> LungSradClassifierOutput:
        (logits,) = self.session.run([OUTPUT], {INPUT: input_values.numpy()})
        return LungSradClassifierOutput(logits=torch.from_numpy(logits))


def load_scored_cycles(
    checkpoint: str | os.PathLike, data: str | os.PathLike, split: str = "official", part: str = "validation"
) -> CycleSource:
    """
    The cycles of one part, without what the training run of the checkpoint needs for itself.

    Args:
        checkpoint (`str` or `os.PathLike`): whose `training_summary.json` names the validation patients.
        data (`str` or `os.PathLike`): folder or zip of ICBHI 2017, or a folder that `lung-srad prepare` wrote.
        split (`str`, *optional*, defaults to `"official"`): `official`, `leak_free` or `fold0` to `fold4`.
        part (`str`, *optional*, defaults to `"validation"`): `test`, `validation` or `train`.

    Raises:
        ValueError: as `load_evaluated_cycles`.
    """
    return load_evaluated_cycles(data, split, part, read_training_record(checkpoint)).evaluated


def exported_score(
    path: Path, config: LungSradConfig, feature_extractor: LungSradFeatureExtractor, cycles: CycleSource
) -> float:
    """The 4-class Score, as a fraction, of an ONNX file on labelled cycles."""
    classifier: Any = OnnxClassifier(path, config)
    probabilities = predict(classifier, feature_extractor, cycles, description=path.name)
    return icbhi_score(probabilities.argmax(axis=1), cycles.table["label"])["score"]
