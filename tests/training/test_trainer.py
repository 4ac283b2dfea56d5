import math

import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments, default_data_collator

from modeling_lung_srad import LungSradFeatureExtractor, LungSradForAudioClassification
from tests.conftest import tiny_config
from training.arguments import LungSradTrainingArguments, ObjectiveArguments
from training.log_mel_dataset import LogMelDataset, compute_log_mel
from training.sampling import CycleDraw
from training.trainer import PROJECTOR_WEIGHTS, AverageWeights, LungSradTrainer, TrainingError, cosine_per_epoch


class Inputs(Dataset):
    """Random inputs of four classes, by position or by draw."""

    def __init__(self, number=8):
        torch.manual_seed(0)
        self.input_values = torch.randn(number, 32, 128)

    def __len__(self):
        return len(self.input_values)

    def __getitem__(self, draw):
        index = draw.cycle if isinstance(draw, CycleDraw) else draw
        return {"input_values": self.input_values[index], "labels": index % 4, "index": index}


@pytest.fixture
def make_trainer(tmp_path):
    def make(dataset=None, objective=None, names=None, class_weights=None, **arguments):
        torch.manual_seed(0)
        model = LungSradForAudioClassification(tiny_config(depths=(1, 1, 1, 1), gaussian_blocks=()))
        settings = {
            "output_dir": str(tmp_path / "run"),
            "selection": "last",
            "eval_strategy": "no",
            "per_device_train_batch_size": 4,
            "learning_rate": 1e-3,
            "lr_scheduler_type": "constant",
            "num_train_epochs": 1,
            "use_cpu": True,
            "disable_tqdm": True,
        }
        return LungSradTrainer(
            model=model,
            args=LungSradTrainingArguments(**(settings | arguments)),
            objective=objective,
            class_weights=class_weights,
            train_dataset=dataset or Inputs(),
            data_collator=default_data_collator,
            cycle_names=names,
        )

    return make


def test_learning_rate_is_the_same_in_all_steps_of_an_epoch(make_trainer):
    schedule = {"lr_scheduler_type": "cosine_with_min_lr", "lr_per_epoch": True}
    trainer = make_trainer(num_train_epochs=4, logging_strategy="steps", logging_steps=1, **schedule)
    trainer.train()
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    # Epochs 1 to 4 of 4: the cosine from 1 at epoch 0 to 1/1000 at epoch 4, written out.
    factors = [0.001 + 0.999 * (1 + math.cos(math.pi * share)) / 2 for share in (0.25, 0.5, 0.75, 1.0)]
    expected = [1e-3 * factor for factor in factors for _ in range(2)]
    assert rates[0] == pytest.approx(expected[0])
    assert rates[-1] == pytest.approx(1e-6)
    assert sorted(set(rates), reverse=True) == pytest.approx(sorted(set(expected), reverse=True))


def test_schedule_ends_at_a_thousandth_and_stays_there():
    assert cosine_per_epoch(step=49 * 10, steps_per_epoch=10, epochs=50, min_lr_rate=0.001) == pytest.approx(0.001)
    assert cosine_per_epoch(step=10**6, steps_per_epoch=10, epochs=50, min_lr_rate=0.001) == pytest.approx(0.001)
    assert cosine_per_epoch(step=9, steps_per_epoch=10, epochs=50, min_lr_rate=0.001) == cosine_per_epoch(
        0, 10, 50, 0.001
    )


@pytest.mark.parametrize("beta", [0.5, 0.9])
def test_weights_are_averaged_with_those_before_every_step(make_trainer, beta):
    plain, averaged = make_trainer(max_steps=1), make_trainer(max_steps=1, ma_beta=beta)
    before = {name: weight.clone() for name, weight in plain.model.classifier.named_parameters()}
    for trainer in (plain, averaged):
        trainer.train()
    new = dict(plain.model.classifier.named_parameters())
    for name, weight in averaged.model.classifier.named_parameters():
        assert torch.allclose(weight, beta * before[name] + (1 - beta) * new[name], atol=1e-7)
    assert any(not torch.equal(before[name], new[name]) for name in new)


def test_average_leaves_what_is_not_trained_alone():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    model[1].requires_grad_(False)
    frozen = model[1].weight.clone()
    average = AverageWeights(0.5)
    average.on_pre_optimizer_step(None, None, None, model=model)
    average.on_optimizer_step(None, None, None, model=model)
    assert torch.equal(model[1].weight, frozen)
    assert average.before == []


def test_checkpoint_is_the_classifier_with_the_projector_beside_it(make_trainer, tmp_path):
    trainer = make_trainer(objective=ObjectiveArguments(mode="dual"))
    trainer.train()
    trainer.save_model()
    (folder,) = (tmp_path / "run").glob("checkpoint-*")
    saved = LungSradForAudioClassification.from_pretrained(folder)
    weights = trainer.training_model.classifier.state_dict()
    assert all(torch.equal(weights[name], weight) for name, weight in saved.state_dict().items())
    projector = trainer.training_model.projector.state_dict()
    assert all(torch.equal(projector[name], weight) for name, weight in load_file(folder / PROJECTOR_WEIGHTS).items())
    assert not (tmp_path / "run" / PROJECTOR_WEIGHTS).exists()
    assert not list((tmp_path / "run").rglob("training_args.bin"))


