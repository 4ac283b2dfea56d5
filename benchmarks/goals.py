"""The goals of the benchmark and the measured values."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.cases import OWN_BACKENDS, Measurement
from benchmarks.measure import fit_exponent, median_ratio
from benchmarks.sections import TEN_MINUTES


@dataclass(frozen=True)
class Goal:
    """
    A value and its bound.

    Args:
        text (`str`): name of the value.
        value (`float`): the value.
        bound (`float`): the bound.
        is_lower_bound (`bool`, *optional*, defaults to `True`): `True` for a lower bound.
    """

    text: str
    value: float
    bound: float
    is_lower_bound: bool = True

    @property
    def is_reached(self) -> bool:
        """True where the value keeps its bound."""
        return self.value >= self.bound if self.is_lower_bound else self.value <= self.bound


def ratios_to_ours(measurements: Sequence[Measurement]) -> list[dict[str, Any]]:
    """Each case's time as a multiple of ours for the same input, step and threads: the median over rounds."""
    rows = []
    for ours in _ours(measurements):
        for other in measurements:
            if other is not ours and other.seconds and _key(other) == _key(ours):
                ratio = median_ratio(other.seconds, ours.seconds)
                rows.append(_key(ours) | {"contender": other.case.contender, "times_ours": ratio})
    return rows


def evaluate_goals(measurements: Sequence[Measurement]) -> list[Goal]:
    """The goals of medium and tiny for which there are measurements, at the highest number of threads of a section."""
    measured = [x for x in measurements if x.seconds]
    threads: dict[str, int] = {}
    for x in measured:
        threads[x.section] = max(x.threads, threads.get(x.section, 0))
    chosen = [x for x in measured if x.threads == threads[x.section]]
    medium, tiny = ([x for x in chosen if x.case.size == size] for size in ("medium", "tiny"))
    if any(x.case.device == "cuda" for x in chosen):
        return list(_cuda_goals(medium))
    return [*_medium_goals(medium), *_tiny_goals(tiny)]


def _medium_goals(measurements: list[Measurement]) -> Iterator[Goal]:
    def find(section: str, contender: str, **case: Any) -> Measurement | None:
        return _find(measurements, section, contender, **case)

    clip = _find_ours(measurements, "one_clip")
    if clip and (peer := find("one_clip", "sequential")):
        yield Goal("one clip, sequential scan / ours", median_ratio(peer.seconds, clip.seconds), 6.0)
    if clip and (peer := find("one_clip", "ast")):
        yield Goal("one clip, AST-base / ours", median_ratio(peer.seconds, clip.seconds), 4.5)
    if clip and (peer := find("one_clip", "no_scan")):
        yield Goal("one clip, ours / scan removed", median_ratio(clip.seconds, peer.seconds), 1.25, False)
    one, eight = (_find_ours(measurements, "batch", batch=batch) for batch in (1, 8))
    if one and eight:
        ratio = median_ratio(eight.seconds, one.seconds) / 8
        yield Goal("a clip of a batch of 8 / a clip alone", ratio, 1.0, False)
    step, peer = _find_ours(measurements, "training"), find("training", "sequential")
    if step and peer:
        yield Goal("training step of 4, sequential scan / ours", median_ratio(peer.seconds, step.seconds), 4.0)
        if step.peak_bytes and peer.peak_bytes:
            share = step.peak_bytes / peer.peak_bytes
            yield Goal("training step of 4, peak memory, ours / sequential scan", share, 0.6, False)
    yield from _goals_beside_torch(measurements)
    lengths = [x for x in measurements if x.section == "length"]
    ours = _find_ours(lengths, "length")
    if ours:
        yield from _length_goals([x for x in lengths if x.case.contender == ours.case.contender])


def _tiny_goals(measurements: list[Measurement]) -> Iterator[Goal]:
    clip, peer = _find_ours(measurements, "one_clip"), _find(measurements, "one_clip", "no_scan")
    if clip and peer:
        yield Goal("tiny: one clip, ours / scan removed", median_ratio(clip.seconds, peer.seconds), 1.6, False)
    yield from _goals_beside_torch(measurements, "tiny: ")


def _goals_beside_torch(measurements: list[Measurement], prefix: str = "") -> Iterator[Goal]:
    """Goals of a training step, where ours is not the torch scan itself."""
    ours, peer = _find_ours(measurements, "training"), _find(measurements, "training", "torch")
    if ours and peer and ours is not peer:
        yield Goal(f"{prefix}training step of 4, torch scan / ours", median_ratio(peer.seconds, ours.seconds), 1.4)
        if ours.peak_bytes and peer.peak_bytes:
            text = f"{prefix}training step of 4, peak memory, ours / torch scan"
            yield Goal(text, ours.peak_bytes / peer.peak_bytes, 1.0, False)


def _length_goals(ours: list[Measurement]) -> Iterator[Goal]:
    if len({x.case.frames for x in ours}) > 1:
        exponent = fit_exponent([x.case.frames for x in ours], [x.median for x in ours])
        yield Goal("time by length, exponent", exponent, 1.1, False)
    sized = [x for x in ours if x.peak_bytes]
    if len({x.case.frames for x in sized}) > 1:
        exponent = fit_exponent([x.case.frames for x in sized], [float(x.peak_bytes or 0) for x in sized])
        yield Goal("peak memory by length, exponent", exponent, 1.1, False)
    if longest := [x for x in sized if x.case.frames == TEN_MINUTES]:
        yield Goal("10 min in one pass, peak memory in GB", (longest[0].peak_bytes or 0) / 1e9, 6.0, False)


def _cuda_goals(measurements: list[Measurement]) -> Iterator[Goal]:
    for section, what in (("batch", "inference"), ("training", "training step")):
        ours = _find(measurements, section, "triton", batch=32)
        peer = _find(measurements, section, "mamba_ssm", batch=32)
        if ours and peer:
            text = f"{what}, batch 32, throughput, triton / mamba_ssm"
            yield Goal(text, median_ratio(peer.seconds, ours.seconds), 1.5)
    yield from _length_goals([x for x in measurements if x.section == "length" and x.case.contender == "triton"])


def _ours(measurements: Sequence[Measurement]) -> Iterator[Measurement]:
    """Per input, the first of our back ends that was measured: numba on a CPU, triton on CUDA, otherwise torch."""
    seen = set()
    own = [x for x in measurements if x.case.contender in OWN_BACKENDS]
    for x in sorted(own, key=lambda x: OWN_BACKENDS.index(x.case.contender)):
        key = tuple(_key(x).values())
        if x.seconds and key not in seen:
            seen.add(key)
            yield x


def _key(x: Measurement) -> dict[str, Any]:
    case = x.case
    values = {"size": case.size, "step": case.step, "batch": case.batch, "frames": case.frames}
    return {"section": x.section, "threads": x.threads} | values


def _find_ours(measurements: list[Measurement], section: str, **case: Any) -> Measurement | None:
    found = (_find(measurements, section, backend, **case) for backend in OWN_BACKENDS)
    return next((x for x in found if x is not None), None)


def _find(measurements: list[Measurement], section: str, contender: str, **case: Any) -> Measurement | None:
    for x in measurements:
        matches = all(getattr(x.case, name) == value for name, value in case.items())
        if x.section == section and x.case.contender == contender and matches:
            return x
    return None
