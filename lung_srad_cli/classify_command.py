"""`lung-srad classify`: recordings and annotations in; a table, CSV, JSON or Parquet and plots out."""

import argparse
import contextlib
import hashlib
import importlib.util
import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from dataset_scripts.cycles import Cycle, read_annotations
from lung_srad_cli.argument_types import INPUT_ERROR
from lung_srad_cli.errors import report_text, reported
from lung_srad_cli.journal import SUFFIX, Journal
from lung_srad_cli.processes import Processes, join_processes, leave_processes
from modeling_lung_srad import LungSoundPipeline
from modeling_lung_srad.audio import MIN_SECONDS, SAMPLING_RATE
from modeling_lung_srad.configuration_lung_srad import CLASS_NAMES
from modeling_lung_srad.errors import InputError, printable
from modeling_lung_srad.files.output_files import check_output, replaced_when_complete
from modeling_lung_srad.files.recording_files import (
    ArchivedRecording,
    find_annotations,
    find_left_out,
    find_recordings,
    sum_durations,
)
from modeling_lung_srad.files.result_formats import FORMATS, PARQUET, SUFFIXES, Layout, write_results
from modeling_lung_srad.recording import Recording, load_recording
from modeling_lung_srad.timeline import RecordingResult

# A job with this much sound is long for every size of the network.
ENOUGH_SECONDS = 1800.0
# Files that are left out, by name.
MOST_NAMES = 5


class Job(NamedTuple):
    """
    A recording to classify, its annotation file and the path of its plot. The key changes with the content of both
    files.
    """

    recording: Path | ArchivedRecording
    annotations: Path | None
    plot: Path | None
    key: str


def run(arguments: argparse.Namespace) -> int:
    """
    Classifies recordings and writes the results; returns 2 where at least one could not be classified, otherwise 0.

    Raises:
        InputError: where nothing could be done at all.
    """
    processes = join_processes()
    try:
        return _run(arguments, processes)
    finally:
        leave_processes(processes)


def _run(arguments: argparse.Namespace, processes: Processes) -> int:
    failures: list[Exception] = []
    # All processes look for the same files, and one of them reports missing ones.
    with contextlib.nullcontext() if processes.is_main else contextlib.redirect_stderr(io.StringIO()):
        jobs = find_jobs(arguments, failures)
    if not jobs:
        return INPUT_ERROR
    output_format = _choose_format(arguments, jobs)
    if arguments.output is None or _is_special(Path(arguments.output)):
        if processes.count > 1:
            raise InputError("--output", "several processes need a file that they write together", "name one")
        return _run_to_stream(arguments, jobs, output_format, processes, failures)
    if not processes.is_main:
        failures.clear()
    return _run_to_file(arguments, jobs, output_format, processes, failures)


def _is_special(output: Path) -> bool:
    """True for a pipe, a terminal or a device, where nothing can be kept and replaced."""
    return output.exists() and not output.is_file()


def _run_to_stream(
    arguments: argparse.Namespace, jobs: list[Job], output_format: str, processes: Processes, failures: list[Exception]
) -> int:
    """Writes each result to standard output, or to a pipe or device, as soon as it is there."""
    bar = _progress_bar(jobs, processes, arguments)
    results = (result for _, result in classify_jobs(bar, load_pipeline(arguments, jobs), failures))
    if arguments.output is not None:
        write_results(Path(arguments.output), output_format, results, _layout(arguments))
    else:
        for piece in FORMATS[output_format](results, _layout(arguments)):
            print(piece, end="", flush=True)
    return INPUT_ERROR if failures else 0


def _run_to_file(
    arguments: argparse.Namespace, jobs: list[Job], output_format: str, processes: Processes, failures: list[Exception]
) -> int:
    """Classifies the share of this process into the journal; the main one then writes the output of all."""
    lung_sounds = load_pipeline(arguments, jobs)
    output = Path(arguments.output)
    with Journal(output, describe_settings(lung_sounds, arguments), processes.index) as journal:
        todo = [job for job in jobs[processes.index :: processes.count] if not _is_done(job, journal)]
        if processes.is_main and len(journal):
            print(f"{journal.path}: goes on after {len(journal)} recordings that were done before", file=sys.stderr)
        try:
            for job, result in classify_jobs(_progress_bar(todo, processes, arguments), lung_sounds, failures):
                journal.add(job.key, result)
        except BaseException:
            if len(journal):
                report_text(
                    f"{journal.path}: keeps {len(journal)} recordings; the same command again goes on from there"
                )
            raise
        num_failures = processes.total(len(failures))
        if processes.is_main:
            journal.read()
            done = [job.key for job in jobs if job.key in journal]
            if len(done) + num_failures < len(jobs):
                raise InputError(
                    output,
                    "recordings changed while other processes began",
                    f"start the same command again, which goes on from {journal.path}",
                )
            if done:
                with replaced_when_complete(output) as temporary:
                    write_results(temporary, output_format, journal.results(done), _layout(arguments))
                if sys.stderr.isatty():
                    print(f"{output}: {len(done)} of {len(jobs)} recordings", file=sys.stderr)
            journal.remove()
        processes.total(0)
    return INPUT_ERROR if num_failures and processes.is_main else 0


