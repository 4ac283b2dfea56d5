"""A model goes up over HTTP and is loaded in a process without this package, with the same logits bit for bit."""

import json
import shutil
import socket

import numpy as np
import pytest
import torch
import yaml
from safetensors.numpy import load_file

from lung_srad_cli.publishing import model_repository
from lung_srad_cli.publishing.model_repository import prepare_model
from lung_srad_cli.publishing.snippet import usage_snippet, write_recording
from modeling_lung_srad import (
    LungSoundPipeline,
    LungSradConfig,
    LungSradFeatureExtractor,
    LungSradForAudioClassification,
)
from modeling_lung_srad.checkpoint_loading import DEFAULT_CHECKPOINT
from modeling_lung_srad.familiarity import Familiarity, fit_familiarity
from modeling_lung_srad.files.checkpoint_code import CLASSES
from tests.local_hub import READ_TOKEN

LOAD = """
import importlib.util, json
import numpy as np, torch
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification, pipeline

waveform, recording, found = np.load(sys.argv[1]), sys.argv[2], {}
for name in sys.argv[3:]:
    extractor = AutoFeatureExtractor.from_pretrained(name, trust_remote_code=True)
    model = AutoModelForAudioClassification.from_pretrained(name, trust_remote_code=True).eval()
    with torch.no_grad():
        logits = model(**extractor(waveform, sampling_rate=16000, return_tensors="pt")).logits
    found[name] = {
        "package": importlib.util.find_spec("modeling_lung_srad") is not None,
        "module": type(model).__module__,
        "logits": logits.numpy().tobytes().hex(),
        "timeline": pipeline(model=name, trust_remote_code=True)(recording)["timeline"],
    }
print(json.dumps(found))
"""
EXPECTED_FILES = {
    "README.md",
    "config.json",
    "preprocessor_config.json",
    "model.safetensors",
    "configuration_lung_srad.py",
    "modeling_lung_srad.py",
    "feature_extraction_lung_srad.py",
    "pipeline_lung_srad.py",
}


@pytest.fixture
def waveform():
    return np.random.default_rng(0).standard_normal(40000).astype(np.float32) * 0.1


def local_logits(checkpoint, waveform):
    model = LungSradForAudioClassification.from_pretrained(checkpoint).eval()
    model.fix_scan_backend(frames=0)
    inputs = LungSradFeatureExtractor.from_pretrained(checkpoint)(waveform, sampling_rate=16000, return_tensors="pt")
    with torch.no_grad():
        return model(**inputs).logits.numpy().tobytes().hex()


def front_matter(files):
    return yaml.safe_load(files["README.md"].content.decode().split("---\n")[1])


