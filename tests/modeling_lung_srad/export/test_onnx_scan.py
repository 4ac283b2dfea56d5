"""The nodes of the scan in onnxruntime, against the torch scan."""

import pytest
import torch

from tests.conftest import tiny_config

pytest.importorskip("onnxruntime", reason="the export extra is not installed")

import onnxruntime

from modeling_lung_srad import LungSradForAudioClassification
from modeling_lung_srad.export.onnx_scan import DOMAIN, expand_scans, with_exported_scans
from modeling_lung_srad.modeling_lung_srad import LungSradSS2D


@pytest.mark.parametrize(("height", "width"), [(4, 12), (3, 7), (1, 5)])
def test_the_nodes_of_a_mixer_give_its_output_for_any_batch(height, width):
    torch.manual_seed(0)
    model = with_exported_scans(LungSradForAudioClassification(tiny_config()).eval())
    mixer = next(module for module in model.modules() if isinstance(module, LungSradSS2D))
    channels = mixer.inner_width
    program = torch.onnx.export(
        mixer.exported_scan.eval(),
        (torch.zeros(2, height, width, channels),),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        input_names=["map"],
        opset_version=20,
        verbose=False,
    )
    graph = expand_scans(program.model_proto)
    assert all(node.domain != DOMAIN for node in graph.graph.node)
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    for batch in (1, 3):
        hidden_states = torch.randn(batch, height, width, channels)
        (merged,) = session.run(None, {"map": hidden_states.numpy()})
        with torch.no_grad():
            expected = LungSradSS2D.scan(mixer, hidden_states)
        torch.testing.assert_close(torch.from_numpy(merged), expected, atol=1e-5, rtol=1e-5)
