"""The command from its arguments to its files, on a suite of tiny shapes."""

import json

import pytest

from benchmarks import sections, speed
from benchmarks.cases import Case, Networks, reason_to_leave_out
from benchmarks.peers import CLIP_FRAMES
from benchmarks.sections import SUITES, Suite, measure_section
from benchmarks.speed import main

SMALL = Suite(("tiny",), (1, 2), (64, 128), longest_sequential=64, peers_everywhere=False, rounds=2)


@pytest.fixture
def small_suite(monkeypatch):
    """The quick suite becomes tiny, and runs in this process."""
    monkeypatch.setitem(SUITES, "quick", SMALL)
    for module in (speed, sections):
        monkeypatch.setattr(module, "in_process_of_its_own", lambda function, *arguments: function(*arguments))


@pytest.fixture(autouse=True)
def same_threads_afterwards():
    import torch

    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_a_section_writes_all_its_results(small_suite, tmp_path, capsys):
    output = tmp_path / "results"
    assert main(["--only", "batch", "--threads", "1", "--output", str(output)]) == 0
    assert capsys.readouterr().out == f"{output}/speed.md\n"
    written = json.loads((output / "speed.json").read_text(encoding="utf-8"))
    rows = written["sections"]["batch"]["measurements"]
    assert [(row["case"]["batch"], row["threads"], len(row["seconds"])) for row in rows] == [(1, 1, 3), (2, 1, 3)]
    assert written["sections"]["batch"]["command"].endswith(f"--threads 1 --output {output}")


def test_sections_measured_before_stay(small_suite, tmp_path):
    path = tmp_path / "speed.json"
    earlier = {"date": "2026-01-01 00:00", "measurements": []}
    assert main(["--only", "batch", "--threads", "1", "--output", str(tmp_path)]) == 0
    written = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(written | {"sections": {"one_clip": earlier}}), encoding="utf-8")
    assert main(["--only", "batch", "--threads", "1", "--output", str(tmp_path)]) == 0
    assert set(json.loads(path.read_text(encoding="utf-8"))["sections"]) == {"one_clip", "batch"}


def test_results_of_another_machine_are_not_mixed_in(small_suite, tmp_path):
    earlier = {"machine": {"processor": "abacus"}, "suite": "quick", "device": "cpu", "sections": {}}
    (tmp_path / "speed.json").write_text(json.dumps(earlier), encoding="utf-8")
    with pytest.raises(SystemExit, match="another machine"):
        main(["--only", "batch", "--threads", "1", "--output", str(tmp_path)])


@pytest.mark.parametrize("text", ["{", "{}", "[]"])
def test_results_that_cannot_be_read_are_named(tmp_path, text):
    (tmp_path / "speed.json").write_text(text, encoding="utf-8")
    with pytest.raises(SystemExit, match=r"speed\.json: cannot be read as results; delete it"):
        main(["--only", "batch", "--threads", "1", "--output", str(tmp_path)])


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [("--output", "notes.txt", "name another folder"), ("--threads", "100000", "--threads: must be from 1 to")],
)
def test_options_are_checked_before_the_work(tmp_path, monkeypatch, capsys, option, value, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    monkeypatch.setattr(speed, "_measure", lambda *arguments: pytest.fail("measured"))
    with pytest.raises(SystemExit):
        main(["--only", "batch", option, value])
    assert message in capsys.readouterr().err


def test_length_measures_time_and_memory_of_each_length(small_suite):
    rows = measure_section("length", SMALL, "cpu", 1)
    measured = {(x.case.contender, x.case.frames) for x in rows if x.seconds and x.peak_bytes is not None}
    assert measured == {("torch", 64), ("torch", 128), ("sequential", 64)}
    assert {x.left_out for x in rows if x.case.contender == "ast"} == {"AST-base takes 1024 frames only"}


def test_a_missing_device_is_an_error_that_names_the_remedy(monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit):
        main(["--device", "cuda"])
    assert "use --device cpu" in capsys.readouterr().err


def test_a_training_step_goes_backward_and_leaves_no_gradients():
    networks = Networks()
    step = networks.build_step(Case("torch", size="tiny", step="training", batch=2, frames=64))
    (network,) = networks.networks.values()
    gradients = []
    weight = next(network.parameters())
    weight.register_post_accumulate_grad_hook(lambda weight: gradients.append(weight.grad.abs().sum()))
    step()
    assert len(gradients) == 1
    assert gradients[0] > 0
    assert weight.grad is None


def test_contenders_that_differ_in_the_scan_share_a_network():
    networks = Networks()
    for contender in ("torch", "sequential", "no_scan"):
        networks.build_step(Case(contender, size="tiny"))
    assert len(networks.networks) == 1


def test_reasons_to_leave_a_case_out():
    assert reason_to_leave_out(Case("ast")) is None
    assert reason_to_leave_out(Case("ast", frames=CLIP_FRAMES + 1)) == "AST-base takes 1024 frames only"
    assert reason_to_leave_out(Case("mamba_ssm")) == "runs on CUDA only"
    assert "mamba_ssm" in reason_to_leave_out(Case("mamba_ssm", device="cuda"))
