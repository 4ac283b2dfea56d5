"""The four scans of a feature map as ONNX nodes that onnxruntime runs about as fast as torch runs its own scan.

The algorithm is that of `selective_scan`: blocks of a sequence side by side, first from zero, then from their true
starts. The layout differs: nothing is transposed or reversed. `Split` takes the steps out of the map as it lies, and
the reversed scans run through the pieces backwards. Softplus and decays are written with `Exp` and `Log`, which
onnxruntime runs several times faster than `Softplus` and `Pow`.

`torch.export` sees one `lung_srad::ScanMap` a block, which makes it fast; `expand_scans` writes the nodes of each.
"""

import copy
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import torch
from onnx import helper, numpy_helper
from torch import nn

from ..modeling_lung_srad import NUM_DIRECTIONS, LungSradForAudioClassification, LungSradSS2D

DOMAIN, NAME = "lung_srad", "ScanMap"
LONGEST_CHAIN = 8
# Above, softplus(x) is x in float32.
LINEAR_FROM = 20.0
INPUTS = [
    "hidden_states",
    "projected",
    "skip",
    *(f"{name}_{scan}" for name in ("delta_weight", "delta_bias", "A") for scan in range(NUM_DIRECTIONS)),
]


class ExportedScan(nn.Module):
    r"""
    What `LungSradSS2D.scan` is replaced by in an export: the projection, and a node `lung_srad::ScanMap`.

    The inputs of the node are the map `(batch, height, width, channels)`; its projection `(batch, height, width,
    4 * (rank + 2 * states))`, which holds low-rank step sizes, input weights and output weights of each scan; the skip
    weights `(channels,)`, summed over the scans; and for each scan the projection `(rank, channels)` and bias
    `(channels,)` of the step sizes and the decay rates `(channels * states,)`. Its output has the shape of the map.
    """

    def __init__(self, mixer: LungSradSS2D):
        super().__init__()
        self.state_size = mixer.state_size
        self.x_proj = mixer.x_proj
        weights = [
            mixer.Ds.unflatten(0, (NUM_DIRECTIONS, -1)).sum(0),
            *mixer.dt_projs.weight.unflatten(0, (NUM_DIRECTIONS, -1)).mT,
            *mixer.dt_projs_bias,
            *-torch.exp(mixer.A_logs.float()).view(NUM_DIRECTIONS, -1),
        ]
        self.weights = nn.ParameterList(nn.Parameter(x.clone().contiguous(), requires_grad=False) for x in weights)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        _, height, width, channels = hidden_states.shape
        sizes = {"height": height, "width": width, "channels": channels, "states": self.state_size}
        return torch.onnx.ops.symbolic(
            f"{DOMAIN}::{NAME}",
            (hidden_states, self.x_proj(hidden_states), *self.weights),
            attrs=sizes | {"rank": self.weights[1].shape[0]},
            dtype=hidden_states.dtype,
            shape=hidden_states.shape,
            version=1,
        )


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
    opsets = [opset for opset in model.opset_import if opset.domain != DOMAIN]
    if len(opsets) == len(model.opset_import):
        model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    functions = {}
    for node in model.graph.node:
        if node.domain == DOMAIN:
            sizes = {attribute.name: attribute.i for attribute in node.attribute}
            node.op_type = "_".join([NAME, *map(str, sizes.values())])
            del node.attribute[:]
            if node.op_type not in functions:
                nodes = _Nodes()
                output = _scan_map(nodes, **sizes)
                functions[node.op_type] = helper.make_function(
                    DOMAIN, node.op_type, INPUTS, [output], nodes.written, opsets
                )
    model.functions.extend(functions.values())
    expanded = onnx.inliner.inline_local_functions(model)
    del expanded.opset_import[:]
    expanded.opset_import.extend(opsets)
    return expanded


class _Nodes:
    """Writes ONNX nodes; arrays among their inputs become constants."""

    def __init__(self) -> None:
        self.written: list[onnx.NodeProto] = []

    def add(self, op_type: str, *inputs: str | np.ndarray, **attributes: Any) -> str:
        """Adds a node with one output and returns the name of that."""
        return self.add_many(op_type, 1, *inputs, **attributes)[0]

    def add_many(self, op_type: str, outputs: int, *inputs: str | np.ndarray, **attributes: Any) -> list[str]:
        names = [x if isinstance(x, str) else self._constant(x) for x in inputs]
        results = [f"{op_type}_{len(self.written)}_{index}" for index in range(outputs)]
        self.written.append(helper.make_node(op_type, names, results, **attributes))
        return results

    def _constant(self, value: np.ndarray) -> str:
        name = f"constant_{len(self.written)}"
        self.written.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value)))
        return name

    def reshape(self, x: str, *shape: int) -> str:
        return self.add("Reshape", x, _whole(*shape))

    def split(self, x: str, axis: int, parts: int, is_reversed: bool) -> list[str]:
        """Pieces of length 1, in the order of the scan."""
        if parts == 1:
            return [x]
        pieces = self.add_many("Split", parts, x, axis=axis, num_outputs=parts)
        return pieces[::-1] if is_reversed else pieces

    def concat(self, pieces: Sequence[str], axis: int, is_reversed: bool) -> str:
        return self.add("Concat", *(pieces[::-1] if is_reversed else pieces), axis=axis)

    def run(self, decays: Sequence[str], drives: Sequence[str], state: str | None = None) -> list[str]:
        """All `h_t = decay_t h_{t-1} + drive_t`, from a state or from zero."""
        states = []
        for decay, drive in zip(decays, drives, strict=True):
            state = drive if state is None else self.add("Add", self.add("Mul", decay, state), drive)
            states.append(state)
        return states

    def product(self, factors: Sequence[str]) -> str:
        product = factors[0]
        for factor in factors[1:]:
            product = self.add("Mul", product, factor)
        return product


