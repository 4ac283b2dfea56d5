"""The losses of distillation against numbers of an independent computation in plain numpy."""

import numpy as np
import pytest
import torch

from modeling_lung_srad import LungSradForAudioClassification
from tests.conftest import tiny_config
from training.arguments import ObjectiveArguments, TeacherArguments
from training.objective import PatchMixTraining
from training.teachers.distillation import Distillation, distillation_loss, feature_loss

RANDOM = np.random.default_rng(0)
STUDENT = RANDOM.normal(size=(5, 4))
TEACHERS = RANDOM.normal(scale=3, size=(2, 5, 4))
POOLED = RANDOM.normal(size=(2, 5, 6))


def probabilities(scores, temperature):
    powers = np.exp(scores / temperature)
    return powers / powers.sum(axis=-1, keepdims=True)


def divergence_slowly(student, teacher, temperature):
    """Temperature squared times the Kullback-Leibler divergence, one cycle and one class at a time."""
    total = 0.0
    for row, taught in zip(probabilities(student, temperature), probabilities(teacher, temperature), strict=True):
        total += sum(p * np.log(p / q) for p, q in zip(taught, row, strict=True))
    return temperature**2 * total / len(student)


def standardized(rows):
    return (rows - rows.mean(axis=1, keepdims=True)) / np.sqrt(rows.var(axis=1, keepdims=True) + 1e-5)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_loss_is_the_divergence_at_the_temperature_times_its_square(temperature):
    loss = distillation_loss(torch.tensor(STUDENT), torch.tensor(TEACHERS[0]), temperature)
    assert loss.item() == pytest.approx(divergence_slowly(STUDENT, TEACHERS[0], temperature), abs=1e-12)
    assert distillation_loss(torch.tensor(STUDENT), torch.tensor(STUDENT) + 3.0, temperature).item() < 1e-12


def test_gradient_is_the_difference_of_the_probabilities():
    student = torch.tensor(STUDENT, requires_grad=True)
    distillation_loss(student, torch.tensor(TEACHERS[0]), 2.0).backward()
    expected = 2.0 * (probabilities(STUDENT, 2.0) - probabilities(TEACHERS[0], 2.0)) / len(STUDENT)
    np.testing.assert_allclose(student.grad, expected, atol=1e-12)


def test_logits_and_features_of_two_teachers_are_averaged():
    arguments = TeacherArguments(["first", "second"], temperature=2.0, feature_weight=1.0)
    torch.manual_seed(0)
    distillation = Distillation(arguments, student_width=3, teacher_width=6)
    own = RANDOM.normal(size=(5, 3))
    losses = distillation(*(torch.tensor(values).float() for values in (STUDENT, own, TEACHERS, POOLED)))
    assert losses["distillation"].item() == pytest.approx(divergence_slowly(STUDENT, TEACHERS.mean(0), 2.0), rel=1e-5)
    projection = distillation.projection
    projected = own @ projection.weight.detach().double().numpy().T + projection.bias.detach().double().numpy()
    expected = ((standardized(projected) - standardized(POOLED.mean(axis=0))) ** 2).mean()
    assert losses["features"].item() == pytest.approx(expected, rel=1e-5)


def test_features_are_compared_without_their_mean_and_scale():
    pooled = torch.tensor(POOLED[0])
    assert feature_loss(5 * pooled + 2, pooled).item() == pytest.approx(0, abs=1e-6)


def test_half_precision_is_computed_in_single():
    student, teacher = torch.tensor(STUDENT).bfloat16(), torch.tensor(TEACHERS[0]).bfloat16()
    loss = distillation_loss(student, teacher)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(distillation_loss(student.float(), teacher.float()).item())