def test_parts_of_the_loss_are_logged(make_trainer):
    trainer = make_trainer(objective=ObjectiveArguments(mode="dual", mel_weight=0.5))
    trainer.train()
    (entry,) = [entry for entry in trainer.state.log_history if "cross_entropy" in entry]
    assert entry["loss"] == pytest.approx(
        entry["cross_entropy"] + entry["contrastive_time"] + 0.5 * entry["contrastive_mel"], rel=1e-5
    )


@pytest.mark.parametrize("class_weights", [None, torch.tensor([0.4, 2.0, 3.0, 6.0])], ids=["plain", "weighted"])
def test_accumulated_steps_are_those_of_the_whole_batch(make_trainer, class_weights):
    settings = {"max_steps": 2, "class_weights": class_weights, "max_grad_norm": 0.0}
    whole = make_trainer(per_device_train_batch_size=8, **settings)
    parts = make_trainer(per_device_train_batch_size=4, gradient_accumulation_steps=2, **settings)
    for trainer in (whole, parts):
        trainer.train()
    weights = dict(parts.model.named_parameters())
    for name, weight in whole.model.named_parameters():
        assert torch.allclose(weight, weights[name], atol=1e-5), name


def test_cycle_whose_input_is_not_finite_is_named(make_trainer):
    dataset = Inputs()
    dataset.input_values[5, 3, 7] = torch.nan
    trainer = make_trainer(dataset, names=[f"recording_{index}" for index in range(8)], logging_steps=1)
    with pytest.raises(
        TrainingError, match=r"the loss is nan; .* The batch: recording_5 \(its input is not finite\)\."
    ):
        trainer.train()


def test_weights_that_are_no_numbers_are_not_saved(make_trainer, tmp_path):
    class Overflow(TrainerCallback):
        def on_optimizer_step(self, args, state, control, model=None, **kwargs):
            model.classifier.head.bias.data[1] = torch.inf

    trainer = make_trainer(max_steps=1)
    trainer.add_callback(Overflow())
    with pytest.raises(TrainingError, match=r"step 1: classifier.head.bias has NaN or infinite values, so no check"):
        trainer.train()
    assert not list((tmp_path / "run").glob("checkpoint-*"))


def test_gradient_checkpointing_gives_the_same_weights(make_trainer):
    objective = ObjectiveArguments(mode="dual")
    plain = make_trainer(max_steps=2, objective=objective)
    lean = make_trainer(max_steps=2, objective=objective, activation_checkpointing=True)
    calls = {}
    for name, trainer in (("plain", plain), ("lean", lean)):
        layer = trainer.model.classifier.lung_srad.layers[0].blocks[0].norm
        layer.register_forward_pre_hook(lambda *_, name=name: calls.update({name: calls.get(name, 0) + 1}))
        torch.manual_seed(1)
        trainer.train()
    # Every layer is computed a second time in the backward pass.
    assert calls["lean"] == 2 * calls["plain"]
    weights = dict(lean.model.named_parameters())
    for name, weight in plain.model.named_parameters():
        assert torch.allclose(weight, weights[name], atol=1e-5), name


@pytest.mark.slow
def test_stock_trainer_fine_tunes_the_model(simulated_sources, tmp_path):
    training, _ = simulated_sources
    feature_extractor = LungSradFeatureExtractor(cycle_seconds=4.0, num_frames=64)
    cycles = LogMelDataset(compute_log_mel(training, feature_extractor), training[0].table["label"], feature_extractor)
    torch.manual_seed(0)
    trainer = Trainer(
        model=LungSradForAudioClassification(tiny_config(depths=(1, 1, 1, 1), gaussian_blocks=())),
        args=TrainingArguments(
            output_dir=str(tmp_path),
            max_steps=40,
            learning_rate=3e-3,
            lr_scheduler_type="constant",
            per_device_train_batch_size=len(cycles),
            remove_unused_columns=False,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        ),
        train_dataset=cycles,
        eval_dataset=cycles,
        data_collator=default_data_collator,
    )
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < 0.8 * before


def test_the_scan_of_a_run_is_chosen_before_its_first_evaluation(make_trainer, monkeypatch):
    """A run that goes on may begin by one, where the run without interruption had trained before it."""
    monkeypatch.setattr("modeling_lung_srad.modeling_lung_srad.choose_cpu_backend", lambda elements: f"for {elements}")
    classifier = make_trainer().training_model.classifier
    assert {x.scan_backend for x in classifier.modules() if hasattr(x, "scan_backend")} == {"for inf"}
    assert classifier.config.scan_backend == "auto"
