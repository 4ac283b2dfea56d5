"""What a training step costs by objective, and what share of an epoch goes to data, in one run on this machine.

`python -m benchmarks.training_cost [--size tiny] [--frames 256] [--batch-size 16] [--repeats 5] [--output FILE.json]`

Steps of all modes are interleaved, and a ratio is the median over rounds of (mode / cross-entropy) within a round, so
that it holds when the machine's speed drifts. The share of data is measured in an epoch of the real trainer on
simulated sounds whose spectrograms are in the cache.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import torch
from tqdm import tqdm

from modeling_lung_srad import LungSradForAudioClassification
from modeling_lung_srad.files.output_files import OutputError, check_output, replaced_when_complete
from training.arguments import AXES_OF_MODE, ObjectiveArguments
from training.configuration import CONFIGS, read_configuration
from training.model_setup import SIZES
from training.objective import PatchMixTraining
from training.run_training import build_trainer, prepare

NUM_MEL_BINS = 128


def time_steps(size: str, frames: int, batch_size: int, repeats: int) -> dict[str, list[float]]:
    """Seconds of `repeats` steps (forward, backward, AdamW) of each mode, after one that is not counted."""
    torch.manual_seed(0)
    input_values = torch.randn(batch_size, frames, NUM_MEL_BINS)
    labels = torch.arange(batch_size) % 4
    steps: dict[str, Any] = {}
    for mode in AXES_OF_MODE:
        model = PatchMixTraining(LungSradForAudioClassification(SIZES[size]()), ObjectiveArguments(mode=mode)).train()
        steps[mode] = model, torch.optim.AdamW(model.parameters(), lr=1e-6)
    seconds: dict[str, list[float]] = {mode: [] for mode in steps}
    for repeat in tqdm(range(repeats + 1), desc="rounds of all modes", unit="round", leave=False):
        for mode, (model, optimizer) in steps.items():
            start = time.perf_counter()
            optimizer.zero_grad()
            model(input_values, labels).loss.backward()
            optimizer.step()
            if repeat:
                seconds[mode].append(time.perf_counter() - start)
    return seconds


def measure_data_share(size: str, frames: int, batch_size: int) -> dict[str, float]:
    """Seconds that an epoch with a warm cache waits for its batches, and those of the whole epoch."""
    with tempfile.TemporaryDirectory() as folder:
        overrides = [
            "data.simulated=24",
            f"data.feature_cache={folder}/cache",
            f"output_dir={folder}/run",
            f"model={{size: {size}, config: {{}}, feature_extractor: {{num_frames: {frames}}}}}",
            "augmentation.frequency_masks=2",
            "augmentation.time_masks=2",
            f"per_device_train_batch_size={batch_size}",
            "num_train_epochs=1",
            "objective.mode=none",
            "selection=last",
            "eval_strategy=no",
            "save_strategy=no",
        ]
        # The first trainer fills the cache.
        for _ in range(2):
            trainer = build_trainer(prepare(*read_configuration(CONFIGS / "smoke.yaml", overrides)))
        waited = 0.0
        get_batch_samples = trainer.get_batch_samples

        def timed(*arguments: Any) -> Any:
            nonlocal waited
            start = time.perf_counter()
            samples = get_batch_samples(*arguments)
            waited += time.perf_counter() - start
            return samples

        setattr(trainer, get_batch_samples.__name__, timed)
        start = time.perf_counter()
        trainer.train()
        return {"data_seconds": waited, "epoch_seconds": time.perf_counter() - start}


def describe(seconds: dict[str, list[float]], share: dict[str, float]) -> str:
    """The figures as a Markdown table."""
    lines = ["| mode | median seconds a step | times a cross-entropy step |", "| --- | --- | --- |"]
    for mode, values in seconds.items():
        ratios = [value / base for value, base in zip(values, seconds["none"], strict=True)]
        lines.append(f"| {mode} | {statistics.median(values):.3f} | {statistics.median(ratios):.2f} |")
    data, epoch = share["data_seconds"], share["epoch_seconds"]
    lines += ["", f"Data: {data:.2f} s of an epoch of {epoch:.2f} s with a warm cache, {100 * data / epoch:.1f} %."]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training_cost", description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--frames", type=int, default=256, help="frames of the input (default: 256)")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5, help="counted steps of each mode (default: 5)")
    parser.add_argument("--output", help="JSON file for the figures")
    options = parser.parse_args(argv)
    if min(options.frames, options.batch_size, options.repeats) < 1:
        parser.error("--frames, --batch-size and --repeats must be positive")
    if options.output:
        try:
            check_output(options.output)
        except OutputError as error:
            parser.error(f"--output {error}")
    seconds = time_steps(options.size, options.frames, options.batch_size, options.repeats)
    share = measure_data_share(options.size, options.frames, options.batch_size)
    print(f"{options.size}, {options.frames} frames, batch {options.batch_size}, {torch.get_num_threads()} threads\n")
    print(describe(seconds, share))
    if options.output:
        figures = vars(options) | {"threads": torch.get_num_threads(), "seconds": seconds, **share}
        with replaced_when_complete(options.output) as temporary:
            temporary.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
