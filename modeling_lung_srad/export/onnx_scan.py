"""The four scans of a feature map in standard ONNX operators.

The algorithm is that of `torch_scan.py`, with as many steps as the map has rows and as many blocks as it has columns.
Blocks run side by side from zero, their last states are chained, and they run again from their true starts: three
`Scan` nodes, whatever the size of the map. Nothing is divided by a decay.

`torch.export` sees one `lung_srad::ScanMap` a block of the network, which makes it fast; `expand_scans` puts
`SCAN_MAP` in its place.
"""

import copy

import numpy as np
import onnx
import onnx.inliner
import torch
from onnx import parser
from torch import nn

from ..modeling_lung_srad import NUM_DIRECTIONS, LungSradForAudioClassification, LungSradSS2D

DOMAIN = "lung_srad"
STEP_SIZES = "step_sizes"
SCAN_MAP = f"""
<domain: "{DOMAIN}", opset_import: ["": 20]>
ScanMap <as_positions, as_projections, columns, as_steps, as_outputs, as_states, as_map>
(hidden_states, projected, skip, delta_weight, delta_bias, A, order, projected_order, place) => (merged)
{{
    to_positions = Constant <value_ints: ints = @as_positions> ()
    to_projections = Constant <value_ints: ints = @as_projections> ()
    to_columns = Constant <value_ints: ints = @columns> ()
    to_steps = Constant <value_ints: ints = @as_steps> ()
    to_outputs = Constant <value_ints: ints = @as_outputs> ()
    to_states = Constant <value_ints: ints = @as_states> ()
    to_map = Constant <value_ints: ints = @as_map> ()
    first = Constant <value_ints = [1]> ()
    second = Constant <value_ints = [2]> ()
    last = Constant <value_ints = [-1]> ()
    one = Constant <value_float = 1.0> ()
    linear_from = Constant <value_float = 20.0> ()

    # The four sequences (batch, 4, length, channels), their low-rank step sizes, input and output weights.
    positions = Reshape (hidden_states, to_positions)
    u = Gather <axis = 1> (positions, order)
    projections = Reshape (projected, to_projections)
    traversed = Gather <axis = 1> (projections, projected_order)
    low_rank, input_weights, output_weights = Split <axis = 3> (traversed, to_columns)
    B_by_state = Transpose <perm = [0, 1, 3, 2]> (input_weights)
    C_by_state = Transpose <perm = [0, 1, 3, 2]> (output_weights)
    B = Unsqueeze (B_by_state, last)
    C = Unsqueeze (C_by_state, last)

    # Softplus of Exp and Log, which onnxruntime runs several times faster; above 20 it is the identity in float32.
    # log(1 + e) is off by up to 6e-8, which is nothing beside steps whose sum over the memory of a state is about 1.
    [{STEP_SIZES}] projected_delta = MatMul (low_rank, delta_weight)
    delta = Add (projected_delta, delta_bias)
    bounded = Min (delta, linear_from)
    exponential = Exp (bounded)
    one_more = Add (exponential, one)
    logarithm = Log (one_more)
    step = Max (delta, logarithm)

    # Decays and drives (batch, 4, states, length, channels), by step (height, batch, 4 * states, width, channels).
    step_by_state = Unsqueeze (step, second)
    exponent = Mul (step_by_state, A)
    decay = Exp (exponent)
    driven = Mul (step, u)
    driven_by_state = Unsqueeze (driven, second)
    drive = Mul (driven_by_state, B)
    decay_blocks = Reshape (decay, to_steps)
    drive_blocks = Reshape (drive, to_steps)
    decays = Transpose <perm = [2, 0, 1, 3, 4]> (decay_blocks)
    drives = Transpose <perm = [2, 0, 1, 3, 4]> (drive_blocks)

    # The total decay and the last state of each block from zero, (batch, 4 * states, width, channels).
    block_shape = Shape <start = 1> (drives)
    zeros = ConstantOfShape (block_shape)
    ones = Add (zeros, one)
    total, end = Scan <num_scan_inputs = 2, body = ends
    (float[] total_before, float[] end_before, float[] decay_here, float[] drive_here)
    => (float[] total_after, float[] end_after)
    {{
        total_after = Mul (decay_here, total_before)
        kept_end = Mul (decay_here, end_before)
        end_after = Add (kept_end, drive_here)
    }}> (ones, zeros, decays, drives)

    # The state before each block.
    totals = Transpose <perm = [2, 0, 1, 3]> (total)
    ends = Transpose <perm = [2, 0, 1, 3]> (end)
    state_shape = Shape <start = 1> (ends)
    zero = ConstantOfShape (state_shape)
    unused_start, starts = Scan <num_scan_inputs = 2, body = chain
    (float[] start_before, float[] total_here, float[] end_here)
    => (float[] start_after, float[] start_here)
    {{
        start_here = Identity (start_before)
        kept_start = Mul (total_here, start_before)
        start_after = Add (kept_start, end_here)
    }}> (zero, totals, ends)
    start = Transpose <perm = [1, 2, 0, 3]> (starts)

    # All states.
    unused_state, states = Scan <num_scan_inputs = 2, body = run
    (float[] state_before, float[] decay_here_again, float[] drive_here_again)
    => (float[] state_after, float[] state_here)
    {{
        kept_state = Mul (decay_here_again, state_before)
        state_after = Add (kept_state, drive_here_again)
        state_here = Identity (state_after)
    }}> (start, decays, drives)

    # Outputs, each back at its position, summed over the scans and their states.
    state_blocks = Transpose <perm = [1, 2, 0, 3, 4]> (states)
    state_sequences = Reshape (state_blocks, to_outputs)
    output_sequences = Mul (state_sequences, C)
    outputs = Reshape (output_sequences, to_states)
    placed = Gather <axis = 1> (outputs, place)
    scanned = ReduceSum <keepdims = 0> (placed, first)
    skipped = Mul (positions, skip)
    summed = Add (scanned, skipped)
    merged = Reshape (summed, to_map)
}}
"""


