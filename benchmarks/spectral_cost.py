"""Cost of the effective attention of a block and its spectral response on a CPU, by stage.

`python -m benchmarks.spectral_cost [--size medium] [--frames 1024] [--stages 1 2 3] [--repeats 3] [--output FILE]`

The forward pass, which all blocks share, is timed apart. Memory is what the forward pass and the block take together
beyond the weights, at most. Each stage has a process of its own. The weights are random: the cost does not depend on
them. Seconds of the processor are those of all threads together, and hold on a machine that has other work as well.
"""

import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.command import build_parser, write_json
from benchmarks.measure import in_process_of_its_own, peak_bytes, time_once
from modeling_lung_srad import LungSradForAudioClassification
from modeling_lung_srad.errors import reports_input_errors
from modeling_lung_srad.spectral import response_magnitudes
from modeling_lung_srad.spectral.layers import LayerMatrix, MixingLayer, layer_matrices
from training.model_setup import SIZES
from training.report.text import markdown_table

GOAL_SECONDS, GOAL_BYTES = 2.0, 10**9


def measure_stage(size: str, frames: int, stage: int, repeats: int) -> dict[str, Any]:
    """Figures of the last block of a stage: seconds of the forward pass and of the block, and bytes of the block."""
    torch.manual_seed(0)
    model = LungSradForAudioClassification(SIZES[size]()).eval()
    input_values = torch.randn(1, frames, model.config.num_mel_bins)
    layers = [MixingLayer(stage, block) for block in range(model.config.depths[stage])][-2:]

    def forward() -> None:
        with torch.no_grad():
            model(input_values)

    def block() -> None:
        found = next(matrices)
        response_magnitudes(found.matrix[0])

    matrices: Iterator[LayerMatrix] = iter(())

    def first_block() -> None:
        nonlocal matrices
        matrices = layer_matrices(model, input_values, layers)
        block()

    peak, grid = peak_bytes(first_block), next(matrices).grid
    seconds, processor_seconds = [], []
    for _ in range(repeats):
        first_block()
        before = time.process_time()
        seconds.append(time_once(block))
        processor_seconds.append(time.process_time() - before)
    return {
        "grid": grid,
        "channels": model.config.dims[stage],
        "forward_seconds": statistics.median([time_once(forward) for _ in range(repeats)]),
        "block_seconds": statistics.median(seconds),
        "block_processor_seconds": statistics.median(processor_seconds),
        "bytes": peak,
    }


def describe(figures: dict[int, dict[str, Any]]) -> str:
    """The figures as a Markdown table."""
    names = ("forward_seconds", "block_seconds", "block_processor_seconds")
    rows = []
    for stage, found in figures.items():
        is_met = found["block_seconds"] < GOAL_SECONDS and found["bytes"] < GOAL_BYTES
        grid, seconds = " x ".join(map(str, found["grid"])), (f"{found[name]:.2f}" for name in names)
        memory = f"{found['bytes'] / 1e6:.0f}"
        rows.append((stage, grid, found["channels"], *seconds, memory, "met" if is_met else "not met"))
    times = ("forward pass (s)", "block (s)", "of the processor (s)")
    return "\n".join(markdown_table(("stage", "grid", "channels", *times, "memory (MB)", "goal"), rows))


@reports_input_errors
def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = build_parser("spectral_cost", __doc__)
    parser.add_argument("--size", choices=SIZES, default="medium")
    parser.add_argument("--frames", type=int, default=1024, help="frames of the input (default: 1024)")
    parser.add_argument(
        "--stages",
        type=int,
        nargs="+",
        choices=range(4),
        default=[1, 2, 3],
        help="stage 0 of a full input takes ten times as long as stage 1 (default: 1 2 3)",
    )
    parser.add_argument("--repeats", type=int, default=3, help="measurements; the median counts (default: 3)")
    parser.add_argument("--output", help="JSON file for the figures")
    options = parser.parse_args(argv)
    figures = {
        stage: in_process_of_its_own(measure_stage, options.size, options.frames, stage, options.repeats)
        for stage in tqdm(options.stages, unit="stage", leave=False)
    }
    print(f"{options.size}, {options.frames} frames, {torch.get_num_threads()} threads; goal: 2 s and 1 GB\n")
    print(describe(figures))
    if options.output:
        write_json(options.output, vars(options) | {"figures": figures})
    return 0


if __name__ == "__main__":
    sys.exit(main())
