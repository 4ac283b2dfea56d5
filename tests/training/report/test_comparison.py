from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from modeling_lung_srad.errors import InputError
from tests.training.conftest import count_slowly
from tests.training.report.conftest import about_test, made_up_cycles, with_validation
from training.report.comparison import COMPARED_TITLES, compare_reports, joined_notes, markdown_comparison

NAMES = ["a/report", "b/report"]


@pytest.fixture(scope="module")
def models():
    """A weaker and a better model on the same cycles."""
    return made_up_cycles(160, seed=1, skill=1.0), made_up_cycles(160, seed=2, skill=2.0)


def compare(first, second, first_about=None, second_about=None):
    return compare_reports((first, first_about or about_test()), (second, second_about or about_test()), NAMES)


def test_point_estimates_are_those_of_both_models(models):
    measures = compare(*models)["measures"]
    assert list(measures) == list(COMPARED_TITLES)
    rates = [count_slowly(model.prediction.tolist(), model.label.tolist()) for model in models]
    for name in rates[0]:
        assert measures[name]["a"] == pytest.approx(rates[0][name])
        assert measures[name]["difference"] == pytest.approx(rates[1][name] - rates[0][name])
    areas = [roc_auc_score(model.label > 0, 1 - model.probabilities[:, 0]) for model in models]
    assert measures["auroc_abnormal"]["difference"] == pytest.approx(areas[1] - areas[0])
    crackle = [
        average_precision_score(model.label % 2, model.probabilities[:, [1, 3]].sum(axis=1)) for model in models
    ]
    assert measures["auprc_crackle"]["b"] == pytest.approx(crackle[1])


def test_intervals_shares_and_p_values_agree_with_drawing_pairs_one_by_one(models):
    measures = compare(*models)["measures"]
    first = models[0]
    generator, names = np.random.default_rng(3), np.unique(first.patient)
    differences = {"score": [], "specificity": []}
    for _ in range(1500):
        drawn = np.concatenate([np.flatnonzero(first.patient == name) for name in generator.choice(names, len(names))])
        rates = [count_slowly(one.prediction[drawn].tolist(), one.label[drawn].tolist()) for one in models]
        for name, values in differences.items():
            values.append(rates[1][name] - rates[0][name])
    for name, values in differences.items():
        values = np.array(values)
        assert measures[name]["interval_95"] == pytest.approx(np.quantile(values, (0.025, 0.975)), abs=0.02)
        better = (values > 0).mean() + (values == 0).mean() / 2
        assert measures[name]["share_b_better"] == pytest.approx(better, abs=0.03)
        p_value = min(1, 2 * (1 + min((values >= 0).sum(), (values <= 0).sum())) / 1501)
        assert measures[name]["p_value"] == pytest.approx(p_value, abs=0.05)


def test_pairing_narrows_the_interval_of_similar_models():
    first = made_up_cycles(200, seed=1)
    second = first.select(np.arange(200))
    comparison = compare(first, second)["measures"]["score"]
    assert comparison["interval_95"] == [0, 0]
    assert (comparison["share_b_better"], comparison["p_value"]) == (0.5, 1)


def test_order_of_rows_and_validation_cycles_do_not_matter(models):
    first, second = models
    shuffled = with_validation(second.select(np.random.default_rng(0).permutation(160)))
    assert compare(first, shuffled)["measures"] == compare(first, second)["measures"]


def test_first_cycle_that_differs_is_named(models):
    first, second = models
    with pytest.raises(InputError, match=r"b/report: lacks the cycle \d+_1b1_Al_sc_Meditron 14.0 to 15.5 s of a/rep"):
        compare(first, second.select(np.arange(160) != 7))
    with pytest.raises(InputError, match=r"a/report: lacks the cycle \S+ 14.0 to 15.5 s of b/report"):
        compare(first.select(np.arange(160) != 7), second)
    with pytest.raises(InputError, match="160 cycles where a/report has 161, so some are there more than once"):
        compare(first.select(np.r_[np.arange(160), 5]), second)
    label = np.where(np.arange(160) == 7, (second.label + 1) % 4, second.label)
    with pytest.raises(InputError, match=r"b/report: label: the cycle \S+ 14.0 to 15.5 s is \w+, but \w+ in a/report"):
        compare(first, replace(second, label=label))


def test_one_patient_and_missing_classes_are_undefined():
    first, second = (made_up_cycles(40, seed=seed, classes=(0, 1), patients=1) for seed in (1, 2))
    comparison = compare(first, second)
    assert comparison["measures"]["auroc_wheeze"] == dict.fromkeys(comparison["measures"]["auroc_wheeze"])
    assert comparison["measures"]["score"]["interval_95"] is None
    assert comparison["measures"]["score"]["difference"] is not None
    assert "| AUROC, wheeze | undefined | undefined | undefined | undefined | undefined | undefined |" in (
        markdown_comparison(comparison)
    )


def test_notes_of_one_side_are_marked_with_its_letter(models):
    optimistic = about_test(data_notes=["Incomplete.", "Selected on the test set."], selection="test")
    comparison = compare(*models, about_test(data_notes=["Incomplete."]), optimistic)
    assert comparison["data_notes"] == ["Incomplete.", "B: Selected on the test set."]
    text = markdown_comparison(comparison)
    assert "**B: Selected on the test set.**" in text
    assert "epoch kept: the best one on the test part" in text
    assert joined_notes(["x", "y", "z"], [["one"], [], ["one"]]) == ["x, z: one"]
