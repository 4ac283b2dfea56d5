"""Loading of EfficientAT: the published weights, a folder of a run, and everything that is refused."""

import pickle

import pytest
import torch
from safetensors.torch import load_file

from modeling_lung_srad import LungSradFeatureExtractor, LungSradForAudioClassification
from modeling_lung_srad.errors import InputError
from tests.conftest import shared_path, tiny_config
from tests.training.conftest import SHORT_INPUT
from tests.training.teachers.test_efficientat import BLOCKS
from training.arguments import ModelArguments
from training.teachers.efficientat import EfficientATConfig, EfficientATForAudioClassification
from training.teachers.efficientat_loading import build_efficientat, load_published

LAST_LAYER = ("classifier.3.weight", "classifier.3.bias")


def published_weights():
    """Random weights under the published names, which count two layers without weights in the classifier."""
    torch.manual_seed(1)
    model = EfficientATForAudioClassification(EfficientATConfig(num_labels=527, head="classes"))
    weights = {}
    for name, tensor in model.state_dict().items():
        first, _, rest = name.partition(".")
        layer, _, kind = rest.partition(".")
        weights[rest if first == "efficientat" else f"classifier.{int(layer) + 2}.{kind}"] = tensor
    return weights


@pytest.fixture(scope="module")
def published_file(tmp_path_factory):
    """A file like the published one; read only."""
    path = tmp_path_factory.mktemp("published") / "mn04.pt"
    torch.save(published_weights(), path)
    return path


@pytest.fixture
def run_folder(tmp_path):
    """The folder of a run with 64 mel bins."""
    torch.manual_seed(0)
    EfficientATForAudioClassification(EfficientATConfig(num_mel_bins=64)).save_pretrained(tmp_path)
    LungSradFeatureExtractor(num_mel_bins=64, **SHORT_INPUT).save_pretrained(tmp_path)
    return tmp_path


def test_names_and_shapes_are_those_of_the_published_weights():
    def norm(name, channels):
        parts = dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (channels,))
        return {f"{name}.1.{part}": shape for part, shape in (parts | {"num_batches_tracked": ()}).items()}

    expected = {"features.0.0.weight": (8, 1, 3, 3), "features.16.0.weight": (384, 64, 1, 1)}
    expected |= norm("features.0", 8) | norm("features.16", 384)
    for number, (channels, expanded, out, squeezed, kernel, _) in enumerate(BLOCKS, start=1):
        kernels = [(expanded, 1, kernel, kernel), (out, expanded, 1, 1)]
        if channels != expanded:
            kernels.insert(0, (expanded, channels, 1, 1))
        layers = list(range(len(kernels)))
        if squeezed:
            layers[-1] += 1
            name = f"features.{number}.block.{layers[-1] - 1}.conc_se_layers.0"
            expected |= {f"{name}.fc1.weight": (squeezed, expanded), f"{name}.fc1.bias": (squeezed,)}
            expected |= {f"{name}.fc2.weight": (expanded, squeezed), f"{name}.fc2.bias": (expanded,)}
        for layer, shape in zip(layers, kernels, strict=True):
            expected[f"features.{number}.block.{layer}.0.weight"] = shape
            expected |= norm(f"features.{number}.block.{layer}", shape[0])
    expected |= {"classifier.2.weight": (512, 384), "classifier.2.bias": (512,)}
    expected |= {"classifier.5.weight": (527, 512), "classifier.5.bias": (527,)}
    assert {name: tuple(tensor.shape) for name, tensor in published_weights().items()} == expected
    model = EfficientATForAudioClassification(EfficientATConfig(num_labels=527, head="classes"))
    assert sum(parameter.numel() for parameter in model.parameters()) == 983_599


@pytest.mark.parametrize("prefix", ["", "odd."])
def test_published_weights_give_the_reference_output(prefix):
    model = load_published(shared_path("weights/efficientat_mn04_as.pt"))
    reference = load_file(shared_path("golden/efficientat_mn04.safetensors"))
    with torch.no_grad():
        output = model(reference[f"{prefix}input"].squeeze(1).transpose(1, 2))
    torch.testing.assert_close(output.logits, reference[f"{prefix}logits"], atol=1e-4, rtol=0)
    torch.testing.assert_close(output.pooler_output, reference[f"{prefix}pooled"], atol=1e-4, rtol=0)


def test_published_weights_are_kept_and_the_model_is_in_evaluation_mode(published_file):
    weights = torch.load(published_file, weights_only=True)
    model = load_published(str(published_file), num_mel_bins=64)
    assert not model.training
    assert (model.config.num_labels, model.config.num_mel_bins) == (527, 64)
    assert torch.equal(model.classifier[3].weight, weights["classifier.5.weight"])
    assert torch.equal(model.classifier[0].bias, weights["classifier.2.bias"])
    assert torch.equal(model.efficientat.features[16][1].running_var, weights["features.16.1.running_var"])


