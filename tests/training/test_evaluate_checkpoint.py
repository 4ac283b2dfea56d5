import csv
import json
import shutil

import pytest
import torch

from modeling_lung_srad import LungSradFeatureExtractor, LungSradForAudioClassification
from tests.conftest import tiny_config
from tests.training.conftest import count_slowly
from training.cycle_sources import load_evaluated_source
from training.evaluate_checkpoint import COLUMNS, evaluate, evaluate_checkpoint, predict
from training.evaluation import CLASS_NAMES, patient_bootstrap


@pytest.fixture(scope="module")
def outcome(checkpoint, simulated_folder, tmp_path_factory):
    """Report and predictions of the random checkpoint, as written to a folder."""
    folder = tmp_path_factory.mktemp("evaluation") / "report"
    assert evaluate(str(checkpoint), str(simulated_folder), output=str(folder)) == 0
    report = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    with open(folder / "predictions.csv", newline="", encoding="utf-8") as file:
        return report, list(csv.DictReader(file)), (folder / "evaluation.md").read_text(encoding="utf-8")


def test_every_figure_can_be_recomputed_from_the_predictions(outcome):
    report, rows, _ = outcome
    assert list(rows[0]) == list(COLUMNS)
    references, predictions = ([CLASS_NAMES.index(row[column]) for row in rows] for column in ("label", "prediction"))
    rates = count_slowly(predictions, references)
    assert {name: report[name] for name in rates} == pytest.approx(rates)
    for true in range(4):
        for predicted in range(4):
            cell = sum(pair == (predicted, true) for pair in zip(predictions, references, strict=True))
            assert report["confusion_matrix"][true][predicted] == cell
    assert report["cycles"] == len(rows)
    assert report["recordings"] == len({row["recording"] for row in rows})
    assert report["patients"] == len({row["recording"].split("_")[0] for row in rows})
    intervals = patient_bootstrap(predictions, references, [row["patient"] for row in rows])
    assert report["intervals_95"]["score"] == pytest.approx(intervals["score"])


def test_predictions_are_those_of_the_model_on_each_cycle(outcome, checkpoint, simulated_folder):
    _, rows, _ = outcome
    model = LungSradForAudioClassification.from_pretrained(checkpoint).eval()
    feature_extractor = LungSradFeatureExtractor.from_pretrained(checkpoint)
    cycles = load_evaluated_source(simulated_folder, "official", "test").cycles
    assert len(cycles) == len(rows)
    for index in (0, 7, len(rows) - 1):
        inputs = feature_extractor(cycles[index]["audio"]["array"], sampling_rate=16000, return_tensors="pt")
        with torch.no_grad():
            probabilities = model(**inputs).logits.softmax(dim=-1)[0]
        assert [float(rows[index][name]) for name in CLASS_NAMES] == pytest.approx(probabilities.tolist(), abs=1e-4)
        assert rows[index]["prediction"] == CLASS_NAMES[int(probabilities.argmax())]
        assert float(rows[index]["start"]) == cycles[index]["start"]


def test_simulated_data_are_named_in_every_output(outcome, checkpoint, simulated_folder, capsys):
    report, _, text = outcome
    assert "Simulated sounds" in report["data_notes"][0]
    assert "Simulated sounds" in text
    assert evaluate(str(checkpoint), str(simulated_folder), part="train") == 0
    output = capsys.readouterr().out
    assert "Simulated sounds" in output
    assert "Training part: these are not figures of unseen patients." in output


def test_classes_in_another_order_are_put_in_place(checkpoint, simulated_folder):
    source = load_evaluated_source(simulated_folder, "official", "test")
    feature_extractor = LungSradFeatureExtractor.from_pretrained(checkpoint)
    model = LungSradForAudioClassification.from_pretrained(checkpoint)
    expected = predict(model, feature_extractor, source)
    order = [2, 0, 3, 1]
    with torch.no_grad():
        model.head.weight.copy_(model.head.weight[order])
        model.head.bias.copy_(model.head.bias[order])
    model.config.id2label = {place: CLASS_NAMES[label] for place, label in enumerate(order)}
    model.config.label2id = {name: place for place, name in model.config.id2label.items()}
    assert predict(model, feature_extractor, source, batch_size=5) == pytest.approx(expected, abs=1e-5)


def test_validation_part_is_that_of_the_training_run(checkpoint, simulated_folder, simulated_sources, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "trained")
    data = {"split": "official", "validation": 0.4, "validation_seed": 0}
    (folder / "training_summary.json").write_text(json.dumps({"configuration": {"data": data}}), encoding="utf-8")
    _, rows = evaluate_checkpoint(folder, simulated_folder, part="validation")
    _, validation = simulated_sources
    assert {row["patient"] for row in rows} == set(validation.table["patient"])
    report, _ = evaluate_checkpoint(folder, simulated_folder, split="fold2")
    assert any("not unseen" in note for note in report["data_notes"])


def remove_config(folder):
    (folder / "config.json").unlink()


def leave_only_a_pickle(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def give_it_seven_labels(folder):
    LungSradForAudioClassification(tiny_config(num_labels=7)).save_pretrained(folder)


def break_the_summary(folder):
    (folder / "training_summary.json").write_text("[]", encoding="utf-8")


def empty_the_data_of_the_summary(folder):
    summary = {"configuration": {"data": {}}}
    (folder / "training_summary.json").write_text(json.dumps(summary), encoding="utf-8")


def change_the_sampling_rate(folder):
    LungSradFeatureExtractor(sampling_rate=8000).save_pretrained(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "no such folder"),
        (remove_config, "config.json"),
        (leave_only_a_pickle, "pickle"),
        (give_it_seven_labels, "7 labels"),
        (break_the_summary, "training_summary.json"),
        (empty_the_data_of_the_summary, "training_summary.json: is not a training summary ('split')"),
        (change_the_sampling_rate, "sampling_rate: 8000 Hz is not the rate that cycles are decoded at"),
    ],
)
def test_checkpoint_that_cannot_be_used_is_one_line(
    checkpoint, simulated_folder, tmp_path, capsys, monkeypatch, damage, message
):
    monkeypatch.setattr("training.evaluate_checkpoint.predict", pytest.fail)
    folder = shutil.copytree(checkpoint, tmp_path / "damaged")
    damage(folder)
    assert evaluate(str(folder), str(simulated_folder)) == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert line.startswith("lung-srad evaluate: ")
    assert str(folder) in line
    assert message in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"data": "nowhere"}, "nowhere"),
        ({"split": "offical"}, "offical"),
        ({"part": "validation"}, "no training_summary.json"),
        ({"batch_size": 0}, "batch_size"),
        ({"output": __file__}, "is a file"),
    ],
)
def test_other_mistakes_are_one_line(checkpoint, simulated_folder, capsys, arguments, message):
    assert evaluate(**({"checkpoint": str(checkpoint), "data": str(simulated_folder)} | arguments)) == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert message in line
