"""Predictions to report on, made up."""

import numpy as np

from training.report.predictions import CyclePredictions, concatenate

NUM_PATIENTS = 8


def made_up_cycles(
    count=120, seed=0, part="test", classes=(0, 1, 2, 3), skill=1.5, patients=NUM_PATIENTS, label_seed=0
):
    """Cycles whose probabilities have something to do with their labels.

    Args:
        count: number of cycles.
        seed: of the probabilities.
        part: name of the part.
        classes: labels that occur.
        skill: how much the logit of the true class is raised.
        patients: number of patients.
        label_seed: of the labels, so that two models can be given the same cycles.
    """
    generator = np.random.default_rng(label_seed)
    label = generator.choice(classes, size=count)
    patient = generator.integers(patients, size=count)
    first = 101 if part == "test" else 201
    logits = np.random.default_rng(seed).standard_normal((count, 4)) + skill * np.eye(4)[label]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    table = {
        "recording": [f"{first + number}_1b1_Al_sc_Meditron" for number in patient],
        "start": np.arange(count) * 2.0,
        "end": np.arange(count) * 2.0 + 1.5,
        "label": label.tolist(),
        "patient": [str(first + number) for number in patient],
        "device": ["Meditron" if number % 3 else "Litt3200" for number in patient],
        "location": generator.choice(["Al", "Pr"], size=count).tolist(),
    }
    return CyclePredictions.from_table(table, probabilities, part)


def about_test(**changed):
    """The made-up cycles as an evaluation describes them."""
    about = {
        "checkpoint": "runs/some",
        "data": "ICBHI",
        "split": "official",
        "part": "test",
        "selection": "validation",
        "validation_missing": None,
        "validation_cycles": None,
        "data_notes": [],
    }
    return about | changed


def with_validation(cycles, **settings):
    """The cycles and 60 validation cycles of other patients."""
    return concatenate([cycles, made_up_cycles(**({"count": 60, "seed": 5, "part": "validation"} | settings))])
