"""Answers for a whole recording: windows over it, the timeline of their answers, and a summary.

The module is saved with checkpoints.
"""

from collections.abc import Iterable, Sequence
from typing import NotRequired, TypedDict

import numpy as np

from .audio import MIN_SECONDS, SAMPLING_RATE
from .configuration_lung_srad import CLASS_NAMES
from .errors import InputError

# Clips much shorter than this hold no sound of breathing and hardly a frame of features.
SHORTEST_WINDOW_SECONDS = 0.05
# A sound counts as present where it is more likely than not.
PRESENT_FROM = 0.5
CONTEXT_SECONDS = 15.0
CONTEXT_LIMIT = 2.0
NUM_STRONGEST = 3
UNFAMILIAR = "unfamiliar"
SOUNDS = {"crackle": ("crackle", "both"), "wheeze": ("wheeze", "both")}


class Segment(TypedDict):
    """
    The answer for one window or cycle.

    `start` and `end` are seconds from the beginning of the recording, `label` is the most probable class and
    `confidence` its probability, `probabilities` those of the four classes. `abstained` says that the answer should
    not be used: its confidence is below the stated one, or there is nothing to hear. `flags` names the quality flags
    that touch the segment or are about the whole recording, `reference` is the annotated class, where there is one.
    """

    start: float
    end: float
    label: str
    confidence: float
    abstained: bool
    probabilities: dict[str, float]
    flags: list[str]
    reference: NotRequired[str]


class StrongSegment(TypedDict):
    """Where a sound is most probable: `label` is `"crackle"` or `"wheeze"`, times are in seconds."""

    label: str
    start: float
    end: float
    probability: float


class Summary(TypedDict):
    """
    The timeline in a few figures.

    `label` is the class of what is present anywhere in it (`None` where every answer was abstained from),
    `crackle_share` and `wheeze_share` are the shares of time that has an answer by which the sound is more likely than
    not, `abstained_share` that without an answer. `strongest` has up to three segments with a sound, the most probable
    first.
    """

    label: str | None
    crackle_share: float
    wheeze_share: float
    abstained_share: float
    strongest: list[StrongSegment]


class QualityReport(TypedDict):
    """A quality flag: its name, a sentence with the remedy, the measured value and the seconds that it is about."""

    flag: str
    message: str
    value: float
    spans: list[list[float]]


class RecordingResult(TypedDict):
    """
    The answer for a recording.

    `file` is its path as the caller wrote it, `duration` its seconds, `sampling_rate` the rate of the source in Hz,
    `calibrated` whether the checkpoint carries a temperature. `cycles_given` says that the segments are cycles that
    the caller gave and no windows.
    """

    file: str | None
    duration: float
    sampling_rate: int
    calibrated: bool
    cycles_given: bool
    summary: Summary
    quality: list[QualityReport]
    timeline: list[Segment]


def check_window(window: float, hop: float, longest: float) -> None:
    """
    Checks the settings of [`sliding_windows`].

    Args:
        window (`float`): seconds.
        hop (`float`): seconds.
        longest (`float`): seconds that the feature extractor keeps of a clip.

    Raises:
        InputError: naming the setting and the remedy.
    """
    if not SHORTEST_WINDOW_SECONDS <= window <= longest:
        raise InputError(
            "window",
            f"{window:g} s is not possible",
            f"give {SHORTEST_WINDOW_SECONDS:g} s to {longest:g} s, the most that the model hears at once",
        )
    if not 1 / SAMPLING_RATE <= hop <= window:
        raise InputError(
            "hop",
            f"{hop:g} s is not possible",
            f"give more than 0 and at most the window of {window:g} s, so that no part of the recording is left out",
        )


