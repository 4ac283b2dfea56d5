from types import SimpleNamespace

import numpy as np
import pytest

from tests.training.conftest import count_slowly
from training.evaluation import CLASS_MEASURES, class_figures, compute_metrics, evaluation_report, patient_bootstrap
from training.metrics.icbhi_score.icbhi_measure import RATES
from training.report.resampling import draw_patients


def test_trainer_metrics_come_from_the_largest_logit():
    generator = np.random.default_rng(0)
    logits, references = generator.standard_normal((50, 4)), generator.integers(4, size=50)
    expected = pytest.approx(count_slowly(logits.argmax(axis=1), references))
    assert compute_metrics(SimpleNamespace(predictions=logits, label_ids=references)) == expected
    assert compute_metrics(SimpleNamespace(predictions=(logits, logits), label_ids=references)) == expected


def test_intervals_agree_with_resampling_patients_one_by_one():
    generator = np.random.default_rng(0)
    references, predictions = generator.integers(4, size=(2, 200))
    patients = generator.integers(12, size=200)
    intervals = patient_bootstrap(predictions, references, patients, resamples=2000, seed=1)
    scores = []
    for _ in range(2000):
        drawn = generator.choice(12, size=12)
        cycles = np.concatenate([np.flatnonzero(patients == patient) for patient in drawn])
        scores.append(count_slowly(predictions[cycles], references[cycles])["score"])
    assert intervals["score"] == pytest.approx(np.quantile(scores, (0.025, 0.975)), abs=0.01)
    assert set(intervals) == set(RATES)


def test_intervals_widen_when_the_cycles_of_a_patient_agree():
    references = np.tile([0, 1], 100)
    right = np.repeat(np.arange(20) % 2 == 0, 10)
    predictions = np.where(right, references, 1 - references)
    clustered = patient_bootstrap(predictions, references, np.repeat(np.arange(20), 10))["score"]
    independent = patient_bootstrap(predictions, references, np.arange(200))["score"]
    assert clustered[1] - clustered[0] > 2 * (independent[1] - independent[0])


def test_one_patient_has_no_interval():
    assert patient_bootstrap([0, 1], [0, 1], ["101", "101"])["score"] is None


def test_report_counts_cycles_recordings_patients_and_classes():
    references, predictions = [0, 0, 1, 2, 3, 3], [0, 1, 1, 3, 3, 0]
    report = evaluation_report(
        predictions,
        references,
        recordings=["a", "a", "b", "b", "c", "c"],
        patients=["1", "1", "1", "1", "2", "2"],
        checkpoint="some/checkpoint",
        part="test",
        data_notes=["Incomplete copy."],
    )
    assert (report["cycles"], report["recordings"], report["patients"]) == (6, 3, 2)
    assert (report["checkpoint"], report["data_notes"]) == ("some/checkpoint", ["Incomplete copy."])
    counts = {name: report["classes"]["both"][name] for name in ("cycles", "predicted", "correct")}
    assert counts == {"cycles": 2, "predicted": 2, "correct": 1}


def test_precision_recall_and_f1_by_hand():
    references, predictions = [0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 0, 0]
    classes = class_figures(predictions, references, draw_patients([1, 1, 2, 2, 3, 3]))
    measured = {name: [figures[measure] for measure in CLASS_MEASURES] for name, figures in classes.items()}
    assert measured["normal"] == pytest.approx([2 / 4, 2 / 3, 4 / 7])
    assert measured["crackle"] == pytest.approx([1 / 2, 1 / 2, 1 / 2])
    assert measured["wheeze"] == [None, 0, 0]
    assert measured["both"] == [None, None, None]
    assert classes["both"]["intervals_95"] == {"precision": None, "recall": None, "f1": None}


def test_intervals_of_classes_agree_with_resampling_patients_one_by_one():
    generator = np.random.default_rng(0)
    references = generator.integers(4, size=300)
    predictions = np.where(generator.random(300) < 0.5, references, generator.integers(4, size=300))
    patients = generator.integers(10, size=300)
    intervals = class_figures(predictions, references, draw_patients(patients))["wheeze"]["intervals_95"]
    drawn = []
    for _ in range(1500):
        cycles = np.concatenate([np.flatnonzero(patients == patient) for patient in generator.choice(10, size=10)])
        predicted, true = predictions[cycles] == 2, references[cycles] == 2
        right = (predicted & true).sum()
        precision, recall = right / predicted.sum(), right / true.sum()
        drawn.append((precision, recall, 2 * precision * recall / (precision + recall)))
    for values, measure in zip(np.array(drawn).T, CLASS_MEASURES, strict=True):
        assert intervals[measure] == pytest.approx(np.quantile(values, (0.025, 0.975)), abs=0.02)
