"""`lung-srad env`: the versions that a bug report needs, and the back ends that can run the scan here."""

import argparse
import importlib
import importlib.metadata
import os
import platform
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

EPILOG = """\
examples:
  lung-srad env                                      paste what it prints into a bug report

Nothing is sent anywhere. The first time, it may take some seconds, as it compiles the scan."""
NOT_INSTALLED = "not installed"
PACKAGES = (
    "torch",
    "transformers",
    "huggingface-hub",
    "numpy",
    "soundfile",
    "datasets",
    "accelerate",
    "gradio",
    "onnxruntime",
    "numba",
    "triton",
    "mamba-ssm",
)


def add(commands: Any) -> None:
    """Adds the subcommand."""
    summary = "print the versions that a bug report needs"
    parser = commands.add_parser("env", help=summary, description=summary, epilog=EPILOG)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Prints a line for each package, for the machine and for the scan; returns the exit code."""
    for name, value in describe_environment():
        print(f"{name + ':':<17} {value}")
    return 0


def describe_environment() -> Iterator[tuple[str, str]]:
    """Names and values; one that cannot be found out has the error as its value, so that the others are there."""
    yield "lung-srad", _version("lung-srad")
    yield "python", f"{platform.python_version()} ({platform.python_implementation()})"
    yield "platform", platform.platform()
    yield "processor", _said(_processor)
    for package in PACKAGES:
        yield package, _version(package)
    yield "libsndfile", _said(_libsndfile)
    yield "torch threads", _said(_torch_threads)
    yield "cuda", _said(_cuda)
    yield "scan, CPU", _said(_cpu_scans)
    yield "scan, CUDA", _said(_cuda_scans)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return NOT_INSTALLED


def _said(describe: Callable[[], str]) -> str:
    try:
        return describe()
    except Exception as error:  # A broken installation is the reason to run this command.
        return f"unknown ({' '.join(str(error).split())[:200] or type(error).__name__})"


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    text = information.read_text(encoding="utf-8") if information.exists() else ""
    name = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name[1] if name else platform.processor() or platform.machine()}, {cores} cores"


def _libsndfile() -> str:
    return importlib.import_module("soundfile").__libsndfile_version__


def _torch_threads() -> str:
    import torch

    settings = [f"{name}={os.environ[name]}" for name in sorted(os.environ) if name.startswith(("OMP_", "GOMP_"))]
    openmp = re.search(r"OpenMP [\d.]+", torch.__config__.show())
    return ", ".join([str(torch.get_num_threads()), openmp[0] if openmp else "no OpenMP", *settings])


def _cuda() -> str:
    import torch

    if not torch.cuda.is_available():
        return "none"
    return f"{torch.cuda.get_device_name()}, {torch.version.hip or torch.version.cuda}"


def _cpu_scans() -> str:
    scans: Any = _scans()
    problem = scans.reason_to_leave_out("numba")
    if problem:
        return f"torch; auto takes torch; numba cannot run: {problem}"
    return "numba, torch; auto takes numba for training and long jobs, torch for short ones"


def _cuda_scans() -> str:
    import torch

    if not torch.cuda.is_available():
        return "none, as torch finds no CUDA device"
    scans: Any = _scans()
    problems = {backend: scans.reason_to_leave_out(backend) for backend in ("triton", "mamba_ssm")}
    usable = [backend for backend, problem in problems.items() if not problem] + ["torch"]
    reasons = [f"; {backend} cannot run: {problem}" for backend, problem in problems.items() if problem]
    return f"{', '.join(usable)}; auto takes {usable[0]}{''.join(reasons)}"


def _scans() -> Any:
    # The package exports a function of the same name.
    return importlib.import_module("modeling_lung_srad.selective_scan")