def sliding_windows(duration: float, window: float, hop: float) -> list[tuple[float, float]]:
    """
    Windows over a whole recording, `hop` apart; the last one ends where the recording ends.

    Args:
        duration (`float`): seconds of the recording. Up to `window`, the whole recording is the only window.
        window (`float`): seconds.
        hop (`float`): seconds.

    Returns:
        `list[tuple[float, float]]`: start and end in seconds, in order.

    Example:

    ```python
    >>> sliding_windows(11.0, window=8.0, hop=2.0)
    [(0.0, 8.0), (2.0, 10.0), (3.0, 11.0)]

    ```"""
    if duration <= window:
        return [(0.0, duration)]
    # A remainder under one sample is rounding, not sound.
    steps = int((duration - window) / hop + 1e-9)
    windows = [(index * hop, index * hop + window) for index in range(steps + 1)]
    if duration - windows[-1][1] > 0.5 / SAMPLING_RATE:
        windows.append((duration - window, duration))
    return windows


def check_cycles(cycles: Iterable[tuple[float, float]], duration: float, name: str) -> list[tuple[float, float]]:
    """
    Checks the cycles that a caller gives for a recording.

    Args:
        cycles (iterable of `tuple[float, float]`): start and end in seconds.
        duration (`float`): seconds of the recording.
        name (`str`): what messages call the recording.

    Returns:
        `list[tuple[float, float]]`

    Raises:
        InputError: for a cycle whose times are out of order or outside the recording, or that is shorter than 25 ms.
    """
    checked = []
    for cycle in cycles:
        try:
            start, end = map(float, cycle)
        except (TypeError, ValueError):
            raise InputError(name, f"the cycle {cycle!r} is not a pair of times", "give (start, end) in s") from None
        if not 0 <= start < end <= duration + 1 / SAMPLING_RATE:
            raise InputError(
                name,
                f"the cycle from {start:g} s to {end:g} s does not lie in the recording of {duration:.3f} s",
                "correct its times",
            )
        # Each end is cut to a sample, so a cycle of 25 ms may come out one sample shorter than that.
        if int(end * SAMPLING_RATE) - int(start * SAMPLING_RATE) < round(MIN_SECONDS * SAMPLING_RATE):
            raise InputError(
                name,
                f"the cycle from {start:g} s to {end:g} s is too short",
                f"at least {1000 * MIN_SECONDS:.0f} ms are needed",
            )
        checked.append((start, end))
    return checked


def add_context(odds: np.ndarray, spans: Sequence[tuple[float, float]], weight: float) -> np.ndarray:
    """
    Log odds that take their surroundings into account: a sound that is heard in other breaths is likelier in this one.

    Args:
        odds (`np.ndarray` of shape `(windows, sounds)`): log odds of each window.
        spans (sequence of `tuple[float, float]`): start and end of the windows in seconds, in any order.
        weight (`float`): of the mean of the other windows whose middles lie within 15 s, each of them limited to 2 so
            that certain ones do not outvote what is heard here.

    Returns:
        `np.ndarray` of shape `(windows, sounds)`: `odds` itself where a window is alone.

    Example:

    ```python
    >>> add_context(np.array([[1.0], [3.0], [5.0]]), [(0, 4), (4, 8), (60, 64)], 0.5).tolist()
    [[2.0], [3.5], [5.0]]

    ```"""
    middles = np.array([(start + end) / 2 for start, end in spans])
    order = np.argsort(middles, kind="stable")
    limited = odds.clip(-CONTEXT_LIMIT, CONTEXT_LIMIT)
    sums = np.concatenate([np.zeros((1, odds.shape[1])), np.cumsum(limited[order], axis=0, dtype=np.float64)])
    first = np.searchsorted(middles[order], middles - CONTEXT_SECONDS, side="left")
    last = np.searchsorted(middles[order], middles + CONTEXT_SECONDS, side="right")
    others = (last - first - 1)[:, None]
    return odds + weight * (sums[last] - sums[first] - limited) / np.maximum(others, 1) * (others > 0)


