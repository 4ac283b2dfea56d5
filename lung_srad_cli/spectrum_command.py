"""`lung-srad spectrum`: the spectral response of layers in recordings, as figures and tables."""

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm
from transformers import PreTrainedModel

from lung_srad_cli.argument_types import INPUT_ERROR
from lung_srad_cli.classify_command import find_distinct
from lung_srad_cli.errors import reported
from lung_srad_cli.spectrum_files import SpectrumFiles, write_curves, write_summary
from modeling_lung_srad import LungSradFeatureExtractor
from modeling_lung_srad.errors import InputError, printable
from modeling_lung_srad.files.plots import save_figure
from modeling_lung_srad.files.recording_files import ArchivedRecording
from modeling_lung_srad.recording import cut_cycle, fade_recording, load_recording
from modeling_lung_srad.spectral.figures import (
    AttentionMap,
    mel_share,
    plot_attention_maps,
    plot_depth,
    plot_regularization,
    plot_responses,
)
from modeling_lung_srad.spectral.layers import AST, MixingLayer, check_layers, layer_matrices, list_layers
from modeling_lung_srad.spectral.profile import LayerProfile, profile_layers
from modeling_lung_srad.timeline import check_window, sliding_windows

DEFAULT_WINDOW_SECONDS = 8.0
DEFAULT_STAGE, PUBLISHED_BLOCKS, PUBLISHED_AST_LAYERS = 2, (2, 8, 12), (1, 6, 9)
DEFAULT_HZ = 400.0
NUM_DRAWN = 3


class Subject(NamedTuple):
    """A model to look into, and which of its layers to draw."""

    name: str
    model: PreTrainedModel
    feature_extractor: LungSradFeatureExtractor
    drawn: list[MixingLayer]


class WindowedRecording(NamedTuple):
    """A recording, faded, and its windows in seconds."""

    file: str
    waveform: np.ndarray
    sampling_rate: int
    windows: list[tuple[float, float]]

    def clip(self, window: tuple[float, float]) -> np.ndarray:
        """The samples of a window."""
        return cut_cycle(self.waveform, self.sampling_rate, *window)


def run(arguments: argparse.Namespace) -> int:
    """
    Measures the layers, writes figures and tables, and returns 2 where a recording could not be used, otherwise 0.

    Raises:
        InputError: where nothing could be done at all.
    """
    failures: list[Exception] = []
    files = SpectrumFiles.at(arguments.output)
    subjects = load_subjects(arguments)
    recordings = load_recordings(arguments, subjects, failures)
    if not recordings:
        return INPUT_ERROR
    position = choose_position(arguments.position, recordings[0])
    num_windows = sum(len(recording.windows) for recording in recordings)
    runs = len(subjects) + 2 * arguments.regularization
    with tqdm(total=runs * num_windows, unit="window", disable=None, leave=False) as bar:
        measured = {
            subject.name: profile(subject, recordings, arguments.definition, bar.update) for subject in subjects
        }
        variants = None
        if arguments.regularization:
            as_it_runs = measured[subjects[0].name]
            variants = profile_variants(subjects[0], as_it_runs, recordings, arguments.definition, bar.update)
    files.make_folder()
    draw_responses(subjects, measured, files)
    draw_attention(subjects, recordings[0], position, arguments.definition, files.figure("attention"))
    write_summary(files.table("summary"), measured)
    write_curves(files.table("curves"), measured)
    if variants is not None:
        save_figure(plot_regularization(variants), files.figure("regularization"))
        write_summary(files.table("regularization"), variants, first_column="convolution", with_stages=True)
    describe(measured, len(recordings), num_windows, files)
    return INPUT_ERROR if failures else 0


def load_subjects(arguments: argparse.Namespace) -> list[Subject]:
    """Loads the models and finds the layers to draw, before any recording is read."""
    from training.prediction.classifier_loading import load_classifier

    if arguments.compare is None and (arguments.compare_stage is not None or arguments.compare_blocks):
        raise InputError("--compare-stage, --compare-blocks", "choose layers of --compare", "give --compare as well")
    model, feature_extractor = load_classifier(arguments.checkpoint)
    drawn = choose_layers(arguments.checkpoint, model, arguments.stage, arguments.blocks)
    subjects = [Subject(_name(arguments.checkpoint), model, feature_extractor, drawn)]
    if arguments.regularization:
        check_regularized(arguments.checkpoint, model)
    if arguments.compare is not None:
        model, feature_extractor = load_classifier(arguments.compare)
        stage = arguments.compare_stage
        if model.config.model_type != AST and stage is None:
            stage = arguments.stage
        drawn = choose_layers(arguments.compare, model, stage, arguments.compare_blocks)
        name = _name(arguments.compare)
        if name == subjects[0].name:
            subjects[0] = subjects[0]._replace(name=arguments.checkpoint)
            name = arguments.compare if arguments.compare != arguments.checkpoint else f"{arguments.compare} (again)"
        subjects.append(Subject(name, model, feature_extractor, drawn))
    return subjects


