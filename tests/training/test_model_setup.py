import pytest
import torch

from modeling_lung_srad import LungSradConfig, LungSradFeatureExtractor, LungSradForAudioClassification
from modeling_lung_srad.errors import InputError
from tests.conftest import tiny_config
from training.arguments import AugmentationArguments, ModelArguments, ObjectiveArguments, RunArguments
from training.model_setup import build_feature_extractor, build_model, check_fit
from training.teachers.efficientat import EfficientATConfig, EfficientATForAudioClassification


def test_named_size_with_settings():
    model = build_model(
        ModelArguments(size="tiny", config={"drop_path_rate": 0.25, "depths": [1, 1, 1, 1], "gaussian_blocks": []})
    )
    assert model.config.drop_path_rate == 0.25
    assert list(model.config.dims) == list(LungSradConfig.tiny().dims)


def test_own_checkpoint_keeps_weights_settings_and_features(checkpoint, feature_extractor):
    saved = LungSradForAudioClassification.from_pretrained(checkpoint)
    arguments = ModelArguments(checkpoint=str(checkpoint), config={"drop_path_rate": 0.2})
    model = build_model(arguments)
    assert model.config.drop_path_rate == 0.2
    assert list(model.config.gaussian_blocks) == list(saved.config.gaussian_blocks)
    weights = model.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in saved.state_dict().items())
    # Saving notes where the code is, which is no setting.
    settings = {key: value for key, value in feature_extractor.to_dict().items() if key != "auto_map"}
    assert build_feature_extractor(arguments).to_dict() == settings


def test_head_for_another_number_of_classes_is_replaced(tmp_path):
    LungSradForAudioClassification(tiny_config(num_labels=7)).save_pretrained(tmp_path)
    model = build_model(ModelArguments(checkpoint=str(tmp_path)))
    assert model.config.id2label == {0: "normal", 1: "crackle", 2: "wheeze", 3: "both"}
    assert model.head.out_features == 4


def test_head_for_four_other_classes_is_refused(tmp_path):
    others = dict(enumerate(["normal", "wheeze", "crackle", "both"]))
    config = tiny_config(id2label=others, label2id={name: index for index, name in others.items()})
    LungSradForAudioClassification(config).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="normal, wheeze, crackle, both"):
        build_model(ModelArguments(checkpoint=str(tmp_path)))


def test_efficientat_takes_the_mel_bins_of_the_features():
    arguments = ModelArguments(architecture="efficientat", feature_extractor={"num_mel_bins": 64})
    model = build_model(arguments)
    assert isinstance(model, EfficientATForAudioClassification)
    assert model.config.num_mel_bins == 64
    crop = RunArguments(model=arguments, augmentation=AugmentationArguments(crop_frames=32))
    check_fit(model, build_feature_extractor(arguments), crop)


def test_efficientat_goes_on_with_the_features_of_its_folder(tmp_path):
    EfficientATForAudioClassification(EfficientATConfig(num_mel_bins=32)).save_pretrained(tmp_path)
    LungSradFeatureExtractor(num_mel_bins=32, cycle_seconds=4.0).save_pretrained(tmp_path)
    arguments = ModelArguments(
        architecture="efficientat", checkpoint=str(tmp_path), feature_extractor={"num_frames": 512}
    )
    features = build_feature_extractor(arguments)
    assert (features.num_mel_bins, features.cycle_seconds, features.num_frames) == (32, 4.0, 512)


@pytest.mark.parametrize("mode", ["time", "mel", "dual", "2d"])
def test_efficientat_lacks_patches_to_mix(mode):
    run = RunArguments(model=ModelArguments(architecture="efficientat"), objective=ObjectiveArguments(mode=mode))
    with pytest.raises(InputError, match=f"objective.mode: '{mode}' mixes patches of a grid, .* use none"):
        check_fit(EfficientATForAudioClassification(EfficientATConfig()), LungSradFeatureExtractor(), run)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"architecture": "efficientat", "config": {"heads": "sounds"}}, "the nearest valid one is model.config.head"),
        ({"architecture": "efficientat", "config": {"head": "events"}}, "model.config: .*head"),
        ({"architecture": "efficientat", "checkpoint": "nowhere/mn04.pt"}, "nowhere/mn04.pt: no such file"),
        ({"size": "huge"}, "'huge' is not one of tiny, small, medium"),
        ({"config": {"drop_path": 0.1}}, "model.config.drop_path: unknown key; .* model.config.drop_path_rate"),
        ({"feature_extractor": {"frames": 3}}, "the nearest valid one is model.feature_extractor.num_frames"),
        ({"config": {"gaussian_kernel_size": 4}}, "model.config: gaussian_kernel_size: must be odd"),
        ({"config": {"gaussian_kernel_size": "wide"}}, "model.config: .*gaussian_kernel_size"),
        ({"feature_extractor": {"normalization": "batch"}}, "normalization"),
        ({"config": {"hidden_act": "nosuch"}}, "model.config.hidden_act: 'nosuch' is not one of .*gelu"),
        ({"config": {"scan_backend": "cuda"}}, "model.config: .*scan_backend"),
        (
            {"feature_extractor": {"num_frames": "abc"}},
            "model.feature_extractor.num_frames: 'abc' should be of type int",
        ),
        (
            {"feature_extractor": {"num_frames": 256.5}},
            "model.feature_extractor.num_frames: 256.5 should be of type int",
        ),
        ({"feature_extractor": {"sampling_rate": 8000}}, "model.feature_extractor.sampling_rate: 8000 Hz is not"),
        ({"checkpoint": "nowhere/at/all"}, "nowhere/at/all"),
    ],
)
def test_what_cannot_be_built_is_named(arguments, message):
    build = build_feature_extractor if "feature_extractor" in arguments else build_model
    with pytest.raises(ValueError, match=message):
        build(ModelArguments(**arguments))
