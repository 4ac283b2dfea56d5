import errno
import json
import re
import shutil

import pytest

from lung_srad_cli.evaluate_command import compare, evaluate, recompute
from modeling_lung_srad import LungSradFeatureExtractor, LungSradForAudioClassification
from modeling_lung_srad.errors import InputError
from tests.conftest import tiny_config
from training.report.files import REPORT_FILES

pytestmark = pytest.mark.usefixtures("own_caches")


@pytest.fixture(scope="module")
def report_folder(own_caches, checkpoint, simulated_folder, tmp_path_factory):
    """The written report of the random checkpoint; read only."""
    folder = tmp_path_factory.mktemp("evaluation") / "new" / "report"
    evaluate([str(checkpoint)], str(simulated_folder), output=str(folder))
    return folder


def read_json(folder, name="evaluation.json"):
    return json.loads((folder / name).read_text(encoding="utf-8"))


def test_report_is_printed_and_written(checkpoint, simulated_folder, report_folder, capsys):
    assert sorted(path.name for path in report_folder.iterdir()) == sorted(REPORT_FILES)
    evaluate([str(checkpoint)], str(simulated_folder))
    text = capsys.readouterr().out
    assert "| Score (4-class) |" in text
    assert "Simulated sounds" in text
    assert (report_folder / "evaluation.md").read_text(encoding="utf-8").strip() == text.strip()


def test_report_is_printed_also_where_it_cannot_be_written(report_folder, tmp_path, monkeypatch, capsys):
    def fail(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("training.report.files.write_predictions", fail)
    with pytest.raises(InputError, match=r"again: cannot be written \(No space left on device\); free space"):
        recompute(str(report_folder), output=str(tmp_path / "again"))
    assert "| Score (4-class) |" in capsys.readouterr().out


def test_report_is_the_same_from_its_predictions_without_audio_or_model(report_folder, tmp_path, monkeypatch, capsys):
    for name in ("evaluate_checkpoint", "load_classifier"):
        monkeypatch.setattr(f"lung_srad_cli.evaluate_command.{name}", pytest.fail)
    folder = shutil.copytree(report_folder, tmp_path / "moved")
    recompute(str(folder), output=str(tmp_path / "again"))
    assert read_json(tmp_path / "again") == read_json(report_folder)
    for name in ("predictions.csv", "evaluation.md", "patients.csv"):
        assert (tmp_path / "again" / name).read_bytes() == (report_folder / name).read_bytes()
    assert "Simulated sounds" in capsys.readouterr().out


def test_predictions_are_left_alone_when_their_own_folder_is_the_output(report_folder, tmp_path):
    folder = shutil.copytree(report_folder, tmp_path / "report")
    predictions = folder / "predictions.csv"
    lines = predictions.read_text(encoding="utf-8").splitlines()
    marked = "\n".join([f"{lines[0]},remark", *(f"{line},mine" for line in lines[1:])])
    predictions.write_text(marked, encoding="utf-8")
    recompute(str(predictions), output=str(folder))
    assert predictions.read_text(encoding="utf-8") == marked
    assert read_json(folder) == read_json(report_folder)


def test_predictions_without_abnormal_cycles_are_named(report_folder, tmp_path):
    lines = (report_folder / "predictions.csv").read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if ",label," in line or line.split(",")[3] == "normal"]
    (tmp_path / "predictions.csv").write_text("\n".join(kept), encoding="utf-8")
    with pytest.raises(InputError, match=r"predictions\.csv: the test part contains no abnormal cycle"):
        recompute(str(tmp_path))


