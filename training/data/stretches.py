"""Training stretches cut anywhere: around annotated cycles, and as windows over whole recordings.

The log-mel spectrograms of recordings are kept in memory, frame by frame, without padding. A draw takes a stretch of
an annotated cycle, repeated where it is shorter than the network's input, or a window anywhere in a whole recording,
whose label follows from the cycles that it overlaps. So a network learns what it meets in a timeline of windows, too.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from dataset_scripts.cycles import CLASS_NAMES
from dataset_scripts.other_sounds import KINDS, simulate_other_sound
from dataset_scripts.simulated import DEVICE as SIMULATED_DEVICE
from dataset_scripts.simulated_events import simulate_event
from dataset_scripts.sprsound import DEVICE, load_sprsound_recordings
from modeling_lung_srad import LungSradFeatureExtractor
from modeling_lung_srad.audio import SAMPLING_RATE, read_audio
from modeling_lung_srad.feature_extraction_lung_srad import HOP_SECONDS
from training.arguments import AugmentationArguments
from training.data.augmentation import augment_log_mel, draw_below, mix_breath, spec_augment, stretch_time
from training.data.cycle_sources import CycleSource
from training.data.sampling import CycleDraw

# A window has a sound if it holds this much of it, in seconds, or this share of the cycle.
HEARD_SECONDS, HEARD_SHARE = 0.15, 0.5
SIMULATED_SECONDS = 8.0
# That of benchmarks/saliency_localization.py is another.
SIMULATED_SEED = 77
EVENT_LEVELS = (0.6, 2.0)


class Span(NamedTuple):
    """Frames `start` to `end` of a recording, with the class of what is heard there."""

    start: int
    end: int
    label: int


@dataclass(frozen=True)
class SpectrogramOfRecording:
    """
    A recording, or a cycle that is there by itself.

    Args:
        log_mel (`torch.Tensor` of shape `(frames, num_mel_bins)`): in float16.
        spans (`tuple[Span, ...]`): its annotated cycles.
        source (`str`): `icbhi`, `sprsound`, `simulated` or `other_sounds`.
        patient (`str`): number of the patient.
        device (`str`): stethoscope, by its name in the data set.
        name (`str`): what messages call it.
        is_whole (`bool`): whether windows may be cut anywhere, as all sounds in it are annotated.
    """

    log_mel: torch.Tensor
    spans: tuple[Span, ...]
    source: str
    patient: str
    device: str
    name: str
    is_whole: bool


class Unit(NamedTuple):
    """A candidate: a cycle, or a window (`is_window`) near one or, in recordings without cycles, anywhere."""

    recording: int
    span: Span | None
    is_window: bool


def load_recordings(
    sources: Sequence[CycleSource],
    feature_extractor: LungSradFeatureExtractor,
    sprsound: str | None,
    simulated_events: int = 0,
    other_sounds: int = 0,
) -> list[SpectrogramOfRecording]:
    """
    Computes the spectrograms of all training recordings.

    Args:
        sources (sequence of [`CycleSource`]): the training cycles.
        feature_extractor ([`LungSradFeatureExtractor`]): what makes them.
        sprsound (`str`, *optional*): folder of SPRSound, whose recordings are taken whole.
        simulated_events (`int`, *optional*, defaults to 0): simulated recordings with one event to add.
        other_sounds (`int`, *optional*, defaults to 0): computed recordings of speech, tones and noise to add, which
            have no class: their label is normal.

    Raises:
        ValueError: where audio or annotations cannot be read.
    """
    recordings: list[SpectrogramOfRecording] = []
    for source in sources:
        read = _whole_recordings(source, sprsound) if source.name == "sprsound" and sprsound else _cycles(source)
        total = None if source.name == "sprsound" else len(source.cycles)
        for waveform, spans, patient, device, name, is_whole in tqdm(
            read, desc=f"log-mel, {source.name}", total=total
        ):
            log_mel = _log_mel(waveform, feature_extractor)
            fitted = tuple(_fitted(span, len(log_mel)) for span in spans)
            recordings.append(SpectrogramOfRecording(log_mel, fitted, source.name, patient, device, name, is_whole))
    for index in tqdm(range(simulated_events), desc="log-mel, simulated events", disable=not simulated_events):
        recordings.append(_simulated(index, feature_extractor))
    for index in tqdm(range(other_sounds), desc="log-mel, other sounds", disable=not other_sounds):
        recordings.append(_other_sound(index, feature_extractor))
    return recordings


class StretchDataset(Dataset):
    """
    Network inputs and labels of random stretches, for training.

    Args:
        recordings (`list[SpectrogramOfRecording]`): from [`load_recordings`].
        feature_extractor ([`LungSradFeatureExtractor`]): the one that made them.
        augmentation ([`AugmentationArguments`]): with `stretch_frames`.
        windows (`bool`, *optional*, defaults to `False`): whether windows over whole recordings are drawn as well.

    Attributes:
        labels (`list[int]`): class of each cycle; of a window, that of the cycle that it is near.
        sources (`list[str]`): `icbhi`, `sprsound`, `simulated`, `other_sounds` or, for windows,
            `windows`.
        patients (`list[str]`): patient of each, with the name of the data set.
        devices (`list[str]`): stethoscope of each.
        names (`list[str]`): what messages call each.
    """

    def __init__(
        self,
        recordings: list[SpectrogramOfRecording],
        feature_extractor: LungSradFeatureExtractor,
        augmentation: AugmentationArguments,
        windows: bool = False,
    ):
        self.recordings = recordings
        self.feature_extractor = feature_extractor
        self.augmentation = augmentation
        self.frames = augmentation.stretch_frames or 1
        self.units = list(_units(recordings, windows))
        self.labels = [unit.span.label if unit.span else 0 for unit in self.units]
        self.sources = [_drawn_as(recordings[unit.recording], unit) for unit in self.units]
        self.patients = [
            f"{recordings[unit.recording].source} {recordings[unit.recording].patient}" for unit in self.units
        ]
        self.devices = [recordings[unit.recording].device for unit in self.units]
        self.names = [recordings[unit.recording].name for unit in self.units]
        self._normal = [
            index for index, unit in enumerate(self.units) if unit.span and unit.span.label == 0 and not unit.is_window
        ]

    def __len__(self) -> int:
        return len(self.units)

    def __getitem__(self, draw: CycleDraw) -> dict[str, Any]:
        """`input_values` of shape `(stretch_frames, num_mel_bins)`, `labels`, and `index`, the place of the unit."""
        generator = torch.Generator().manual_seed(draw.seed)
        unit = self.units[draw.cycle]
        log_mel, label = self._window(unit, generator) if unit.is_window else self._cycle(unit, generator)
        if self._normal and torch.rand((), generator=generator) < self.augmentation.breath_share:
            other = self.units[self._normal[draw_below(len(self._normal), generator)]]
            log_mel = mix_breath(log_mel, self._cycle(other, generator)[0], generator)
        log_mel = augment_log_mel(log_mel, self.augmentation, generator)
        normalized = self.feature_extractor.normalize(log_mel.unsqueeze(0))[0]
        input_values = spec_augment(normalized, self.augmentation, generator)
        return {"input_values": input_values, "labels": label, "index": draw.cycle}

    def __getitems__(self, draws: Sequence[CycleDraw]) -> list[dict[str, Any]]:
        return [self[draw] for draw in draws]

    def _cycle(self, unit: Unit, generator: torch.Generator) -> tuple[torch.Tensor, int]:
        """A random stretch of a cycle, which is repeated from a random moment on where it is shorter."""
        start, end, label = unit.span or Span(0, 1, 0)
        places = start + stretch_time(end - start, self.frames, self.augmentation.speed, generator)
        return self.recordings[unit.recording].log_mel[places].float(), label

    def _window(self, unit: Unit, generator: torch.Generator) -> tuple[torch.Tensor, int]:
        recording = self.recordings[unit.recording]
        last = max(0, len(recording.log_mel) - self.frames)
        if unit.span is None:
            start = draw_below(last + 1, generator)
        else:
            margin = round(HEARD_SECONDS / HOP_SECONDS)
            lowest, highest = unit.span.start - self.frames + margin, unit.span.end - margin
            start = min(max(lowest + draw_below(max(1, highest - lowest), generator), 0), last)
        log_mel = recording.log_mel[start : start + self.frames]
        places = torch.arange(self.frames) % len(log_mel)
        return log_mel[places].float(), heard_class(recording.spans, start, start + self.frames)


def heard_class(spans: Sequence[Span], start: int, end: int) -> int:
    """Class of a window from `start` to `end`, in frames, by the spans that it holds enough of."""
    label = 0
    for span in spans:
        overlap = min(end, span.end) - max(start, span.start)
        if overlap >= min(HEARD_SECONDS / HOP_SECONDS, HEARD_SHARE * (span.end - span.start)):
            # The index of a class has a bit for each sound.
            label |= span.label
    return label


def _units(recordings: Sequence[SpectrogramOfRecording], windows: bool) -> Iterator[Unit]:
    for index, recording in enumerate(recordings):
        yield from (Unit(index, span, is_window=False) for span in recording.spans if not _is_planted(recording))
        if recording.is_whole and (windows or recording.source != "sprsound"):
            yield Unit(index, None, is_window=True)
            yield from (Unit(index, span, is_window=True) for span in recording.spans if span.label)


def _drawn_as(recording: SpectrogramOfRecording, unit: Unit) -> str:
    return "windows" if unit.is_window and recording.source == "sprsound" else recording.source


def _is_planted(recording: SpectrogramOfRecording) -> bool:
    """A simulated event is too short to be a cycle; it is learnt in windows."""
    return recording.source == "simulated" and recording.is_whole


def _whole_recordings(source: CycleSource, folder: str) -> Iterator[tuple[np.ndarray, list, str, str, str, bool]]:
    names = set(source.table["recording"])
    for recording in load_sprsound_recordings(Path(folder).expanduser()):
        if recording.name in names:
            waveform = read_audio(recording.path, SAMPLING_RATE, allow_silence=True)
            spans = [(cycle.start, cycle.end, cycle.label or 0) for cycle, _ in recording.events]
            yield waveform, spans, recording.patient, DEVICE, recording.name, True


def _cycles(source: CycleSource) -> Iterator[tuple[np.ndarray, list, str, str, str, bool]]:
    table = source.table
    for row, label, patient, device, name in zip(
        source.cycles, table["label"], table["patient"], table["device"], source.cycle_names, strict=True
    ):
        yield row["audio"]["array"], [(0.0, math.inf, label)], patient, device, name, False


def _simulated(index: int, feature_extractor: LungSradFeatureExtractor) -> SpectrogramOfRecording:
    generator = np.random.default_rng([SIMULATED_SEED, index])
    level = float(np.exp(generator.uniform(*np.log(EVENT_LEVELS))))
    label = 1 + index % 2
    waveform, event = simulate_event(label, SIMULATED_SECONDS, SAMPLING_RATE, generator, level)
    log_mel = _log_mel(waveform, feature_extractor)
    span = _fitted((event.start, event.end, label), len(log_mel))
    name = f"simulated recording {index} with a {CLASS_NAMES[label]}"
    return SpectrogramOfRecording(
        log_mel, (span,), "simulated", f"event {index}", SIMULATED_DEVICE, name, is_whole=True
    )


def _other_sound(index: int, feature_extractor: LungSradFeatureExtractor) -> SpectrogramOfRecording:
    kind = KINDS[index % len(KINDS)]
    generator = np.random.default_rng([SIMULATED_SEED, index])
    log_mel = _log_mel(simulate_other_sound(kind, SIMULATED_SECONDS, SAMPLING_RATE, generator), feature_extractor)
    name = f"computed recording {index} of {kind}"
    return SpectrogramOfRecording(log_mel, (), "other_sounds", name, "none", name, is_whole=True)


def _log_mel(waveform: np.ndarray, feature_extractor: LungSradFeatureExtractor) -> torch.Tensor:
    shortest = math.ceil((feature_extractor.frame_seconds + HOP_SECONDS) * SAMPLING_RATE)
    repeated = np.resize(waveform, max(len(waveform), shortest))
    return feature_extractor.filter_bank(torch.from_numpy(repeated)[None].float())[0].half()


def _fitted(span: tuple[float, float, int], frames: int) -> Span:
    """A span in seconds as frames, at least one."""
    start = min(int(span[0] / HOP_SECONDS), frames - 1)
    end = frames if math.isinf(span[1]) else min(max(math.ceil(span[1] / HOP_SECONDS), start + 1), frames)
    return Span(start, end, span[2])
