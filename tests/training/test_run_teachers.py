"""Runs with teachers: they are trained, a student learns from them, and whom they have heard is remembered."""

import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file

from modeling_lung_srad import LungSradFeatureExtractor, LungSradForAudioClassification
from tests.training.conftest import AUGMENTED, SMOKE, STRETCHES, last_weights, summary_of
from training.configuration import CONFIGS
from training.prediction.classifier_loading import load_classifier
from training.prediction.evaluate_checkpoint import evaluate_checkpoint
from training.record.run_folder import CONFIGURATION
from training.record.training_record import TRAINING_SUMMARY as SUMMARY
from training.run_training import train
from training.teachers.efficientat import EfficientATForAudioClassification
from training.teachers.teachers import Teachers

TEACHER = str(CONFIGS / "teacher.yaml")


@pytest.fixture(scope="module")
def teacher_run(overrides, tmp_path_factory):
    """The folder of a run of EfficientAT from random weights; read only."""
    folder = tmp_path_factory.mktemp("teacher") / "run"
    settings = ("per_device_train_batch_size=8", "num_train_epochs=2", "model.feature_extractor.cycle_seconds=4")
    assert train(TEACHER, overrides(folder, *settings)) == 0
    return folder


def learning_from(*folders, **settings):
    """Settings of a run with teachers."""
    given = [f"teacher.{name}={value}" for name, value in settings.items()]
    return [f"teacher.checkpoints=[{', '.join(map(str, folders))}]", *given]


def test_efficientat_is_trained_gone_on_with_and_evaluated(overrides, teacher_run, simulated_folder, tmp_path):
    model, feature_extractor = load_classifier(teacher_run)
    assert isinstance(model, EfficientATForAudioClassification)
    assert (model.config.head, feature_extractor.num_frames) == ("sounds", 64)
    report, _ = evaluate_checkpoint(teacher_run, simulated_folder, part="validation")
    assert report["score"] == pytest.approx(summary_of(teacher_run)["validation"]["score"])
    settings = (f"model.checkpoint={teacher_run}", "per_device_train_batch_size=8", "max_steps=1", "selection=last")
    assert train(TEACHER, overrides(tmp_path, *settings, "learning_rate=0")) == 2
    assert train(TEACHER, overrides(tmp_path, *settings, "learning_rate=1e-12", "weight_decay=0")) == 0
    before, after = (load_file(folder / "model.safetensors") for folder in (teacher_run, tmp_path))
    assert torch.allclose(before["classifier.3.weight"], after["classifier.3.weight"], atol=1e-6)
    assert LungSradFeatureExtractor.from_pretrained(tmp_path).cycle_seconds == 4.0
    assert summary_of(tmp_path)["started_from"]["checkpoint"] == "run"


def test_student_learns_from_teachers_with_mixed_views_and_regularization(overrides, teacher_run, tmp_path):
    settings = learning_from(teacher_run, teacher_run, temperature=2, feature_weight=0.5)
    assert train(SMOKE, overrides(tmp_path, "num_train_epochs=1", *AUGMENTED, *settings)) == 0
    assert LungSradForAudioClassification.from_pretrained(tmp_path).config.gaussian_blocks
    state = json.loads((last_weights(tmp_path).parent / "trainer_state.json").read_text(encoding="utf-8"))
    logged = [entry for entry in state["log_history"] if "loss" in entry]
    assert {"cross_entropy", "contrastive_time", "contrastive_mel", "distillation", "features"} <= set(logged[0])
    first, second = summary_of(tmp_path)["teachers"]
    assert first == second
    assert (first["checkpoint"], first["training_patients"]) == ("run", summary_of(teacher_run)["training_patients"])
    assert first["sha256"] == json.loads((tmp_path / CONFIGURATION).read_text())["teacher.sha256"][0]
    assert summary_of(tmp_path)["configuration"]["teacher"]["checkpoints"] == ["run", "run"]
    assert not list(tmp_path.glob("distillation.safetensors"))


