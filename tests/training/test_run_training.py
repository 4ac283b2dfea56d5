import json
import re
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import ASTForAudioClassification, pipeline

from dataset_scripts.simulated import write_simulated
from modeling_lung_srad import LungSradFeatureExtractor, LungSradForAudioClassification
from modeling_lung_srad.familiarity import load_familiarity
from tests.training.conftest import AUGMENTED, SMOKE, last_weights, summary_of
from training import run_training
from training.objective import PatchMixTraining
from training.record.run_folder import CONFIGURATION
from training.record.run_summary import TEST_SELECTION_NOTE
from training.record.training_record import TRAINING_SUMMARY as SUMMARY
from training.run_training import main, train
from training.trainer import LungSradTrainer


@pytest.fixture(scope="module")
def complete_run(overrides, tmp_path_factory):
    """The folder of a run of three epochs; read only."""
    folder = tmp_path_factory.mktemp("complete") / "run"
    assert train(SMOKE, overrides(folder, "num_train_epochs=3")) == 0
    return folder


@pytest.fixture(scope="module")
def augmented_run(overrides, tmp_path_factory):
    """The folder of a run of two epochs that draws at random all it can; read only."""
    folder = tmp_path_factory.mktemp("augmented") / "run"
    assert train(SMOKE, overrides(folder, "num_train_epochs=2", *AUGMENTED)) == 0
    return folder


def test_run_leaves_the_best_checkpoint_its_features_and_a_summary(complete_run):
    summary = summary_of(complete_run)
    history = [entry["validation"]["score"] for entry in summary["history"]]
    assert len(history) == 3
    assert summary["validation"]["score"] == max(history)
    assert summary["best_step"] == summary["history"][history.index(max(history))]["step"]
    assert summary["cycles"]["training"]["icbhi"]["cycles"] + summary["cycles"]["validation"]["icbhi"]["cycles"] == 48
    assert (summary["selection"], summary["scored_part"]) == ("validation", "validation")
    assert "Simulated" in summary["notes"][0]
    assert "test" not in summary["cycles"]
    model = LungSradForAudioClassification.from_pretrained(complete_run)
    assert model.num_parameters() == summary["parameters"]
    assert LungSradFeatureExtractor.from_pretrained(complete_run).num_frames == 64
    assert not list(complete_run.glob("*.bin"))


def test_the_classifier_of_a_run_has_the_code_of_its_pipeline_beside_it(complete_run):
    settings = json.loads((complete_run / "config.json").read_text())
    assert settings["custom_pipelines"]["lung-sound-classification"]["impl"] == "pipeline_lung_srad.LungSoundPipeline"
    lung_sounds = pipeline(model=str(complete_run), trust_remote_code=True)
    assert type(lung_sounds).__module__.startswith("transformers_modules.")


def test_same_seed_gives_the_same_weights_and_another_seed_others(overrides, tmp_path):
    for name, seed in (("first", 1), ("again", 1), ("other", 2)):
        assert train(SMOKE, overrides(tmp_path / name, "num_train_epochs=1", f"seed={seed}", *AUGMENTED)) == 0
    first, again, other = (load_file(tmp_path / name / "model.safetensors") for name in ("first", "again", "other"))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_interrupted_run_goes_on_to_the_same_weights(overrides, augmented_run, tmp_path, monkeypatch):
    settings = ("num_train_epochs=2", *AUGMENTED)
    step = LungSradTrainer.training_step

    def interrupted_step(self, *args, **kwargs):
        if self.state.epoch is not None and self.state.epoch > 1:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    monkeypatch.setattr(LungSradTrainer, "training_step", interrupted_step)
    with pytest.raises(KeyboardInterrupt):
        train(SMOKE, overrides(tmp_path, *settings))
    assert not (tmp_path / SUMMARY).exists()
    # A checkpoint that was being written when the process died has no state yet.
    (tmp_path / "checkpoint-999").mkdir()
    monkeypatch.setattr(LungSradTrainer, "training_step", step)
    assert train(SMOKE, overrides(tmp_path, *settings)) == 0

    whole, parts = (load_file(folder / "model.safetensors") for folder in (augmented_run, tmp_path))
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    assert summary_of(augmented_run)["history"] == summary_of(tmp_path)["history"]
    assert summary_of(augmented_run)["training_seconds"] > 0
    assert summary_of(tmp_path)["training_seconds"] is None


