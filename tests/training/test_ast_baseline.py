import pytest
import torch
from transformers import ASTConfig, ASTForAudioClassification

from modeling_lung_srad.errors import InputError
from training.arguments import ModelArguments
from training.ast_baseline import AST_SETTINGS, build_ast

SIZE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "max_length": 64}
CLASSES = {0: "normal", 1: "crackle", 2: "wheeze", 3: "both"}


@pytest.fixture
def audioset_folder(tmp_path):
    """A small random AST for seven classes of its own."""
    torch.manual_seed(0)
    ASTForAudioClassification(ASTConfig(num_labels=7, **SIZE)).save_pretrained(tmp_path)
    return tmp_path


def test_random_network_has_the_settings_and_the_four_classes():
    model = build_ast(ModelArguments(architecture="ast", config=SIZE))
    assert (model.config.hidden_size, model.config.max_length) == (16, 64)
    assert model.config.id2label == CLASSES
    assert model(torch.zeros(2, 64, 128)).logits.shape == (2, 4)


def test_settings_are_those_of_ast_and_not_of_every_network():
    assert set(SIZE) < AST_SETTINGS
    assert not AST_SETTINGS & {"id2label", "num_labels", "dtype"}


def test_head_for_other_classes_is_replaced_and_the_rest_is_kept(audioset_folder):
    saved = ASTForAudioClassification.from_pretrained(audioset_folder)
    model = build_ast(ModelArguments(architecture="ast", checkpoint=str(audioset_folder)))
    assert model.config.id2label == CLASSES
    assert model.classifier.dense.out_features == 4
    weights = model.audio_spectrogram_transformer.state_dict()
    before = saved.audio_spectrogram_transformer.state_dict()
    assert all(torch.equal(weights[name], weight) for name, weight in before.items())


@pytest.mark.parametrize(
    "config", [{"hidden_size": 24}, {"num_hidden_layers": 2}, {"max_length": 128}], ids=["other", "missing", "longer"]
)
def test_checkpoint_of_another_size_is_refused_and_not_initialised_at_random(audioset_folder, config):
    arguments = ModelArguments(architecture="ast", checkpoint=str(audioset_folder), config=config)
    with pytest.raises(InputError, match=r"weights of .* are missing, of another size .*audio_spectrogram"):
        build_ast(arguments)


def test_checkpoint_with_weights_that_the_network_lacks_is_refused(audioset_folder):
    ASTForAudioClassification(ASTConfig(**SIZE | {"num_hidden_layers": 2})).save_pretrained(audioset_folder)
    arguments = ModelArguments(architecture="ast", checkpoint=str(audioset_folder), config={"num_hidden_layers": 1})
    with pytest.raises(InputError, match=r"weights of .* not known"):
        build_ast(arguments)


def test_weights_as_a_pickle_are_not_read(audioset_folder):
    (audioset_folder / "model.safetensors").rename(audioset_folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"cannot be loaded as AST \(.*name a folder with config.json and model"):
        build_ast(ModelArguments(architecture="ast", checkpoint=str(audioset_folder)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"config": {"hidden_size": "wide"}}, "model.config: .*hidden_size"),
        ({"checkpoint": "nowhere/at/all"}, "model.checkpoint: nowhere/at/all cannot be loaded as AST"),
    ],
)
def test_what_cannot_be_built_is_named(arguments, message):
    with pytest.raises(InputError, match=message):
        build_ast(ModelArguments(architecture="ast", **arguments))
