"""Latency of an ONNX export in onnxruntime beside that of torch, one clip at a time, in turns.

The named sizes have random weights. Torch scans as in a long job, by numba where it can.

OMP_NUM_THREADS=2 python -m benchmarks.onnx_latency [medium|small|tiny|embedded] [THREADS] [ROUNDS]
"""

import math
import statistics
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch

from benchmarks.command import build_parser
from benchmarks.measure import median_ratio, time_interleaved, time_once
from modeling_lung_srad import LungSradConfig, LungSradForAudioClassification
from modeling_lung_srad.checkpoint_loading import DEFAULT_CHECKPOINT, load_checkpoint
from modeling_lung_srad.export.onnx_export import INPUT, OUTPUT, build_onnx, quantize_weights, store_in_float16

FRAMES = 1024


def open_session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    """A session on the CPU that uses as many threads, which wait idly while torch has its turn."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = build_parser("onnx_latency", __doc__)
    parser.add_argument("size", nargs="?", choices=("medium", "small", "tiny", "embedded"), default="medium")
    parser.add_argument("threads", nargs="?", type=int, default=2, help="(default: 2)")
    parser.add_argument("rounds", nargs="?", type=int, default=20, help="(default: 20)")
    options = parser.parse_args(argv)
    if min(options.threads, options.rounds) < 1:
        parser.error("threads and rounds must be positive")
    measure(options.size, options.threads, options.rounds)


def measure(size: str, threads: int, rounds: int) -> None:
    """Prints nodes, milliseconds, their ratio to torch, and the largest difference of the logits."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    if size == "embedded":
        model, extractor = load_checkpoint(DEFAULT_CHECKPOINT)
        frames = extractor.num_frames
    else:
        model, frames = LungSradForAudioClassification(getattr(LungSradConfig, size)()).eval(), FRAMES
    model.fix_scan_backend(math.inf)
    input_values = torch.randn(1, frames, model.config.num_mel_bins)

    def run_torch() -> np.ndarray:
        with torch.inference_mode():
            return model(input_values).logits.numpy()

    steps: dict[str, Callable[[], np.ndarray]] = {"torch": run_torch}
    notes = {"torch": ""}
    with tempfile.TemporaryDirectory() as folder:
        paths = {kind: Path(folder) / f"{kind}.onnx" for kind in ("float32", "float16", "int8")}
        onnx_model = build_onnx(model, frames)
        onnx.save(onnx_model, paths["float32"])
        store_in_float16(paths["float32"], paths["float16"])
        quantize_weights(paths["float32"], paths["int8"])
        for kind, path in paths.items():
            name = f"onnxruntime, {kind}"
            opening = min(time_once(partial(open_session, path, threads)) for _ in range(3))
            steps[name] = partial(_run_session, open_session(path, threads), input_values.numpy())
            notes[name] = f", {path.stat().st_size / 1e6:.1f} MB, session opened in {1000 * opening:.0f} ms"
    print(f"{size}, {threads} threads, {len(onnx_model.graph.node)} nodes")
    logits = {name: step() for name, step in steps.items()}
    times = time_interleaved(steps, dict.fromkeys(steps, rounds), size)
    for name, seconds in times.items():
        print(
            f"{name}: median {1000 * statistics.median(seconds):.0f} ms, shortest {1000 * min(seconds):.0f} ms, "
            f"{median_ratio(seconds, times['torch']):.2f} times torch, "
            f"logits within {np.abs(logits[name] - logits['torch']).max():.1e}{notes[name]}"
        )


def _run_session(session: onnxruntime.InferenceSession, input_values: np.ndarray) -> np.ndarray:
    return session.run([OUTPUT], {INPUT: input_values})[0]


if __name__ == "__main__":
    main()
