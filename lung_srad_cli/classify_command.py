"""`lung-srad classify`: recordings and annotations in; a table, CSV or JSON and plots out."""

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from dataset_scripts.cycles import AnnotationError, Cycle, cut_cycle, fade_recording, read_annotations
from lung_srad_cli.argument_types import INPUT_ERROR
from lung_srad_cli.errors import UsageError, reported
from modeling_lung_srad import LungSradFeatureExtractor, LungSradForAudioClassification
from modeling_lung_srad.audio import MIN_SECONDS, read_audio
from modeling_lung_srad.checkpoint_loading import DEFAULT_CHECKPOINT, load_checkpoint
from modeling_lung_srad.classify import (
    CLASS_NAMES,
    ClassifiedCycle,
    ClassifiedRecording,
    check_window,
    classify_clips,
    sliding_windows,
)
from modeling_lung_srad.output_files import check_output, replaced_when_complete
from modeling_lung_srad.recording_files import find_annotations, find_recordings
from modeling_lung_srad.result_formats import FORMATS

DEFAULT_WINDOW_SECONDS = 8.0


class Job(NamedTuple):
    """A recording to classify, its annotation file and where its plot goes."""

    recording: Path
    annotations: Path | None
    plot: Path | None


class Settings(NamedTuple):
    """What all recordings are classified with."""

    model: LungSradForAudioClassification
    feature_extractor: LungSradFeatureExtractor
    window: float
    hop: float
    batch_size: int


def run(arguments: argparse.Namespace) -> int:
    """
    Classifies what the arguments name and writes the results.

    Args:
        arguments (`argparse.Namespace`): of `lung-srad classify`.

    Returns:
        `int`: the exit code, 2 where at least one recording could not be classified.

    Raises:
        UsageError, CheckpointError, OutputError, RecordingsError, WindowError: where nothing could be done at all.
    """
    failures: list[Exception] = []
    jobs = find_jobs(arguments, failures)
    if not jobs:
        return INPUT_ERROR
    recordings = classify_jobs(jobs, load_settings(arguments), failures, _has_free_terminal(arguments))
    suffix = Path(arguments.output or "").suffix[1:].lower()
    text_of = FORMATS[arguments.format or (suffix if suffix in FORMATS else "table")]
    is_annotated = arguments.annotations is not None
    if arguments.output is None:
        for piece in text_of(recordings, is_annotated):
            print(piece, end="", flush=True)
    elif finished := list(recordings):
        text = "".join(text_of(finished, is_annotated))
        with replaced_when_complete(arguments.output) as temporary:
            temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")
    return INPUT_ERROR if failures else 0


def find_jobs(arguments: argparse.Namespace, failures: list[Exception]) -> list[Job]:
    """Finds recordings, annotations and plot names, and checks what can be checked before the work begins."""
    if arguments.annotations is not None and (arguments.window or arguments.hop):
        raise UsageError("--annotations says where cycles are; leave it out, or leave --window and --hop out")
    found: dict[str, Path] = {}
    for path in arguments.paths:
        with reported(failures):
            for recording in find_recordings(path):
                found.setdefault(os.path.realpath(recording), recording)
    recordings = list(found.values())
    annotations: list[Path | None] = [None] * len(recordings)
    plots: list[Path | None] = [None] * len(recordings)
    if arguments.annotations is not None:
        annotations = [*find_annotations(arguments.annotations, recordings)]
    if arguments.output is not None:
        check_output(arguments.output, [*recordings, *filter(None, annotations)])
    if arguments.plot is not None:
        from modeling_lung_srad.plots import plot_paths

        targets = plot_paths(arguments.plot, recordings)
        plots = [*targets]
        if arguments.output is not None and Path(arguments.output).resolve() in {plot.resolve() for plot in targets}:
            raise UsageError(f"{arguments.output}: is named by --output and by --plot; give the plot another name")
    return [Job(*job) for job in zip(recordings, annotations, plots, strict=True)]


def load_settings(arguments: argparse.Namespace) -> Settings:
    """Loads the checkpoint and checks the windows against it."""
    model, feature_extractor = load_checkpoint(arguments.checkpoint or DEFAULT_CHECKPOINT)
    model.to("cuda" if torch.cuda.is_available() else "cpu")  # type: ignore[arg-type]
    window = arguments.window or min(DEFAULT_WINDOW_SECONDS, feature_extractor.cycle_seconds)
    hop = arguments.hop or window / 2
    check_window(window, hop, longest=feature_extractor.cycle_seconds)
    return Settings(model, feature_extractor, window, hop, arguments.batch_size)


def classify_jobs(
    jobs: list[Job], settings: Settings, failures: list[Exception], is_progress_shown: bool = False
) -> Iterator[ClassifiedRecording]:
    """Classifies one recording at a time; what is wrong with one is reported and does not stop the others."""
    rate = settings.feature_extractor.sampling_rate
    for job in tqdm(jobs, unit="recording", disable=not is_progress_shown, leave=False):
        result = None
        with reported(failures):
            waveform = read_audio(job.recording, rate)
            result = classify_recording(job, waveform, settings)
        if result is None:
            continue
        yield result
        if job.plot is not None:
            with reported(failures):
                _plot(waveform, result, rate, job.plot)


def classify_recording(job: Job, waveform: np.ndarray, settings: Settings) -> ClassifiedRecording:
    """
    Goes the way of training: the whole recording is faded, cycles or windows are cut, then features and model.

    Args:
        job ([`Job`]): the recording and its annotations.
        waveform (`np.ndarray`): the recording at the rate of the feature extractor, shape `(samples,)`.
        settings ([`Settings`]): the model and the windows.

    Raises:
        AnnotationError: where the annotations do not fit the recording.
    """
    rate = settings.feature_extractor.sampling_rate
    duration = len(waveform) / rate
    if job.annotations is None:
        cycles = [Cycle(*window) for window in sliding_windows(duration, settings.window, settings.hop)]
    else:
        cycles = read_annotations(job.annotations, duration)
    for cycle in cycles:
        if int(cycle.end * rate) - int(cycle.start * rate) < round(MIN_SECONDS * rate):
            raise AnnotationError(
                f"{job.annotations}: the cycle from {cycle.start:g} s to {cycle.end:g} s is too short; "
                f"at least {1000 * MIN_SECONDS:.0f} ms of the recording of {duration:.3f} s are needed"
            )
    faded = fade_recording(waveform, rate)
    clips = [cut_cycle(faded, rate, cycle.start, cycle.end) for cycle in cycles]
    probabilities = classify_clips(settings.model, settings.feature_extractor, clips, settings.batch_size)
    classified = (
        ClassifiedCycle(cycle.start, cycle.end, tuple(row), None if cycle.label is None else CLASS_NAMES[cycle.label])
        for cycle, row in zip(cycles, probabilities.tolist(), strict=True)
    )
    return ClassifiedRecording(str(job.recording), duration, tuple(classified))


def _plot(waveform: np.ndarray, recording: ClassifiedRecording, rate: int, path: Path) -> None:
    from modeling_lung_srad.plots import plot_recording, save_figure

    save_figure(plot_recording(waveform, recording, rate), path)


def _has_free_terminal(arguments: argparse.Namespace) -> bool:
    """Whether a progress bar would have the terminal for itself."""
    return sys.stderr.isatty() and (arguments.output is not None or not sys.stdout.isatty())
