"""Teachers: how they are loaded and asked, and every reason to refuse one."""

import hashlib
import json
import shutil

import pytest
import torch
from transformers import ASTConfig, ASTForAudioClassification

from modeling_lung_srad import LungSradFeatureExtractor, LungSradForAudioClassification
from modeling_lung_srad.errors import InputError
from tests.conftest import tiny_config
from tests.training.conftest import SHORT_INPUT
from tests.training.teachers.test_efficientat_loading import published_weights
from training.arguments import AugmentationArguments, RunArguments, TeacherArguments
from training.metrics.icbhi_score.icbhi_measure import CLASS_NAMES
from training.teachers.efficientat import EfficientATConfig, EfficientATForAudioClassification
from training.teachers.teachers import Teachers, different_settings, load_teachers

SHUFFLED = ("both", "wheeze", "normal", "crackle")
FEATURES_ALONE = {"weight": 0.0, "feature_weight": 1.0}


def labels(names):
    return {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}


@pytest.fixture(scope="module")
def folders(tmp_path_factory, feature_extractor):
    """A teacher of each architecture, the AST with its classes in another order, and the published file; read only."""
    folder = tmp_path_factory.mktemp("teachers")
    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    models = {
        "lung_srad": LungSradForAudioClassification(tiny_config(depths=(1, 1, 1, 1), gaussian_blocks=())),
        "ast": ASTForAudioClassification(ASTConfig(max_length=SHORT_INPUT["num_frames"], **size, **labels(SHUFFLED))),
        "efficientat": EfficientATForAudioClassification(EfficientATConfig()),
    }
    for name, model in models.items():
        model.save_pretrained(folder / name)
        feature_extractor.save_pretrained(folder / name)
    torch.save(published_weights(), folder / "mn04.pt")
    return folder


@pytest.fixture
def teacher_folder(folders, tmp_path):
    """A copy of the EfficientAT teacher to damage."""
    return shutil.copytree(folders / "efficientat", tmp_path / "teacher")


def load(feature_extractor, *checkpoints, augmentation=None, **settings):
    arguments = TeacherArguments([str(checkpoint) for checkpoint in checkpoints], **settings)
    run = RunArguments(teacher=arguments, augmentation=augmentation or AugmentationArguments())
    return load_teachers(run, feature_extractor)


def refused(feature_extractor, *checkpoints, **settings):
    with pytest.raises(InputError) as error:
        load(feature_extractor, *checkpoints, **settings)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(f"teacher.checkpoints: {checkpoints[-1]}: ")
    return str(error.value)


def test_teachers_answer_in_the_order_of_the_classes_and_without_gradients(folders, feature_extractor):
    names = ("lung_srad", "ast", "efficientat")
    loaded = load(feature_extractor, *(folders / name for name in names))
    teachers = Teachers(loaded, TeacherArguments(["x"])).train()
    assert not any(module.training for module in teachers.modules())
    assert not any(parameter.requires_grad for parameter in teachers.parameters())
    input_values = torch.randn(2, SHORT_INPUT["num_frames"], 128)
    answers = teachers(input_values)
    assert answers.logits.shape == (3, 2, 4)
    assert answers.features is None
    assert not answers.logits.requires_grad
    for teacher, logits in zip(loaded, answers.logits, strict=True):
        alone = teacher.classifier(input_values).logits
        order = SHUFFLED if teacher.checkpoint.endswith("ast") else CLASS_NAMES
        for column, name in enumerate(CLASS_NAMES):
            assert torch.equal(logits[:, column], alone[:, order.index(name)])


def test_features_are_the_pooled_ones_and_are_asked_for_where_they_have_a_weight(folders, feature_extractor):
    arguments = TeacherArguments(["x"], **FEATURES_ALONE)
    loaded = load(feature_extractor, folders / "efficientat", folders / "mn04.pt", **FEATURES_ALONE)
    teachers = Teachers(loaded, arguments)
    input_values = torch.randn(2, 64, 128)
    answers = teachers(input_values)
    assert answers.logits is None
    assert teachers.width == 384
    for teacher, pooled in zip(loaded, answers.features, strict=True):
        assert torch.equal(pooled, teacher.classifier(input_values).pooler_output)


def test_description_names_the_weights_and_what_is_known_of_their_patients(folders, teacher_folder, feature_extractor):
    summary = {
        "selection": "last",
        "training_patients": {"icbhi": ["101"]},
        "configuration": {"data": {"split": "official"}},
    }
    (teacher_folder / "training_summary.json").write_text(json.dumps(summary), encoding="utf-8")
    known, unknown, published = load(
        feature_extractor, teacher_folder, folders / "efficientat", folders / "mn04.pt", **FEATURES_ALONE
    )
    weights = (teacher_folder / "model.safetensors").read_bytes()
    assert known.sha256 == known.description["sha256"] == hashlib.sha256(weights).hexdigest() == unknown.sha256
    assert known.record.training_patients == {"icbhi": ("101",)}
    assert (known.description["checkpoint"], known.description["training_patients"]) == ("teacher", {"icbhi": ["101"]})
    assert unknown.description == {"checkpoint": "efficientat", "unknown": True, "sha256": unknown.sha256}
    assert published.sha256 == hashlib.sha256((folders / "mn04.pt").read_bytes()).hexdigest()
    assert published.description == {"checkpoint": "mn04.pt", "sha256": published.sha256}


