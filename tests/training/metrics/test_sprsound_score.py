"""The SPRSound measures against arithmetic by hand, a slow count of single items, and the `evaluate` module alone."""

import shutil
import subprocess
import sys

import numpy as np
import pytest

from dataset_scripts.sprsound import EVENT_CLASSES, RECORD_LABELS
from training.metrics.sprsound_score import sprsound_measure
from training.metrics.sprsound_score.sprsound_measure import TASK_CLASSES, rates_from_counts, sprsound_score

METRIC_FOLDER = sprsound_measure.__file__.removesuffix("/sprsound_measure.py")


def score_slowly(predictions, references, task):
    """The measure counted one item at a time by class names, from the definition of the challenge."""
    names = TASK_CLASSES[task]
    pairs = [(names[predicted], names[true]) for predicted, true in zip(predictions, references, strict=True)]
    normal = [predicted == true for predicted, true in pairs if true == "Normal"]
    adventitious = [predicted == true for predicted, true in pairs if true not in ("Normal", "Poor Quality")]
    specificity, sensitivity = sum(normal) / len(normal), sum(adventitious) / len(adventitious)
    average = (sensitivity + specificity) / 2
    harmonic = 2 / (1 / sensitivity + 1 / specificity) if sensitivity and specificity else 0.0
    return {
        "specificity": specificity,
        "sensitivity": sensitivity,
        "average_score": average,
        "harmonic_score": harmonic,
        "score": (average + harmonic) / 2,
    }


def test_task_1_1_by_hand():
    # 4 normal events, 3 right: SP = 3/4. 5 adventitious events, 2 right: SE = 2/5.
    # AS = (0.75 + 0.4) / 2 = 0.575. HS = 2 * 0.75 * 0.4 / (0.75 + 0.4) = 0.6 / 1.15 = 12/23.
    # Score = (23/40 + 12/23) / 2 = (529 + 480) / 920 / 2 = 1009/1840.
    measured = sprsound_score([0, 0, 0, 1, 1, 1, 0, 0, 0], [0, 0, 0, 0, 1, 1, 1, 1, 1], "1-1")
    assert measured.pop("confusion_matrix") == [[3, 1], [3, 2]]
    assert measured == pytest.approx(
        {
            "specificity": 0.75,
            "sensitivity": 0.4,
            "average_score": 0.575,
            "harmonic_score": 12 / 23,
            "score": 1009 / 1840,
        }
    )


def test_task_1_2_by_hand_pools_the_types_and_wants_the_exact_one():
    # 2 normal events, 1 right: SP = 1/2. 8 adventitious events: 4 fine crackles of which 3 right and 1 called coarse,
    # 1 coarse called fine, 2 wheezes of which 1 right and 1 called rhonchi, 1 wheeze and crackle called normal.
    # SE = (3 + 0 + 1 + 0) / 8 = 1/2; the mean of the four types' recalls, 5/16, would be another number.
    # AS = 1/2, HS = 2 * 1/4 / 1 = 1/2, Score = 1/2.
    references = [0, 0, 1, 1, 1, 1, 2, 3, 3, 6]
    predictions = [0, 5, 1, 1, 1, 2, 1, 3, 4, 0]
    measured = sprsound_score(predictions, references, "1-2")
    counts = measured.pop("confusion_matrix")
    assert [counts[0][5], counts[1][1], counts[1][2], counts[3][4], counts[6][0]] == [1, 3, 1, 1, 1]
    assert np.sum(counts) == 10
    assert list(measured.values()) == [0.5] * 5


def test_task_2_1_by_hand_leaves_out_recordings_of_poor_quality():
    # 4 normal recordings: 2 right, 1 called adventitious, 1 poor quality, errors both: SP = 2/4.
    # 3 adventitious ones: 2 right, 1 poor quality, an error: SE = 2/3. The 3 of poor quality count in neither,
    # whatever is predicted for them. AS = (1/2 + 2/3) / 2 = 7/12. HS = 2 * 1/3 / (7/6) = 4/7.
    # Score = (49 + 48) / 84 / 2 = 97/168.
    references = [0, 0, 0, 0, 1, 1, 1, 2, 2, 2]
    predictions = [0, 0, 1, 2, 1, 1, 2, 0, 1, 2]
    measured = sprsound_score(predictions, references, "2-1")
    assert measured["confusion_matrix"] == [[2, 1, 1], [0, 2, 1], [1, 1, 1]]
    assert measured["specificity"] == 0.5
    assert measured["sensitivity"] == pytest.approx(2 / 3)
    assert measured["average_score"] == pytest.approx(7 / 12)
    assert measured["harmonic_score"] == pytest.approx(4 / 7)
    assert measured["score"] == pytest.approx(97 / 168)


def test_task_2_2_by_hand():
    # 5 normal recordings, 4 right, 1 called poor quality: SP = 4/5. 2 CAS, 1 right; 2 DAS, 1 right and 1 called poor
    # quality; 1 CAS & DAS called CAS: SE = (1 + 1 + 0) / 5 = 2/5. 2 of poor quality count in neither.
    # AS = 6/10 = 3/5. HS = 2 * 8/25 / (6/5) = 16/25 * 5/6 = 8/15. Score = (9/15 + 8/15) / 2 = 17/30.
    references = [0, 0, 0, 0, 0, 1, 1, 2, 2, 3, 4, 4]
    predictions = [0, 0, 0, 0, 4, 1, 3, 2, 4, 1, 4, 0]
    measured = sprsound_score(predictions, references, "2-2")
    assert [measured[name] for name in sprsound_measure.RATES] == pytest.approx([0.8, 0.4, 0.6, 8 / 15, 17 / 30])


