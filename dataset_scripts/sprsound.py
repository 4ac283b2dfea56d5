"""SPRSound (BioCAS 2022): children's lung sounds with annotated events, mapped to the four classes of ICBHI 2017."""

import json
import logging
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets

from dataset_scripts.cycle_dataset import FEATURES, Recording, check_validation, cycle_table
from dataset_scripts.cycles import CLASS_NAMES, MOST_SECONDS, Cycle, check_length, check_named
from dataset_scripts.patient_split import split_validation
from modeling_lung_srad.audio import audio_duration
from modeling_lung_srad.errors import InputError, one_line, shortened

logger = logging.getLogger(__name__)

EVENT_CLASSES = {
    "Normal": "normal",
    "Fine Crackle": "crackle",
    "Coarse Crackle": "crackle",
    "Wheeze": "wheeze",
    "Rhonchi": "wheeze",
    "Stridor": "wheeze",
    "Wheeze+Crackle": "both",
}
# Labels of whole recordings: continuous (CAS: wheeze, rhonchi, stridor) and discontinuous (DAS: crackles) adventitious
# sounds. Recordings of poor quality have no events.
RECORD_LABELS = ("Normal", "CAS", "DAS", "CAS & DAS", "Poor Quality")
# All recordings were made with one model of stethoscope.
DEVICE = "Yunting"
NAME_PARTS = 5
END_TOLERANCE_SECONDS = 1.0
SPRSOUND_FEATURES = datasets.Features(FEATURES | {"event": datasets.Value("string")})


@dataclass(frozen=True)
class SprsoundRecording:
    """
    One whole recording with its label.

    Args:
        path (`Path`): its audio file.
        name (`str`): its name, without suffix.
        patient (`str`): number of the patient.
        part (`str`): `train`, `test_inter` (other patients), `test_intra` (patients of `train`) or `test`.
        record_label (`str`): one of `RECORD_LABELS`.
        events (`tuple[tuple[Cycle, str], ...]`):
            cycles in order of time, with their original event type; empty where nothing was annotated.
    """

    path: Path
    name: str
    patient: str
    part: str
    record_label: str
    events: tuple[tuple[Cycle, str], ...]


def load_sprsound(data_dir: str | os.PathLike, validation: float = 0.0, seed: int = 0) -> datasets.DatasetDict:
    """
    Loads SPRSound events as cycles that are decoded when they are asked for.

    Args:
        data_dir (`str` or `os.PathLike`):
            folder of one release: `train_wav` and `train_json` (or `train2022_wav` and so on) and, where they are
            there, `test2022_wav` and `test2022_json` with `inter_test_json` and `intra_test_json`.
        validation (`float`, *optional*, defaults to 0.0): share of the training patients to set apart.
        seed (`int`, *optional*, defaults to 0): choice of the validation patients.

    Returns:
        `datasets.DatasetDict`: `train`, `validation` (where asked for), `test_inter`, `test_intra` or `test` (where
        they are there), with the columns of [`load_icbhi`] and `event`, the original type. The patients of
        `test_intra` are also in the training part.

    Raises:
        InputError: where `validation` is out of range;
            if the folder lacks such files;
            naming file and field;
            naming the audio file.
    """
    check_named(data_dir)
    check_validation(validation)
    if not os.path.exists(data_dir):
        raise InputError(data_dir, "no such folder", "check the path")
    parts = read_recordings(data_dir)
    train, chosen = split_validation(parts.pop("train", []), validation, seed)
    parts = {"train": train, "validation": chosen} | parts
    return cycle_table({part: found for part, found in parts.items() if found}, SPRSOUND_FEATURES)


def load_sprsound_recordings(data_dir: str | os.PathLike) -> list[SprsoundRecording]:
    """
    Lists whole recordings with their label, in order of their names, also those without events.

    Args:
        data_dir (`str` or `os.PathLike`): folder of one release, as [`load_sprsound`] takes it.

    Returns:
        `list[SprsoundRecording]`: recordings of all parts.

    Raises:
        InputError: where there are none, or several releases are mixed;
            naming file and field;
            naming the audio file.
    """
    check_named(data_dir)
    recordings = []
    for name, audio, annotation in _find_recordings(Path(data_dir)):
        content = _read_content(annotation)
        recordings.append(
            SprsoundRecording(
                path=audio.absolute(),
                name=name,
                patient=name.split("_")[0],
                part=_part(annotation.relative_to(data_dir)),
                record_label=_read_record_label(content, annotation),
                events=tuple(_read_event_list(content, annotation, audio_duration(audio))),
            )
        )
    return recordings


def read_recordings(data_dir: str | os.PathLike) -> dict[str, list[Recording]]:
    """
    Recordings with audio and annotation, by part and in order of their names. Those without events are left out.

    Raises:
        InputError: where there are none, or several releases are mixed;
            naming file and field.
    """
    data_dir = Path(data_dir)
    parts: dict[str, list[Recording]] = {}
    for name, audio, annotation in _find_recordings(data_dir):
        recording = _read_recording(name, audio, annotation)
        if recording.cycles:
            parts.setdefault(_part(annotation.relative_to(data_dir)), []).append(recording)
    return parts


