import math

import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments, default_data_collator

from modeling_lung_srad import LungSradFeatureExtractor, LungSradForAudioClassification
from modeling_lung_srad.errors import InputError
from tests.conftest import tiny_config
from training.arguments import ObjectiveArguments, TeacherArguments
from training.data.log_mel_dataset import LogMelDataset, compute_log_mel
from training.data.sampling import CycleDraw
from training.teachers.efficientat import EfficientATConfig, EfficientATForAudioClassification
from training.teachers.teachers import Teacher, Teachers
from training.trainer import DISTILLATION_WEIGHTS, PROJECTOR_WEIGHTS, LungSradTrainer, cosine_per_epoch
from training.training_arguments import LungSradTrainingArguments


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
    def make(dataset=None, objective=None, names=None, class_weights=None, model=None, teachers=None, **arguments):
        torch.manual_seed(0)
        model = model or LungSradForAudioClassification(tiny_config(depths=(1, 1, 1, 1), gaussian_blocks=()))
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
            teachers=teachers,
        )

    return make


def teachers_of(*models, **settings):
    """Teachers of models in memory."""
    teachers = [
        Teacher(f"teacher-{number}", model.eval(), (0, 1, 2, 3), "", None, {}) for number, model in enumerate(models)
    ]
    return Teachers(teachers, TeacherArguments(["x"], **settings))


def efficientat(seed=1):
    """Random weights with the batch statistics of noise, without which the features would vanish."""
    torch.manual_seed(seed)
    model = EfficientATForAudioClassification(EfficientATConfig()).train()
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    model(torch.randn(8, 32, 128))
    for norm in norms:
        norm.momentum = 0.01
    torch.nn.init.normal_(model.classifier[3].weight, std=1.0)
    return model


@pytest.mark.parametrize("batch", [{}, {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}])
def test_learning_rate_is_the_same_in_all_steps_of_an_epoch(make_trainer, batch):
    schedule = {"lr_scheduler_type": "cosine_with_min_lr", "lr_per_epoch": True}
    trainer = make_trainer(num_train_epochs=4, logging_strategy="steps", logging_steps=1, **schedule, **batch)
    trainer.train()
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    # Epochs 1 to 4 of 4: the cosine from 1 at epoch 0 to 1/1000 at epoch 4, written out.
    factors = [0.001 + 0.999 * (1 + math.cos(math.pi * share)) / 2 for share in (0.25, 0.5, 0.75, 1.0)]
    expected = [1e-3 * factor for factor in factors for _ in range(2)]
    assert rates[0] == pytest.approx(expected[0])
    assert rates[-1] == pytest.approx(1e-6)
    assert sorted(set(rates), reverse=True) == pytest.approx(sorted(set(expected), reverse=True))


def test_scoring_the_recorded_part_leaves_the_random_numbers_alone(make_trainer):
    states = []
    for recorded in (None, Inputs()):
        trainer = make_trainer()
        trainer.eval_dataset, trainer.recorded_dataset = Inputs(), recorded
        torch.manual_seed(0)
        trainer.evaluate()
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


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


def test_student_learns_the_answers_of_its_teacher_and_leaves_it_alone(make_trainer):
    teacher = efficientat()
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    settings = {"learning_rate": 3e-3, "num_train_epochs": 12, "per_device_train_batch_size": 8}
    trainer = make_trainer(teachers=teachers_of(teacher, weight=1.0, feature_weight=1.0), **settings)
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "distillation" in entry]
    assert logged[-1]["distillation"] < 0.5 * logged[0]["distillation"]
    assert logged[-1]["features"] < logged[0]["features"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_parts_of_the_teacher_are_logged(make_trainer):
    teachers = teachers_of(efficientat(1), efficientat(2), weight=0.25, temperature=2.0, feature_weight=0.5)
    trainer = make_trainer(teachers=teachers, objective=ObjectiveArguments(mode="dual"))
    trainer.train()
    (entry,) = [entry for entry in trainer.state.log_history if "cross_entropy" in entry]
    parts = 0.75 * entry["cross_entropy"] + 0.25 * entry["distillation"] + 0.5 * entry["features"]
    assert entry["loss"] == pytest.approx(parts + entry["contrastive_time"] + entry["contrastive_mel"], rel=1e-5)


def test_checkpoint_has_the_projection_but_no_teacher(make_trainer, tmp_path):
    trainer = make_trainer(teachers=teachers_of(efficientat(), feature_weight=1.0))
    trainer.train()
    trainer.save_model()
    (folder,) = (tmp_path / "run").glob("checkpoint-*")
    projection = load_file(folder / DISTILLATION_WEIGHTS)
    own = trainer.training_model.distillation.state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in projection.items()} == {
        "projection.weight": (384, 32),
        "projection.bias": (384,),
    }
    assert all(torch.equal(own[name], tensor) for name, tensor in projection.items())
    saved = load_file(folder / "model.safetensors")
    assert saved.keys() == trainer.training_model.classifier.state_dict().keys()
    assert not (tmp_path / "run" / DISTILLATION_WEIGHTS).exists()