def test_complete_run_is_left_alone(overrides, complete_run, capsys):
    before = {path: path.stat().st_mtime_ns for path in complete_run.rglob("*")}
    assert train(SMOKE, overrides(complete_run, "num_train_epochs=3")) == 0
    assert "this run is complete" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in complete_run.rglob("*")} == before


def test_other_settings_do_not_overwrite_a_run(overrides, complete_run, capsys):
    settings = ("num_train_epochs=3", "learning_rate=0.1", "disable_tqdm=false")
    assert train(SMOKE, overrides(complete_run, *settings)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "holds a run with another learning_rate;" in line


def test_folder_in_which_nothing_was_trained_does_not_block_other_settings(overrides, tmp_path):
    (tmp_path / CONFIGURATION).write_text('{"learning_rate": -1.0}', encoding="utf-8")
    assert train(SMOKE, overrides(tmp_path, "max_steps=1")) == 0
    assert (tmp_path / SUMMARY).exists()


def test_run_without_checkpoints_is_not_overwritten_either(overrides, tmp_path, capsys):
    settings = ("max_steps=1", "save_strategy=no", "selection=last")
    assert train(SMOKE, overrides(tmp_path, *settings)) == 0
    assert not list(tmp_path.glob("checkpoint-*"))
    assert train(SMOKE, overrides(tmp_path, *settings, "learning_rate=0.1")) == 2
    assert "holds a run with another learning_rate;" in capsys.readouterr().err


def test_folder_of_something_else_is_left_alone(overrides, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    assert train(SMOKE, overrides(tmp_path)) == 2
    assert "choose another output_dir" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["learning_rat=1"], "unknown key learning_rat; the nearest valid one is learning_rate"),
        (["data.icbhi=nowhere"], "nowhere"),
        (["data.split=offical"], "offical"),
        (["model.size=large"], "model.size"),
        (["model.checkpoint=nowhere"], "nowhere"),
        (["sampling.icbhi=-1"], "sampling"),
        (["augmentation.crop_frames=0"], "augmentation.crop_frames"),
        (["augmentation.equalizer_decibels=.nan"], "augmentation.equalizer_decibels: nan"),
        (["sampling.class_balance=nan"], "sampling.class_balance: nan"),
        (["learning_rate=-1"], "learning_rate: -1.0 should be above 0"),
        (["learning_rate=nan"], "learning_rate: nan should be above 0"),
        (["per_device_train_batch_size=0"], "per_device_train_batch_size: 0 should be above 0"),
        (["gradient_accumulation_steps=0"], "gradient_accumulation_steps: 0 should be above 0"),
        (["num_train_epochs=-1"], "num_train_epochs: -1.0 should be above 0"),
        (["weight_decay=-1"], "weight_decay: -1.0 should be 0 or more"),
        (["seed=-1"], "seed: -1 should be 0 to 4294967295"),
        (["metric_for_best_model=nosuch"], "'nosuch' is not one of loss, specificity, sensitivity, score,"),
        (["data.validation=0"], "data.validation: 0.0 is not a share of the patients between 0 and 1; 0, for none,"),
        (["selection=tset"], "selection: 'tset' is not one of validation, last, test; the nearest is test"),
        (["objective.mode=duel"], "objective.mode: 'duel' is not one of"),
        (["per_device_train_batch_size=1"], "per_device_train_batch_size: 1 leaves objective.mode 'dual' nothing"),
        (["per_device_train_batch_size=64"], "a batch of all processes is 64 cycles and an epoch only 32"),
        (["model.architecture=ast", "model.config=null"], "objective.mode: 'dual' mixes rows or columns"),
        (
            ["model.architecture=ast", "model.config={hidden_siz: 8}"],
            "model.config.hidden_siz: unknown key; the nearest valid one is model.config.hidden_size",
        ),
        (
            ["model.architecture=ast", "model.config=null", "objective.mode=2d"],
            "model.config.max_length: 1024 is not model.feature_extractor.num_frames, 64",
        ),
        (["seed=3..1"], "seed=3..1: should be a range of whole numbers such as seed=1..5"),
        (["seed=1..2", "seed=3"], "'seed=3': seed is there twice, first as 'seed=1..2'; keep one"),
        (["record_test=true", "selection=last", "data.validation=0"], "record_test: the test part is scored where"),
        (["data.validation_seed=-1"], "data.validation_seed: -1 should be 0 or more"),
        (["model.config.hidden_act=nosuch"], "model.config.hidden_act"),
        (
            ["model.config.num_mel_bins=64"],
            "model.config.num_mel_bins: 64 is not model.feature_extractor.num_mel_bins",
        ),
    ],
)
def test_wrong_settings_are_one_line_and_write_nothing(overrides, tmp_path, capsys, more, message):
    assert main([SMOKE, *overrides(tmp_path / "run", *more)]) == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert line.startswith("lung-srad: error: ")
    assert message in line
    assert not (tmp_path / "run").exists()


