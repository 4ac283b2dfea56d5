import numpy as np
import pytest
import torch
from transformers import Trainer, TrainingArguments, default_data_collator

from modeling_lung_srad import LungSradForAudioClassification
from tests.conftest import tiny_config
from training.arguments import SamplingArguments
from training.log_mel_dataset import LogMelDataset, compute_log_mel
from training.trainer import WeightedCycleSampler, sampling_weights

SOURCES = ["icbhi"] * 6 + ["sprsound"] * 4
LABELS = [0, 0, 0, 1, 1, 2, 0, 0, 0, 3]


def test_defaults_see_every_cycle_once():
    assert sampling_weights(SOURCES, LABELS, SamplingArguments()) is None


def test_full_balance_makes_classes_equally_likely():
    weights = sampling_weights(SOURCES, LABELS, SamplingArguments(class_balance=1.0))
    assert [weights[np.array(LABELS) == label].sum() for label in range(4)] == pytest.approx([0.25] * 4)


def test_half_balance_lies_between():
    weights = sampling_weights(SOURCES, LABELS, SamplingArguments(class_balance=0.5))
    assert weights[0] / weights[5] == pytest.approx((6 / 1) ** -0.5)


def test_source_weight_is_relative_to_a_cycle_of_the_other_source():
    weights = sampling_weights(SOURCES, LABELS, SamplingArguments(sprsound=0.25))
    assert weights[6] / weights[0] == pytest.approx(0.25)
    without = sampling_weights(SOURCES, LABELS, SamplingArguments(sprsound=0.0, class_balance=1.0))
    assert without[6:].sum() == 0
    assert without[0] / without[5] == pytest.approx(1 / 3)


@pytest.mark.parametrize("arguments", [{"icbhi": -1.0}, {"icbhi": 0.0, "sprsound": 0.0}, {"cycles_per_epoch": 0}])
def test_impossible_weights_are_refused(arguments):
    with pytest.raises(ValueError, match="sampling"):
        sampling_weights(SOURCES, LABELS, SamplingArguments(**arguments))


def test_draws_follow_the_weights_the_seed_and_the_epoch():
    weights = np.array([0.5, 0.3, 0.2, 0.0])
    sampler = WeightedCycleSampler(weights, draws=10_000, seed=1)
    first = list(sampler)
    assert len(sampler) == len(first) == 10_000
    assert (np.bincount(first, minlength=4) / 10_000).tolist() == pytest.approx(weights.tolist(), abs=0.02)
    assert list(sampler) == first
    sampler.set_epoch(1)
    assert list(sampler) != first


@pytest.mark.slow
def test_stock_trainer_fine_tunes_the_model(simulated_sources, feature_extractor, tmp_path):
    training, _ = simulated_sources
    cycles = LogMelDataset(compute_log_mel(training, feature_extractor), training[0].table["label"], feature_extractor)
    torch.manual_seed(0)
    trainer = Trainer(
        model=LungSradForAudioClassification(tiny_config(depths=(1, 1, 1, 1), gaussian_blocks=())),
        args=TrainingArguments(
            output_dir=str(tmp_path),
            max_steps=60,
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