class ExportedScan(nn.Module):
    r"""
    What `LungSradSS2D.scan` is replaced by in an export: the projection, and a node `lung_srad::ScanMap`.

    The inputs of the node are the map `(batch, height, width, channels)`; its projection `(batch, height, width,
    4 * (rank + 2 * states))`, which holds low-rank step sizes, input weights and output weights of each scan; the skip
    weights `(channels,)`, summed over the scans; weights `(4, rank, channels)` and biases `(4, 1, channels)` of the
    step sizes; the decay rates `(4, states, 1, channels)`; and the results of `traversal_indices`. Its output has the
    shape of the map.
    """

    def __init__(self, mixer: LungSradSS2D):
        super().__init__()
        self.state_size = mixer.state_size
        self.rank = mixer.rank
        self.x_proj = mixer.x_proj
        weights = [
            mixer.Ds.unflatten(0, (NUM_DIRECTIONS, -1)).sum(0),
            mixer.dt_projs().mT,
            mixer.dt_projs_bias.unsqueeze(1),
            -torch.exp(mixer.A_logs.float()).unflatten(0, (NUM_DIRECTIONS, -1)).mT.unsqueeze(2),
        ]
        self.weights = nn.ParameterList(nn.Parameter(x.clone().contiguous(), requires_grad=False) for x in weights)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        _, height, width, channels = hidden_states.shape
        length, states = height * width, self.state_size
        indices = (torch.from_numpy(index) for index in traversal_indices(height, width, states))
        return torch.onnx.ops.symbolic(
            f"{DOMAIN}::ScanMap",
            (hidden_states, self.x_proj(hidden_states), *self.weights, *indices),
            attrs={
                "as_positions": [-1, length, channels],
                "as_projections": [-1, NUM_DIRECTIONS * length, self.rank + 2 * states],
                "columns": [self.rank, states, states],
                "as_steps": [-1, NUM_DIRECTIONS * states, height, width, channels],
                "as_outputs": [-1, NUM_DIRECTIONS, states, length, channels],
                "as_states": [-1, NUM_DIRECTIONS * states * length, channels],
                "as_map": [-1, height, width, channels],
            },
            dtype=hidden_states.dtype,
            shape=hidden_states.shape,
            version=1,
        )


def traversal_indices(height: int, width: int, states: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Where the sequences, laid out by step, take their elements from and where these go.

    Element `i * width + j` of a sequence in this layout is its position `j * height + i`: step `i` of block `j`.

    Returns:
        int32 arrays: position in the map `(4, length)`, row in the projections `(4, length)`, and for each position of
        the map its row in the outputs `(4 * states, length)`.
    """
    positions = np.arange(height * width, dtype=np.int32).reshape(height, width)
    by_rows, by_columns = positions.reshape(width, height).T.ravel(), positions.ravel()
    order = np.stack([by_rows, by_columns, by_rows[::-1], by_columns[::-1]])
    scans = np.arange(NUM_DIRECTIONS, dtype=np.int32)[:, None]
    place = np.repeat(np.argsort(order, axis=1), states, axis=0)
    place += positions.size * np.arange(len(place))[:, None]
    return order, NUM_DIRECTIONS * order + scans, place.astype(np.int32)


@torch.no_grad()
def with_exported_scans(model: LungSradForAudioClassification) -> LungSradForAudioClassification:
    """A copy of a model for `torch.onnx.export` alone, in which every scan is one node."""
    model = copy.deepcopy(model).requires_grad_(False)
    for mixer in [module for module in model.modules() if isinstance(module, LungSradSS2D)]:
        mixer.exported_scan = ExportedScan(mixer)
        # A module would not take the place of the method.
        mixer.scan = mixer.exported_scan.forward  # type: ignore[method-assign]
    return model


def expand_scans(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with every `lung_srad::ScanMap` replaced by nodes of the standard operators."""
    if all(opset.domain != DOMAIN for opset in model.opset_import):
        model.opset_import.add(domain=DOMAIN, version=1)
    model.functions.append(parser.parse_function(SCAN_MAP))
    expanded = onnx.inliner.inline_local_functions(model)
    opsets = [opset for opset in expanded.opset_import if opset.domain != DOMAIN]
    del expanded.opset_import[:]
    expanded.opset_import.extend(opsets)
    return expanded
