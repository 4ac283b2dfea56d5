"""The Score of an exported network is that of the network."""

import numpy as np
import pytest
import torch

from dataset_scripts.simulated import simulate_cycle
from modeling_lung_srad import LungSradForAudioClassification
from tests.conftest import tiny_config
from training.metrics.icbhi_score.icbhi_measure import icbhi_score
from training.prediction.evaluate_checkpoint import predict

pytest.importorskip("onnxscript", reason="needs the extra `export`")
pytest.importorskip("onnxruntime", reason="needs the extra `export`")
from modeling_lung_srad.export.onnx_export import export_onnx
from training.prediction.exported_score import OnnxClassifier, exported_score


def test_score_and_probabilities_are_those_of_torch(simulated_sources, feature_extractor, tmp_path):
    torch.manual_seed(0)
    model = LungSradForAudioClassification(tiny_config(depths=(1, 1, 1, 1), gaussian_blocks=(0,))).eval()
    sounds = [simulate_cycle(label, 2.0, 16000, np.random.default_rng(label)) for label in range(3)]
    exported = export_onnx(model, feature_extractor, tmp_path / "onnx", sounds)
    _, cycles = simulated_sources
    expected = predict(model, feature_extractor, cycles)
    actual = predict(OnnxClassifier(exported.files[0], model.config), feature_extractor, cycles)
    np.testing.assert_allclose(actual, expected, atol=1e-5)
    score = icbhi_score(expected.argmax(axis=1), cycles.table["label"])["score"]
    assert exported_score(exported.files[0], model.config, feature_extractor, cycles) == pytest.approx(score)
