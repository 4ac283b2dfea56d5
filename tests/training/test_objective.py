import math

import pytest
import torch
from safetensors.torch import load_file
from transformers import ASTConfig, ASTForAudioClassification

from modeling_lung_srad import LungSradForAudioClassification
from tests.conftest import FIXTURES, tiny_config
from training.arguments import AXES_OF_MODE, TARGETS, ObjectiveArguments
from training.objective import PatchMixContrastiveLoss, PatchMixTraining, class_weights_from_labels

GOLDEN = load_file(FIXTURES / "losses.safetensors")
CASES = sorted({name.split(".")[0] for name in GOLDEN} - {"blur"})


def contrastive_slowly(mixed, clean, index, lam, temperature, labels=None):
    """The loss, one pair at a time in plain numbers, from its definition; an independent check of the fast one."""

    def cosine(first, second):
        dot = sum(x * y for x, y in zip(first, second, strict=True))
        return dot / math.sqrt(sum(x * x for x in first) * sum(y * y for y in second))

    total = 0.0
    for i, view in enumerate(mixed):
        other = index[i]
        exponents = {
            j: cosine(view, target) / temperature
            for j, target in enumerate(clean)
            if labels is None or labels[j] != labels[i] or j in (i, other)
        }
        denominator = math.log(sum(math.exp(exponent) for exponent in exponents.values()))
        total -= lam * (exponents[i] - denominator) + (1 - lam) * (exponents[other] - denominator)
    return total / len(mixed)


