import csv
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import ASTConfig, ASTForAudioClassification

from modeling_lung_srad import LungSradFeatureExtractor, LungSradForAudioClassification
from modeling_lung_srad.configuration_lung_srad import CLASS_NAMES
from tests.conftest import tiny_config

EXTRACTOR = {"num_mel_bins": 32, "cycle_seconds": 2.0, "num_frames": 128}


def save_model(folder, **config):
    torch.manual_seed(0)
    model = LungSradForAudioClassification(tiny_config(num_mel_bins=32, initializer_range=0.3, **config))
    model.save_pretrained(folder)
    LungSradFeatureExtractor(**EXTRACTOR).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders of a Lung-SRAD model and of an AST."""
    root = tmp_path_factory.mktemp("models")
    save_model(root / "srad")
    save_model(root / "plain", gaussian_blocks=())
    size = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32}
    labels = {"id2label": dict(enumerate(CLASS_NAMES)), "label2id": {name: i for i, name in enumerate(CLASS_NAMES)}}
    torch.manual_seed(0)
    ASTForAudioClassification(ASTConfig(max_length=128, num_mel_bins=32, **size, **labels)).save_pretrained(
        root / "ast"
    )
    LungSradFeatureExtractor(**EXTRACTOR).save_pretrained(root / "ast")
    return root


def read_rows(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_figures_and_tables_of_two_models(run, models, write_recording, tmp_path):
    recordings = [write_recording("a.wav"), write_recording("b.wav")]
    out = tmp_path / "out"
    outcome = run(
        "spectrum", models / "srad", "--compare", models / "ast", *recordings, "--output", out, "--regularization"
    )
    assert (outcome.exit_code, outcome.errors) == (0, [])
    assert outcome.output.startswith("2 recordings, 4 windows; ")
    assert outcome.output.count("not a medical device") == 1
    figures, tables = ("responses", "depth", "attention", "regularization"), ("summary", "curves", "regularization")
    names = {f"{name}.png" for name in figures} | {f"{name}.csv" for name in tables}
    assert {path.name for path in out.iterdir()} == names
    assert all(name in outcome.output for name in names)

    summary = read_rows(out / "summary.csv")
    blocks = [(0, 0), (1, 0), (2, 0), (2, 1), (2, 2), (2, 3), (3, 0)]
    expected = [("srad", str(stage), str(block)) for stage, block in blocks]
    expected += [("ast", "", str(layer)) for layer in range(4)]
    assert [(row["model"], row["stage"], row["block"]) for row in summary] == expected
    assert [(row["rows"], row["columns"]) for row in summary[:3]] == [("8", "32"), ("4", "16"), ("2", "8")]
    assert all(0 < float(row["high_share"]) < 0.5 and float(row["high_share_sd"]) >= 0 for row in summary)

    curves = read_rows(out / "curves.csv")
    last = [row for row in curves if (row["model"], row["block"]) == ("ast", "3")]
    # (32 - 16) / 10 + 1 rows and (128 - 16) / 10 + 1 columns.
    assert [float(row["frequency"]) for row in last] == pytest.approx(np.arange(13) / 24, abs=1e-6)
    assert max(float(row["normalized"]) for row in last) == 1

    rows = read_rows(out / "regularization.csv")
    shares = {(row["convolution"], row["stage"], row["block"]): float(row["high_share"]) for row in rows}
    assert shares["with", "2", "2"] < shares["scan_alone", "2", "2"]
    assert shares["with", "1", "all"] == shares["without", "1", "all"]
    assert shares["with", "3", "all"] != shares["without", "3", "all"]
    mean = np.mean([shares["with", "2", str(block)] for block in range(4)])
    assert shares["with", "2", "all"] == pytest.approx(mean, rel=1e-4)


def test_svg_beside_each_other_and_chosen_blocks(run, models, write_recording, tmp_path):
    outcome = run(
        *("spectrum", models / "srad", write_recording("a.wav"), "--output", tmp_path / "figure.svg"),
        *("--stage", 2, "--blocks", "3,0", "--position", 1.5, 300, "--definition", "published", "--windows", 1),
    )
    assert outcome.exit_code == 0
    written = {path.name for path in tmp_path.glob("figure_*")}
    expected = {"figure_responses.svg", "figure_depth.svg", "figure_attention.svg"}
    assert written == expected | {"figure_summary.csv", "figure_curves.csv"}
    drawing = (tmp_path / "figure_responses.svg").read_text(encoding="utf-8")
    assert drawing.index("stage 2 block 3") < drawing.index("stage 2 block 0")
    assert "stage 2 block 1" not in drawing
    assert all(row["high_share_sd"] == "" for row in read_rows(tmp_path / "figure_summary.csv"))


def test_model_compared_with_itself_has_two_names(run, models, write_recording, tmp_path):
    out, folder = tmp_path / "out", models / "srad"
    assert run("spectrum", folder, "--compare", folder, write_recording("a.wav"), "--output", out).exit_code == 0
    assert {row["model"] for row in read_rows(out / "summary.csv")} == {str(folder), f"{folder} (again)"}


def test_recording_that_cannot_be_used_does_not_stop_the_others(run, models, write_recording, tmp_path):
    silent, good = write_recording("silent.wav", np.zeros(32000)), write_recording("good.wav")
    out = tmp_path / "out"
    outcome = run("spectrum", models / "plain", silent, good, "--output", out)
    assert outcome.exit_code == 2
    assert outcome.errors == [
        f"lung-srad: error: {silent}: is silent (all samples are zero); check the microphone and record again"
    ]
    assert outcome.output.startswith("1 recordings")
    assert (out / "responses.png").exists()
    assert run("spectrum", models / "plain", silent, "--output", tmp_path / "none").exit_code == 2
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--stage", "7"], "{models}/srad: stage 7 block 0: does not exist; stage 0 has blocks 0 to 0, "),
        (["--blocks", "9"], "{models}/srad: stage 2 block 9: does not exist; "),
        (["--blocks", "two"], "argument --blocks: 'two' is not whole numbers from 0 on, separated by commas"),
        (["--compare-blocks", "1"], "--compare-stage, --compare-blocks: choose layers of --compare; "),
        (["--compare", "{models}/ast", "--compare-stage", "1"], "{models}/ast: is an AST, which has layers and"),
        (
            ["--compare", "{models}/ast", "--compare-blocks", "4"],
            "{models}/ast: layer 4: does not exist; AST has layers 0 to 3",
        ),
        (["--compare", "{models}/nowhere/at/all"], "{models}/nowhere/at/all: no such folder; check the path"),
        (["--position", "99", "400"], "--position: 99 s is beyond {recording}, which lasts 3.00 s; give less"),
        (["--position", "1", "9000"], "--position: 9000 Hz is not on the mel axis; give 20 to 8000"),
        (["--window", "4"], "window: 4 s is not possible; give 0.05 s to 2 s"),
        (["--output", "{models}/figure.jpg"], "{models}/figure.jpg: figures are written as .png and .svg; "),
        (["--output", "{models}/srad/config.json"], "{models}/srad/config.json: figures are written as "),
        (["--output", "{models}/no/folder/here"], "{models}/no/folder/here: its folder {models}/no/folder does not"),
    ],
)
def test_options_that_cannot_be_followed_are_named(run, models, write_recording, options, message):
    recording = write_recording("a.wav")
    options = [option.format(models=models) for option in options]
    outcome = run("spectrum", models / "srad", recording, *options)
    assert (outcome.exit_code, outcome.output, len(outcome.errors)) == (2, "", 1)
    assert outcome.errors[0].startswith(f"lung-srad: error: {message.format(models=models, recording=recording)}")


def test_checkpoint_without_convolution_has_no_regularization_to_show(run, models, write_recording):
    outcome = run("spectrum", models / "plain", write_recording("a.wav"), "--regularization")
    assert outcome.exit_code == 2
    assert "--regularization: " in outcome.errors[0]
    assert "lacks a Gaussian convolution that acts at inference" in outcome.errors[0]


def test_checkpoint_of_another_kind_is_named(run, write_recording, tmp_path):
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text(json.dumps({"model_type": "bert"}), encoding="utf-8")
    outcome = run("spectrum", tmp_path / "bert", write_recording("a.wav"))
    assert outcome.exit_code == 2
    assert "config.json is of model_type 'bert', not 'lung_srad'; name a Lung-SRAD checkpoint" in outcome.errors[0]


def test_weights_without_any_response_are_named(run, models, write_recording, tmp_path):
    folder = save_model(tmp_path / "zero", gaussian_blocks=())
    weights = load_file(folder / "model.safetensors")
    weights["lung_srad.layers.0.blocks.0.op.x_proj.weight"].zero_()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    outcome = run("spectrum", folder, write_recording("a.wav"), "--output", tmp_path / "out")
    assert outcome.exit_code == 2
    assert "stage 0 block 0: matrix: is zero, so its response is undefined; check the weights" in outcome.errors[0]
    assert not (tmp_path / "out").exists()


def test_help_names_every_output(run):
    outcome = run("spectrum", "--help")
    assert outcome.exit_code == 0
    assert all(name in outcome.output for name in ("responses.png", "regularization.csv", "not a medical device"))