@pytest.mark.slow
def test_published_models_give_bit_equal_logits_in_a_process_without_the_package(
    hub, publish, run_elsewhere, checkpoint, waveform, report, write_report, tmp_path
):
    """The usage snippet of the embedded model's card is run before; that of the other one in test_model_card.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_repository, "run_snippet", lambda *arguments: "")
        outcome = publish("model", checkpoint, "user/sounds", "--evaluation", write_report(report))
    assert outcome.exit_code == 0, outcome.errors
    assert f"published: {hub.url}/user/sounds (commit " in outcome.output
    assert 'pipeline(model="user/sounds", trust_remote_code=True)' in outcome.output
    repository = hub.repository("user/sounds")
    assert repository.private
    assert set(repository.files) >= EXPECTED_FILES
    assert {path.rpartition(".")[2] for path in repository.files} == {"md", "json", "safetensors", "py"}
    assert repository.files["model.safetensors"].is_lfs
    assert front_matter(repository.files)["model-index"][0]["name"] == "sounds"
    outcome = publish("model", DEFAULT_CHECKPOINT, "user/lung-srad-tiny", "--public")
    assert outcome.exit_code == 0, outcome.errors

    np.save(tmp_path / "waveform.npy", waveform)
    write_recording(tmp_path / "recording.wav")
    published = {"user/sounds": checkpoint, "user/lung-srad-tiny": DEFAULT_CHECKPOINT}
    elsewhere = run_elsewhere(LOAD, tmp_path / "waveform.npy", tmp_path / "recording.wav", *published)
    for name, folder in published.items():
        assert elsewhere[name]["package"] is False
        assert elsewhere[name]["module"].startswith("transformers_modules.user.")
        assert elsewhere[name]["logits"] == local_logits(folder, waveform)
        lung_sounds = LungSoundPipeline.from_checkpoint(folder)
        lung_sounds.model.fix_scan_backend(frames=0)
        here = lung_sounds(str(tmp_path / "recording.wav"))
        assert elsewhere[name]["timeline"] == json.loads(json.dumps(here["timeline"]))


def test_dry_run_lists_everything_and_opens_no_connection(publish, checkpoint, monkeypatch, tmp_path):
    def refuse(*arguments):
        raise AssertionError("a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    folder = tmp_path / "run"
    shutil.copytree(checkpoint, folder)
    private = ("optimizer.pt", "trainer_state.json", "training_args.bin", "model.bin", "events.log", ".env")
    (folder / "label_patients.py").write_text("PATIENTS = []\n")
    (folder / "\x1b[2J\nnotes.txt").write_text("")
    for name in private:
        (folder / name).write_bytes(b"/home/somebody")
    (folder / "checkpoint-10").mkdir()
    generator = np.random.default_rng(0)
    fit_familiarity(generator.normal(size=(40, 64)), [str(index % 4) for index in range(40)]).save(folder)
    (folder / "training_summary.json").write_text('{"configuration": {"data": {"icbhi": "/home/somebody/icbhi"}}}')
    outcome = publish("model", folder, "user/sounds", "--dry-run")
    assert outcome.exit_code == 0, outcome.errors
    listed = {line.split()[-1]: line.split()[0] for line in outcome.output.splitlines() if line.startswith("   ")}
    size = (folder / "model.safetensors").stat().st_size
    assert listed["model.safetensors"] == f"{size / 1000:.1f}"
    assert set(listed) >= EXPECTED_FILES | {"familiarity.safetensors"}
    assert not {*private, "label_patients.py", "training_summary.json", "checkpoint-10"} & set(listed)
    assert (
        "  left out: \\x1b[2J\\nnotes.txt, .env, checkpoint-10, events.log, label_patients.py, model.bin, optimizer.pt"
        in outcome.output
    )
    assert "\x1b" not in outcome.output
    assert "training_summary.json stays here: it holds paths of this machine such as /home/somebody/icbhi" in (
        outcome.output
    )
    assert "nothing was uploaded" in outcome.output


def test_weights_in_several_files_go_up_with_their_index(checkpoint, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(checkpoint, folder)
    (folder / "model.safetensors").unlink()
    LungSradForAudioClassification.from_pretrained(checkpoint).save_pretrained(folder, max_shard_size="100KB")
    shards = {path.name for path in folder.glob("model-0*.safetensors")}
    assert len(shards) > 1
    (folder / "model-00009-of-00009.safetensors").write_bytes(b"of an earlier run")
    published = {file.path for file in prepare_model(str(folder), "user/sounds").files}
    assert {name for name in published if "safetensors" in name} == shards | {"model.safetensors.index.json"}


def test_a_snippet_that_fails_keeps_everything_here(hub, publish, checkpoint, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(checkpoint, folder)
    (folder / "README.md").write_text('# Mine\n\n```python\nmodel = load("user/sounds")\n```\n', encoding="utf-8")
    outcome = publish("model", folder, "user/sounds")
    assert outcome.exit_code == 2
    assert outcome.errors[-1].startswith(
        "lung-srad: error: README.md: the usage snippet fails with the files to be published "
        "(NameError: name 'load' is not defined"
    )
    assert hub.requests == []


def test_token_without_rights_and_no_token_are_told_apart(hub, publish, checkpoint, monkeypatch):
    monkeypatch.setattr(model_repository, "run_snippet", lambda *arguments: "")
    monkeypatch.setenv("HF_TOKEN", READ_TOKEN)
    outcome = publish("model", checkpoint, "user/sounds")
    assert outcome.exit_code == 2
    assert outcome.errors[-1].startswith(
        "lung-srad: error: model user/sounds: your token may not write there "
        '(You don\'t have the rights to write a model under the namespace "user")'
    )
    assert hub.store.repositories == {}
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    outcome = publish("model", checkpoint, "user/sounds")
    assert outcome.errors == [
        f"lung-srad: error: token: you are not logged in to {hub.url}; "
        "log in by `hf auth login` with a token that may write"
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"), "as a pickle only"),
        (lambda folder: (folder / "preprocessor_config.json").unlink(), "lacks preprocessor_config.json"),
        (lambda folder: (folder / "config.json").unlink(), "lacks config.json"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"{"), "cannot be loaded"),
        (lambda folder: (folder / "familiarity.safetensors").write_bytes(b"{"), "familiarity.safetensors: cannot be"),
        (lambda folder: Familiarity(np.zeros(8), np.eye(8), 1.0, 9).save(folder), "is of 8 statistics"),
        (lambda folder: (folder / "LICENSE").symlink_to("/etc/passwd"), "LICENSE: is a link to /etc/passwd, outside"),
        (lambda folder: (folder / "README.md").write_text("---\na: [\n---\n"), "front matter cannot be read"),
        (lambda folder: (folder / "README.md").write_bytes(b"\xff"), "is not UTF-8 text"),
        (lambda folder: (folder / "training_summary.json").write_text("{"), "training_summary.json: cannot be read"),
        (lambda folder: shutil.rmtree(folder), "no such folder"),
    ],
)
def test_a_checkpoint_that_is_not_whole_is_named_in_one_line(publish, checkpoint, tmp_path, change, message):
    folder = tmp_path / "run"
    shutil.copytree(checkpoint, folder)
    change(folder)
    outcome = publish("model", folder, "user/sounds", "--dry-run")
    assert outcome.exit_code == 2
    assert len(outcome.errors) == 1
    assert message in outcome.errors[0]
    assert outcome.output == ""


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("training_summary.json", "cycles", "x"),
        ("training_summary.json", "cycles", {"training": ["icbhi"]}),
        ("training_summary.json", "cycles", {"training": {"icbhi": {"cycles": "12"}}}),
    ],
)
def test_a_setting_of_another_kind_is_named_in_one_line(publish, checkpoint, tmp_path, name, field, value):
    folder = tmp_path / "run"
    shutil.copytree(checkpoint, folder)
    (folder / "training_summary.json").write_text("{}")
    settings = json.loads((folder / name).read_text())
    *outer, last = field.split(": ")
    (settings[outer[0]] if outer else settings)[last] = value
    (folder / name).write_text(json.dumps(settings))
    outcome = publish("model", folder, "user/sounds", "--dry-run")
    assert outcome.exit_code == 2
    (error,) = outcome.errors
    assert f"{name}: {field}: " in error
    assert "\x1b" not in error


def test_classes_and_code_are_those_of_this_package_whatever_the_folder_has(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "run")
    (folder / "quality.py").write_text("print('not ours')\n")
    (folder / "pipeline_lung_srad.py").unlink(missing_ok=True)
    settings = json.loads((folder / "config.json").read_text())
    settings |= {"auto_map": {"AutoConfig": "../../other.Config"}, "custom_pipelines": {"other": None}}
    (folder / "config.json").write_text(json.dumps(settings))
    published = {file.path: file.source for file in prepare_model(str(folder), "user/sounds").files}
    assert b"not ours" not in published["quality.py"]
    assert "pipeline_lung_srad.py" in published
    classes = CLASSES["config.json"]
    assert {name: json.loads(published["config.json"])[name] for name in classes} == classes


def test_links_within_the_folder_and_within_the_cache_of_the_hub_are_followed(publish, checkpoint, tmp_path):
    snapshot = tmp_path / "models--user--sounds" / "snapshots" / "0123abc"
    shutil.copytree(checkpoint, snapshot)
    blob = snapshot.parents[1] / "blobs" / "4567def"
    blob.parent.mkdir()
    (snapshot / "model.safetensors").rename(blob)
    (snapshot / "model.safetensors").symlink_to("../../blobs/4567def")
    (snapshot / "NOTICE").symlink_to("config.json")
    outcome = publish("model", snapshot, "user/sounds", "--dry-run")
    assert outcome.exit_code == 0, outcome.errors
    assert "  NOTICE" in outcome.output

    elsewhere = tmp_path / "copied"
    shutil.copytree(snapshot, elsewhere, symlinks=True)
    (elsewhere / "model.safetensors").unlink()
    (elsewhere / "model.safetensors").symlink_to(blob)
    outcome = publish("model", elsewhere, "user/sounds", "--dry-run")
    assert outcome.exit_code == 2
    assert f"model.safetensors: is a link to {blob}, outside {elsewhere}" in outcome.errors[0]


def test_an_index_of_weights_outside_the_folder_is_refused(publish, checkpoint, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(checkpoint, folder)
    (folder / "model.safetensors").rename(tmp_path / "weights.safetensors")
    names = load_file(tmp_path / "weights.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "../weights.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    outcome = publish("model", folder, "user/sounds", "--dry-run")
    assert outcome.exit_code == 2
    assert "names '../weights.safetensors' outside; save the model again" in outcome.errors[0]


def test_settings_may_leave_out_what_has_its_default(tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(DEFAULT_CHECKPOINT, folder)
    (folder / "README.md").unlink()
    settings = json.loads((folder / "config.json").read_text())
    del settings["dims"], settings["depths"]
    model = LungSradForAudioClassification(LungSradConfig(num_mel_bins=64, head="sounds"))
    model.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(settings))
    prepared = prepare_model(str(folder), "user/sounds")
    dims = ", ".join(map(str, LungSradConfig().dims))
    assert any(f"(dims {dims}, depths" in file.source.decode() for file in prepared.files if file.path == "README.md")


def test_the_embedded_checkpoint_keeps_the_text_of_its_card():
    prepared = prepare_model(str(DEFAULT_CHECKPOINT), "user/lung-srad-tiny")
    card = next(file.source.decode() for file in prepared.files if file.path == "README.md")
    own = (DEFAULT_CHECKPOINT / "README.md").read_text(encoding="utf-8")
    text = own.split("---\n", 2)[2]
    snippet = usage_snippet(card)
    assert 'pipeline(model="user/lung-srad-tiny", trust_remote_code=True)' in snippet
    assert card.split("---\n", 2)[2].replace(snippet, usage_snippet(own)) == text
    assert "training_summary.json" in {file.path for file in prepared.files}