def mean_probabilities(segments: Sequence[Segment]) -> tuple[np.ndarray, np.ndarray]:
    """
    Class probabilities as a step function of time.

    Args:
        segments (sequence of [`Segment`]): in any order; they may overlap or leave gaps.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: the times of the steps in seconds, shape `(steps + 1,)`, and between each two
        of them the mean of the segments there, shape `(steps, 4)`; zeros where there is none.

    Example:

    ```python
    >>> certain = {name: dict.fromkeys(CLASS_NAMES, 0.0) | {name: 1.0} for name in CLASS_NAMES}
    >>> segments = [
    ...     {"start": 0, "end": 2, "probabilities": certain["normal"]},
    ...     {"start": 1, "end": 3, "probabilities": certain["crackle"]},
    ... ]
    >>> mean_probabilities(segments)[1].tolist()
    [[1.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]]

    ```"""
    times = np.unique([edge for segment in segments for edge in (segment["start"], segment["end"])])
    totals = np.zeros((max(len(times) - 1, 0), len(CLASS_NAMES)))
    counts = np.zeros((len(totals), 1))
    for segment in segments:
        covered = slice(np.searchsorted(times, segment["start"]), np.searchsorted(times, segment["end"]))
        totals[covered] += [segment["probabilities"][name] for name in CLASS_NAMES]
        counts[covered] += 1
    return times, totals / np.maximum(counts, 1)


def summarize(timeline: Sequence[Segment]) -> Summary:
    """
    Sums a timeline up. Segments that were abstained from count only as such; shares are of the time that segments
    cover.

    Args:
        timeline (sequence of [`Segment`]): of one recording.

    Returns:
        [`Summary`]
    """
    answered = [segment for segment in timeline if not segment["abstained"]]
    covered, seconds_answered = _covered_seconds(timeline), _covered_seconds(answered)
    times, probabilities = mean_probabilities(answered)
    seconds = np.diff(times)
    shares = {
        sound: float(seconds[_sound_probability(probabilities, sound) >= PRESENT_FROM].sum() / covered)
        for sound in SOUNDS
        if covered
    }
    # The index of a class has a bit for each sound.
    label = CLASS_NAMES[sum(2**bit for bit, sound in enumerate(SOUNDS) if shares.get(sound, 0.0) > 0)]
    return {
        "label": label if answered else None,
        "crackle_share": shares.get("crackle", 0.0),
        "wheeze_share": shares.get("wheeze", 0.0),
        "abstained_share": 1 - seconds_answered / covered if covered else 0.0,
        "strongest": _strongest(answered),
    }


def why_no_answer(timeline: Sequence[Segment]) -> str | None:
    """
    Says why no segment of a timeline can be relied on; `None` where one can.

    Such a segment was answered, and is not flagged as unlike the sounds of training.
    """
    if any(not segment["abstained"] and UNFAMILIAR not in segment["flags"] for segment in timeline):
        return None
    if all(UNFAMILIAR in segment["flags"] for segment in timeline):
        return "it is unlike the lung sounds that the model was trained on"
    if all("silence" in segment["flags"] for segment in timeline):
        return "there is no sound to judge"
    if any(UNFAMILIAR in segment["flags"] for segment in timeline):
        return "each part is unlike the lung sounds of training, or the model is not sure enough of it"
    return "the model is not sure enough of any part"


def sound_probability(segment: Segment, sound: str) -> float:
    """Probability that a segment has `"crackle"` or `"wheeze"`, alone or with the other."""
    return sum(segment["probabilities"][name] for name in SOUNDS[sound])


def _sound_probability(probabilities: np.ndarray, sound: str) -> np.ndarray:
    return probabilities[:, [CLASS_NAMES.index(name) for name in SOUNDS[sound]]].sum(axis=1)


def _strongest(answered: Sequence[Segment]) -> list[StrongSegment]:
    found: list[StrongSegment] = [
        {"label": sound, "start": segment["start"], "end": segment["end"], "probability": probability}
        for segment in answered
        for sound in SOUNDS
        if (probability := sound_probability(segment, sound)) >= PRESENT_FROM
    ]
    return sorted(found, key=lambda segment: -segment["probability"])[:NUM_STRONGEST]


def _covered_seconds(segments: Sequence[Segment]) -> float:
    """Seconds that lie in at least one segment."""
    total, reached = 0.0, -np.inf
    for start, end in sorted((segment["start"], segment["end"]) for segment in segments):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return float(total)
