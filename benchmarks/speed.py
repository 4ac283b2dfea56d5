"""Speed and memory of Lung-SRAD beside its peers, in one run on this machine.

`python -m benchmarks.speed` measures what the goals need (medium, and some of tiny; about ten minutes on two cores);
`--suite full` all sizes, batches of 1 to 32, lengths of 8 s to 10 min, on one core and on all (over an hour).

Sections, on a CPU each in a process of its own:
  one_clip   latency of one clip of 1024 frames, beside the sequential scan, the scan removed and AST-base
  batch      seconds per clip by batch size
  training   forward, loss and backward: time and peak memory
  length     time and peak memory of one recording in one pass, by its length

On a CPU ours is the compiled scan, beside which the torch scan is a peer; where numba cannot run, ours is the torch
scan. On CUDA (`--device cuda`) our scan takes part with each of its back ends, under bfloat16 autocast.

Results are written after every section and number of threads to the output folder, runs/benchmarks/SUITE-DEVICE:
speed.json (every raw time), speed.md (tables and goals), cost_by_length.png. A killed run goes on
where it was: sections of the same git commit without changes are not measured again, except with `--again`, and those
of other code are left out.

Example: python -m benchmarks.speed --only one_clip training --threads 2
"""

import argparse
import importlib.metadata
import itertools
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from tqdm import tqdm

from benchmarks.command import build_parser
from benchmarks.measure import in_process_of_its_own, is_out_of_memory
from benchmarks.report import JSON_NAME, to_json, write_report
from benchmarks.sections import SECTIONS, SUITES, measure_section
from modeling_lung_srad.errors import InputError, reports_input_errors

ROOT = Path(__file__).parents[1]
UNKNOWN, MODIFIED = "unknown", ", modified"


@reports_input_errors
def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    options = _parse(argv)
    command = shlex.join(["python", "-m", "benchmarks.speed", *(sys.argv[1:] if argv is None else argv)])
    code = describe_code()
    results = _start(options, code)
    for name, threads in tqdm(_missing(results, options), desc="sections", unit="section"):
        start = time.perf_counter()
        try:
            section = _measure(name, threads, options)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            print(
                f"{name}: its process was killed or failed, probably for want of memory; what was measured before it "
                f"is in {options.output}. Close other programs or leave it out with --only.",
                file=sys.stderr,
            )
            return 1
        seconds = {str(threads): time.perf_counter() - start}
        about = {"date": time.strftime("%Y-%m-%d %H:%M"), "command": command, "code": code, "seconds": seconds}
        results["sections"][name] = _merge(results["sections"].get(name, {}), about | section, threads)
        write_report(results, options.output)
    print(f"{options.output}/speed.md")
    return 0


def describe_code(folder: Path = ROOT) -> str:
    """The git commit of a repository, with a note where its code is modified, or that it is unknown."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changes = git("--no-optional-locks", "status", "--porcelain", "--", "modeling_lung_srad", "benchmarks")
        return git("rev-parse", "HEAD") + (MODIFIED if changes else "")
    except (OSError, subprocess.CalledProcessError):
        return UNKNOWN


def _missing(results: dict[str, Any], options: argparse.Namespace) -> list[tuple[str, int]]:
    """The sections and numbers of threads to measure."""
    missing = []
    for name, threads in itertools.product(options.only, options.threads):
        if options.again or str(threads) not in results["sections"].get(name, {}).get("seconds", {}):
            missing.append((name, threads))
        else:
            print(f"{name}, {threads} threads: is there already; --again measures it again", file=sys.stderr)
    return missing


def _measure(name: str, threads: int, options: argparse.Namespace) -> dict[str, Any]:
    run = in_process_of_its_own if options.device == "cpu" else _call
    measurements = run(measure_section, name, SUITES[options.suite], options.device, threads)
    return {"measurements": [to_json(x) for x in measurements]}


def _merge(earlier: dict[str, Any], section: dict[str, Any], threads: int) -> dict[str, Any]:
    """A section measured on some threads, with its earlier measurements on others."""
    key = "figures" if "figures" in section else "measurements"
    others = [row for row in earlier.get(key, []) if row["threads"] != threads]
    return section | {"seconds": earlier.get("seconds", {}) | section["seconds"], key: others + section[key]}


def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    """Replaces a new process where none is needed: one with CUDA takes long to start."""
    return function(*arguments)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = build_parser("speed", __doc__)
    sections = list(SECTIONS)
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
    parser.add_argument("--again", action="store_true", help="measure also what is in the output folder already")
    parser.add_argument("--output", type=Path, help="folder for the results (default: runs/benchmarks/SUITE-DEVICE)")
    options = parser.parse_args(argv)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no CUDA device here; use --device cpu")
    if options.threads is None:
        options.threads = sorted({1, cores}) if options.suite == "full" and options.device == "cpu" else [cores]
    if not 1 <= min(options.threads) <= max(options.threads) <= cores:
        parser.error(f"--threads: must be from 1 to {cores}, the cores here")
    if options.output is None:
        options.output = Path("runs/benchmarks", f"{options.suite}-{options.device}")
    try:
        options.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--output {options.output}: {error.strerror}; name another folder")
    return options


def _start(options: argparse.Namespace, code: str) -> dict[str, Any]:
    """New results, with earlier ones of the same machine, suite, device and code in the folder."""
    results = {"machine": _describe_machine(options), "suite": options.suite, "device": options.device, "sections": {}}
    path = options.output / JSON_NAME
    if not path.exists():
        return results
    try:
        earlier = json.loads(path.read_text(encoding="utf-8"))
        about = [earlier[name] for name in ("machine", "suite", "device")]
        codes = {name: section.get("code", UNKNOWN) for name, section in earlier["sections"].items()}
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise InputError(path, "cannot be read as results", "delete it or choose another --output") from error
    if about != [results[name] for name in ("machine", "suite", "device")]:
        raise InputError(path, "is of another machine, suite or device", "delete it or choose another --output")
    for name, code_of_section in codes.items():
        if code_of_section == code != UNKNOWN and not code.endswith(MODIFIED):
            results["sections"][name] = earlier["sections"][name]
        else:
            what = f"{path}: {name} is left out: it is not known to be of the same code"
            print(f"{what} ({code_of_section}; here {code})", file=sys.stderr)
    return results


def _describe_machine(options: argparse.Namespace) -> dict[str, Any]:
    machine = {
        "processor": _processor(),
        "cores": _cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "numba": _version("numba"),
    }
    return machine | ({"gpu": torch.cuda.get_device_name()} if options.device == "cuda" else {})


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


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