@pytest.mark.parametrize(
    ("weights", "label_weight", "losses"),
    [
        ({"weight": 0.3}, 0.7, ["distillation"]),
        ({"weight": 0.3, "feature_weight": 2.0}, 0.7, ["distillation", "features"]),
        ({"weight": 1.0}, 0.0, ["distillation"]),
        ({"weight": 0.0, "feature_weight": 2.0}, 1.0, ["features"]),
        ({"weight": 0.0, "feature_weight": 2.0, "label_weight": 0.0}, 0.0, ["features"]),
    ],
)
def test_objective_is_the_weighted_sum_of_labels_and_teachers(weights, label_weight, losses):
    torch.manual_seed(0)
    classifier = LungSradForAudioClassification(tiny_config(depths=(1, 1, 1, 1), gaussian_blocks=()))
    distillation = Distillation(TeacherArguments(["a"], **weights), classifier.config.hidden_size, 6)
    model = PatchMixTraining(classifier, ObjectiveArguments(mode="dual"), distillation=distillation).train()
    teacher = {"teacher_logits": torch.tensor(TEACHERS).float(), "teacher_features": torch.tensor(POOLED).float()}
    input_values, labels = torch.randn(5, 32, 128), torch.tensor([0, 1, 2, 3, 0])
    outputs = model(input_values, labels, **teacher)
    assert list(outputs.taught) == losses
    expected = label_weight * outputs.cross_entropy + sum(outputs.contrastive.values())
    expected = expected + sum(weights[name] * outputs.taught[loss] for name, loss in named(losses))
    assert outputs.loss.item() == pytest.approx(expected.item(), rel=1e-6)
    alone = classifier(input_values)
    clean = distillation(alone.logits, alone.pooler_output, **teacher)
    assert [outputs.taught[name].item() for name in losses] == pytest.approx(
        [clean[name].item() for name in losses], rel=1e-4
    )


def named(losses):
    return [({"distillation": "weight", "features": "feature_weight"}[loss], loss) for loss in losses]


def test_features_alone_leave_the_head_as_it_is():
    classifier = LungSradForAudioClassification(tiny_config(depths=(1, 1, 1, 1), gaussian_blocks=()))
    arguments = TeacherArguments(["a"], weight=0.0, feature_weight=1.0, label_weight=0.0)
    model = PatchMixTraining(classifier, ObjectiveArguments(), distillation=Distillation(arguments, 32, 6)).train()
    outputs = model(torch.randn(5, 32, 128), torch.arange(5) % 4, teacher_features=torch.tensor(POOLED).float())
    outputs.loss.backward()
    assert not classifier.head.weight.grad.any()
    assert all(parameter.grad.any() for parameter in model.distillation.parameters())


def test_evaluation_asks_for_the_labels_alone():
    classifier = LungSradForAudioClassification(tiny_config(depths=(1, 1, 1, 1), gaussian_blocks=()))
    distillation = Distillation(TeacherArguments(["a"], weight=1.0), 32, 6)
    model = PatchMixTraining(classifier, ObjectiveArguments(), distillation=distillation).eval()
    outputs = model(torch.randn(3, 32, 128), torch.tensor([0, 1, 2]))
    assert set(outputs) == {"loss", "logits"}
    assert outputs.loss.item() > 0


def test_maps_are_compared_place_by_place_on_the_grid_of_the_student():
    torch.manual_seed(0)
    distillation = Distillation(TeacherArguments(["a"], weight=0.0, feature_weight=1.0, features="map"), 5, 7)
    student, taught = torch.randn(3, 5, 2, 3), torch.randn(2, 3, 7, 4, 6)
    losses = distillation(torch.zeros(3, 4), student, None, taught)
    total = 0.0
    for b in range(3):
        for row in range(2):
            for column in range(3):
                place = taught.mean(0)[b, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].mean((1, 2))
                pair = distillation.projection(student[b, :, row, column]), place
                first, second = ((x - x.mean()) / (x.var(unbiased=False) + 1e-5).sqrt() for x in pair)
                total += (first - second).square().mean().item()
    assert losses["features"].item() == pytest.approx(total / 18, rel=1e-5)
