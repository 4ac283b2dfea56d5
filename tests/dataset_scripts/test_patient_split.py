"""The validation part: no common patient, balanced, seeded."""

from pathlib import Path

import numpy as np
import pytest

from dataset_scripts.cycle_dataset import Recording
from dataset_scripts.cycles import Cycle
from dataset_scripts.patient_split import choose_validation_patients, split_validation
from modeling_lung_srad.errors import InputError


def make_recordings(patients=40, seed=0):
    """Recordings of patients with one device and one prevailing class each."""
    generator = np.random.default_rng(seed)
    recordings = []
    for patient in range(patients):
        labels = np.where(generator.random(20) < 0.7, patient % 4, generator.integers(4, size=20))
        cycles = tuple(Cycle(float(index), index + 1.0, int(label)) for index, label in enumerate(labels))
        device = ("Meditron", "AKGC417L")[patient // 4 % 2]
        recordings.append(Recording(Path("a.wav"), f"{patient}_1", str(patient), device, "Al", "sc", cycles))
    return recordings


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.4])
def test_parts_share_no_patient_and_keep_the_balance(fraction):
    recordings = make_recordings()
    train, validation = split_validation(recordings, fraction)
    assert len(train) + len(validation) == len(recordings)
    assert not {entry.patient for entry in train} & {entry.patient for entry in validation}
    for device in ("Meditron", "AKGC417L"):
        for label in range(4):
            counts = [
                sum(cycle.label == label for entry in part if entry.device == device for cycle in entry.cycles)
                for part in (train, validation)
            ]
            assert counts[1] / sum(counts) == pytest.approx(fraction, abs=0.1)


def test_choice_depends_on_the_seed_and_on_nothing_else():
    recordings = make_recordings()
    choices = [{entry.patient for entry in split_validation(recordings, 0.2, seed)[1]} for seed in (0, 0, 1)]
    reordered = {entry.patient for entry in split_validation(recordings[::-1], 0.2, 0)[1]}
    assert choices[0] == choices[1] == reordered
    assert choices[0] != choices[2]


@pytest.mark.parametrize(("fraction", "folds"), [(0.2, 5), (0.33, 3), (0.5, 2)])
def test_seeds_of_one_nth_are_folds(fraction, folds):
    recordings = make_recordings(patients=41)
    for first in (0, folds):
        parts = [split_validation(recordings, fraction, seed)[1] for seed in range(first, first + folds)]
        assert sorted(entry.patient for part in parts for entry in part) == sorted(
            entry.patient for entry in recordings
        )


def test_small_and_large_fractions_leave_a_patient_on_each_side():
    recordings = make_recordings(patients=3)
    for fraction in (0.01, 0.99):
        train, validation = split_validation(recordings, fraction)
        assert train
        assert validation


def test_no_validation_leaves_everything_in_train():
    recordings = make_recordings(patients=2)
    assert split_validation(recordings, 0.0) == (recordings, [])


def test_what_cannot_be_divided_is_an_error():
    with pytest.raises(InputError, match=r"1 patient\(s\) cannot be divided"):
        split_validation(make_recordings(patients=1), 0.2)
    with pytest.raises(InputError, match=r"validation: 1\.5 is not a fraction"):
        choose_validation_patients(["a", "b"], ["d", "d"], [0, 1], 1.5)
