"""A saved checkpoint is self-contained: it loads with its own code in a process without this package."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForAudioClassification,
    Trainer,
    TrainingArguments,
    pipeline,
)

from modeling_lung_srad import (
    LungSoundPipeline,
    LungSradFeatureExtractor,
    LungSradForAudioClassification,
    LungSradModel,
)
from modeling_lung_srad.files.checkpoint_code import CLASSES, checkpoint_code_files
from tests.conftest import tiny_config

LOAD_ELSEWHERE = """
import importlib.util, json, sys
import numpy as np, torch
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForAudioClassification, pipeline

folder, waveform = sys.argv[1], np.load(sys.argv[2])
config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
extractor = AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=True)
model = AutoModelForAudioClassification.from_pretrained(folder, trust_remote_code=True).eval()
backbone = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
inputs = extractor(waveform, sampling_rate=16000, return_tensors="pt")
with torch.no_grad():
    logits, pooled = model(**inputs).logits, backbone(**inputs).pooler_output
classifier = pipeline("audio-classification", model=folder, trust_remote_code=True)
lung_sounds = pipeline(model=folder, trust_remote_code=True)
print(json.dumps({
    "package": importlib.util.find_spec("modeling_lung_srad") is not None,
    "module": type(model).__module__,
    "logits": logits.numpy().tobytes().hex(),
    "pooled": pooled.numpy().tobytes().hex(),
    "pipeline": classifier(waveform),
    "timeline": lung_sounds({"raw": waveform, "sampling_rate": 16000})["timeline"],
    "labels": config.id2label[3],
}))
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("checkpoint")
    model = LungSradForAudioClassification(tiny_config())
    LungSoundPipeline(model=model, feature_extractor=LungSradFeatureExtractor()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def waveform():
    return np.random.default_rng(0).standard_normal(40000).astype(np.float32) * 0.1


def test_saving_writes_weights_code_and_settings(checkpoint):
    names = {path.name for path in checkpoint.iterdir()}
    code = {path.name for path in checkpoint_code_files()}
    assert names == {"config.json", "model.safetensors", "preprocessor_config.json"} | code
    for name, classes in CLASSES.items():
        settings = json.loads((checkpoint / name).read_text())
        assert {field: settings[field] for field in classes} == classes


def test_a_model_that_is_saved_without_its_pipeline_names_none(checkpoint, tmp_path):
    LungSradForAudioClassification.from_pretrained(checkpoint).save_pretrained(tmp_path)
    assert not (tmp_path / "pipeline_lung_srad.py").exists()
    settings = json.loads((tmp_path / "config.json").read_text())
    assert "custom_pipelines" not in settings
    assert settings["auto_map"] == CLASSES["config.json"]["auto_map"]


def test_a_process_without_the_package_gets_bit_equal_logits(checkpoint, waveform, tmp_path):
    np.save(tmp_path / "waveform.npy", waveform)
    # -I keeps the checkout and PYTHONPATH out; -S plus the path below leaves out the editable install.
    script = "import sys; sys.path[:] = [p for p in sys.path if p] + sys.argv.pop().split(':')\n" + LOAD_ELSEWHERE
    site_packages = ":".join(path for path in sys.path if path.endswith(("site-packages", "dist-packages")))
    environment = {
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_OFFLINE": "1",
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
    }
    result = subprocess.run(
        [sys.executable, "-I", "-S", "-c", script, str(checkpoint), str(tmp_path / "waveform.npy"), site_packages],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    elsewhere = json.loads(result.stdout.splitlines()[-1])
    assert elsewhere["package"] is False
    assert elsewhere["module"].startswith("transformers_modules")
    inputs = LungSradFeatureExtractor()(waveform, sampling_rate=16000, return_tensors="pt")
    model = LungSradForAudioClassification.from_pretrained(checkpoint).eval()
    # By now this process may have loaded the compiled scan, and the other one scans too little for it.
    model.fix_scan_backend(frames=0)
    with torch.no_grad():
        outputs = model(**inputs)
    assert elsewhere["logits"] == outputs.logits.numpy().tobytes().hex()
    assert elsewhere["pooled"] == outputs.pooler_output.numpy().tobytes().hex()
    assert {entry["label"] for entry in elsewhere["pipeline"]} == {"normal", "crackle", "wheeze", "both"}
    assert elsewhere["labels"] == "both"
    lung_sounds = LungSoundPipeline(model=model, feature_extractor=LungSradFeatureExtractor())
    assert elsewhere["timeline"] == lung_sounds({"raw": waveform, "sampling_rate": 16000})["timeline"]


def test_local_users_need_no_remote_code(checkpoint):
    assert type(AutoConfig.from_pretrained(checkpoint)).__name__ == "LungSradConfig"
    assert isinstance(AutoModel.from_pretrained(checkpoint), LungSradModel)
    assert isinstance(AutoModelForAudioClassification.from_pretrained(checkpoint), LungSradForAudioClassification)
    assert isinstance(AutoFeatureExtractor.from_pretrained(checkpoint), LungSradFeatureExtractor)


def test_the_stock_pipeline_classifies_an_array(checkpoint, waveform):
    classifier = pipeline("audio-classification", model=str(checkpoint))
    scores = {entry["label"]: entry["score"] for entry in classifier(waveform)}
    model = LungSradForAudioClassification.from_pretrained(checkpoint).eval()
    inputs = LungSradFeatureExtractor()(waveform, sampling_rate=16000, return_tensors="pt")
    with torch.no_grad():
        expected = model(**inputs).logits.softmax(-1)[0]
    assert scores == pytest.approx(
        {model.config.id2label[index]: expected[index].item() for index in range(4)}, abs=1e-5
    )


def test_the_stock_trainer_fine_tunes_it(tmp_path):
    torch.manual_seed(0)
    model = LungSradForAudioClassification(tiny_config())
    generator = torch.Generator().manual_seed(0)
    examples = []
    for index in range(32):
        label = index % 4
        input_values = 0.3 * torch.randn(64, 128, generator=generator)
        input_values[:, 32 * label : 32 * label + 32] += 1
        examples.append({"input_values": input_values, "labels": label})
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=8,
        num_train_epochs=15,
        learning_rate=3e-3,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        seed=0,
        logging_strategy="no",
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=examples, eval_dataset=examples)
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    after = trainer.predict(examples)
    assert after.metrics["test_loss"] < 0.5 * before
    assert after.predictions.shape == (32, 4)
