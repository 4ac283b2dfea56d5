"""Latency of an ONNX export in onnxruntime beside that of torch, one clip at a time, in turns.

OMP_NUM_THREADS=2 python -m benchmarks.onnx_latency [medium|small|tiny] [THREADS] [ROUNDS]
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch

from modeling_lung_srad import LungSradConfig, LungSradForAudioClassification
from modeling_lung_srad.onnx_export import INPUT, OUTPUT, build_onnx, quantize_weights

FRAMES = 1024


def open_session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    """A session on the CPU that uses as many threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.onnx_latency",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("size", nargs="?", choices=("medium", "small", "tiny"), default="medium")
    parser.add_argument("threads", nargs="?", type=int, default=2, help="(default: 2)")
    parser.add_argument("rounds", nargs="?", type=int, default=20, help="(default: 20)")
    options = parser.parse_args(argv)
    if min(options.threads, options.rounds) < 1:
        parser.error("threads and rounds must be positive")
    measure(options.size, options.threads, options.rounds)


def measure(size: str, threads: int, rounds: int) -> None:
    """Prints milliseconds, their ratio to torch, and the largest difference of the logits, of random weights."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = LungSradForAudioClassification(getattr(LungSradConfig, size)()).eval()
    input_values = torch.randn(1, FRAMES, model.config.num_mel_bins)
    sessions = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("float32", "int8"):
            path = Path(folder) / f"{kind}.onnx"
            if kind == "float32":
                onnx_model = build_onnx(model, FRAMES)
                onnx.save(onnx_model, path)
                print(f"{size}, {threads} threads, {len(onnx_model.graph.node)} nodes")
            else:
                quantize_weights(Path(folder) / "float32.onnx", path)
            sessions[f"onnxruntime, {kind}"] = (open_session(path, threads), path.stat().st_size / 1e6)

    def run(name: str) -> np.ndarray:
        if name == "torch":
            with torch.inference_mode():
                return model(input_values).logits.numpy()
        return sessions[name][0].run([OUTPUT], {INPUT: input_values.numpy()})[0]

    times: dict[str, list[float]] = {name: [] for name in ("torch", *sessions)}
    logits = {name: run(name) for name in times}
    for _ in range(rounds):
        for name, seconds in times.items():
            start = time.perf_counter()
            run(name)
            seconds.append(time.perf_counter() - start)
    best, middle = (function(times["torch"]) for function in (np.min, np.median))
    for name, seconds in times.items():
        size_note = f", {sessions[name][1]:.1f} MB" if name in sessions else ""
        print(
            f"{name}: median {1000 * np.median(seconds):.0f} ms, shortest {1000 * min(seconds):.0f} ms, "
            f"{np.median(seconds) / middle:.2f} and {min(seconds) / best:.2f} times torch, "
            f"logits within {np.abs(logits[name] - logits['torch']).max():.1e}{size_note}"
        )


if __name__ == "__main__":
    main()
