import json

import pytest
import torch
from transformers import ASTConfig, ASTForAudioClassification

from modeling_lung_srad import LungSradFeatureExtractor
from modeling_lung_srad.errors import InputError
from training.metrics.icbhi_score.icbhi_measure import CLASS_NAMES
from training.prediction.classifier_loading import classify_pooled, load_classifier
from training.prediction.evaluate_checkpoint import evaluate_checkpoint
from training.teachers.efficientat import EfficientATConfig, EfficientATForAudioClassification

SHORT_INPUT = {"cycle_seconds": 4.0, "num_frames": 256, "normalization": "dataset"}


def ast_config(**changed):
    settings = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_length": 256,
        "num_mel_bins": 128,
        "id2label": dict(enumerate(CLASS_NAMES)),
        "label2id": {name: index for index, name in enumerate(CLASS_NAMES)},
    }
    return ASTConfig(**(settings | changed))


@pytest.fixture
def ast_folder(tmp_path):
    """A small random AST with the features that it was trained with."""
    torch.manual_seed(0)
    ASTForAudioClassification(ast_config()).save_pretrained(tmp_path)
    LungSradFeatureExtractor(**SHORT_INPUT).save_pretrained(tmp_path)
    return tmp_path


def test_ast_is_loaded_and_evaluated(ast_folder, simulated_folder):
    model, feature_extractor = load_classifier(ast_folder)
    assert isinstance(model, ASTForAudioClassification)
    assert not model.training
    assert (feature_extractor.num_frames, feature_extractor.normalization) == (256, "dataset")
    report, cycles = evaluate_checkpoint(ast_folder, simulated_folder)
    assert report["cycles"] == len(cycles) == sum(map(sum, report["confusion_matrix"]))


@pytest.fixture
def efficientat_folder(tmp_path):
    """A random EfficientAT with the features that it was trained with."""
    torch.manual_seed(0)
    EfficientATForAudioClassification(EfficientATConfig(num_mel_bins=64)).save_pretrained(tmp_path)
    LungSradFeatureExtractor(num_mel_bins=64, **SHORT_INPUT).save_pretrained(tmp_path)
    return tmp_path


def test_efficientat_is_loaded_and_evaluated(efficientat_folder, simulated_folder):
    model, feature_extractor = load_classifier(efficientat_folder)
    assert isinstance(model, EfficientATForAudioClassification)
    assert not model.training
    assert feature_extractor.num_mel_bins == 64
    report, cycles = evaluate_checkpoint(efficientat_folder, simulated_folder)
    assert report["cycles"] == len(cycles) == sum(map(sum, report["confusion_matrix"]))


def test_running_statistics_that_are_no_numbers_are_named(efficientat_folder):
    model = EfficientATForAudioClassification(EfficientATConfig(num_mel_bins=64))
    model.efficientat.features[0][1].running_mean[2] = torch.nan
    model.save_pretrained(efficientat_folder)
    with pytest.raises(InputError, match=r"efficientat.features.0.1.running_mean has NaN or infinite values"):
        load_classifier(efficientat_folder)


def test_efficientat_as_a_pickle_is_not_read(efficientat_folder):
    leave_only_a_pickle(efficientat_folder)
    with pytest.raises(InputError, match=r"lacks model.safetensors"):
        load_classifier(efficientat_folder)


@pytest.mark.parametrize("head", ["classes", "sounds"])
def test_base_model_and_classification_of_its_features_are_the_whole(head):
    torch.manual_seed(0)
    model = EfficientATForAudioClassification(EfficientATConfig(head=head)).eval()
    input_values = torch.randn(2, 40, 128)
    pooled = model.base_model(input_values).pooler_output
    assert torch.equal(classify_pooled(model, pooled), model(input_values).logits)


def test_lung_srad_is_loaded_as_before(checkpoint):
    model, _ = load_classifier(checkpoint)
    assert model.config.model_type == "lung_srad"


def leave_only_a_pickle(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def use_features_of_ast(folder):
    settings = {"feature_extractor_type": "ASTFeatureExtractor", "num_mel_bins": 128, "max_length": 256}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings), encoding="utf-8")


def lose_the_features(folder):
    (folder / "preprocessor_config.json").unlink()


def make_inputs_of_another_length(folder):
    LungSradFeatureExtractor(**(SHORT_INPUT | {"num_frames": 512})).save_pretrained(folder)


def name_other_classes(folder):
    ASTForAudioClassification(ast_config(id2label={0: "speech", 1: "music"}, label2id={})).save_pretrained(folder)


def change_the_depth(folder):
    config = json.loads((folder / "config.json").read_text(encoding="utf-8")) | {"num_hidden_layers": 3}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def put_in_a_nan(folder):
    model = ASTForAudioClassification(ast_config())
    model.classifier.dense.weight.data[0, 0] = float("nan")
    model.save_pretrained(folder)


def cut_the_weights(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:200])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (leave_only_a_pickle, "lacks model.safetensors"),
        (use_features_of_ast, "feature_extractor_type 'ASTFeatureExtractor' where LungSradFeatureExtractor is needed"),
        (lose_the_features, "feature_extractor_type None"),
        (
            make_inputs_of_another_length,
            "max_length is 256 in config.json, but preprocessor_config.json makes inputs of 512",
        ),
        (name_other_classes, "has 2 labels"),
        (change_the_depth, "missing weights"),
        (put_in_a_nan, "classifier.dense.weight has NaN"),
        (cut_the_weights, "cannot be loaded"),
    ],
)
def test_ast_that_cannot_be_used_is_named(ast_folder, damage, message):
    damage(ast_folder)
    with pytest.raises(InputError) as error:
        load_classifier(ast_folder)
    assert str(error.value).startswith(f"{ast_folder}: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)
