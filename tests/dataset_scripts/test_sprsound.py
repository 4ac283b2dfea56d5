"""Loading SPRSound: its layouts, the mapping of events to classes, bad annotations."""

import json
import shutil
import tarfile
from collections import Counter

import numpy as np
import pytest
import soundfile

from dataset_scripts.cycles import Cycle
from dataset_scripts.sprsound import (
    RECORD_LABELS,
    load_sprsound,
    load_sprsound_recordings,
    read_events,
    read_recordings,
)
from modeling_lung_srad.errors import InputError
from tests.conftest import shared_path

TYPES = ("Normal", "Fine Crackle", "Coarse Crackle", "Wheeze", "Rhonchi", "Stridor", "Wheeze+Crackle")
CLASSES = (0, 1, 1, 2, 2, 2, 3)


def write_recording(folder, prefix, patient, index, types, subfolder="", record_label="Normal"):
    audio, annotations = folder / f"{prefix}_wav", folder / f"{prefix}_json" / subfolder
    for path in (audio, annotations):
        path.mkdir(parents=True, exist_ok=True)
    name = f"{patient}_4.5_1_p{index % 4 + 1}_{index}"
    noise = 0.1 * np.random.default_rng(index).standard_normal(int(8000 * (len(types) + 0.5)))
    soundfile.write(audio / f"{name}.wav", noise, 8000)
    events = [
        {"start": str(1000 * order + 100), "end": str(1000 * order + 900), "type": event}
        for order, event in enumerate(types)
    ]
    content = {"record_annotation": record_label, "event_annotation": events[::-1]}
    (annotations / f"{name}.json").write_text(json.dumps(content))
    return annotations / f"{name}.json"


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sprsound")
    for patient in range(5):
        write_recording(folder, "train2022", 41000000 + patient, patient, TYPES)
    write_recording(folder, "train2022", 41000000, 10, [], record_label="Poor Quality")
    write_recording(folder, "test2022", 41000000, 20, TYPES[:2], "intra_test_json", record_label="DAS")
    write_recording(folder, "test2022", 42000000, 21, TYPES[:3], "inter_test_json")
    return folder


def test_events_are_mapped_to_the_four_classes(release):
    train = load_sprsound(release)["train"]
    assert len(train) == 35
    assert dict(zip(train["event"], train["label"], strict=True)) == dict(zip(TYPES, CLASSES, strict=True))
    row = train[1]
    assert (row["patient"], row["location"], row["device"]) == ("41000000", "p1", "Yunting")
    assert (row["start"], row["end"], row["event"]) == (1.1, 1.9, "Fine Crackle")
    assert row["audio"]["array"].shape == (30400 - 17600,)


def test_official_tests_are_parts_of_their_own(release):
    loaded = load_sprsound(release, validation=0.4)
    assert {part: len(rows) for part, rows in loaded.items()} == {
        "train": 21,
        "validation": 14,
        "test_inter": 3,
        "test_intra": 2,
    }
    assert not set(loaded["train"]["patient"]) & set(loaded["validation"]["patient"])


def test_folder_as_unpacked_here_has_a_training_part_only(tmp_path):
    write_recording(tmp_path, "train", 41000000, 1, TYPES)
    (tmp_path / "train_wav" / "notes.wav").write_text("not one of them")
    assert list(load_sprsound(tmp_path)) == ["train"]


def test_recordings_without_audio_are_left_out_with_a_warning(release, tmp_path, caplog):
    folder = shutil.copytree(release, tmp_path / "copied")
    next((folder / "train2022_wav").glob("41000001*")).unlink()
    assert len(read_recordings(folder)["train"]) == 4
    assert "1 recordings without audio or without annotation are left out" in caplog.text


def test_whole_recordings_come_with_their_label_and_part(release):
    recordings = load_sprsound_recordings(release)
    assert [recording.name for recording in recordings] == sorted(recording.name for recording in recordings)
    assert Counter((recording.part, recording.record_label) for recording in recordings) == {
        ("train", "Normal"): 5,
        ("train", "Poor Quality"): 1,
        ("test_intra", "DAS"): 1,
        ("test_inter", "Normal"): 1,
    }
    of_patient = [recording for recording in recordings if recording.patient == "41000000"]
    assert {recording.record_label: recording.events for recording in of_patient[1:]} == {
        "Poor Quality": (),
        "DAS": ((Cycle(0.1, 0.9, 0), "Normal"), (Cycle(1.1, 1.9, 1), "Fine Crackle")),
    }
    assert all(recording.path.is_file() and recording.path.stem == recording.name for recording in recordings)