def choose_layers(
    checkpoint: str, model: PreTrainedModel, stage: int | None, blocks: Sequence[int] | None
) -> list[MixingLayer]:
    """
    The layers to draw: those asked for; otherwise those of the paper or, where the model is less deep, three evenly
    spaced ones of the stage.

    Raises:
        InputError: for a stage or block that the model does not have.
    """
    is_ast = model.config.model_type == AST
    if is_ast and stage is not None:
        raise InputError(checkpoint, "is an AST, which has layers and no stages", "leave the stage out")
    if not is_ast and stage is None:
        stage = min(DEFAULT_STAGE, len(model.config.depths) - 1)
    if blocks is None:
        depth = sum(layer.stage == stage for layer in list_layers(model))
        published = PUBLISHED_AST_LAYERS if is_ast else PUBLISHED_BLOCKS
        spaced = sorted({round(place) for place in np.linspace(0, depth - 1, NUM_DRAWN)}) if depth else [0]
        blocks = published if published[-1] < depth else spaced
    layers = [MixingLayer(stage, block) for block in dict.fromkeys(blocks)]
    try:
        check_layers(model, layers)
    except InputError as error:
        raise error.within(checkpoint) from error
    return layers


def check_regularized(checkpoint: str, model: PreTrainedModel) -> None:
    """Raises `InputError` for a model without a Gaussian convolution that acts at inference."""
    if not getattr(model.config, "gaussian_blocks", ()) or not model.config.gaussian_at_inference:
        raise InputError(
            "--regularization",
            f"{checkpoint} lacks a Gaussian convolution that acts at inference (gaussian_blocks, "
            "gaussian_at_inference in its config.json)",
            "name a checkpoint that has one, or leave the option out",
        )


def load_recordings(
    arguments: argparse.Namespace, subjects: Sequence[Subject], failures: list[Exception]
) -> list[WindowedRecording]:
    """Reads the recordings and chooses windows; an error about one is reported and does not stop the others."""
    longest = min(subject.feature_extractor.cycle_seconds for subject in subjects)
    rates = {subject.feature_extractor.sampling_rate for subject in subjects}
    if len(rates) > 1:
        raise InputError("--compare", f"the two models work at different sampling rates ({rates})", "compare others")
    window = arguments.window or min(DEFAULT_WINDOW_SECONDS, longest)
    hop = arguments.hop or window
    check_window(window, hop, longest)
    found = find_distinct(arguments.recordings, failures)
    loaded, [rate] = [], rates
    for recording in tqdm(found.values(), unit="recording", desc="reading", disable=None, leave=False):
        with reported(failures):
            source = recording.read() if isinstance(recording, ArchivedRecording) else recording
            waveform = load_recording(source, rate).waveform
            windows = sliding_windows(len(waveform) / rate, window, hop)
            places = np.linspace(0, len(windows) - 1, min(arguments.windows, len(windows))).round().astype(int)
            chosen = [windows[place] for place in places]
            loaded.append(WindowedRecording(str(recording), fade_recording(waveform, rate), rate, chosen))
    return loaded


def profile(
    subject: Subject, recordings: Sequence[WindowedRecording], definition: str, on_window: Callable[[], object]
) -> list[LayerProfile]:
    """All layers of a model as it runs."""
    return profile_layers(
        subject.model, subject.feature_extractor, _clips(recordings), None, definition, on_window=on_window
    )


def profile_variants(
    subject: Subject,
    as_it_runs: list[LayerProfile],
    recordings: Sequence[WindowedRecording],
    definition: str,
    on_window: Callable[[], object],
) -> dict[str, list[LayerProfile]]:
    """Profiles by variant: all layers without the Gaussian convolution, the scans alone of its stage, and all layers
    with it, which are given."""
    config = subject.model.config
    regularized = [MixingLayer(config.gaussian_stage, block) for block in config.gaussian_blocks]
    without, alone = (
        profile_layers(
            subject.model, subject.feature_extractor, _clips(recordings), layers, definition, gaussian, on_window
        )
        for layers, gaussian in ((None, "switched_off"), (regularized, "left_out"))
    )
    by_layer = {found.layer: found for found in alone}
    in_stage = [found for found in as_it_runs if found.layer.stage == config.gaussian_stage]
    scan_alone = [by_layer.get(found.layer, found) for found in in_stage]
    return {"without": without, "scan_alone": scan_alone, "with": as_it_runs}


