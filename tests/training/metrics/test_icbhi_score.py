import shutil
import subprocess
import sys

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, recall_score

from dataset_scripts.cycles import CLASS_NAMES
from tests.training.conftest import count_slowly
from training.evaluation import icbhi_score
from training.metrics.icbhi_score import icbhi_measure
from training.metrics.icbhi_score.icbhi_measure import rates_from_counts

METRIC_FOLDER = icbhi_measure.__file__.removesuffix("/icbhi_measure.py")


def test_hand_counted_example():
    # 4 normal of which 3 right; 6 abnormal of which 2 exactly right and 3 more abnormal of another class.
    references = [0, 0, 0, 0, 1, 1, 2, 2, 3, 3]
    predictions = [0, 0, 0, 2, 1, 2, 2, 0, 1, 2]
    measured = icbhi_score(predictions, references)
    assert measured.pop("confusion_matrix") == [[3, 0, 1, 0], [0, 1, 1, 0], [1, 0, 1, 0], [0, 1, 1, 0]]
    assert measured == {
        "specificity": 0.75,
        "sensitivity": pytest.approx(2 / 6),
        "score": pytest.approx((0.75 + 2 / 6) / 2),
        "sensitivity_any_abnormal": pytest.approx(5 / 6),
        "score_any_abnormal": pytest.approx((0.75 + 5 / 6) / 2),
    }


def test_always_normal_scores_one_half_and_always_right_scores_one():
    references = [0] * 1579 + [1] * 649 + [2] * 385 + [3] * 143
    always_normal = icbhi_score([0] * len(references), references)
    assert (always_normal["specificity"], always_normal["sensitivity"], always_normal["score"]) == (1.0, 0.0, 0.5)
    assert always_normal["score_any_abnormal"] == 0.5
    assert icbhi_score(references, references)["score"] == 1.0


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_slow_count_and_with_scikit_learn(seed):
    generator = np.random.default_rng(seed)
    references, predictions = generator.integers(4, size=(2, 300))
    measured = icbhi_score(predictions, references)
    assert measured.pop("confusion_matrix") == confusion_matrix(references, predictions).tolist()
    assert measured == pytest.approx(count_slowly(predictions, references))
    recalls = recall_score(references, predictions, average=None)
    share = np.bincount(references)[1:] / (references > 0).sum()
    assert measured["specificity"] == pytest.approx(recalls[0])
    assert measured["sensitivity"] == pytest.approx((recalls[1:] * share).sum())
    assert measured["sensitivity_any_abnormal"] == pytest.approx(recall_score(references > 0, predictions > 0))


def test_rates_are_plain_numbers_and_counts_plain_lists():
    measured = icbhi_score(np.array([0, 1]), np.array([0, 1]))
    assert all(type(measured[name]) is float for name in icbhi_measure.RATES)
    assert type(measured["confusion_matrix"][0][0]) is int


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        ([0, 1], [0, 1, 2], "2 predictions for 3 references"),
        ([0, 4], [0, 1], r"predictions\[1\] is .*4.*0 to 3"),
        ([0, 1], [0, -1], r"references\[1\]"),
        ([0, 0.5], [0, 1], r"predictions\[1\]"),
        ([0, float("nan")], [0, 1], r"predictions\[1\]"),
        (["normal", "both"], [0, 1], r"predictions\[0\]"),
        ([], [], "empty"),
        ([[0.1, 0.9], [0.8, 0.2]], [0, 1], "argmax"),
        ([1, 2], [1, 2], "no normal cycle"),
        ([0, 0], [0, 0], "no abnormal cycle"),
    ],
)
def test_what_cannot_be_measured_is_refused(predictions, references, message):
    with pytest.raises(ValueError, match=message):
        icbhi_score(predictions, references)


def test_rates_of_stacked_counts_are_nan_where_undefined():
    no_abnormal = np.diag([3, 0, 0, 0])
    everything = np.diag([1, 1, 1, 1])
    rates = rates_from_counts(np.stack([no_abnormal, everything]))
    assert rates["specificity"].tolist() == [1.0, 1.0]
    assert np.isnan(rates["sensitivity"][0])
    assert np.isnan(rates["score"][0])
    assert rates["score"][1] == 1.0


def test_class_names_are_those_of_the_data_sets():
    assert icbhi_measure.CLASS_NAMES == CLASS_NAMES


def test_evaluate_loads_the_folder_without_the_package_and_adds_batches(tmp_path):
    """The metric folder alone, in an isolated process without a network."""
    folder = shutil.copytree(METRIC_FOLDER, tmp_path / "icbhi_score", ignore=shutil.ignore_patterns("__pycache__"))
    script = f"""
import os, sys
os.environ |= {{"HF_HOME": {str(tmp_path / "home")!r}, "HF_HUB_OFFLINE": "1", "HF_EVALUATE_OFFLINE": "1"}}
sys.modules["training"] = sys.modules["modeling_lung_srad"] = sys.modules["dataset_scripts"] = None
import evaluate
metric = evaluate.load({str(folder)!r})
metric.add_batch(predictions=[0, 0], references=[0, 0])
metric.add_batch(predictions=[1, 3], references=[1, 2])
print(metric.compute())
"""
    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(icbhi_score([0, 0, 1, 3], [0, 0, 1, 2]))
