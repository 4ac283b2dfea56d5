import importlib.util
import subprocess
import sys

import datasets
import pytest

from dataset_scripts.simulated import write_simulated
from modeling_lung_srad.checkpoint_loading import load_checkpoint
from modeling_lung_srad.errors import InputError


@pytest.fixture(autouse=True)
def datasets_cache(monkeypatch, tmp_path):
    """Keeps what the data sets library stores out of the home folder."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets_cache")


def _raising(error):
    def handler(arguments):
        raise error

    return handler


@pytest.fixture
def convert_raises(monkeypatch, run):
    """Runs `lung-srad convert a b` with a handler that raises."""

    def run_with(error):
        monkeypatch.setattr("lung_srad_cli.convert_command.run", _raising(error))
        return run("convert", "a", "b")

    return run_with


def test_an_error_about_the_input_is_one_line_and_exit_code_2(convert_raises):
    outcome = convert_raises(InputError("a\nb.wav", "is silent", "record again"))
    assert outcome == (2, "", ["lung-srad: error: a b.wav: is silent; record again"])
    outcome = convert_raises(PermissionError(13, "Permission denied", "a"))
    assert outcome == (
        2,
        "",
        ["lung-srad: error: a: Permission denied; check the path, its permissions and the space on its disk"],
    )


@pytest.mark.parametrize("error", [ValueError("shapes do not match"), KeyError("weight"), TypeError("not a number")])
def test_a_mistake_in_the_code_keeps_its_traceback(convert_raises, error):
    with pytest.raises(type(error)):
        convert_raises(error)


def test_an_interruption_ends_with_130(convert_raises):
    assert convert_raises(KeyboardInterrupt()) == (130, "", ["lung-srad: error: interrupted"])


def test_a_reader_that_goes_away_is_no_error():
    script = (
        "import lung_srad_cli.convert_command, sys\n"
        "lung_srad_cli.convert_command.run = lambda arguments: [print('x' * 80) for _ in range(10000)] and 0\n"
        "sys.exit(lung_srad_cli.main(['convert', 'a', 'b']))\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


@pytest.mark.parametrize(
    ("arguments", "missing"),
    [
        (["train", "config.yaml"], "sklearn"),
        (["evaluate", "runs/first", "icbhi"], "accelerate"),
        (["prepare", "simulated", "sounds"], "datasets"),
    ],
)
def test_a_missing_extra_is_named_with_its_command(monkeypatch, run, arguments, missing):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else find_spec(name))
    outcome = run(*arguments)
    assert outcome.exit_code == 2
    assert outcome.errors == [f'lung-srad: error: {missing}: not installed; run pip install "lung-srad[train]"']


def test_convert_writes_a_checkpoint_that_loads(run, checkpoint, tmp_path):
    outcome = run("convert", checkpoint, tmp_path / "converted")
    assert outcome.exit_code == 0
    assert "4 labels" in outcome.output
    model, feature_extractor = load_checkpoint(tmp_path / "converted")
    assert list(model.config.gaussian_blocks) == [2, 3]
    assert feature_extractor.sampling_rate == 16000


def test_convert_never_writes_over_something(run, checkpoint, tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "thesis.txt").write_text("all there is")
    outcome = run("convert", checkpoint, folder)
    assert outcome.exit_code == 2
    assert outcome.errors[0].startswith(f"lung-srad: error: {folder}: holds something")
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"]


def test_convert_leaves_nothing_on_a_full_disk(run, checkpoint, tmp_path, monkeypatch):
    def save_on_a_full_disk(self, folder):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("modeling_lung_srad.LungSradFeatureExtractor.save_pretrained", save_on_a_full_disk)
    outcome = run("convert", checkpoint, tmp_path / "converted")
    assert outcome.exit_code == 2
    assert "converted: cannot be written (No space left on device); free space" in outcome.errors[-1]
    assert list(tmp_path.iterdir()) == []


def test_convert_names_a_source_that_it_cannot_use(run, tmp_path):
    source = tmp_path / "weights.pth"
    source.write_bytes(b"no weights")
    outcome = run("convert", source, tmp_path / "converted")
    assert outcome.exit_code == 2
    assert len(outcome.errors) == 1
    assert str(source) in outcome.errors[0]


def test_prepare_writes_simulated_sounds_in_both_layouts(run, tmp_path):
    size = ["--patients", "2", "--recordings-per-patient", "1", "--cycles-per-recording", "2"]
    assert run("prepare", "simulated", tmp_path / "sounds", *size, "--layout", "icbhi").exit_code == 0
    assert len(list((tmp_path / "sounds").glob("*.wav"))) == 2
    outcome = run("prepare", "icbhi", tmp_path / "sounds", tmp_path / "prepared")
    assert outcome.exit_code == 0
    assert outcome.output == f"{tmp_path / 'prepared'}\n"
    counts = [line.split(",")[0] for line in outcome.errors if " cycles, " in line]
    assert counts == ["test: 2 cycles", "train: 2 cycles"]
    assert len(list((tmp_path / "prepared" / "data").glob("*.parquet"))) == 2


def test_prepare_refuses_a_validation_part_that_the_layout_cannot_hold(run, tmp_path):
    outcome = run("prepare", "simulated", tmp_path / "sounds", "--layout", "icbhi", "--validation", "0.2")
    assert outcome.exit_code == 2
    assert "--validation" in outcome.errors[0]
    assert not (tmp_path / "sounds").exists()


def test_prepare_names_a_source_that_is_missing(run, tmp_path):
    outcome = run("prepare", "icbhi", tmp_path / "nowhere", tmp_path / "prepared")
    assert outcome.exit_code == 2
    assert str(tmp_path / "nowhere") in outcome.errors[-1]


def test_evaluate_prints_the_measures_and_writes_the_report(run, checkpoint, tmp_path):
    sounds = write_simulated(tmp_path / "sounds", patients=10, cycles_per_recording=4)
    outcome = run("evaluate", checkpoint, sounds, "--output", tmp_path / "report")
    assert outcome.exit_code == 0
    assert "Score (4-class)" in outcome.output
    assert (tmp_path / "report" / "evaluation.json").exists()


@pytest.mark.parametrize(
    ("arguments", "function", "given"),
    [
        (["a", "b", "data", "--part", "train"], "evaluate", ((["a", "b"], "data"), {"output": None, "part": "train"})),
        (["--predictions", "report"], "recompute", (("report",), {"output": None})),
        (["--compare", "a", "b", "--output", "c"], "compare", (("a", "b"), {"output": "c"})),
    ],
)
def test_evaluate_has_three_ways(monkeypatch, run, arguments, function, given):
    import lung_srad_cli.evaluate_command

    calls = []
    monkeypatch.setattr(
        lung_srad_cli.evaluate_command, function, lambda *values, **options: calls.append((values, options)) or 0
    )
    assert run("evaluate", *arguments).exit_code == 0
    assert calls == [given]


def test_train_passes_on_configuration_and_overrides(monkeypatch, run):
    import training.run_training

    given = []
    monkeypatch.setattr(training.run_training, "train", lambda *arguments: given.append(arguments) or 0)
    assert run("train", "tiny.yaml", "seed=1", "data.icbhi=x").exit_code == 0
    assert given == [("tiny.yaml", ["seed=1", "data.icbhi=x"])]


def test_train_names_a_configuration_that_is_missing(run, tmp_path):
    outcome = run("train", tmp_path / "nowhere.yaml")
    assert outcome.exit_code == 2
    assert len(outcome.errors) == 1
    assert "nowhere.yaml" in outcome.errors[0]
