"""Simulated sounds: seeded, in the ICBHI layout, named for what they are, and different by class."""

import itertools

import numpy as np
import pytest
import soundfile

from dataset_scripts.cycles import CLASS_NAMES, read_annotations
from dataset_scripts.simulated import load_simulated, simulate_cycle, simulate_recording, write_simulated
from modeling_lung_srad.errors import InputError


def spectrum(waveform, sampling_rate=8000, frame=512):
    """Power by time (rows) and frequency (columns), and the frequencies."""
    windows = np.lib.stride_tricks.sliding_window_view(waveform, frame)[:: frame // 4] * np.hanning(frame)
    return np.abs(np.fft.rfft(windows)) ** 2, np.fft.rfftfreq(frame, 1 / sampling_rate)


def cycles(label, number=20, seconds=2.5):
    return [simulate_cycle(label, seconds, 8000, np.random.default_rng(seed)) for seed in range(number)]


def test_sounds_depend_on_the_seed_and_on_nothing_else():
    first, again, other = (simulate_cycle(1, 2.5, 8000, np.random.default_rng(seed)) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.01
    assert first.dtype == np.float32
    assert first.shape == (20000,)


def test_breath_noise_is_loudest_at_low_frequencies_and_in_inspiration():
    for waveform in cycles(0):
        power, frequency = spectrum(waveform)
        band = power.mean(axis=0)
        assert band[(frequency > 100) & (frequency < 400)].mean() > 30 * band[frequency > 1500].mean()
        assert np.mean(waveform[2000:6000] ** 2) > 1.5 * np.mean(waveform[10500:16000] ** 2)
        assert np.sqrt(np.mean(waveform**2)) == pytest.approx(0.03, rel=0.01)


def test_crackles_are_short_transients():
    def crest(waveform):
        """Largest jump between samples in units of the usual one."""
        jumps = np.abs(np.diff(waveform))
        return jumps.max() / np.sqrt(np.mean(jumps**2))

    normal, crackle = (np.median([crest(waveform) for waveform in cycles(label)]) for label in (0, 1))
    assert crackle > 1.5 * normal


def test_wheezes_are_tones_between_100_and_1000_hz_of_at_least_80_ms():
    breath = np.mean([spectrum(waveform)[0].mean(axis=0) for waveform in cycles(0)], axis=0)

    def longest_tone(waveform):
        """Seconds in a row in which one frequency stands out of the breath noise; frames advance by 16 ms."""
        power, frequency = spectrum(waveform)
        searched = (power / breath)[:, (frequency >= 100) & (frequency <= 1000)]
        tonal = searched.max(axis=1) > 15 * np.median(searched, axis=1)
        return 0.016 * max(map(len, "".join("x" if value else " " for value in tonal).split()), default=0)

    assert min(longest_tone(waveform) for waveform in cycles(2)) >= 0.08
    assert max(longest_tone(waveform) for waveform in cycles(0)) < 0.08


def test_recording_holds_its_cycles_one_after_another():
    labels = [0, 1, 2, 3]
    waveform, annotated = simulate_recording(labels, 4000, np.random.default_rng(0))
    assert [cycle.label for cycle in annotated] == labels
    for before, after in itertools.pairwise(annotated):
        assert after.start == before.end
    assert 0.1 < annotated[0].start < 0.5
    assert annotated[-1].end <= len(waveform) / 4000
    assert np.abs(waveform).max() < 1


def test_files_have_the_icbhi_layout_and_say_that_they_are_simulated(simulated_folder):
    audio = sorted(simulated_folder.glob("*.wav"))
    assert len(audio) == 20
    assert audio[0].name == "101_1b1_Tc_sc_Simulated.wav"
    for path in audio:
        assert path.stem.endswith("_Simulated")
        assert len(read_annotations(path.with_suffix(".txt"), soundfile.info(path).duration)) == 4
    assert soundfile.info(audio[0]).samplerate == 8000
    assert "not recordings of patients" in (simulated_folder / "README.md").read_text()


def test_more_patients_leave_the_others_as_they_are(simulated_folder, tmp_path):
    write_simulated(tmp_path, patients=2, recordings_per_patient=1, cycles_per_recording=4)
    for path in tmp_path.glob("1*"):
        assert path.read_bytes() == (simulated_folder / path.name).read_bytes()


def test_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="holds something already; name a new folder"):
        write_simulated(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_loaded_parts_share_no_patient_and_hold_every_class(cache_dir):
    loaded = load_simulated(validation=0.3, cache_dir=cache_dir)
    assert list(loaded) == ["train", "validation", "test"]
    patients = [set(rows["patient"]) for rows in loaded.values()]
    assert sum(map(len, patients)) == len(set.union(*patients)) == 12
    assert set(loaded["train"]["label"]) == set(loaded["test"]["label"]) == set(range(len(CLASS_NAMES)))
    assert {device for rows in loaded.values() for device in rows["device"]} == {"Simulated"}
    again = load_simulated(validation=0.3, cache_dir=cache_dir)
    np.testing.assert_array_equal(loaded["test"][7]["audio"]["array"], again["test"][7]["audio"]["array"])


def test_wrong_arguments_are_errors(tmp_path):
    with pytest.raises(InputError, match="label: 4 is not a class"):
        simulate_cycle(4, 2.0)
    with pytest.raises(InputError, match=r"0\.2 s at 8000 Hz: a cycle lasts at least"):
        simulate_cycle(0, 0.2)
    with pytest.raises(InputError, match="give at least 2 patients"):
        write_simulated(tmp_path, patients=1)