def test_several_checkpoints_make_one_table_and_a_report_each(checkpoint, simulated_folder, tmp_path, capsys):
    other = shutil.copytree(checkpoint, tmp_path / "other")
    model = LungSradForAudioClassification.from_pretrained(other)
    model.head.weight.data *= -1
    model.save_pretrained(other)
    output = tmp_path / "seeds"
    evaluate([str(checkpoint), str(other)], str(simulated_folder), output=str(output))
    printed = capsys.readouterr().out
    assert (output / "seeds.md").read_text(encoding="utf-8").strip() in printed
    scores = [read_json(output / name)["score"] for name in ("random", "other")]
    summary = read_json(output, "seeds.json")
    assert summary["mean"]["score"] == pytest.approx(sum(scores) / 2)
    assert summary["std"]["score"] == pytest.approx(abs(scores[0] - scores[1]) / 2**0.5)
    assert "Simulated sounds" in printed
    compare(str(output / "random"), str(output / "other"), output=str(tmp_path / "comparison"))
    comparison = read_json(tmp_path / "comparison", "comparison.json")
    assert comparison["measures"]["score"]["difference"] == pytest.approx(scores[1] - scores[0])
    text = (tmp_path / "comparison" / "comparison.md").read_text(encoding="utf-8")
    assert text.strip() in capsys.readouterr().out
    assert "Simulated sounds" in text


def test_mistake_in_the_last_checkpoint_is_found_first(checkpoint, simulated_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("lung_srad_cli.evaluate_command.evaluate_checkpoint", pytest.fail)
    nowhere = tmp_path / "nowhere"
    with pytest.raises(InputError, match=re.escape(str(nowhere))):
        evaluate([str(checkpoint), str(nowhere)], str(simulated_folder), output=str(tmp_path / "seeds"))
    assert not (tmp_path / "seeds").exists()


def remove_config(folder):
    (folder / "config.json").unlink()


def leave_only_a_pickle(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def give_it_seven_labels(folder):
    LungSradForAudioClassification(tiny_config(num_labels=7)).save_pretrained(folder)


def write_summary(content):
    def write(folder):
        (folder / "training_summary.json").write_text(json.dumps(content), encoding="utf-8")

    return write


def change_the_sampling_rate(folder):
    LungSradFeatureExtractor(sampling_rate=8000).save_pretrained(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "no such folder"),
        (remove_config, "config.json"),
        (leave_only_a_pickle, "pickle"),
        (give_it_seven_labels, "7 labels"),
        (write_summary([]), "training_summary.json: is not a training summary"),
        (
            write_summary({"configuration": {"data": {}}}),
            "training_summary.json: is not a training summary ('split')",
        ),
        (change_the_sampling_rate, "sampling_rate: 8000 Hz is not the rate that cycles are decoded at"),
    ],
)
def test_checkpoint_that_cannot_be_used_is_one_line(
    checkpoint, simulated_folder, tmp_path, run, monkeypatch, damage, message
):
    monkeypatch.setattr("training.prediction.evaluate_checkpoint.predict", pytest.fail)
    folder = shutil.copytree(checkpoint, tmp_path / "damaged")
    damage(folder)
    outcome = run("evaluate", folder, simulated_folder, "--output", tmp_path / "report")
    assert outcome.exit_code == 2
    line = outcome.errors[-1]
    assert line.startswith("lung-srad: error: ")
    assert str(folder) in line
    assert message in line
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"data": "nowhere"}, "nowhere"),
        ({"split": "offical"}, "offical"),
        ({"part": "validation"}, "lacks the training_summary.json"),
        ({"part": "dev"}, "'dev' is not known"),
        ({"batch_size": 0}, "batch_size"),
        ({"output": __file__}, "is a file"),
    ],
)
def test_other_mistakes_are_named(checkpoint, simulated_folder, arguments, message):
    with pytest.raises(InputError, match=message):
        evaluate(**({"checkpoints": [str(checkpoint)], "data": str(simulated_folder)} | arguments))


def test_missing_reports_are_named(report_folder, tmp_path):
    with pytest.raises(InputError, match=r"predictions\.csv: no such file; name a report folder"):
        recompute(str(tmp_path))
    with pytest.raises(InputError, match="nowhere: no such file; name a report folder"):
        compare(str(report_folder), str(tmp_path / "nowhere"))
