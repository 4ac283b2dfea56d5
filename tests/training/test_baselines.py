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


def test_class_weights_are_chosen_on_validation():
    generator = np.random.default_rng(0)
    labels = generator.choice(4, size=400, p=(0.8, 0.1, 0.05, 0.05))
    features = labels[:, None] + 0.7 * generator.standard_normal((400, 2))
    training, validation = (features[:200], labels[:200]), (features[200:], labels[200:])
    classifier, chosen = fit_gradient_boosting(training, validation)
    score = icbhi_score(classifier.predict(validation[0]), validation[1])["score"]
    assert chosen in (None, "balanced")
    assert score > 0.6


def test_command_prints_the_table_and_writes_the_reports(simulated_folder, tmp_path, capsys):
    output = tmp_path / "baselines.json"
    assert main([str(simulated_folder), "--validation", "0.4", "--output", str(output)]) == 0
    table = capsys.readouterr().out
    assert "| always normal | 100.00 | 0.00 | 50.00 | 50.00 |" in table
    assert "gradient boosting" in table
    assert "Simulated sounds" in table
    reports = json.loads(output.read_text(encoding="utf-8"))
    assert reports["always normal"]["score"] == 0.5


def test_missing_data_are_one_line(tmp_path, capsys):
    assert main([str(tmp_path / "nowhere")]) == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert "nowhere" in line