def test_whole_recordings_have_the_events_of_the_cycles(release):
    whole = {recording.name: recording.events for recording in load_sprsound_recordings(release)}
    with_events = {
        recording.name: tuple(zip(recording.cycles, (extra["event"] for extra in recording.extra), strict=True))
        for part in read_recordings(release).values()
        for recording in part
    }
    assert {name: events for name, events in whole.items() if events} == with_events


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"event_annotation": []}, "record_annotation: is missing; fetch the file again"),
        ({"record_annotation": "Wheeze", "event_annotation": []}, "record_annotation: 'Wheeze' is not known; use one"),
        ({"record_annotation": ["CAS"], "event_annotation": []}, r"record_annotation: \['CAS'\] is not known"),
        ({"record_annotation": "CAS"}, "event_annotation: is missing or not a list"),
    ],
)
def test_bad_label_of_a_recording_names_file_and_field(tmp_path, content, message):
    path = write_recording(tmp_path, "train", 41000000, 1, TYPES)
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=message) as error:
        load_sprsound_recordings(tmp_path)
    assert str(error.value).startswith(f"{path}: ")


def test_cycles_are_read_without_a_label_of_the_recording(tmp_path):
    path = write_recording(tmp_path, "train", 41000000, 1, TYPES)
    path.write_text(json.dumps(event()))
    assert len(read_recordings(tmp_path)["train"]) == 1


def test_published_annotations_have_the_published_counts(tmp_path):
    with tarfile.open(shared_path("data/sprsound_train_json.tar.gz")) as archive:
        archive.extractall(tmp_path, filter="data")
    events = [event for path in tmp_path.glob("*.json") for event in read_events(path, duration=60.0)]
    assert Counter(event for _, event in events) == {
        "Normal": 5159,
        "Fine Crackle": 912,
        "Wheeze": 452,
        "Coarse Crackle": 49,
        "Rhonchi": 39,
        "Wheeze+Crackle": 30,
        "Stridor": 15,
    }
    assert Counter(cycle.label for cycle, _ in events) == {0: 5159, 1: 961, 2: 506, 3: 30}
    records = [json.loads(path.read_text()) for path in tmp_path.glob("*.json")]
    assert Counter(record["record_annotation"] for record in records) == dict(
        zip(RECORD_LABELS, (1303, 126, 248, 95, 177), strict=True)
    )


def event(**changes):
    return {"event_annotation": [{"start": "100", "end": "900", "type": "Wheeze"} | changes]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "line 1: is not JSON"),
        ("[]", "event_annotation: is missing"),
        ('{"event_annotation": 3}', "event_annotation: is missing or not a list"),
        ('{"event_annotation": ["Normal"]}', r"event_annotation\[0\]: is not an object"),
        (event(type="Cough"), r"event_annotation\[0\].type: 'Cough' is not known; use one of Normal"),
        (event(type=["Normal"]), r"event_annotation\[0\].type: \['Normal'\] is not known"),
        (event(end=10**400), r"\.end: '1000+\.\.\.' is not a time"),
        ('{"event_annotation": ' + "1" * 5000 + "}", "is not usable JSON .*; fetch it again"),
        ("[" * 100_000, "is not usable JSON .*; fetch it again"),
        (event(start=None), r"event_annotation\[0\].start: 'None' is not a number; give milliseconds"),
        (event(start="nan"), r"\.start: \"'nan'\" is not a time"),
        (event(start="-5"), r"\.start: \"'-5'\" is not a time"),
        (event(end="100"), r"\.end: 0.1 s is not after start 0.1 s"),
        (event(end="124"), r"event_annotation\[0\]: 24 ms .* too short; at least 25 ms"),
        (event(end="1" + 308 * "0"), r"event_annotation\[0\]\.end: "),
        (event(end="9000"), r"\.end: 9 s is beyond the recording of 2.000 s"),
    ],
)
def test_bad_annotation_names_file_and_field(tmp_path, content, message):
    path = tmp_path / "a.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(InputError, match=message) as error:
        read_events(path, duration=2.0)
    assert str(error.value).startswith(f"{path}: ")


def test_event_that_ends_with_the_recording_is_cut_there(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(event(end="2100")))
    assert read_events(tmp_path / "a.json", duration=2.0) == [(Cycle(0.1, 2.0, 2), "Wheeze")]


def test_bad_folders_and_files_are_errors(tmp_path, release):
    with pytest.raises(InputError, match="contains no SPRSound recordings"):
        read_recordings(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        load_sprsound(tmp_path / "missing")
    with pytest.raises(InputError, match="contains no SPRSound recordings"):
        load_sprsound_recordings(tmp_path / "missing")
    with pytest.raises(InputError, match="data_dir: is empty"):
        load_sprsound_recordings("")
    with pytest.raises(InputError, match=r"validation: -0\.1 is not a fraction"):
        load_sprsound(release, validation=-0.1)
    shutil.copytree(release, tmp_path / "BioCAS2022")
    shutil.copytree(release, tmp_path / "BioCAS2023")
    with pytest.raises(InputError, match="is in two folders; name the folder of one release"):
        read_recordings(tmp_path)
    audio = next((tmp_path / "BioCAS2022" / "train2022_wav").glob("*.wav"))
    audio.write_bytes(b"")
    with pytest.raises(InputError, match=f"{audio}: is empty"):
        read_recordings(tmp_path / "BioCAS2022")