@pytest.mark.parametrize(("head", "outputs"), [("sounds", 2), ("classes", 4)])
def test_network_to_train_has_the_published_weights_and_a_last_layer_of_its_own(published_file, head, outputs):
    arguments = ModelArguments(architecture="efficientat", checkpoint=str(published_file), config={"head": head})
    model, published = build_efficientat(arguments, num_mel_bins=64), load_published(published_file)
    weights = published.state_dict()
    assert model.config.num_mel_bins == 64
    assert model.classifier[3].out_features == outputs
    own = {name: tensor for name, tensor in model.state_dict().items() if name not in LAST_LAYER}
    assert len(own) == len(weights) - 2
    assert all(torch.equal(tensor, weights[name]) for name, tensor in own.items())


def test_run_folder_is_gone_on_with_as_it_is(run_folder):
    saved = EfficientATForAudioClassification.from_pretrained(run_folder)
    model = build_efficientat(ModelArguments(architecture="efficientat", checkpoint=str(run_folder)), 64)
    assert all(torch.equal(tensor, saved.state_dict()[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"head": "classes"}, r"model.config.head: 'classes' is not that of .*, 'sounds'; leave it out"),
        ({"num_mel_bins": 128}, "model.config.num_mel_bins: 128 is not that of"),
    ],
)
def test_settings_other_than_those_of_a_run_folder_are_refused(run_folder, config, message):
    arguments = ModelArguments(architecture="efficientat", checkpoint=str(run_folder), config=config)
    with pytest.raises(InputError, match=message):
        build_efficientat(arguments, 64)


def test_folder_of_another_architecture_is_refused(tmp_path):
    LungSradForAudioClassification(tiny_config()).save_pretrained(tmp_path)
    LungSradFeatureExtractor(**SHORT_INPUT).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="is of model_type 'lung_srad'"):
        build_efficientat(ModelArguments(architecture="efficientat", checkpoint=str(tmp_path)), 128)


def test_classes_in_another_order_are_refused(run_folder):
    others = dict(enumerate(["normal", "wheeze", "crackle", "both"]))
    config = EfficientATConfig(head="classes", num_mel_bins=64, id2label=others)
    EfficientATForAudioClassification(config).save_pretrained(run_folder)
    with pytest.raises(InputError, match="with the classes normal, wheeze, crackle, both"):
        build_efficientat(ModelArguments(architecture="efficientat", checkpoint=str(run_folder)), 64)


def test_mel_bins_that_the_network_cannot_take_are_refused(published_file):
    with pytest.raises(InputError, match=r"model.config: num_mel_bins: must divide 128, got 100"):
        build_efficientat(ModelArguments(architecture="efficientat"), num_mel_bins=100)
    with pytest.raises(InputError, match=r"mn04.pt: num_mel_bins: must divide 128, got 100"):
        load_published(published_file, num_mel_bins=100)


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def refused(path):
    with pytest.raises(InputError) as error:
        load_published(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)
    return str(error.value).removeprefix(f"{path}: ")


def test_missing_file_and_folder_are_refused(tmp_path):
    assert "no such file" in refused(tmp_path / "missing.pt")
    assert "no such file" in refused(tmp_path)


@pytest.mark.parametrize(
    "save", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content, protocol=2))]
)
def test_pickled_code_is_refused_and_not_run(tmp_path, save):
    save({"features.0.0.weight": Touch(str(tmp_path / "touched"))}, tmp_path / "code.pt")
    assert "holds pickled code" in refused(tmp_path / "code.pt")
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_truncated_files_are_refused(tmp_path, published_file, share):
    content = published_file.read_bytes()
    (tmp_path / "cut.pt").write_bytes(content[: int(share * len(content))])
    assert "fetch or save it again" in refused(tmp_path / "cut.pt")


def test_other_content_is_refused(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "epoch.pt")
    assert "is not a state dict of tensors" in refused(tmp_path / "epoch.pt")
    torch.save([torch.zeros(3)], tmp_path / "list.pt")
    assert "is not a state dict of tensors" in refused(tmp_path / "list.pt")
    (tmp_path / "text.pt").write_text("404: Not Found")
    assert "is not a file of weights" in refused(tmp_path / "text.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features.3.block.1.0.weight": None}, "lacks 1 weights, such as features.3.block.1.0.weight;"),
        ({"classifier.5.weight": None}, "lacks 1 weights, such as classifier.5.weight;"),
        ({"v.head": torch.zeros(3), "v.a": torch.zeros(3)}, "has 2 unexpected weights, such as v.a;"),
        (
            {"features.0.0.weight": torch.zeros(16, 1, 3, 3)},
            "features.0.0.weight has shape (16, 1, 3, 3) where (8, 1, 3, 3) is needed;",
        ),
        ({"classifier.5.bias": torch.zeros(3)}, "classifier.5.bias has shape (3,) where (527,) is needed;"),
        ({"classifier.5.weight": torch.zeros(2)}, "classifier.5.weight has shape (2,) where (527, 512) is needed;"),
        ({"classifier.2.bias": torch.full((512,), torch.nan)}, "classifier.2.bias has NaN or infinite values;"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(tmp_path, change, message):
    weights = {name: tensor for name, tensor in (published_weights() | change).items() if tensor is not None}
    torch.save(weights, tmp_path / "model.pt")
    assert refused(tmp_path / "model.pt").startswith(message)
