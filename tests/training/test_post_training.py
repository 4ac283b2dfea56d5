"""Temperature and familiarity that a run leaves in its checkpoint, against slow fits from the waveforms."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from modeling_lung_srad import LungSradConfig, LungSradFeatureExtractor, LungSradForAudioClassification
from modeling_lung_srad.familiarity import FAMILIARITY_FILE, fit_familiarity, load_familiarity
from tests.training.conftest import SMOKE
from training.arguments import DataArguments
from training.data.cycle_sources import load_training_sources
from training.data.log_mel_dataset import LogMelDataset, compute_log_mel
from training.post_training import familiarity_of, fit_after_training, main, usable_temperature
from training.run_training import train


@pytest.fixture(scope="module")
def settings(simulated_folder):
    data = ["data.simulated=0", f"data.icbhi={simulated_folder}", "model.feature_extractor.num_frames=64"]
    return [*data, "num_train_epochs=1", "use_cpu=true"]


@pytest.fixture(scope="module")
def sources(simulated_folder):
    return load_training_sources(DataArguments(icbhi=str(simulated_folder), validation=0.4))


@pytest.fixture(scope="module")
def base(sources, tmp_path_factory):
    """A checkpoint that hardly hears anything and is too sure of the frequent classes: three times their log odds."""
    torch.manual_seed(0)
    config = LungSradConfig(dims=(8, 16, 24, 32), depths=(1, 1, 1, 1), gaussian_blocks=(0,), temperature=7.5)
    model = LungSradForAudioClassification(config)
    counts = torch.bincount(torch.tensor(sources.validation.table["label"]), minlength=4)
    with torch.no_grad():
        model.head.weight.normal_(std=0.1)
        model.head.bias.copy_(3 * (counts.clamp(min=1) / counts.sum()).log())
    folder = tmp_path_factory.mktemp("base")
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def calibrated(settings, base):
    """Settings of a run that starts from that checkpoint and hardly moves."""
    return [*settings, "data.validation=0.4", f"model.checkpoint={base}", "model.config={}", "learning_rate=1e-6"]


@pytest.fixture(scope="module")
def run(calibrated, tmp_path_factory):
    """The folder of such a run; read only."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert train(SMOKE, [*calibrated, f"output_dir={folder}"]) == 0
    return folder


def input_values(source, folder):
    feature_extractor = LungSradFeatureExtractor.from_pretrained(folder)
    waveforms = [row["audio"]["array"] for row in source.cycles]
    return torch.cat([feature_extractor(waveform, 16000, "pt")["input_values"] for waveform in waveforms])


def negative_log_likelihood(logits, labels, temperature):
    log_probabilities = torch.log_softmax(logits.double() / temperature, dim=-1)
    return -log_probabilities[range(len(labels)), labels].mean().item()


def test_run_carries_the_temperature_of_its_validation_patients(run, sources):
    model = LungSradForAudioClassification.from_pretrained(run).eval()
    with torch.inference_mode():
        logits = model(input_values(sources.validation, run)).logits
    labels = sources.validation.table["label"]
    tried = np.geomspace(0.05, 20, 4000)
    best = min(tried, key=lambda temperature: negative_log_likelihood(logits, labels, temperature))

    assert 2 < best < 4
    assert model.config.temperature == pytest.approx(best, rel=0.01)


def test_run_carries_the_familiarity_of_its_training_cycles(run, sources):
    feature_extractor = LungSradFeatureExtractor.from_pretrained(run)
    waveforms = [row["audio"]["array"] for row in sources.training[0].cycles]
    values = torch.cat([feature_extractor.log_mel(waveform) for waveform in waveforms]).double()
    values = (values - values.mean(dim=(1, 2), keepdim=True)) / values.std(dim=(1, 2), keepdim=True)
    bands = values.reshape(len(values), values.shape[1], 32, 4).mean(dim=-1)
    statistics = torch.cat([bands.mean(dim=1), bands.std(dim=1)], dim=1).numpy()
    expected = fit_familiarity(statistics, sources.training[0].table["patient"])

    familiarity = load_familiarity(run)

    np.testing.assert_allclose(familiarity.mean, expected.mean, atol=2e-3)
    assert familiarity.cycles == len(values)
    assert familiarity.threshold == pytest.approx(expected.threshold, rel=0.02)


