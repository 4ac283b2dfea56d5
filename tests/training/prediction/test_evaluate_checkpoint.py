import json
import shutil

import pytest
import torch

from modeling_lung_srad import LungSradFeatureExtractor, LungSradForAudioClassification
from tests.training.conftest import count_slowly
from training.data.cycle_sources import load_evaluated_source
from training.evaluation import CLASS_NAMES
from training.prediction.evaluate_checkpoint import evaluate_checkpoint, predict
from training.record.run_summary import TEST_SELECTION_NOTE
from training.report.calibration import fit_temperature

SETTINGS = {"split": "official"}


@pytest.fixture(scope="module")
def trained(checkpoint, simulated_sources, tmp_path_factory):
    """The random checkpoint with the summary of a training run; read only."""
    return with_summary(checkpoint, tmp_path_factory.mktemp("trained") / "run", summary_of(simulated_sources[1]))


def summary_of(validation, **changed):
    summary = {
        "selection": "validation",
        "validation_patients": sorted(set(validation.table["patient"])),
        "cycles": {"validation": {"icbhi": validation.count()}},
        "configuration": {"data": SETTINGS},
    }
    return summary | changed


def with_summary(checkpoint, folder, summary):
    shutil.copytree(checkpoint, folder)
    (folder / "training_summary.json").write_text(json.dumps(summary), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def outcome(trained, simulated_folder):
    """Report and predictions of the trained checkpoint on the test part."""
    return evaluate_checkpoint(trained, simulated_folder)


def test_figures_are_those_of_the_test_cycles(outcome, simulated_folder):
    report, cycles = outcome
    test = cycles.of_part("test")
    expected = count_slowly(test.prediction.tolist(), test.label.tolist())
    assert {name: report[name] for name in expected} == pytest.approx(expected)
    table = load_evaluated_source(simulated_folder, "official", "test").table
    assert test.recording.tolist() == table["recording"]
    assert test.label.tolist() == table["label"]
    assert (report["split"], report["part"], report["selection"]) == ("official", "test", "validation")


def test_temperature_is_fitted_on_the_validation_patients_of_the_training_run(outcome, simulated_sources):
    report, cycles = outcome
    validation = cycles.of_part("validation")
    assert set(validation.patient) == set(simulated_sources[1].table["patient"])
    assert not set(validation.patient) & set(cycles.of_part("test").patient)
    expected = fit_temperature(validation.probabilities, validation.label).value
    assert report["temperature"] == pytest.approx(expected)
    assert report["calibration_fit"]["cycles"] == report["validation_cycles"] == len(validation)


def test_predictions_are_those_of_the_model_on_each_cycle(outcome, checkpoint, simulated_folder):
    rows = outcome[1].of_part("test")
    model = LungSradForAudioClassification.from_pretrained(checkpoint).eval()
    feature_extractor = LungSradFeatureExtractor.from_pretrained(checkpoint)
    cycles = load_evaluated_source(simulated_folder, "official", "test").cycles
    assert len(cycles) == len(rows)
    for index in (0, 7, len(rows) - 1):
        inputs = feature_extractor(cycles[index]["audio"]["array"], sampling_rate=16000, return_tensors="pt")
        with torch.no_grad():
            probabilities = model(**inputs).logits.softmax(dim=-1)[0]
        assert rows.probabilities[index] == pytest.approx(probabilities.tolist(), abs=1e-4)
        assert rows.prediction[index] == int(probabilities.argmax())
        assert rows.start[index] == cycles[index]["start"]


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


def test_validation_part_is_that_of_the_training_run(trained, simulated_folder, simulated_sources):
    report, cycles = evaluate_checkpoint(trained, simulated_folder, part="validation")
    assert set(cycles.part) == {"validation"}
    assert set(cycles.patient) == set(simulated_sources[1].table["patient"])
    assert report["cycles"] == report["calibration_fit"]["cycles"] == len(cycles)


def test_training_part_is_without_the_validation_patients(trained, simulated_folder, simulated_sources):
    report, cycles = evaluate_checkpoint(trained, simulated_folder, part="train")
    assert set(cycles.of_part("train").patient) == set(simulated_sources[0][0].table["patient"])
    assert "Training part: these are not figures of unseen patients." in report["data_notes"]


def test_selection_on_the_test_part_is_in_the_notes(checkpoint, simulated_sources, simulated_folder, tmp_path):
    summary = summary_of(simulated_sources[1], selection="test", validation_patients=[])
    report, _ = evaluate_checkpoint(with_summary(checkpoint, tmp_path / "run", summary), simulated_folder)
    assert report["data_notes"][0] == TEST_SELECTION_NOTE
    assert "Simulated sounds" in report["data_notes"][1]
    assert report["calibration_fit"] == {"not_calibrated": "the training run kept no patients for validation"}


def test_patients_of_another_split_are_not_called_unseen(checkpoint, simulated_sources, simulated_folder, tmp_path):
    summary = summary_of(simulated_sources[1], configuration={"data": {"split": "fold2"}})
    report, cycles = evaluate_checkpoint(with_summary(checkpoint, tmp_path / "run", summary), simulated_folder)
    assert "was trained with the split 'fold2'" in report["calibration_fit"]["not_calibrated"]
    assert report["temperature"] is None
    assert set(cycles.part) == {"test"}
    assert any("not unseen" in note for note in report["data_notes"])


def test_run_that_left_the_split_alone_has_seen_no_patient_of_it(
    checkpoint, simulated_sources, simulated_folder, tmp_path
):
    configuration = {"data": {"split": "fold2"}}
    for name, is_noted in (("simulated", True), ("sprsound", False)):
        patients = {name: ["1"]}
        summary = summary_of(simulated_sources[1], configuration=configuration, training_patients=patients)
        report, _ = evaluate_checkpoint(with_summary(checkpoint, tmp_path / name, summary), simulated_folder)
        assert any("not unseen" in note for note in report["data_notes"]) == is_noted


def test_report_speaks_of_the_run_that_the_training_started_from(
    checkpoint, simulated_sources, simulated_folder, tmp_path
):
    earlier = summary_of(simulated_sources[1], selection="test", configuration={"data": {"split": "fold1"}})
    summary = summary_of(simulated_sources[1], started_from=earlier)
    folder = with_summary(checkpoint, tmp_path / "run", summary)
    for part in ("test", "validation"):
        notes = evaluate_checkpoint(folder, simulated_folder, part=part)[0]["data_notes"]
        assert any("Started from a checkpoint that was selected on the test set" in note for note in notes)
        assert any("Started from a checkpoint trained with the split fold1" in note for note in notes)


def test_checkpoint_without_a_summary_is_not_calibrated(checkpoint, simulated_folder):
    report, _ = evaluate_checkpoint(checkpoint, simulated_folder)
    assert "lacks the training_summary.json" in report["calibration_fit"]["not_calibrated"]
    assert report["selection"] is None


def test_the_scan_is_chosen_by_the_number_of_cycles(checkpoint, simulated_sources, monkeypatch):
    """So that the checkpoints evaluated before this one, in the same process, change nothing."""
    frames = []
    monkeypatch.setattr(LungSradForAudioClassification, "fix_scan_backend", lambda self, given: frames.append(given))
    model = LungSradForAudioClassification.from_pretrained(checkpoint)
    extractor = LungSradFeatureExtractor.from_pretrained(checkpoint)
    predict(model, extractor, simulated_sources[1])
    assert frames == [len(simulated_sources[1].cycles) * extractor.num_frames]
