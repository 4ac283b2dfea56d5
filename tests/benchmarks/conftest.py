"""Made-up measurements, whose goals and tables are known by heart."""

import pytest
import torch

from benchmarks.cases import Case, Measurement
from benchmarks.report import to_json
from benchmarks.sections import TEN_MINUTES


@pytest.fixture(autouse=True)
def same_threads_afterwards():
    """Undoes what a test sets."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def measurements() -> list[Measurement]:
    """Ours takes 0.2 s a clip, the sequential scan five times that, without the scan half of it, AST-base 1.2 s."""

    def one_clip(contender: str, seconds: list[float]) -> Measurement:
        return Measurement(Case(contender), "one_clip", 2, seconds)

    def by_length(contender: str, frames: int, seconds: float, peak_bytes: int) -> Measurement:
        return Measurement(Case(contender, frames=frames), "length", 2, [seconds], peak_bytes)

    return [
        one_clip("torch", [0.2, 0.4, 0.2]),
        one_clip("sequential", [1.0, 2.0, 1.0]),
        one_clip("no_scan", [0.1, 0.2, 0.1]),
        one_clip("ast", [1.2, 2.4, 1.2]),
        Measurement(Case("torch"), "batch", 2, [0.2, 0.2, 0.2]),
        Measurement(Case("torch", batch=8), "batch", 2, [1.6, 1.2, 1.2]),
        Measurement(Case("torch", step="training", batch=4), "training", 2, [3.0, 3.0, 3.0], 2_000_000_000),
        Measurement(Case("sequential", step="training", batch=4), "training", 2, [15.0], 8_000_000_000),
        by_length("torch", 1000, 0.2, 60_000_000),
        by_length("torch", 6000, 1.2, 360_000_000),
        by_length("torch", TEN_MINUTES, 12.0, 3_600_000_000),
        by_length("sequential", 1000, 1.0, 120_000_000),
        Measurement(Case("ast", frames=6000), "length", 2, left_out="AST-base takes 1024 frames only"),
    ]


@pytest.fixture
def results(measurements) -> dict:
    """The measurements as `speed.json` has them."""
    about = {"date": "2026-01-01 00:00", "code": "0123abc"}
    sections: dict = {}
    for measurement in measurements:
        section = sections.setdefault(measurement.section, about | {"measurements": []})
        section["measurements"].append(to_json(measurement))
    machine = {"processor": "abacus", "cores": 2}
    return {"machine": machine, "suite": "quick", "device": "cpu", "sections": sections}