def test_files_of_training_beside_the_weights_do_not_change_their_sha256(teacher_folder, feature_extractor):
    (before,) = load(feature_extractor, teacher_folder)
    (teacher_folder / "distillation.safetensors").write_bytes(b"other")
    (after,) = load(feature_extractor, teacher_folder)
    assert before.sha256 == after.sha256


@pytest.mark.parametrize(
    ("settings", "shown"),
    [
        ({"num_frames": 512}, "num_frames 256 there and 512 here"),
        ({"num_mel_bins": 64, "cycle_seconds": 2.0}, "cycle_seconds 4.0 there and 2.0 here, num_mel_bins 128 there"),
        ({"padding_mode": "zero"}, "padding_mode repeat there and zero here"),
        ({"normalization": "dataset"}, "normalization clip there and dataset here"),
    ],
)
def test_other_features_than_those_of_the_run_are_refused(folders, settings, shown):
    own = LungSradFeatureExtractor(**(SHORT_INPUT | settings))
    message = refused(own, folders / "efficientat")
    assert f"has other features than this run ({shown}" in message
    assert "set model.feature_extractor to those of the teacher" in message


def test_constants_that_are_not_used_may_differ():
    first, second = LungSradFeatureExtractor(mean=-4.0), LungSradFeatureExtractor(mean=-5.0)
    assert different_settings(first, second) == []
    first.normalization = second.normalization = "dataset"
    assert different_settings(first, second) == ["mean"]


def lose_the_weights(folder):
    (folder / "model.safetensors").unlink()


def leave_a_pickle(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def cut_the_weights(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def put_in_a_nan(folder):
    model = EfficientATForAudioClassification.from_pretrained(folder)
    model.classifier[3].bias.data[0] = torch.nan
    model.save_pretrained(folder)


def name_other_classes(folder):
    config = EfficientATConfig(head="classes", **labels(["speech", "music"]))
    EfficientATForAudioClassification(config).save_pretrained(folder)


def write_a_summary_that_is_none(folder):
    (folder / "training_summary.json").write_text("[]", encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lose_the_weights, "lacks model.safetensors"),
        (leave_a_pickle, "lacks model.safetensors"),
        (cut_the_weights, "cannot be loaded"),
        (put_in_a_nan, "classifier.3.bias has NaN or infinite values"),
        (name_other_classes, "has 2 labels (0: speech, 1: music)"),
        (shutil.rmtree, "no such folder; check the path"),
    ],
)
def test_teacher_that_cannot_be_loaded_is_named(teacher_folder, feature_extractor, damage, message):
    damage(teacher_folder)
    assert message in refused(feature_extractor, teacher_folder)


def test_summary_of_a_teacher_that_is_none_is_named(teacher_folder, feature_extractor):
    write_a_summary_that_is_none(teacher_folder)
    with pytest.raises(InputError, match=r"training_summary.json: is not a training summary"):
        load(feature_extractor, teacher_folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no such file"), (b"", "cannot be read"), (b"404: Not Found", "is not a file of weights")],
)
def test_published_file_that_cannot_be_read_is_named(tmp_path, feature_extractor, content, message):
    if content is not None:
        (tmp_path / "mn04.pt").write_bytes(content)
    assert message in refused(feature_extractor, tmp_path / "mn04.pt", **FEATURES_ALONE)


def test_published_file_has_no_lung_classes(folders, feature_extractor):
    message = refused(feature_extractor, folders / "mn04.pt", weight=0.5, feature_weight=1.0)
    assert "has the classes of AudioSet" in message
    assert "set teacher.weight=0" in message


def test_stretches_of_the_input_are_not_for_ast(folders, feature_extractor):
    crop = AugmentationArguments(crop_frames=128)
    assert "takes all frames only" in refused(feature_extractor, folders / "ast", augmentation=crop)
    load(feature_extractor, folders / "lung_srad", augmentation=crop)


def test_features_of_different_width_cannot_be_averaged(folders, feature_extractor):
    pair = (folders / "efficientat", folders / "lung_srad")
    assert "has 32 pooled features and" in refused(feature_extractor, *pair, feature_weight=1.0)
    assert len(load(feature_extractor, *pair)) == 2


def test_teacher_that_answers_with_no_numbers_is_named(folders, feature_extractor):
    loaded = load(feature_extractor, folders / "lung_srad", folders / "efficientat")
    loaded[1].classifier.classifier[3].bias.data[0] = torch.inf
    teachers = Teachers(loaded, TeacherArguments(["x"]))
    assert teachers.not_finite(torch.randn(2, 64, 128)) == [str(folders / "efficientat")]


def test_maps_are_asked_for_by_configuration_and_not_of_ast(folders, feature_extractor):
    settings = {"feature_weight": 1.0, "features": "map"}
    assert "patches in a row" in refused(feature_extractor, folders / "ast", **settings)
    loaded = load(feature_extractor, folders / "lung_srad", **settings)
    teachers = Teachers(loaded, TeacherArguments([str(folders / "lung_srad")], **settings))
    input_values = torch.randn(2, 256, 128)
    (found,) = teachers(input_values).features
    assert torch.equal(found, loaded[0].classifier.base_model(input_values).last_hidden_state)