def _is_done(job: Job, journal: Journal) -> bool:
    return job.key in journal and (job.plot is None or job.plot.exists())


def find_jobs(arguments: argparse.Namespace, failures: list[Exception]) -> list[Job]:
    """Finds recordings, annotations and plot names, and checks what can be checked before the work begins."""
    if arguments.annotations is not None and (arguments.window or arguments.hop):
        raise InputError("--annotations", "says where cycles are", "leave it out, or leave --window and --hop out")
    found = find_distinct(arguments.paths, failures)
    recordings = list(found.values())
    annotations: list[Path | None] = [None] * len(recordings)
    plots: list[Path | None] = [None] * len(recordings)
    if arguments.annotations is not None:
        annotations = [*find_annotations(arguments.annotations, recordings)]
    if arguments.output is not None:
        inputs = [*map(_file_of, recordings), *filter(None, annotations)]
        for name in (arguments.output, f"{arguments.output}{SUFFIX}"):
            check_output(name, inputs)
    if arguments.plot is not None:
        from modeling_lung_srad.files.plots import plot_paths

        targets = plot_paths(arguments.plot, recordings)
        plots = [*targets]
        if arguments.output is not None and Path(arguments.output).resolve() in {plot.resolve() for plot in targets}:
            raise InputError(arguments.output, "is named by --output and by --plot", "give the plot another name")
    return [
        Job(recording, annotation, plot, f"{place} {_stamps(_file_of(recording), annotation)}")
        for (place, recording), annotation, plot in zip(found.items(), annotations, plots, strict=True)
    ]


def find_distinct(paths: Iterable[str], failures: list[Exception]) -> dict[str, Path | ArchivedRecording]:
    """Recordings by place, each once; a path without any is reported and does not stop the others."""
    found: dict[str, Path | ArchivedRecording] = {}
    for path in paths:
        with reported(failures):
            for listed in _listed(path):
                for recording in find_recordings(listed):
                    found.setdefault(_place(recording), recording)
                if names := find_left_out(listed):
                    shown = ", ".join(names[:MOST_NAMES]) + (", ..." if len(names) > MOST_NAMES else "")
                    print(printable(f"{listed}: {len(names)} files are left out: {shown}"), file=sys.stderr)
    return found


def _listed(path: str) -> list[str]:
    """The path itself; or the lines of standard input for `-`, or of FILE for `@FILE`."""
    if path == "-":
        lines = sys.stdin.read().splitlines()
    elif path.startswith("@") and not Path(path).exists():
        try:
            lines = Path(path[1:]).read_text(encoding="utf-8-sig").splitlines()
        except FileNotFoundError:
            raise InputError(path[1:], "no such file", "name a text file with a path in each line") from None
        except UnicodeDecodeError:
            raise InputError(path[1:], "is not UTF-8 text", "write a path in each line") from None
    else:
        return [path]
    named = [line.strip() for line in lines if line.strip()]
    if not named:
        raise InputError(path, "names no recording", "write a path in each line")
    return named


def _file_of(recording: Path | ArchivedRecording) -> Path:
    return recording.archive if isinstance(recording, ArchivedRecording) else recording


def _place(recording: Path | ArchivedRecording) -> str:
    """The same for a recording that is named twice; in the cache of the Hub, equal recordings link to one file."""
    file = _file_of(recording)
    place = os.path.join(os.path.realpath(file.parent), file.name)
    return f"{place}/{recording.member}" if isinstance(recording, ArchivedRecording) else place


def _stamps(*files: Path | None) -> list[tuple[int, int]]:
    """Size and time of those files that exist."""
    found = [file.stat() for file in files if file is not None and file.exists()]
    return [(stat.st_size, stat.st_mtime_ns) for stat in found]


def load_pipeline(arguments: argparse.Namespace, jobs: list[Job]) -> LungSoundPipeline:
    """Loads the checkpoint, checks the windows against it and chooses one scan for all jobs, also for those of other
    processes and earlier runs."""
    lung_sounds = LungSoundPipeline.from_checkpoint(
        arguments.checkpoint,
        batch_size=arguments.batch_size,
        min_confidence=arguments.min_confidence,
        window=arguments.window,
        hop=arguments.hop,
    )
    _, hop = lung_sounds.choose_window(arguments.window, arguments.hop)
    seconds = sum_durations([job.recording for job in jobs], enough=ENOUGH_SECONDS)
    lung_sounds.model.fix_scan_backend(max(len(jobs), seconds / hop) * lung_sounds.feature_extractor.num_frames)
    return lung_sounds


