"""Rows of the evidence table: thresholds come from other patients, or there are none."""

import numpy as np
import pytest

from benchmarks import evidence
from benchmarks.evidence import HeldOut, row


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    monkeypatch.setattr(evidence, "DRAWS", 20)


def fold(patients, seed, noise=0.3):
    """Twelve cycles of each patient in both databases; half have crackles, and all probabilities are noisy."""
    generator = np.random.default_rng(seed)
    labels = np.tile([0, 1], 6 * len(patients))
    crackle = (0.5 * labels + 0.25 + noise * generator.uniform(-1, 1, len(labels))).clip(0.01, 0.99)
    probabilities = np.stack((1 - crackle, crackle, 0 * crackle, 0 * crackle), axis=1)
    names = np.repeat(patients, 12)
    part = HeldOut(probabilities, labels, names, names, np.zeros((len(labels), 2)))
    return {"sprsound": part, "icbhi": part}


def cells(line):
    return [cell.strip() for cell in line.split("|")[1:-1]]


def test_seeds_of_one_fold_have_auroc_alone_with_their_range():
    folds = [fold(["a", "b", "c"], seed, noise=0.6) for seed in (0, 1)]
    name, sprsound, task, icbhi, *rest = cells(row("x", folds))
    assert (name, task, rest) == ("x", "", ["", "", ""])
    first, second = (100 * evidence.measure([each], [None])["icbhi auroc"][0] for each in folds)
    low, high = sorted((first, second))
    for cell in (sprsound, icbhi):
        assert cell.startswith(f"{(first + second) / 2:.1f} (")
        assert cell.endswith(f"[{low:.1f} to {high:.1f}]")


def test_the_same_run_twice_changes_no_interval():
    once = fold(["a", "b", "c"], 0, noise=0.6)
    assert row("x", [once]) == row("x", [once, once])


def test_threshold_of_a_fold_comes_from_the_other_patients(monkeypatch):
    seen = []
    monkeypatch.setattr(evidence, "fit_threshold", lambda folds: seen.append(folds) or 0.5)
    first, again, second = fold(["a", "b"], 0), fold(["a", "b"], 1), fold(["c", "d"], 2)
    assert "" not in cells(row("x", [first, again, second]))
    assert [len(folds) for folds in seen] == [1, 1, 2]
    assert seen[0][0] is second
    assert seen[2][0] is first