def test_seeds_are_runs_of_their_own_in_one_table(overrides, tmp_path, capsys):
    assert train(SMOKE, overrides(tmp_path, "num_train_epochs=1", "seed=1..2")) == 0
    output = capsys.readouterr().out
    scores = [100 * summary_of(tmp_path / f"seed-{seed}")["validation"]["score"] for seed in (1, 2)]
    mean, deviation = sum(scores) / 2, abs(scores[0] - scores[1]) / 2**0.5
    assert f"{mean:.2f} ± {deviation:.2f}" in output
    assert "Simulated sounds" in output
    weights = [load_file(tmp_path / f"seed-{seed}" / "model.safetensors")["head.weight"] for seed in (1, 2)]
    assert not torch.equal(*weights)


def test_selection_on_the_test_part_is_stamped_and_needs_no_validation(overrides, tmp_path, capsys):
    settings = ("selection=test", "data.validation=0", "num_train_epochs=2")
    assert train(SMOKE, overrides(tmp_path, *settings)) == 0
    summary = summary_of(tmp_path)
    assert (summary["selection"], summary["scored_part"]) == ("test", "test")
    assert summary["test"]["score"] == max(row["test"]["score"] for row in summary["history"])
    assert summary["validation_patients"] == []
    assert summary["notes"][0] == TEST_SELECTION_NOTE
    assert TEST_SELECTION_NOTE in capsys.readouterr().out


def test_last_epoch_is_kept_where_that_is_asked_for(overrides, tmp_path):
    settings = ("selection=last", "data.validation=0", "num_train_epochs=2")
    assert train(SMOKE, overrides(tmp_path, *settings)) == 0
    summary = summary_of(tmp_path)
    assert summary["history"] == []
    assert summary["cycles"]["training"]["icbhi"]["cycles"] == 48
    kept, last = (load_file(path) for path in (tmp_path / "model.safetensors", last_weights(tmp_path)))
    assert all(torch.equal(kept[name], last[name]) for name in last)