def _whole(*numbers: int) -> np.ndarray:
    return np.array(numbers, dtype=np.int64)


def _scan_map(nodes: _Nodes, height: int, width: int, channels: int, states: int, rank: int) -> str:
    """Writes the four scans of the inputs `INPUTS`; returns the name of the output."""
    sizes = NUM_DIRECTIONS * [rank, states, states]
    u = nodes.reshape("hidden_states", -1, channels)
    projected = nodes.reshape("projected", -1, sum(sizes))
    parts = nodes.add_many("Split", len(sizes), projected, _whole(*sizes), axis=1)
    total = nodes.add("Mul", u, "skip")
    for scan in range(NUM_DIRECTIONS):
        low_rank, B, C = parts[3 * scan : 3 * scan + 3]
        step = _softplus(nodes, nodes.add("Gemm", low_rank, f"delta_weight_{scan}", f"delta_bias_{scan}"))
        drive = nodes.add("Mul", step, u)
        if states > 1:
            step, drive = (_repeat(nodes, x, channels, states, axis=2) for x in (step, drive))
            B = _repeat(nodes, B, channels, states, axis=1)
        decay = nodes.add("Exp", nodes.add("Mul", step, f"A_{scan}"))
        drive = nodes.add("Mul", drive, B)
        hidden = _scan(nodes, decay, drive, scan, height, width, channels * states)
        total = nodes.add("Add", total, _sum_states(nodes, hidden, C, channels, states))
    return nodes.reshape(total, -1, height, width, channels)


def _softplus(nodes: _Nodes, x: str) -> str:
    # log(1 + e) is off by up to 6e-8, which is nothing beside steps whose sum over the memory of a state is about 1.
    linear_from, one = (np.array(number, dtype=np.float32) for number in (LINEAR_FROM, 1))
    exponential = nodes.add("Exp", nodes.add("Min", x, linear_from))
    return nodes.add("Max", x, nodes.add("Log", nodes.add("Add", exponential, one)))


def _repeat(nodes: _Nodes, x: str, channels: int, states: int, axis: int) -> str:
    """`(positions, channels)`, or with `axis=1` `(positions, states)`, as `(positions, channels * states)`."""
    repeats = _whole(1, channels, 1) if axis == 1 else _whole(1, 1, states)
    repeated = nodes.add("Tile", nodes.add("Unsqueeze", x, _whole(axis)), repeats)
    return nodes.reshape(repeated, -1, channels * states)


def _sum_states(nodes: _Nodes, hidden: str, C: str, channels: int, states: int) -> str:
    if states == 1:
        return nodes.add("Mul", hidden, C)
    hidden = nodes.reshape(hidden, -1, channels, states)
    return nodes.add("Squeeze", nodes.add("MatMul", hidden, nodes.add("Unsqueeze", C, _whole(2))), _whole(2))


def _scan(nodes: _Nodes, decay: str, drive: str, scan: int, height: int, width: int, channels: int) -> str:
    """States `(positions, channels)` of one scan: `height` steps through `width` blocks, as in `selective_scan`."""
    is_reversed = scan >= 2
    # Row-major blocks go on in the next row; a step through all columns is a row.
    by_step, axis = ((-1, height, width, channels), 1) if scan % 2 else ((-1, width, height, channels), 2)
    decays, drives = (nodes.split(nodes.reshape(x, *by_step), axis, height, is_reversed) for x in (decay, drive))
    total, end = (
        nodes.reshape(x, -1, width, channels) for x in (nodes.product(decays), nodes.run(decays, drives)[-1])
    )
    starts = _chain(nodes, total, end, width, channels, is_reversed)
    states = nodes.run(decays, drives, nodes.add("Unsqueeze", starts, _whole(axis)))
    return nodes.reshape(nodes.concat(states, axis, is_reversed), -1, channels)


def _chain(nodes: _Nodes, decay: str, end: str, blocks: int, channels: int, is_reversed: bool) -> str:
    """State before each of `(batch, blocks, channels)`, from the total decays and from the end states from zero."""
    groups = 1 if blocks <= LONGEST_CHAIN else math.isqrt(blocks - 1) + 1
    steps = -(-blocks // groups)
    # Blocks of zeros leave no state, so it does not matter that the reversed scans begin with them.
    if padding := groups * steps - blocks:
        decay, end = (nodes.add("Pad", x, _whole(0, 0, 0, 0, padding, 0)) for x in (decay, end))
    by_group = (nodes.reshape(x, -1, groups, steps, channels) for x in (decay, end))
    decays, drives = (nodes.split(x, 2, steps, is_reversed) for x in by_group)
    start = nodes.add("Sub", drives[0], drives[0])
    if groups > 1:
        ends = (nodes.product(decays), nodes.run(decays, drives)[-1])
        group_decays, group_drives = (nodes.split(x, 1, groups, is_reversed) for x in ends)
        zero = nodes.add("Sub", group_drives[0], group_drives[0])
        start = nodes.concat([zero, *nodes.run(group_decays[:-1], group_drives[:-1])], 1, is_reversed)
    starts = nodes.concat([start, *nodes.run(decays[:-1], drives[:-1], start)], 2, is_reversed)
    starts = nodes.reshape(starts, -1, groups * steps, channels)
    return nodes.add("Slice", starts, _whole(0), _whole(blocks), _whole(1)) if padding else starts
