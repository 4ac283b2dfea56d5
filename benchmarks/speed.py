"""Speed and memory of Lung-SRAD beside its peers, in one run on this machine.

`python -m benchmarks.speed` measures what the goals need (medium, about four minutes on two cores); `--suite full` all
sizes, batches of 1 to 32, lengths of 8 s to 10 min and both numbers of threads (about an hour).

Sections, on a CPU each in a process of its own:
  one_clip   latency of one clip of 1024 frames, beside the sequential scan, the scan removed and AST-base
  batch      seconds per clip by batch size
  training   forward, loss and backward: time and peak memory
  length     time and peak memory of one recording in one pass, by its length
  peak       matrix products and memory traffic beside what this machine can do, and the scan alone

On CUDA (`--device cuda`) our scan takes part with each of its back ends, under bfloat16 autocast.

Results are written to the output folder after every section: speed.json (every raw time), speed.md (tables and goals),
cost_by_length.png. With `--only`, the other sections that are there already stay.

Example: python -m benchmarks.speed --only one_clip training --threads 2
"""

import argparse
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import torch
import transformers
from tqdm import tqdm

from benchmarks.measure import in_process_of_its_own
from benchmarks.report import JSON_NAME, to_json, write_report
from benchmarks.sections import SECTIONS, SUITES, measure_section
from benchmarks.share_of_peak import measure_peak

PEAK = "peak"


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    options = _parse(argv)
    results = _start(options)
    for name in tqdm(options.only, desc="sections", unit="section"):
        start = time.perf_counter()
        try:
            section = _measure(name, options)
        except BrokenProcessPool:
            print(
                f"{name}: its process was killed, probably for want of memory; the sections before it are in "
                f"{options.output}. Close other programs or leave it out with --only.",
                file=sys.stderr,
            )
            return 1
        command = shlex.join(["python", "-m", "benchmarks.speed", *(sys.argv[1:] if argv is None else argv)])
        about = {"date": time.strftime("%Y-%m-%d %H:%M"), "command": command, "seconds": time.perf_counter() - start}
        results["sections"][name] = about | section
        write_report(results, options.output)
    print(f"{options.output}/speed.md")
    return 0


def _measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    run = in_process_of_its_own if options.device == "cpu" else _call
    if name == PEAK:
        return {"figures": [run(measure_peak, options.device, threads) for threads in options.threads]}
    measurements = []
    for threads in options.threads:
        measurements += run(measure_section, name, SUITES[options.suite], options.device, threads)
    return {"measurements": [to_json(x) for x in measurements]}


def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    """In place of a new process where nothing depends on it: one that uses CUDA takes long to start."""
    return function(*arguments)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sections = [*SECTIONS, PEAK]
    cores = _cores()
    parser.add_argument("--suite", choices=SUITES, default="quick", help="how much to measure (default: quick)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(default: cpu)")
    parser.add_argument(
        "--threads",
        type=int,
        nargs="+",
        help=f"numbers of threads, one run each (default: {cores}, the cores here; of the full suite: 1 and {cores})",
    )
    parser.add_argument("--only", choices=sections, nargs="+", default=sections, help="sections (default: all)")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("runs/benchmarks"),
        help="folder for the results (default: runs/benchmarks)",
    )
    options = parser.parse_args(argv)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no CUDA device here; use --device cpu")
    if options.threads is None:
        options.threads = sorted({1, cores}) if options.suite == "full" and options.device == "cpu" else [cores]
    if not 1 <= min(options.threads) <= max(options.threads) <= cores:
        parser.error(f"--threads: must be from 1 to {cores}, the cores here")
    try:
        options.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--output {options.output}: {error.strerror}; name another folder")
    return options


def _start(options: argparse.Namespace) -> dict[str, Any]:
    """New results, or those in the folder, if they are of this machine and suite and not all will be replaced."""
    results = {"machine": _describe_machine(options), "suite": options.suite, "device": options.device, "sections": {}}
    path = options.output / JSON_NAME
    if path.exists() and set(options.only) != {*SECTIONS, PEAK}:
        try:
            earlier = json.loads(path.read_text(encoding="utf-8"))
            about = [earlier[name] for name in ("machine", "suite", "device")]
            sections = dict(earlier["sections"])
        except (LookupError, TypeError, ValueError) as error:
            raise SystemExit(f"{path}: cannot be read as results; delete it or choose another --output") from error
        if about != [results[name] for name in ("machine", "suite", "device")]:
            raise SystemExit(f"{path}: is of another machine, suite or device; choose another --output")
        results["sections"] = sections
    return results


def _describe_machine(options: argparse.Namespace) -> dict[str, Any]:
    machine = {
        "processor": _processor(),
        "cores": _cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    return machine | ({"gpu": torch.cuda.get_device_name()} if options.device == "cuda" else {})


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    sys.exit(main())