def test_run_without_validation_has_no_temperature(settings, tmp_path):
    assert train(SMOKE, [*settings, "data.validation=0", "selection=last", f"output_dir={tmp_path / 'run'}"]) == 0

    assert json.loads((tmp_path / "run" / "config.json").read_text(encoding="utf-8")).get("temperature") is None
    assert load_familiarity(tmp_path / "run") is not None


def test_run_forgets_the_temperature_of_the_checkpoint_that_it_starts_from(run, settings, tmp_path):
    assert LungSradConfig.from_pretrained(run).temperature is not None
    further = ["data.validation=0", "selection=last", f"model.checkpoint={run}", f"output_dir={tmp_path / 'further'}"]
    assert train(SMOKE, [*settings, *further]) == 0
    config = LungSradConfig.from_pretrained(tmp_path / "further")
    steps = list((tmp_path / "further").glob("checkpoint-*"))
    assert [LungSradConfig.from_pretrained(step).familiarity_digest for step in steps] == [None] * len(steps)
    assert config.temperature is None
    assert config.familiarity_digest == load_familiarity(tmp_path / "further").digest


def test_run_that_selects_on_the_test_part_is_calibrated_on_validation_patients(calibrated, sources, tmp_path):
    assert train(SMOKE, [*calibrated, "selection=test", f"output_dir={tmp_path / 'run'}"]) == 0
    model = LungSradForAudioClassification.from_pretrained(tmp_path / "run").eval()
    with torch.inference_mode():
        logits = model(input_values(sources.validation, tmp_path / "run")).logits
    labels, temperature = sources.validation.table["label"], model.config.temperature

    losses = [negative_log_likelihood(logits, labels, factor * temperature) for factor in (0.8, 1.0, 1.25)]

    assert losses[1] == min(losses)


def test_earlier_checkpoint_gets_what_a_run_leaves(run, simulated_folder, tmp_path, capsys):
    folder = shutil.copytree(run, tmp_path / "earlier")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    temperature = config.pop("temperature")
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / FAMILIARITY_FILE).unlink()

    assert main([str(folder), str(simulated_folder)]) == 0

    printed = capsys.readouterr().out.split(";")[0].removeprefix("temperature: ")
    assert float(printed) == pytest.approx(temperature, rel=1e-3)
    assert LungSradConfig.from_pretrained(folder).temperature == pytest.approx(temperature, rel=1e-3)
    np.testing.assert_allclose(load_familiarity(folder).mean, load_familiarity(run).mean, atol=1e-6)


def test_checkpoint_without_a_summary_is_named(checkpoint, simulated_folder, capsys):
    assert main([str(checkpoint), str(simulated_folder)]) == 2
    assert main(["nobody/has-this-model", str(simulated_folder)]) == 2

    first, second = capsys.readouterr().err.splitlines()
    assert f"{checkpoint}: lacks training_summary.json" in first
    assert "nobody/has-this-model: no such folder" in second


def test_cycles_of_one_patient_have_no_familiarity(sources, feature_extractor):
    source = sources.training[0]
    patient = source.table["patient"][0]
    of_patient = [index for index, name in enumerate(source.table["patient"]) if name == patient]
    single = type(source)(source.name, source.cycles.select(of_patient))
    cycles = LogMelDataset(compute_log_mel([single], feature_extractor), single.table["label"], feature_extractor)

    assert familiarity_of(cycles, [single]) is None


def test_other_models_have_neither():
    config = SimpleNamespace(model_type="audio-spectrogram-transformer")
    trainer = SimpleNamespace(training_model=SimpleNamespace(classifier=SimpleNamespace(config=config)))

    assert fit_after_training(trainer, None) is None
    assert not hasattr(config, "temperature")


def test_temperature_without_an_optimum_is_none():
    labels = np.array([0, 1, 2, 3])
    always_right = np.full((4, 4), 0.2) + 0.2 * np.eye(4)
    never_right = always_right[[1, 2, 3, 0]]

    assert usable_temperature(always_right, labels) is None
    assert usable_temperature(never_right, labels) is None