class Position(NamedTuple):
    """A point in a window of a recording."""

    window: tuple[float, float]
    seconds: float
    hz: float


def choose_position(wanted: Sequence[float] | None, recording: WindowedRecording) -> Position:
    """
    The point whose attention is drawn, and the window around it.

    Raises:
        InputError: where it is beyond the recording or its frequencies.
    """
    if wanted is None:
        start, end = recording.windows[0]
        return Position((start, end), (start + end) / 2, min(DEFAULT_HZ, recording.sampling_rate / 4))
    seconds, hz = wanted
    duration, nyquist = len(recording.waveform) / recording.sampling_rate, recording.sampling_rate / 2
    if seconds >= duration:
        raise InputError(
            "--position", f"{seconds:g} s is beyond {recording.file}, which lasts {duration:.2f} s", "give less"
        )
    if not 20 <= hz <= nyquist:
        raise InputError("--position", f"{hz:g} Hz is not on the mel axis", f"give 20 to {nyquist:g}")
    length = recording.windows[0][1] - recording.windows[0][0]
    start = min(max(0.0, seconds - length / 2), max(0.0, duration - length))
    return Position((start, min(start + length, duration)), seconds, hz)


def draw_responses(subjects: Sequence[Subject], measured: dict[str, list[LayerProfile]], files: SpectrumFiles) -> None:
    """Draws the curves of the layers to draw, and the figures of all layers."""
    drawn = {}
    for subject in subjects:
        by_layer = {found.layer: found for found in measured[subject.name]}
        drawn[subject.name] = [by_layer[layer] for layer in subject.drawn]
    save_figure(plot_responses(drawn), files.figure("responses"))
    save_figure(plot_depth(measured), files.figure("depth"))


def draw_attention(
    subjects: Sequence[Subject], recording: WindowedRecording, position: Position, definition: str, path: Path
) -> None:
    """Draws what the position reads in the layers to draw."""
    maps, clip, rate = [], recording.clip(position.window), recording.sampling_rate
    inputs = [
        subject.feature_extractor(clip, sampling_rate=rate, return_tensors="pt")["input_values"]
        for subject in subjects
    ]
    for subject, input_values in zip(subjects, inputs, strict=True):
        time_share = (position.seconds - position.window[0]) / subject.feature_extractor.cycle_seconds
        for found in layer_matrices(subject.model, input_values, subject.drawn, definition):
            rows, columns = found.grid
            row = min(int(mel_share(position.hz, subject.feature_extractor.frequencies) * rows), rows - 1)
            column = min(int(time_share * columns), columns - 1)
            weights = found.matrix[0, row * columns + column].reshape(rows, columns).numpy()
            maps.append(AttentionMap(subject.name, found.layer, row, column, weights))
    start, end = position.window
    title = f"{printable(Path(recording.file).name)}, {start:.1f} s to {end:.1f} s: what {position.seconds:.2f} s,"
    figure = plot_attention_maps(
        maps,
        inputs[0][0].numpy(),
        subjects[0].feature_extractor.cycle_seconds,
        subjects[0].feature_extractor.frequencies,
        f"{title} {position.hz:.0f} Hz reads",
    )
    save_figure(figure, path)


def describe(
    measured: dict[str, list[LayerProfile]], num_recordings: int, num_windows: int, files: SpectrumFiles
) -> None:
    """Prints the mean figures of each model and where the rest is."""
    print(f"{num_recordings} recordings, {num_windows} windows; mean over layers:")
    for name, layers in measured.items():
        mean = {key: np.mean([found.figures[key].mean() for found in layers]) for key in layers[0].figures}
        print(
            f"{name}: {100 * mean['high_share']:.1f} % of the response above half Nyquist, "
            f"{100 * mean['zero_share']:.1f} % at frequency 0, high-to-low ratio {mean['high_to_low']:.3f}"
        )
    print(f"written: {files}")
    print("Research software, not a medical device.")


def _clips(recordings: Sequence[WindowedRecording]) -> list[list[np.ndarray]]:
    return [[recording.clip(window) for window in recording.windows] for recording in recordings]


def _name(checkpoint: str) -> str:
    """The last part of a path or id; the last two where it is `checkpoint-N`, an epoch of a run."""
    parts = Path(os.path.abspath(os.path.expanduser(checkpoint))).parts
    return "/".join(parts[-2:] if parts[-1].startswith("checkpoint-") else parts[-1:])
