"""Exports have the logits of torch, say what they are, and leave nothing behind when they fail."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from dataset_scripts.simulated import simulate_cycle
from examples import numpy_features
from modeling_lung_srad import LungSradFeatureExtractor, LungSradForAudioClassification
from modeling_lung_srad.checkpoint_loading import DEFAULT_CHECKPOINT, load_checkpoint
from modeling_lung_srad.configuration_lung_srad import CLASS_NAMES
from modeling_lung_srad.errors import InputError
from tests.conftest import tiny_config

pytest.importorskip("onnxscript", reason="needs the extra `export`")
onnx = pytest.importorskip("onnx", reason="needs the extra `export`")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra `export`")
from modeling_lung_srad.export import onnx_export  # noqa: E402

RATE = 16000
SOUNDS = [simulate_cycle(label, 1.0 + 0.7 * label, RATE, np.random.default_rng(label)) for label in range(3)]


def _classifier(**config):
    torch.manual_seed(0)
    model = LungSradForAudioClassification(
        tiny_config(**({"depths": (1, 1, 1, 1), "gaussian_blocks": (0,)} | config))
    ).eval()
    torch.nn.init.normal_(model.head.weight, std=1.0)
    return model


def _export(folder, num_frames=64, model=None, extractor=None, **options):
    model, extractor = model or _classifier(), extractor or LungSradFeatureExtractor()
    return onnx_export.export_onnx(model, extractor, folder, SOUNDS, num_frames, **options)


def _logits(path, input_values):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"input_values": input_values.numpy()})[0]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """An export of 64 frames with smaller files; read only."""
    return _export(tmp_path_factory.mktemp("onnx") / "exported", float16=True, int8=True)


@pytest.fixture(scope="module")
def network():
    """The network of `_classifier` for 32 frames; read only."""
    return onnx_export.build_onnx(_classifier(), 32)


@pytest.fixture
def built(monkeypatch, network):
    """Makes exports take `network`, where only what follows is tested."""
    monkeypatch.setattr(onnx_export, "build_onnx", lambda *arguments: network)


@pytest.mark.parametrize("num_frames", [64, 300])
def test_logits_are_those_of_torch_at_any_batch(num_frames, tmp_path):
    model, extractor = _classifier(), LungSradFeatureExtractor()
    _export(tmp_path / "out", num_frames, model, extractor)
    assert extractor.num_frames == 1024
    for batch in (1, 2, 5):
        input_values = torch.randn(batch, num_frames, 128)
        with torch.inference_mode():
            expected = model(input_values).logits
        torch.testing.assert_close(
            torch.from_numpy(_logits(tmp_path / "out" / "model.onnx", input_values)), expected, atol=1e-4, rtol=0
        )


@pytest.mark.parametrize(
    "config",
    [{"ssm_state_size": 3, "ssm_ratio": 2.0}, {"gaussian_blocks": ()}, {"gaussian_position": "block_output"}],
    ids=str,
)
def test_every_kind_of_network_can_be_exported(config, tmp_path):
    assert _export(tmp_path / "out", 32, _classifier(**config)).differences["model.onnx"] < 1e-4


def test_the_embedded_model_is_compact_and_has_the_logits_of_torch(tmp_path):
    model, extractor = load_checkpoint(DEFAULT_CHECKPOINT)
    network = onnx_export.build_onnx(model, extractor.num_frames)
    assert _count_nodes(network.graph) <= 1000
    onnx.save(network, tmp_path / "model.onnx")
    input_values = extractor(SOUNDS, sampling_rate=RATE, return_tensors="pt")["input_values"]
    assert onnx_export.largest_difference(tmp_path / "model.onnx", model, input_values) < 1e-4


def _count_nodes(graph):
    """Nodes of a graph and of the bodies in it."""
    bodies = [attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g")]
    return len(graph.node) + sum(map(_count_nodes, bodies))


def test_an_export_says_what_it_is(exported):
    model = onnx.load(exported.folder / "model.onnx")
    about = {entry.key: entry.value for entry in model.metadata_props}
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", int(about["opset"]))] == [("", 20)]
    assert about["frames"] == "64"
    assert about["sampling_rate"] == "16000"
    assert json.loads(about["labels"]) == {str(index): name for index, name in enumerate(CLASS_NAMES)}
    (batch, frames, mel) = model.graph.input[0].type.tensor_type.shape.dim
    assert batch.dim_param
    assert (frames.dim_value, mel.dim_value) == (64, 128)
    assert not {node.domain for node in model.graph.node} - {""}


def test_the_saved_settings_make_the_frames_of_the_export(exported):
    assert LungSradFeatureExtractor.from_pretrained(exported.folder).num_frames == 64
    assert json.loads((exported.folder / "config.json").read_text())["model_type"] == "lung_srad"


def test_float16_weights_are_smaller_and_nearer(exported):
    float32, float16 = (onnx.load(exported.folder / name) for name in ("model.onnx", "model_fp16.onnx"))
    assert onnx.TensorProto.FLOAT16 in {item.data_type for item in float16.graph.initializer}
    assert float16.ByteSize() < float32.ByteSize()
    assert float16.graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    onnx.checker.check_model(float16, full_check=True)
    assert 0 < exported.differences["model_fp16.onnx"] < 0.01


def test_int8_weights_are_smaller_and_near(exported):
    in_float, in_int8 = (exported.folder / name for name in ("model.onnx", "model_quantized.onnx"))
    initializers = {item.data_type for item in onnx.load(in_int8).graph.initializer}
    assert onnx.TensorProto.INT8 in initializers
    assert 0 < exported.differences["model_quantized.onnx"] < 0.2
    input_values = torch.randn(2, 64, 128)
    assert np.abs(_logits(in_int8, input_values) - _logits(in_float, input_values)).max() < 0.2


def test_a_network_whose_logits_are_off_is_not_kept(tmp_path, built):
    other = _classifier()
    other.head.bias.data += 0.01
    with pytest.raises(onnx_export.InputError, match=r"not written, as its logits differ .* by 0\.01"):
        _export(tmp_path / "out", 32, other)
    other.head.bias.data *= float("nan")
    with pytest.raises(onnx_export.InputError, match="by nan"):
        _export(tmp_path / "out", 32, other)
    assert list(tmp_path.iterdir()) == []


def test_a_difference_that_is_no_number_for_one_sound_alone_counts(tmp_path, network):
    onnx.save(network, tmp_path / "model.onnx")
    input_values = torch.randn(3, 32, 128)
    input_values[2, 0] = float("nan")
    assert np.isnan(onnx_export.largest_difference(tmp_path / "model.onnx", _classifier(), input_values))


def test_too_few_frames_are_refused(tmp_path):
    with pytest.raises(onnx_export.InputError, match=r"frames: 31 is too few.*32 or more"):
        _export(tmp_path / "out", 31)
    assert list(tmp_path.iterdir()) == []


def test_too_many_frames_are_refused(tmp_path):
    with pytest.raises(onnx_export.InputError, match=r"frames: 65537 is too many.*65536 or fewer"):
        _export(tmp_path / "out", 2**16 + 1)


@pytest.mark.parametrize("names", [("model.safetensors", "model.onnx"), ("config.json",)], ids=str)
def test_a_checkpoint_is_not_overwritten_even_if_forced(tmp_path, names):
    for name in names:
        (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match="holds a checkpoint"):
        _export(tmp_path, 32, force=True)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(names, "mine")


def test_a_folder_below_a_file_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"notes\.txt is a file; name a new folder"):
        onnx_export.check_destination(tmp_path / "notes.txt" / "out")


def test_a_failed_export_leaves_no_folders_above_it(tmp_path, monkeypatch):
    def fail(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(onnx_export, "build_onnx", fail)
    with pytest.raises(KeyboardInterrupt):
        _export(tmp_path / "new" / "out", 32)
    assert list(tmp_path.iterdir()) == []


def test_a_new_folder_appears_as_a_whole(tmp_path, built, monkeypatch):
    folder = tmp_path / "new" / "out"
    seen = []
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda path, target: seen.append(folder.exists()) or replace(path, target))
    result = _export(folder, 32)
    assert seen == [False]
    assert {path.name for path in folder.iterdir()} == {path.name for path in result.files}
    (tmp_path / "plain").mkdir()
    assert folder.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_what_a_killed_export_left_is_no_obstacle(tmp_path, built):
    (tmp_path / ".lung-srad-export.abc").mkdir()
    assert _export(tmp_path, 32).files[0].is_file()


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs a second file system")
def test_a_folder_that_is_there_may_be_on_another_file_system(tmp_path, built):
    with tempfile.TemporaryDirectory(dir="/dev/shm") as other:
        (tmp_path / "out").symlink_to(other)
        assert _export(tmp_path / "out", 32).files[0].is_file()


def test_a_folder_with_something_in_it_is_refused_unless_forced(tmp_path, built):
    folder = tmp_path / "out"
    folder.mkdir()
    for name in ("model_fp16.onnx", "model_quantized.onnx"):
        (folder / name).write_text("of an earlier export")
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds something already.*--force"):
        _export(folder, 32)
    assert (folder / "model_quantized.onnx").read_text() == "of an earlier export"
    _export(folder, 32, force=True)
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "model.onnx",
        "notes.txt",
        "preprocessor_config.json",
    ]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"num_frames": 64},
        {"num_frames": 798},
        {"padding_mode": "zero", "normalization": "dataset"},
        {"cycle_seconds": 2.0, "fade_seconds": 0.0},
    ],
    ids=str,
)
@pytest.mark.parametrize("sound", range(3))
def test_the_features_in_numpy_are_those_of_the_extractor(settings, sound, tmp_path):
    extractor = LungSradFeatureExtractor(**settings)
    extractor.save_pretrained(tmp_path)
    expected = extractor(SOUNDS[sound], sampling_rate=RATE)["input_values"]
    found = numpy_features.input_values(SOUNDS[sound], numpy_features.read_settings(tmp_path))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-3, rtol=0)
