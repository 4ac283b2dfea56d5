"""`lung-srad export`: what it writes, says and refuses, and the example that uses its result without torch."""

import contextlib
import importlib.util
import io
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import soundfile
import torch

from dataset_scripts.simulated import simulate_cycle
from lung_srad_cli import main
from modeling_lung_srad import LungSradFeatureExtractor, LungSradForAudioClassification
from modeling_lung_srad.checkpoint_loading import load_checkpoint
from tests.conftest import tiny_config
from tests.lung_srad_cli.conftest import RATE

pytest.importorskip("onnxscript", reason="needs the extra `export`")
pytest.importorskip("onnx", reason="needs the extra `export`")
pytest.importorskip("onnxruntime", reason="needs the extra `export`")
from modeling_lung_srad.export import onnx_export
from modeling_lung_srad.export.onnx_export import OnnxExport

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "classify_onnx.py"
WITHOUT_TORCH = (
    "import runpy, sys; sys.path.insert(0, sys.argv[1].rpartition('/')[0]); sys.argv = sys.argv[1:]\n"
    "runpy.run_path(sys.argv[0])\n"
    "assert not {'torch', 'transformers'} & set(sys.modules)"
)


class Exported(NamedTuple):
    folder: Path
    output: str
    result: OnnxExport


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A random model of one block a stage; read only."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("checkpoints") / "random"
    LungSradForAudioClassification(tiny_config(depths=(1, 1, 1, 1), gaussian_blocks=())).save_pretrained(folder)
    LungSradFeatureExtractor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def exported(checkpoint, tmp_path_factory):
    """An export of the random checkpoint with 96 frames, scored, and what the command said; read only."""
    folder = tmp_path_factory.mktemp("export")
    size = ("--patients", "6", "--cycles-per-recording", "4")
    kept, export = [], onnx_export.export_onnx
    with contextlib.redirect_stdout(io.StringIO()) as output, pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            onnx_export, "export_onnx", lambda *values, **options: kept.append(export(*values, **options)) or kept[0]
        )
        assert main(["prepare", "simulated", str(folder / "data"), *size]) == 0
        data = ("--data", str(folder / "data"), "--part", "test")
        assert (
            main(["export", str(checkpoint), str(folder / "onnx"), "--frames", "96", "--float16", "--int8", *data])
            == 0
        )
    return Exported(folder / "onnx", output.getvalue(), *kept)


def test_says_what_it_wrote_and_the_change_in_score(exported):
    assert "opset 20, input_values (batch, 96, mel) -> logits (batch, labels)" in exported.output
    difference = re.search(r"model\.onnx: float32, [\d.]+ MB, logits within (\S+) of torch", exported.output)
    assert float(difference[1]) < 1e-3
    assert "model_fp16.onnx: float16, " in exported.output
    assert "not a medical device" in exported.output
    assert sorted(path.name for path in exported.folder.iterdir()) == [
        "config.json",
        "model.onnx",
        "model_fp16.onnx",
        "model_quantized.onnx",
        "preprocessor_config.json",
    ]
    found = re.search(r"\(test, official split\): float32 (\S+), int8 (\S+), change (\S+)\n", exported.output)
    in_float, in_int8, change = map(float, found.groups())
    assert 0 <= in_float <= 100
    assert change == pytest.approx(in_int8 - in_float, abs=0.011)


def test_says_that_the_change_in_score_was_not_measured(run, checkpoint, exported, monkeypatch, tmp_path):
    monkeypatch.setattr(onnx_export, "export_onnx", lambda *values, **options: exported.result)
    outcome = run("export", checkpoint, tmp_path / "onnx", "--int8")
    assert "change in Score by int8: not measured; give --data DATA" in outcome.output


def test_the_example_without_torch_has_the_logits_of_torch(checkpoint, exported, tmp_path):
    waveform = simulate_cycle(1, 2.5, RATE)
    soundfile.write(tmp_path / "cycle.wav", waveform, RATE, subtype="FLOAT")
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, str(EXAMPLE), str(exported.folder), str(tmp_path / "cycle.wav")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    model, _ = load_checkpoint(checkpoint)
    inputs = LungSradFeatureExtractor(num_frames=96)(waveform, sampling_rate=RATE, return_tensors="pt")
    with torch.inference_mode():
        expected = model(**inputs).logits[0].tolist()
    found = dict(line.split() for line in result.stdout.splitlines())
    assert list(found) == list(model.config.id2label.values())
    assert [float(value) for value in found.values()] == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "usage: python examples/classify_onnx.py EXPORT_FOLDER CYCLE.wav"),
        (("nothing", "short.wav"), "nothing: lacks model.onnx; make it by `lung-srad export CHECKPOINT nothing`"),
        (("onnx", "missing.wav"), "missing.wav: cannot be read"),
        (("onnx", "short.wav"), "short.wav: is shorter than 0.025 s"),
        (("onnx", "nan.wav"), "nan.wav: is shorter than 0.025 s or has NaN or infinite samples"),
    ],
    ids=str,
)
def test_the_example_says_what_is_wrong(exported, tmp_path, monkeypatch, arguments, message):
    (tmp_path / "onnx").symlink_to(exported.folder)
    soundfile.write(tmp_path / "short.wav", [0.0] * 100, RATE)
    soundfile.write(tmp_path / "nan.wav", [float("nan")] * RATE, RATE, subtype="FLOAT")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(EXAMPLE.parent)
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), *arguments])
    with pytest.raises(SystemExit) as error:
        runpy.run_path(str(EXAMPLE))
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--frames", 10**12), f"frames: {10**12} is too many; give 65536 or fewer"),
        (("--frames", 31), "frames: 31 is too few for four stages; give 32 or more"),
        (("--frames", 0), "'0' is not a whole number from 1 on"),
        (("--data", "."), "--data: measures what int8 weights change; give --int8 as well"),
        (("--part", "test"), "give --data as well"),
        (("--int8", "--data", "missing"), "missing"),
    ],
    ids=str,
)
def test_options_that_cannot_be_followed_are_one_line(run, checkpoint, tmp_path, options, message):
    outcome = run("export", checkpoint, tmp_path / "onnx", *options)
    assert outcome.exit_code == 2
    (line,) = outcome.errors
    assert message in line
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_use_is_refused_before_the_work(run, checkpoint, exported):
    outcome = run("export", checkpoint, exported.folder)
    assert outcome.exit_code == 2
    assert outcome.errors == [
        f"lung-srad: error: {exported.folder}: holds something already; name a new folder, or replace it by --force"
    ]


def test_a_checkpoint_that_is_none_is_named(run, tmp_path):
    outcome = run("export", tmp_path, tmp_path / "onnx")
    assert outcome.exit_code == 2
    assert "lacks config.json" in outcome.errors[0]


def test_a_missing_package_is_named_with_its_extra(run, checkpoint, tmp_path, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "onnxscript" else find_spec(name, *rest)
    )
    outcome = run("export", checkpoint, tmp_path / "onnx")
    assert outcome.errors == ['lung-srad: error: onnxscript: not installed; run pip install "lung-srad[export]"']
