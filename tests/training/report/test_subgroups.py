import numpy as np
import pytest

from tests.training.conftest import count_slowly
from tests.training.report.conftest import made_up_cycles
from training.report.subgroups import distribution_over_patients, measure_subgroups


def test_groups_are_scored_on_their_own_cycles():
    cycles = made_up_cycles(200)
    subgroups = measure_subgroups(cycles)
    for grouping, column in (("device", cycles.device), ("location", cycles.location), ("patient", cycles.patient)):
        assert set(subgroups[grouping]) == set(column.tolist())
        assert sum(figures["cycles"] for figures in subgroups[grouping].values()) == 200
        for name, figures in subgroups[grouping].items():
            members = [index for index in range(200) if column[index] == name]
            labels = cycles.label[members].tolist()
            expected = count_slowly(cycles.prediction[members].tolist(), labels)
            assert {rate: figures[rate] for rate in expected} == pytest.approx(expected)
            assert figures["normal"] == labels.count(0)
            assert figures["normal"] + figures["abnormal"] == len(members)
            assert figures["patients"] == len({cycles.patient[index] for index in members})


def test_rates_of_a_group_without_abnormal_cycles_are_undefined():
    cycles = made_up_cycles(60)
    of_first = cycles.patient == cycles.patient[0]
    kept = cycles.select(~of_first | (cycles.label == 0))
    figures = measure_subgroups(kept)["patient"][str(cycles.patient[0])]
    assert figures["specificity"] is not None
    assert figures["sensitivity"] is figures["score"] is figures["score_any_abnormal"] is None


def test_group_of_one_patient_has_no_interval():
    cycles = made_up_cycles(30, patients=1)
    assert measure_subgroups(cycles)["device"]["Litt3200"]["intervals_95"]["score"] is None


def test_distribution_counts_defined_patients_only():
    patients = {str(value): {"score": value} for value in (0.0, 0.5, 1.0, None)}
    spread = distribution_over_patients(patients, "score")
    assert spread == {"patients": 3, "quartiles": pytest.approx(np.array([0, 0.25, 0.5, 0.75, 1]))}
    assert distribution_over_patients({"a": {"score": None}}, "score") == {"patients": 0, "quartiles": None}