def test_teacher_without_features_leaves_nothing_beside_the_checkpoint(make_trainer, tmp_path):
    make_trainer(teachers=teachers_of(efficientat())).train()
    assert not list((tmp_path / "run").rglob(DISTILLATION_WEIGHTS))


def test_accumulated_steps_with_a_teacher_are_those_of_the_whole_batch(make_trainer):
    # AdamW would turn the rounding of gradients next to zero into steps of full size.
    settings = {"max_steps": 2, "max_grad_norm": 0.0, "optim": "sgd", "learning_rate": 0.1}
    sizes = ({"per_device_train_batch_size": 8}, {"gradient_accumulation_steps": 2})
    trainers = [
        make_trainer(teachers=teachers_of(efficientat(), feature_weight=1.0), **settings, **size) for size in sizes
    ]
    before = trainers[0].training_model.distillation.projection.weight.clone()
    for trainer in trainers:
        trainer.train()
    whole, parts = (dict(trainer.training_model.named_parameters()) for trainer in trainers)
    assert (whole["distillation.projection.weight"] - before).abs().max() > 1e-4
    for name, weight in whole.items():
        assert torch.allclose(weight, parts[name], atol=1e-6), name


def test_teacher_that_answers_with_no_numbers_stops_the_run_by_name(make_trainer):
    broken = efficientat()
    broken.classifier[3].bias.data[1] = torch.nan
    trainer = make_trainer(teachers=teachers_of(efficientat(), broken))
    with pytest.raises(InputError, match=r"step 1: the teacher teacher-1 answers with NaN or infinite values;"):
        trainer.train()


def test_cycle_that_is_not_finite_is_named_also_where_a_teacher_sees_it(make_trainer):
    dataset = Inputs()
    dataset.input_values[5, 3, 7] = torch.nan
    trainer = make_trainer(dataset, teachers=teachers_of(efficientat()))
    with pytest.raises(InputError, match=r"the loss is nan; .* The batch: cycle 5 \(its input is not finite\)\."):
        trainer.train()


def test_running_statistics_of_efficientat_move_in_training_and_are_saved(make_trainer, tmp_path):
    model = efficientat()
    before = model.efficientat.features[0][1].running_mean.clone()
    batches = model.efficientat.features[0][1].num_batches_tracked.item()
    trainer = make_trainer(model=model, max_steps=2)
    trainer.train()
    (folder,) = (tmp_path / "run").glob("checkpoint-*")
    saved = EfficientATForAudioClassification.from_pretrained(folder)
    assert not torch.equal(saved.efficientat.features[0][1].running_mean, before)
    assert saved.efficientat.features[0][1].num_batches_tracked == batches + 2
    weights = model.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in saved.state_dict().items())


def test_cycle_whose_input_is_not_finite_is_named(make_trainer):
    dataset = Inputs()
    dataset.input_values[5, 3, 7] = torch.nan
    trainer = make_trainer(dataset, names=[f"recording_{index}" for index in range(8)], logging_steps=1)
    with pytest.raises(InputError, match=r"the loss is nan; .* The batch: recording_5 \(its input is not finite\)\."):
        trainer.train()


def test_weights_that_are_no_numbers_are_not_saved(make_trainer, tmp_path):
    class Overflow(TrainerCallback):
        def on_optimizer_step(self, args, state, control, model=None, **kwargs):
            model.classifier.head.bias.data[1] = torch.inf

    trainer = make_trainer(max_steps=1)
    trainer.add_callback(Overflow())
    with pytest.raises(InputError, match=r"step 1: classifier.head.bias has NaN or infinite values, so no check"):
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