def read_events(path: str | os.PathLike, duration: float) -> list[tuple[Cycle, str]]:
    """
    Reads the events of one annotation file.

    Args:
        path (`str` or `os.PathLike`): JSON file with `event_annotation`: `start` and `end` in ms, and `type`.
        duration (`float`): seconds of the recording; an event that ends up to 1 s later is cut there.

    Returns:
        `list[tuple[Cycle, str]]`: cycles in order of time, with their original event type.

    Raises:
        InputError: naming file and field.
    """
    return _read_event_list(_read_content(path), path, duration)


def _read_content(path: str | os.PathLike) -> dict[str, Any]:
    """The object of one annotation file; other JSON gives an empty one, so that readers miss their field in it."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError:
        raise InputError(path, "is not UTF-8 text", "fetch it again") from None
    except json.JSONDecodeError as error:
        raise InputError(path, f"line {error.lineno}: is not JSON ({error.msg})", "fetch it again") from None
    except (ValueError, RecursionError) as error:
        # A number of more than 4300 digits, or brackets nested too deeply.
        raise InputError(path, f"is not usable JSON ({one_line(error, 80)})", "fetch it again") from None
    return content if isinstance(content, dict) else {}


def _read_record_label(content: dict[str, Any], path: Path) -> str:
    record_label = content.get("record_annotation")
    if record_label is None:
        raise InputError(path, "record_annotation: is missing", "fetch the file again")
    if record_label not in RECORD_LABELS:
        raise InputError(
            path, f"record_annotation: {record_label!r} is not known", f"use one of {', '.join(RECORD_LABELS)}"
        )
    return record_label


def _read_event_list(content: dict[str, Any], path: str | os.PathLike, duration: float) -> list[tuple[Cycle, str]]:
    events = content.get("event_annotation")
    if not isinstance(events, list):
        raise InputError(path, "event_annotation: is missing or not a list", "fetch the file again")
    read = [_read_event(event, f"{path}: event_annotation[{index}]", duration) for index, event in enumerate(events)]
    return sorted(read, key=lambda pair: (pair[0].start, pair[0].end))


def _read_event(event: Any, where: str, duration: float) -> tuple[Cycle, str]:
    if not isinstance(event, dict):
        raise InputError(where, "is not an object", "give it start, end and type")
    event_type = event.get("type")
    if not isinstance(event_type, str) or event_type not in EVENT_CLASSES:
        raise InputError(f"{where}.type", f"{event_type!r} is not known", f"use one of {', '.join(EVENT_CLASSES)}")
    start, end = (_read_milliseconds(event.get(field), f"{where}.{field}") for field in ("start", "end"))
    if end <= start:
        raise InputError(f"{where}.end", f"{end:g} s is not after start {start:g} s", "correct the times")
    if end > duration + END_TOLERANCE_SECONDS or start >= duration:
        raise InputError(f"{where}.end", f"{end:g} s is beyond the recording of {duration:.3f} s", "correct the times")
    end = min(end, duration)
    check_length(start, end, where)
    return Cycle(start, end, CLASS_NAMES.index(EVENT_CLASSES[event_type])), event_type


def _read_milliseconds(value: Any, where: str) -> float:
    try:
        seconds = float(value) / 1000
    except (TypeError, ValueError):
        raise InputError(where, f"{shortened(repr(value))} is not a number", "give milliseconds") from None
    except OverflowError:
        seconds = math.inf
    if not 0 <= seconds <= MOST_SECONDS:
        raise InputError(where, f"{shortened(repr(value))} is not a time", "give milliseconds from 0 on")
    return seconds


def _find_recordings(data_dir: Path) -> list[tuple[str, Path, Path]]:
    """Name, audio and annotation of each recording that has both, in order of the names."""
    annotations = _files_by_name(data_dir, ".json")
    audio = _files_by_name(data_dir, ".wav")
    names = sorted(annotations.keys() & audio.keys())
    if not names:
        raise InputError(
            data_dir,
            "contains no SPRSound recordings such as 40069321_15.3_0_p1_981.wav with their .json",
            "name the folder that holds train_wav and train_json",
        )
    left_out = len(annotations.keys() ^ audio.keys())
    if left_out:
        logger.warning(f"{data_dir}: {left_out} recordings without audio or without annotation are left out")
    return [(name, audio[name], annotations[name]) for name in names]


def _files_by_name(data_dir: Path, suffix: str) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for file in sorted(data_dir.rglob(f"*{suffix}")):
        if len(file.stem.split("_")) != NAME_PARTS or file.name.startswith("."):
            continue
        if file.stem in files:
            raise InputError(data_dir, f"{file.name} is in two folders", "name the folder of one release")
        files[file.stem] = file
    return files


def _part(path: Path) -> str:
    folders = " ".join(path.parts[:-1]).lower()
    if "inter" in folders:
        return "test_inter"
    if "intra" in folders:
        return "test_intra"
    return "test" if "test" in folders else "train"


def _read_recording(name: str, audio: Path, annotation: Path) -> Recording:
    events = read_events(annotation, audio_duration(audio))
    patient, _, _, location, _ = name.split("_")
    return Recording(
        path=audio.absolute(),
        name=name,
        patient=patient,
        device=DEVICE,
        location=location,
        acquisition_mode="",
        cycles=tuple(cycle for cycle, _ in events),
        extra=tuple({"event": event_type} for _, event_type in events),
    )
