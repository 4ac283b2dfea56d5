"""The nodes of the scan in onnxruntime, against a recurrence in float64, one position after another."""

import numpy as np
import pytest
import torch

from tests.conftest import tiny_config

pytest.importorskip("onnxruntime", reason="the export extra is not installed")

import onnxruntime

from modeling_lung_srad import LungSradForAudioClassification
from modeling_lung_srad.export.onnx_scan import DOMAIN, expand_scans, with_exported_scans
from modeling_lung_srad.modeling_lung_srad import LungSradSS2D


def _mixer(**config):
    torch.manual_seed(0)
    model = LungSradForAudioClassification(tiny_config(**config)).eval().requires_grad_(False)
    return next(module for module in model.modules() if isinstance(module, LungSradSS2D))


def _session(mixer, height, width):
    """The scan of a mixer in onnxruntime, for maps of that size."""
    program = torch.onnx.export(
        with_exported_scans(torch.nn.Sequential(mixer))[0].exported_scan.eval(),
        (torch.zeros(2, height, width, mixer.inner_width),),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        input_names=["map"],
        opset_version=20,
        verbose=False,
    )
    graph = expand_scans(program.model_proto)
    assert all(node.domain != DOMAIN for node in graph.graph.node)
    return onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])


def _scan_one_by_one(mixer, hidden_states):
    """The sum of the four scans of maps `(batch, height, width, channels)`."""
    batch, height, width, channels = hidden_states.shape
    rank, states = mixer.rank, mixer.state_size
    u = hidden_states.numpy().astype(np.float64).reshape(batch, height * width, channels)
    x_proj, weights, biases, A_logs, skip = (
        x.numpy().astype(np.float64).reshape(4, *shape)
        for x, shape in (
            (mixer.x_proj.weight, (rank + 2 * states, channels)),
            (mixer.dt_projs.weight, (channels, rank)),
            (mixer.dt_projs_bias, (channels,)),
            (mixer.A_logs, (channels, states)),
            (mixer.Ds, (channels,)),
        )
    )
    by_rows = np.arange(height * width)
    by_columns = by_rows.reshape(height, width).T.ravel()
    total = np.zeros_like(u)
    for scan, order in enumerate((by_rows, by_columns, by_rows[::-1], by_columns[::-1])):
        low_rank, B, C = np.split(u @ x_proj[scan].T, [rank, rank + states], axis=-1)
        step = np.logaddexp(0, low_rank @ weights[scan].T + biases[scan])
        state = np.zeros((batch, channels, states))
        for position in order:
            decay = np.exp(step[:, position, :, None] * -np.exp(A_logs[scan]))
            state = decay * state + (step * u)[:, position, :, None] * B[:, position, None]
            total[:, position] += (state * C[:, position, None]).sum(-1) + skip[scan] * u[:, position]
    return total.reshape(hidden_states.shape)


@pytest.mark.parametrize(("height", "width", "states"), [(4, 12, 1), (3, 7, 3), (1, 5, 1)])
def test_the_nodes_of_a_mixer_give_its_output_for_any_batch(height, width, states):
    mixer = _mixer(ssm_state_size=states)
    session = _session(mixer, height, width)
    for batch in (1, 3):
        hidden_states = torch.randn(batch, height, width, mixer.inner_width)
        (merged,) = session.run(None, {"map": hidden_states.numpy()})
        np.testing.assert_allclose(merged, _scan_one_by_one(mixer, hidden_states), atol=1e-5, rtol=1e-5)


def test_long_maps_stay_exact_where_states_last_and_where_they_vanish():
    mixer = _mixer()
    # Sums of exponents over the 6,000 positions run from -0.06 to beyond what a float32 can be the exponential of.
    mixer.dt_projs_bias.copy_(torch.linspace(-11.5, 60, mixer.dt_projs_bias.numel()).view_as(mixer.dt_projs_bias))
    hidden_states = torch.randn(1, 2, 3000, mixer.inner_width)
    (merged,) = _session(mixer, 2, 3000).run(None, {"map": hidden_states.numpy()})
    expected = _scan_one_by_one(mixer, hidden_states)
    np.testing.assert_allclose(merged, expected, atol=1e-5 * np.abs(expected).max(), rtol=1e-4)