def test_first_stage_learns_features_without_labels(overrides, teacher_run, tmp_path, monkeypatch):
    """On recordings with classes and sounds that have none."""
    settings = learning_from(teacher_run, weight=0, feature_weight=1, label_weight=0)
    settings += ("selection=last", "objective.mode=none", "data.other_sounds=3", "sampling.other_sounds=5", *STRETCHES)
    assert train(SMOKE, overrides(tmp_path, "max_steps=2", *settings)) == 0
    log = json.loads((last_weights(tmp_path).parent / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    (entry,) = [entry for entry in log if "features" in entry]
    assert entry["loss"] == pytest.approx(entry["features"], rel=1e-5)


def test_interrupted_student_goes_on_to_the_same_weights(overrides, teacher_run, tmp_path, monkeypatch):
    short = ("num_train_epochs=2", "sampling.cycles_per_epoch=8")
    settings = (*short, *AUGMENTED, *learning_from(teacher_run, feature_weight=1))
    assert train(SMOKE, overrides(tmp_path / "whole", *settings)) == 0
    ask = Teachers.forward

    def ask_in_the_first_epoch(self, input_values):
        if asked:
            raise KeyboardInterrupt
        asked.append(1)
        return ask(self, input_values)

    asked = []
    monkeypatch.setattr(Teachers, "forward", ask_in_the_first_epoch)
    with pytest.raises(KeyboardInterrupt):
        train(SMOKE, overrides(tmp_path / "parts", *settings))
    monkeypatch.undo()
    assert train(SMOKE, overrides(tmp_path / "parts", *settings)) == 0
    whole, parts = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_other_weights_or_settings_of_a_teacher_do_not_go_on(overrides, teacher_run, tmp_path, capsys):
    teacher = shutil.copytree(teacher_run, tmp_path / "teacher")
    run = tmp_path / "run"
    settings = ("num_train_epochs=1", *learning_from(teacher))
    assert train(SMOKE, overrides(run, *settings)) == 0
    (run / SUMMARY).unlink()
    assert train(SMOKE, overrides(run, *settings, "teacher.temperature=2")) == 2
    assert "holds a run with another teacher.temperature;" in capsys.readouterr().err
    model = EfficientATForAudioClassification.from_pretrained(teacher)
    model.classifier[3].bias.data += 1
    model.save_pretrained(teacher)
    assert train(SMOKE, overrides(run, *settings)) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "the run began with other weights of teacher.checkpoints; put them back" in line


def test_teacher_of_patients_that_are_set_apart_is_refused(overrides, teacher_run, tmp_path, capsys):
    settings = (*learning_from(teacher_run), "data.validation=0.6")
    assert train(SMOKE, overrides(tmp_path / "run", *settings)) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert re.search(r"teacher.checkpoints: .*run: was trained on patients .* whom this run sets apart", line)
    assert not (tmp_path / "run").exists()


def test_patients_of_a_teacher_are_refused_in_later_runs(overrides, teacher_run, tmp_path, capsys):
    teacher = shutil.copytree(teacher_run, tmp_path / "teacher")
    student = tmp_path / "student"
    settings = ("max_steps=1", "selection=last", *learning_from(teacher))
    assert train(SMOKE, overrides(student, *settings)) == 0
    # As if the student itself had learned from labels of nobody.
    summary = summary_of(student)
    summary["training_patients"] = {"simulated": []}
    (student / SUMMARY).write_text(json.dumps(summary), encoding="utf-8")
    start = (f"model.checkpoint={student}", "model.config=null", "data.validation=0.6")
    assert train(SMOKE, overrides(tmp_path / "later", *start)) == 2
    assert "model.checkpoint: was trained on patients" in capsys.readouterr().err.splitlines()[-1]


def test_teacher_without_a_record_is_noted_by_the_run_and_by_its_evaluation(
    overrides, teacher_run, simulated_folder, tmp_path
):
    teacher = shutil.copytree(teacher_run, tmp_path / "unknown")
    (teacher / SUMMARY).unlink()
    assert train(SMOKE, overrides(tmp_path / "run", "max_steps=1", "selection=last", *learning_from(teacher))) == 0
    note = "Learned from a teacher with unknown training patients (unknown): perhaps not unseen."
    assert note in summary_of(tmp_path / "run")["notes"]
    report, _ = evaluate_checkpoint(tmp_path / "run", simulated_folder)
    assert note in report["data_notes"]