def test_run_without_a_scored_part_is_complete_and_goes_on_like_any_other(overrides, tmp_path, capsys, monkeypatch):
    settings = ("selection=last", "data.validation=0", "num_train_epochs=1")
    monkeypatch.setattr(run_training, "summarize", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(SMOKE, overrides(tmp_path, *settings))
    monkeypatch.undo()
    assert train(SMOKE, overrides(tmp_path, *settings)) == 0
    assert train(SMOKE, overrides(tmp_path, *settings)) == 0
    assert "this run is complete" in capsys.readouterr().out


def test_recorded_test_part_changes_nothing_and_shows_every_protocol(overrides, complete_run, tmp_path):
    assert train(SMOKE, overrides(tmp_path, "num_train_epochs=3", "record_test=true")) == 0
    plain, recorded = (load_file(folder / "model.safetensors") for folder in (complete_run, tmp_path))
    assert all(torch.equal(plain[name], recorded[name]) for name in plain)
    summary = summary_of(tmp_path)
    assert summary["selection"] == "validation"
    rows = {row["epoch"]: row for row in summary["history"]}
    protocols = summary["protocols"]
    assert protocols["last"]["epoch"] == 3
    assert protocols["test"]["test"]["score"] == max(row["test"]["score"] for row in rows.values())
    chosen = protocols["validation"]["epoch"]
    assert rows[chosen]["validation"]["score"] == max(row["validation"]["score"] for row in rows.values())
    assert protocols["validation"]["test"] == rows[chosen]["test"]


def test_loss_that_is_no_number_stops_the_run_and_names_the_batch(overrides, tmp_path, capsys):
    settings = overrides(tmp_path, "num_train_epochs=3", "lr_scheduler_type=constant", "max_grad_norm=0")
    assert train(SMOKE, [*settings, "learning_rate=1e30"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("lung-srad: error: step 2 (epoch 0.25): the loss is nan; the last checkpoint in")
    assert re.search(r"The batch: \d+_\w+ \d+\.\d\d to \d+\.\d\d s, ", line)
    assert "Lower learning_rate" in line
    assert not (tmp_path / SUMMARY).exists()


@pytest.mark.parametrize(
    "error",
    [
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 32576 vs 32468"),
    ],
    ids=["safetensors", "torch.save"],
)
def test_full_disk_keeps_what_is_there_and_the_run_goes_on_later(
    overrides, augmented_run, tmp_path, capsys, monkeypatch, error
):
    settings = ("num_train_epochs=2", *AUGMENTED)
    save = LungSradForAudioClassification.save_pretrained

    def save_on_a_full_disk(self, folder, **kwargs):
        if Path(folder).name == "checkpoint-8":
            Path(folder).mkdir()
            Path(folder, "model.safetensors").write_bytes(b"half")
            raise error
        save(self, folder, **kwargs)

    monkeypatch.setattr(LungSradForAudioClassification, "save_pretrained", save_on_a_full_disk)
    assert train(SMOKE, overrides(tmp_path, *settings)) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert f"checkpoint-8: cannot be written ({error})" in line
    assert "free space on its disk and start the same command again" in line
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-4"]
    monkeypatch.undo()
    assert train(SMOKE, overrides(tmp_path, *settings)) == 0
    whole, parts = (load_file(folder / "model.safetensors") for folder in (augmented_run, tmp_path))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_second_stage_records_the_first_one(overrides, complete_run, tmp_path):
    (first, *_) = sorted(complete_run.glob("checkpoint-*"))
    settings = (f"model.checkpoint={first}", "model.config=null", "max_steps=1", "eval_strategy=steps", "eval_steps=1")
    assert train(SMOKE, overrides(tmp_path, *settings, "save_strategy=steps", "save_steps=1")) == 0
    started_from, first_summary = summary_of(tmp_path)["started_from"], summary_of(complete_run)
    assert started_from["checkpoint"] == first.name
    for key in ("selection", "validation_patients", "training_patients"):
        assert started_from[key] == first_summary[key]
    assert started_from["configuration"]["data"]["validation_seed"] == 0
    assert started_from["started_from"] is None
    assert not set(started_from["training_patients"]["simulated"]) & set(summary_of(tmp_path)["validation_patients"])


def test_validation_patients_that_the_checkpoint_was_trained_on_are_refused(overrides, complete_run, tmp_path, capsys):
    (first, *_) = sorted(complete_run.glob("checkpoint-*"))
    settings = (f"model.checkpoint={first}", "model.config=null", "data.validation=0.6")
    assert train(SMOKE, overrides(tmp_path / "run", *settings)) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert re.search(r"model.checkpoint: was trained on patients .* whom this run sets apart", line)
    assert "use its data.split=official and its data.validation and data.validation_seed" in line
    assert not (tmp_path / "run").exists()


def test_run_that_was_moved_after_its_last_checkpoint_is_finished(overrides, complete_run, tmp_path, monkeypatch):
    monkeypatch.setattr(run_training, "summarize", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(SMOKE, overrides(tmp_path / "before", "num_train_epochs=3"))
    monkeypatch.undo()
    (tmp_path / "before").rename(tmp_path / "after")
    assert train(SMOKE, overrides(tmp_path / "after", "num_train_epochs=3")) == 0
    whole, moved = (load_file(folder / "model.safetensors") for folder in (complete_run, tmp_path / "after"))
    assert all(torch.equal(whole[name], moved[name]) for name in whole)


def test_source_of_weight_zero_leaves_no_trace_in_the_model(overrides, tmp_path):
    settings = ("data.simulated=5", "data.validation=0.4", "sampling.icbhi=0", "max_steps=1", "selection=last")
    assert train(SMOKE, overrides(tmp_path, *settings)) == 0
    cycles = summary_of(tmp_path)["cycles"]
    assert list(cycles["training"]) == ["simulated"]
    assert list(cycles["validation"]) == ["icbhi"]
    assert load_familiarity(tmp_path).cycles == cycles["training"]["simulated"]["cycles"]


def test_a_class_without_training_cycles_is_named(tmp_path, capsys):
    folder = write_simulated(tmp_path / "data", patients=10, cycles_per_recording=4)
    for path in folder.glob("*.txt"):
        if "train_test" not in path.name:
            text = path.read_text(encoding="utf-8").replace("\t1\t1\n", "\t1\t0\n")
            path.write_text(text, encoding="utf-8")
    settings = ["data.simulated=0", f"data.icbhi={folder}", "data.validation=0.4", f"output_dir={tmp_path / 'run'}"]
    assert train(SMOKE, settings) == 2
    assert "training part: contains no both cycle" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_audio_spectrogram_transformer_is_trained_the_same_way(overrides, tmp_path):
    size = "{hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 32, max_length: 64}"
    settings = ("model.architecture=ast", f"model.config={size}", "objective.mode=2d", "num_train_epochs=1")
    assert train(SMOKE, overrides(tmp_path / "run", *settings)) == 0
    model = ASTForAudioClassification.from_pretrained(tmp_path / "run")
    assert model.config.id2label == {0: "normal", 1: "crackle", 2: "wheeze", 3: "both"}
    assert LungSradFeatureExtractor.from_pretrained(tmp_path / "run").normalization == "dataset"
    again = (*settings, f"model.checkpoint={tmp_path / 'run'}", "max_steps=1")
    assert train(SMOKE, overrides(tmp_path / "again", *again)) == 0


def test_run_without_a_teacher_has_no_settings_of_one(complete_run):
    assert not [key for key in json.loads((complete_run / CONFIGURATION).read_text()) if key.startswith("teacher")]
    assert summary_of(complete_run)["teachers"] == []


def test_half_precision_trains_and_is_half_precision(overrides, tmp_path, monkeypatch):
    forward, dtypes = PatchMixTraining._head, set()

    def spied(self, features):
        logits = forward(self, features)
        dtypes.add(logits.dtype)
        return logits

    monkeypatch.setattr(PatchMixTraining, "_head", spied)
    assert train(SMOKE, overrides(tmp_path, "num_train_epochs=1", "bf16=true")) == 0
    assert dtypes == {torch.bfloat16}
    weights = load_file(tmp_path / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())
