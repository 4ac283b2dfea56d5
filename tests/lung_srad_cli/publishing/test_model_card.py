"""The model card: text and front matter from configuration, training summary and report; one's own text stays."""

import shutil
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from lung_srad_cli.publishing.checkpoint_folder import CheckpointFolder
from lung_srad_cli.publishing.model_card import build_card, with_id_for_folder
from lung_srad_cli.publishing.snippet import RECORDING, usage_snippet, write_recording
from modeling_lung_srad.errors import InputError
from modeling_lung_srad.files.checkpoint_code import write_checkpoint_code

SETTINGS = {"dims": [8, 16], "depths": [1, 2]}
EXTRACTOR = {"sampling_rate": 16000, "cycle_seconds": 8.0}
COUNTS = {"cycles": 1295, "normal": 842, "crackle": 250, "wheeze": 139, "both": 64, "recordings": 129, "patients": 40}
SUMMARY = {"cycles": {"training": {"icbhi": COUNTS, "sprsound": {**COUNTS, "cycles": 6656}}}}


def build(report=None, license_name=None, **changes):
    options = {"settings": SETTINGS, "extractor_settings": EXTRACTOR, "num_parameters": 1234567, "summary": None}
    options |= {"weights": ("model.safetensors",), "portable": {}, "hidden_path": None, "card": None}
    folder = CheckpointFolder(path=Path("/runs/first"), **options | changes)
    return build_card("user/sounds", folder, report, license_name)


def split(card):
    _, front_matter, text = card.split("---\n", 2)
    return yaml.safe_load(front_matter), text


def test_without_a_report_the_card_says_that_nothing_was_measured():
    front_matter, text = split(build())
    assert front_matter == {
        "library_name": "transformers",
        "pipeline_tag": "audio-classification",
        "license": "apache-2.0",
        "tags": ["respiratory-sounds", "auscultation", "state-space-model"],
    }
    assert "**Nothing was measured**" in text
    assert "Research software, not a medical device." in text
    assert "1,234,567 parameters (dims 8, 16, depths 1, 2)" in text
    assert "lacks a training summary" in text
    assert "not calibrated" in text
    assert 'pipeline(model="user/sounds", trust_remote_code=True)' in text


def test_a_report_makes_the_model_index_that_the_hub_reads(report):
    card = build(report=report, summary=SUMMARY, license_name="mit")
    results = {result.metric_type: result for result in ModelCard(card).data.eval_results}
    assert {name: result.metric_value for name, result in results.items()} == {
        "specificity": 90.0,
        "sensitivity": 25.0,
        "score": 57.5,
        "sensitivity_any_abnormal": 40.0,
        "score_any_abnormal": 65.0,
    }
    front_matter, text = split(card)
    assert front_matter["license"] == "mit"
    assert front_matter["datasets"] == ["icbhi_2017", "sprsound"]
    assert front_matter["model-index"][0]["name"] == "sounds"
    assert "| Score, 4-class: mean of specificity and 4-class sensitivity (%) | 57.50 | 50.0 to 65.0 |" in text
    assert "| crackle | 6 | 5 | 3 | 2 |" in text
    assert "| ICBHI 2017 | 1,295 | 842 | 250 | 139 | 64 | 129 | 40 |" in text
    assert "| SPRSound | 6,656 |" in text


def test_no_path_of_this_machine_is_in_the_card(report):
    card = build(report=report, summary=SUMMARY)
    assert "/somewhere" not in card
    assert "/somebody" not in card
    assert "/runs" not in card


def test_a_text_of_ones_own_stays_and_its_front_matter_is_completed(report):
    own = "---\nlicense: mit\ntags:\n- mine\nlanguage: en\n---\n\n# My model\n\n```python\nload('user/sounds')\n```\n"
    front_matter, text = split(build(card=own, report=report))
    assert text == own.split("---\n", 2)[2]
    assert front_matter["license"] == "mit"
    assert front_matter["language"] == "en"
    assert front_matter["tags"] == ["mine", "respiratory-sounds", "auscultation", "state-space-model"]
    assert front_matter["pipeline_tag"] == "audio-classification"
    assert len(front_matter["model-index"][0]["results"]) == 1
    assert len(front_matter["model-index"][0]["results"][0]["metrics"]) == 5


def test_a_text_without_a_snippet_gets_one():
    front_matter, text = split(build(card="# My model\n"))
    assert text.strip().startswith("# My model\n\n## Use\n\n```python\nfrom transformers import pipeline\n")
    assert front_matter["library_name"] == "transformers"


@pytest.mark.parametrize("front_matter", ["- a\n- b", "tags:\n- [a]", "tags: 5", "datasets: 5"])
def test_front_matter_of_another_kind_is_named(front_matter):
    with pytest.raises(InputError, match=r"README.md: its front matter cannot be read \(.*; correct it"):
        build(card=f"---\n{front_matter}\n---\n# My model\n")


def test_the_snippet_that_is_made_here_runs(checkpoint, tmp_path, monkeypatch, capsys):
    folder = shutil.copytree(checkpoint, tmp_path / "model")
    write_checkpoint_code(folder)
    monkeypatch.chdir(tmp_path)
    write_recording(tmp_path / RECORDING)
    exec(usage_snippet(build()).replace('"user/sounds"', repr(str(folder))), {})
    assert "'crackle_share': " in capsys.readouterr().out


def test_a_snippet_that_needs_this_package_is_replaced():
    own = "# Mine\n\n```python\nfrom modeling_lung_srad import load_pipeline\n```\n\n```python\nprint(1)\n```\n"
    _, text = split(build(card=own))
    assert "modeling_lung_srad" not in text
    assert 'pipeline(model="user/sounds", trust_remote_code=True)' in text
    assert "```python\nprint(1)\n```" in text


def test_the_folder_in_a_snippet_becomes_the_id(tmp_path):
    checkpoint = tmp_path / "runs" / "first"
    checkpoint.mkdir(parents=True)
    lines = [f"a = '{checkpoint}'", 'b = "runs/first"', "c = 'first'", 'd = "runs/second"', "e = ''", 'f = "st"']
    card = "text 'runs/first'\n```python\n" + "\n".join(lines) + "\n```\n`runs/first` 'runs/first'\n"
    assert with_id_for_folder(card, checkpoint, "user/sounds") == (
        "text 'runs/first'\n```python\n"
        'a = "user/sounds"\nb = "user/sounds"\nc = "user/sounds"\nd = "runs/second"\ne = \'\'\nf = "st"\n'
        "```\n`runs/first` 'runs/first'\n"
    )
