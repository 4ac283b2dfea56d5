import json

import numpy as np
import pytest
import torch

from training.baselines import fit_gradient_boosting, log_mel_statistics, main
from training.evaluation import icbhi_score


def test_statistics_are_those_of_each_band_over_time():
    log_mel = torch.randn(3, 50, 8)
    statistics = log_mel_statistics(log_mel)
    assert statistics.shape == (3, 10)
    band = log_mel[1, :, 4:].mean(dim=1).numpy()
    expected = [band.mean(), band.std(ddof=1), *np.quantile(band, (0.1, 0.5, 0.9))]
    assert statistics[1, 1::2] == pytest.approx(expected, abs=1e-5)


class AlwaysOneClass:
    """In the place of gradient boosting: says wheeze without class weights, and crackle with them."""

    def __init__(self, class_weight, random_state):
        self.answer = 2 if class_weight is None else 1

    def fit(self, statistics, labels):
        return self

    def predict(self, statistics):
        return np.full(len(statistics), self.answer)


@pytest.mark.parametrize(("labels", "better"), [([0, 2, 2, 3], None), ([0, 1, 1, 3], "balanced")])
def test_class_weights_are_those_that_score_better_on_validation(monkeypatch, labels, better):
    monkeypatch.setattr("training.baselines.HistGradientBoostingClassifier", AlwaysOneClass)
    statistics = np.zeros((4, 2))
    # The training labels would have it the other way round.
    training_labels = np.array([0, 1, 1, 3] if better is None else [0, 2, 2, 3])
    classifier, chosen = fit_gradient_boosting((statistics, training_labels), (statistics, np.array(labels)))
    assert chosen == better
    assert classifier.answer == (2 if better is None else 1)


def test_gradient_boosting_learns():
    generator = np.random.default_rng(0)
    labels = generator.choice(4, size=400, p=(0.8, 0.1, 0.05, 0.05))
    features = labels[:, None] + 0.7 * generator.standard_normal((400, 2))
    training, validation = (features[:200], labels[:200]), (features[200:], labels[200:])
    classifier, _ = fit_gradient_boosting(training, validation)
    assert icbhi_score(classifier.predict(validation[0]), validation[1])["score"] > 0.6


def test_command_prints_the_table_and_writes_the_reports(simulated_folder, tmp_path, capsys):
    output = tmp_path / "baselines.json"
    assert main([str(simulated_folder), "--validation", "0.4", "--output", str(output)]) == 0
    table = capsys.readouterr().out
    assert "| always normal | 100.00 | 0.00 | 50.00 | 50.00 |" in table
    assert "gradient boosting" in table
    assert "Simulated sounds" in table
    reports = json.loads(output.read_text(encoding="utf-8"))
    assert reports["always normal"]["score"] == 0.5


def test_output_that_cannot_be_written_is_told_before_the_work(simulated_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("training.baselines.evaluate_baselines", pytest.fail)
    assert main([str(simulated_folder), "--output", str(tmp_path / "nowhere" / "baselines.json")]) == 2
    assert f"{tmp_path / 'nowhere'} does not exist; make it first" in capsys.readouterr().err


def test_missing_data_are_one_line(tmp_path, capsys):
    assert main([str(tmp_path / "nowhere")]) == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert "nowhere" in line