def describe_settings(lung_sounds: LungSoundPipeline, arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything but the recordings that changes results: the model, its features and the options."""
    digest = hashlib.sha256()
    for settings in (lung_sounds.model.config, lung_sounds.feature_extractor):
        digest.update(settings.to_json_string().encode("utf-8"))
    for name, tensor in lung_sounds.model.state_dict().items():
        digest.update(name.encode("utf-8") + tensor.cpu().numpy().tobytes())
    familiarity = lung_sounds.familiarity
    if familiarity is not None:
        digest.update(familiarity.mean.tobytes() + familiarity.whitening.tobytes() + b"%r" % familiarity.threshold)
    chosen = {name: getattr(arguments, name) for name in ("window", "hop", "min_confidence")}
    return {"model": digest.hexdigest(), "annotations": arguments.annotations is not None, **chosen}


def classify_jobs(
    jobs: tqdm, lung_sounds: LungSoundPipeline, failures: list[Exception]
) -> Iterator[tuple[Job, RecordingResult]]:
    """Classifies one recording at a time; an error about one is reported and does not stop the others."""

    def show_windows(done: int, total: int) -> None:
        jobs.set_postfix_str(f"window {done} of {total}")

    for job in jobs:
        result = None
        with reported(failures):
            recording = load_found(job.recording, lung_sounds.feature_extractor.sampling_rate)
            result = classify_recording(job, recording, lung_sounds, show_windows)
        if result is None:
            continue
        if job.plot is not None:
            with reported(failures):
                _plot(recording, result, job.plot)
        yield job, result


def load_found(recording: Path | ArchivedRecording, sampling_rate: int = SAMPLING_RATE) -> Recording:
    """Reads a recording that [`find_distinct`] found."""
    if isinstance(recording, ArchivedRecording):
        return load_recording({"bytes": recording.read(), "path": str(recording)}, sampling_rate)
    return load_recording(recording, sampling_rate)


def classify_recording(
    job: Job, recording: Recording, lung_sounds: LungSoundPipeline, on_progress: Callable[[int, int], None]
) -> RecordingResult:
    """Classifies windows of a recording, or the cycles of its annotations, whose classes then go into the result."""
    if job.annotations is None:
        return lung_sounds(recording, on_progress=on_progress)
    cycles = read_annotations(job.annotations, recording.duration)
    for cycle in cycles:
        _check_length(cycle, job.annotations, recording)
    spans = [(cycle.start, cycle.end) for cycle in cycles]
    result = lung_sounds(recording, cycles=spans, on_progress=on_progress)
    for cycle, segment in zip(cycles, result["timeline"], strict=True):
        if cycle.label is not None:
            segment["reference"] = CLASS_NAMES[cycle.label]
    return result


def _check_length(cycle: Cycle, annotations: Path, recording: Recording) -> None:
    rate = recording.sampling_rate
    if int(cycle.end * rate) - int(cycle.start * rate) < round(MIN_SECONDS * rate):
        raise InputError(
            annotations,
            f"the cycle from {cycle.start:g} s to {cycle.end:g} s is too short",
            f"at least {1000 * MIN_SECONDS:.0f} ms of the recording of {recording.duration:.3f} s are needed",
        )


def _plot(recording: Recording, result: RecordingResult, path: Path) -> None:
    from modeling_lung_srad.files.plots import plot_recording, save_figure

    save_figure(plot_recording(recording.waveform, result, recording.sampling_rate), path)


def _layout(arguments: argparse.Namespace) -> Layout:
    return Layout(arguments.annotations is not None, arguments.summary, arguments.bom)


def _choose_format(arguments: argparse.Namespace, jobs: list[Job]) -> str:
    output = Path(arguments.output or "")
    chosen = arguments.format or SUFFIXES.get(output.suffix.lower(), "table")
    if (
        arguments.format is None
        and output.suffix
        and output.suffix.lower() not in SUFFIXES
        and not _is_special(output)
    ):
        known = ", ".join(f"{suffix} ({name})" for suffix, name in SUFFIXES.items())
        raise InputError(output, f"{output.suffix} says no format", f"use {known}, or give --format")
    if chosen == PARQUET:
        if arguments.output is None:
            raise InputError("--format parquet", "is not text", "name its file by --output")
        if importlib.util.find_spec("pyarrow") is None:
            raise InputError("pyarrow", "not installed", 'run pip install "lung-srad[parquet]", which writes Parquet')
    if chosen == "audacity" and len(jobs) > 1:
        raise InputError(
            "--format audacity", f"has labels of one recording, and {len(jobs)} are given", "use raven, or name one"
        )
    if arguments.summary and chosen in ("audacity", "raven"):
        raise InputError("--summary", f"does not go with --format {chosen}", "leave one of them out")
    return chosen


def _progress_bar(jobs: list[Job], processes: Processes, arguments: argparse.Namespace) -> tqdm:
    """Over the jobs of this process, shown by the main one where it has the terminal for itself."""
    has_free_terminal = sys.stderr.isatty() and (arguments.output is not None or not sys.stdout.isatty())
    description = None if processes.count == 1 else f"process 1 of {processes.count}"
    is_disabled = not has_free_terminal or not processes.is_main
    return tqdm(jobs, description, unit="recording", disable=is_disabled, leave=False)