@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradient_are_those_of_the_reference(case):
    given = {name.split(".")[1]: tensor for name, tensor in GOLDEN.items() if name.startswith(f"{case}.")}
    negatives = "diff_label" if bool(given["negatives_diff_label"]) else "all"
    contrastive = PatchMixContrastiveLoss(float(given["temperature"]), negatives)
    mixed = given["proj_mixed"].requires_grad_()
    loss = contrastive(mixed, given["proj_clean"], given["index"], float(given["lam"]), given["labels"])
    assert loss.item() == pytest.approx(float(given["loss"]), abs=1e-5)
    if "grad_proj_mixed" in given:
        loss.backward()
        assert torch.allclose(mixed.grad, given["grad_proj_mixed"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("negatives", ["all", "diff_label"])
@pytest.mark.parametrize("batch", [1, 2, 7])
def test_loss_is_what_a_slow_count_gives(batch, negatives):
    torch.manual_seed(batch)
    mixed, clean = torch.randn(2, batch, 5, dtype=torch.float64)
    index, labels, lam = torch.randperm(batch), torch.randint(4, (batch,)), 0.3
    loss = PatchMixContrastiveLoss(0.2, negatives)(mixed, clean, index, lam, labels)
    slow = contrastive_slowly(
        mixed.tolist(),
        clean.tolist(),
        index.tolist(),
        lam,
        0.2,
        labels.tolist() if negatives == "diff_label" else None,
    )
    assert float(loss) == pytest.approx(slow, abs=1e-9)


def test_loss_is_differentiable_in_both_features():
    torch.manual_seed(0)
    mixed, clean = (torch.randn(4, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    index = torch.tensor([1, 2, 3, 0])
    contrastive = PatchMixContrastiveLoss()
    assert torch.autograd.gradcheck(lambda *pair: contrastive(*pair, index, 0.6), (mixed, clean))


def test_half_precision_is_computed_in_single():
    torch.manual_seed(0)
    mixed, clean = torch.randn(2, 6, 16).bfloat16()
    index = torch.randperm(6)
    contrastive = PatchMixContrastiveLoss(0.06)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = contrastive(mixed, clean, index, 0.5)
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(float(contrastive(mixed.float(), clean.float(), index, 0.5)), abs=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"temperature": 0.0}, "temperature: 0.0 should be above 0"), ({"negatives": "some"}, "negatives: 'some'")],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        PatchMixContrastiveLoss(**settings)


def test_inputs_that_do_not_fit_are_refused():
    features, index = torch.randn(4, 3), torch.arange(4)
    with pytest.raises(ValueError, match=r"got \(4, 3\), \(3, 3\) and \(4,\)"):
        PatchMixContrastiveLoss()(features, features[:3], index, 0.5)
    with pytest.raises(ValueError, match=r"and \(2,\)"):
        PatchMixContrastiveLoss()(features, features, index[:2], 0.5)
    with pytest.raises(ValueError, match="labels: needed"):
        PatchMixContrastiveLoss(negatives="diff_label")(features, features, index, 0.5)


@pytest.fixture
def batch():
    torch.manual_seed(3)
    return torch.randn(6, 64, 128), torch.tensor([0, 1, 2, 3, 0, 1])


def training_model(**settings):
    torch.manual_seed(0)
    classifier = LungSradForAudioClassification(tiny_config(depths=(1, 1, 1, 1), gaussian_blocks=()))
    return PatchMixTraining(classifier, ObjectiveArguments(**settings)).train()


@pytest.mark.parametrize("mode", AXES_OF_MODE)
def test_objective_is_the_weighted_sum_of_its_parts(mode, batch):
    model = training_model(mode=mode, time_weight=0.5, mel_weight=2.0, patch_weight=3.0)
    outputs = model(*batch)
    weights = {"time": 0.5, "mel": 2.0, "2d": 3.0}
    assert tuple(outputs.contrastive) == AXES_OF_MODE[mode]
    expected = outputs.cross_entropy + sum(weights[axis] * loss for axis, loss in outputs.contrastive.items())
    assert float(outputs.loss) == pytest.approx(float(expected), rel=1e-6)
    assert len(outputs.logits) == len(batch[1])


def test_clean_part_is_that_of_the_classifier_alone(batch):
    model = training_model(mode="dual")
    outputs = model(*batch)
    alone = model.classifier(batch[0], labels=batch[1])
    assert torch.allclose(outputs.logits, alone.logits, atol=1e-5)
    assert float(outputs.cross_entropy) == pytest.approx(float(alone.loss), abs=1e-5)


def test_outside_training_there_is_nothing_but_cross_entropy(batch):
    model = training_model(mode="dual").eval()
    outputs = model(*batch)
    assert set(outputs) == {"loss", "logits"}
    assert float(outputs.loss) == pytest.approx(float(model.classifier(*batch).loss), abs=1e-6)


def gradients_through_targets(targets, batch):
    """The targets decide if the loss reaches the clean features, and if clean features go through the projector."""
    model = training_model(mode="time", targets=targets)
    projected = []
    model.projector.register_forward_hook(lambda module, inputs, output: projected.append(output))
    reached = {}
    original = model.contrastive.forward

    def record(projected_mixed, targets_clean, *rest):
        reached["target"] = targets_clean
        return original(projected_mixed, targets_clean, *rest)

    model.contrastive.forward = record
    model(*batch)
    return reached["target"].requires_grad, len(projected) == 2


@pytest.mark.parametrize(
    ("targets", "flows", "is_projected"),
    [
        ("grad_block", False, False),
        ("grad_flow", True, False),
        ("project_block", False, True),
        ("project_flow", True, True),
    ],
)
def test_targets_are_what_their_name_says(targets, flows, is_projected, batch):
    assert gradients_through_targets(targets, batch) == (flows, is_projected)
    assert targets in TARGETS


@pytest.mark.parametrize(("projector", "learns"), [("trained", True), ("frozen", False)])
def test_projector_learns_where_it_should(projector, learns, batch):
    model = training_model(mode="dual", projector=projector)
    model(*batch).loss.backward()
    assert [parameter.grad is not None for parameter in model.projector.parameters()] == [learns] * 6
    assert all(parameter.grad is not None for parameter in model.classifier.parameters())


def test_batch_of_one_has_no_contrastive_part(batch):
    outputs = training_model(mode="dual")(batch[0][:1], batch[1][:1])
    assert outputs.contrastive == {}
    assert torch.isfinite(outputs.loss)


def test_audio_spectrogram_transformer_is_trained_by_the_same_objective():
    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    classifier = ASTForAudioClassification(ASTConfig(max_length=64, num_labels=4, **size))
    model = PatchMixTraining(classifier, ObjectiveArguments(mode="2d")).train()
    input_values, labels = torch.randn(4, 64, 128), torch.tensor([0, 1, 2, 3])
    outputs = model(input_values, labels)
    assert torch.allclose(outputs.logits, classifier(input_values).logits, atol=1e-5)
    assert tuple(outputs.contrastive) == ("2d",)
    outputs.loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_class_weights_balance_the_classes_and_keep_the_mean():
    labels = [0] * 6 + [1] * 3 + [2] * 2 + [3]
    weights = class_weights_from_labels(labels, 4, balance=1.0)
    assert [float(weights[label]) * labels.count(label) for label in range(4)] == pytest.approx([3.0] * 4)
    half = class_weights_from_labels(labels, 4, balance=0.5)
    assert float(half[3] / half[0]) == pytest.approx(6**0.5)
    assert float(sum(half[label] for label in labels)) == pytest.approx(len(labels))
    assert class_weights_from_labels(labels, 4, balance=0.0) is None


def test_weighted_and_smoothed_cross_entropy_is_a_mean_over_cycles(batch):
    weights = torch.tensor([0.5, 1.0, 2.0, 4.0])
    classifier = LungSradForAudioClassification(tiny_config(depths=(1, 1, 1, 1), gaussian_blocks=()))
    model = PatchMixTraining(classifier, ObjectiveArguments(), weights, label_smoothing=0.1).train()
    log_probability = classifier(batch[0]).logits.log_softmax(dim=-1)
    total = 0.0
    for row, label in zip(log_probability, batch[1].tolist(), strict=True):
        smoothed = sum(float(weights[name]) * float(row[name]) for name in range(4)) / 4
        total -= 0.9 * float(weights[label]) * float(row[label]) + 0.1 * smoothed
    assert float(model(*batch).cross_entropy) == pytest.approx(total / len(batch[1]), rel=1e-4)