@pytest.mark.parametrize("task", TASK_CLASSES)
@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_a_slow_count(task, seed):
    references, predictions = np.random.default_rng(seed).integers(len(TASK_CLASSES[task]), size=(2, 200))
    measured = sprsound_score(predictions, references, task)
    assert np.sum(measured.pop("confusion_matrix")) == 200
    assert measured == pytest.approx(score_slowly(predictions, references, task))


@pytest.mark.parametrize("task", TASK_CLASSES)
def test_always_normal_scores_one_quarter_and_always_right_scores_one(task):
    references = list(range(len(TASK_CLASSES[task]))) * 3
    always_normal = sprsound_score([0] * len(references), references, task)
    assert [always_normal[name] for name in sprsound_measure.RATES] == [1.0, 0.0, 0.5, 0.0, 0.25]
    assert sprsound_score(references, references, task)["score"] == 1.0


def test_always_wrong_scores_zero():
    assert sprsound_score([1, 0], [0, 1], "1-1")["score"] == 0.0


def test_rates_are_plain_numbers_and_counts_plain_lists():
    measured = sprsound_score(np.array([0, 1]), np.array([0, 1]), "2-2")
    assert all(type(measured[name]) is float for name in sprsound_measure.RATES)
    assert type(measured["confusion_matrix"][0][0]) is int


@pytest.mark.parametrize(
    ("predictions", "references", "task", "message"),
    [
        ([0, 1], [0, 1], "3-1", "task: '3-1' is unknown; use one of 1-1, 1-2, 2-1, 2-2"),
        ([0, 1], [0, 1, 1], "1-1", "2 predictions for 3 references"),
        ([0, 2], [0, 1], "1-1", r"predictions\[1\] is .*2.*; labels of task 1-1 are .* 0 to 1 \(Normal, Adventitious"),
        ([0, 1], [0, 7], "1-2", r"references\[1\]"),
        ([0, 1], [-1, 1], "2-1", r"references\[0\]"),
        ([0, 0.5], [0, 1], "1-1", r"predictions\[1\]"),
        ([0, float("nan")], [0, 1], "1-1", r"predictions\[1\]"),
        (["Normal", "CAS"], [0, 1], "2-2", r"predictions\[0\]"),
        ([], [], "1-1", "predictions is empty"),
        ([[0.1, 0.9], [0.8, 0.2]], [0, 1], "1-1", "argmax"),
        ([0, 1], [1, 1], "1-1", "no normal item, so the specificity is undefined"),
        ([0, 1], [0, 0], "1-1", "no adventitious item, so the sensitivity is undefined"),
        ([0, 4], [0, 4], "2-2", "no adventitious item"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(predictions, references, task, message):
    with pytest.raises(ValueError, match=message) as error:
        sprsound_score(predictions, references, task)
    assert "\n" not in str(error.value)


def test_rates_of_stacked_counts_are_nan_where_undefined():
    no_adventitious, everything = np.diag([3, 0, 2]), np.diag([1, 1, 0])
    rates = rates_from_counts(np.stack([no_adventitious, everything]), "2-1")
    assert rates["specificity"].tolist() == [1.0, 1.0]
    assert all(np.isnan(rates[name][0]) for name in ("sensitivity", "average_score", "harmonic_score", "score"))
    assert rates["score"][1] == 1.0
    with pytest.raises(ValueError, match=r"counts has shape \(3, 3\); task 2-2 needs \(\.\.\., 5, 5\)"):
        rates_from_counts(everything, "2-2")


def test_class_names_are_those_of_the_data_set():
    assert TASK_CLASSES["1-2"] == tuple(EVENT_CLASSES)
    assert TASK_CLASSES["2-2"] == RECORD_LABELS


def test_evaluate_loads_the_folder_without_the_package_and_adds_batches(tmp_path):
    """The metric folder alone, in an isolated process without a network."""
    folder = shutil.copytree(METRIC_FOLDER, tmp_path / "sprsound_score", ignore=shutil.ignore_patterns("__pycache__"))
    script = f"""
import os, sys
os.environ |= {{"HF_HOME": {str(tmp_path / "home")!r}, "HF_HUB_OFFLINE": "1", "HF_EVALUATE_OFFLINE": "1"}}
sys.modules["training"] = sys.modules["modeling_lung_srad"] = sys.modules["dataset_scripts"] = None
import evaluate
metric = evaluate.load({str(folder)!r}, "1-2")
metric.add_batch(predictions=[0, 0], references=[0, 0])
metric.add_batch(predictions=[1, 3], references=[1, 4])
print(metric.compute())
try:
    evaluate.load({str(folder)!r})
except ValueError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    measured, without_task = done.stdout.splitlines()
    assert measured == str(sprsound_score([0, 0, 1, 3], [0, 0, 1, 4], "1-2"))
    assert without_task == "task: 'default' is unknown; use one of 1-1, 1-2, 2-1, 2-2"
