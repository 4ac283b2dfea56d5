"""The command from its arguments to its files, on a suite of tiny shapes."""

import itertools
import json
import shutil
import subprocess
import sys
from concurrent.futures.process import BrokenProcessPool

import pytest
import torch

from benchmarks import sections, speed
from benchmarks.cases import Case, Measurement, Networks, reason_to_leave_out
from benchmarks.peers import CLIP_FRAMES
from benchmarks.report import to_json
from benchmarks.sections import SUITES, Suite, measure_section
from benchmarks.speed import describe_code, main

SMALL = Suite(("tiny",), (1, 2), (64, 128), longest_sequential=64, peers_everywhere=False, rounds=2)


@pytest.fixture
def small_suite(monkeypatch):
    """The quick suite becomes tiny, and runs in this process, with code of a known commit."""
    monkeypatch.setitem(SUITES, "quick", SMALL)
    monkeypatch.setattr(speed, "describe_code", lambda: "0123abc")
    for module in (speed, sections):
        monkeypatch.setattr(module, "in_process_of_its_own", lambda function, *arguments: function(*arguments))


def test_a_section_writes_all_its_results(small_suite, tmp_path, capsys):
    output = tmp_path / "results"
    assert main(["--only", "batch", "--threads", "1", "--output", str(output)]) == 0
    assert capsys.readouterr().out == f"{output}/speed.md\n"
    written = json.loads((output / "speed.json").read_text(encoding="utf-8"))
    rows = written["sections"]["batch"]["measurements"]
    measured = [(row["case"]["batch"], row["threads"], len(row["seconds"])) for row in rows if row["seconds"]]
    assert measured == [(1, 1, 3), (2, 1, 3)]
    assert written["sections"]["batch"]["command"].endswith(f"--threads 1 --output {output}")


@pytest.fixture
def measured(monkeypatch):
    """Keeps the requested measurements; each takes one second."""
    calls = []

    def measure(name, threads, options):
        calls.append((name, threads))
        return {"measurements": [to_json(Measurement(Case("torch"), name, threads, [1.0]))]}

    monkeypatch.setattr(speed, "_cores", lambda: 2)
    monkeypatch.setattr(speed, "_measure", measure)
    return calls


def test_a_run_goes_on_where_one_before_it_ended(small_suite, measured, tmp_path, capsys):
    assert main(["--only", "batch", "--threads", "1", "--output", str(tmp_path)]) == 0
    assert main(["--only", "one_clip", "batch", "--threads", "1", "2", "--output", str(tmp_path)]) == 0
    assert measured == [("batch", 1), ("one_clip", 1), ("one_clip", 2), ("batch", 2)]
    assert "batch, 1 threads: is there already" in capsys.readouterr().err
    written = json.loads((tmp_path / "speed.json").read_text(encoding="utf-8"))["sections"]
    assert {name: [row["threads"] for row in section["measurements"]] for name, section in written.items()} == {
        "batch": [1, 2],
        "one_clip": [1, 2],
    }
    assert set(written["batch"]["seconds"]) == {"1", "2"}


def test_a_run_that_is_killed_keeps_what_it_measured(small_suite, measured, monkeypatch, tmp_path):
    measure = speed._measure

    def interrupted(name, threads, options):
        if (name, threads) == ("batch", 2):
            raise KeyboardInterrupt
        return measure(name, threads, options)

    monkeypatch.setattr(speed, "_measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        main(["--only", "batch", "--threads", "1", "2", "--output", str(tmp_path)])
    assert set(json.loads((tmp_path / "speed.json").read_text(encoding="utf-8"))["sections"]["batch"]["seconds"]) == {
        "1"
    }


def test_again_measures_anew_what_is_asked_for_only(small_suite, measured, tmp_path):
    main(["--only", "batch", "--threads", "1", "2", "--output", str(tmp_path)])
    main(["--only", "batch", "--threads", "1", "--again", "--output", str(tmp_path)])
    assert measured == [("batch", 1), ("batch", 2), ("batch", 1)]
    rows = json.loads((tmp_path / "speed.json").read_text(encoding="utf-8"))["sections"]["batch"]["measurements"]
    assert [row["threads"] for row in rows] == [2, 1]


@pytest.mark.parametrize(
    ("before", "now"), [("0123abc", "4567def"), ("0123abc, modified", "0123abc, modified"), ("unknown", "unknown")]
)
def test_results_of_other_code_are_not_mixed_in(small_suite, measured, monkeypatch, tmp_path, capsys, before, now):
    monkeypatch.setattr(speed, "describe_code", lambda: before)
    main(["--only", "one_clip", "batch", "--threads", "1", "--output", str(tmp_path)])
    monkeypatch.setattr(speed, "describe_code", lambda: now)
    main(["--only", "batch", "--threads", "1", "--output", str(tmp_path)])
    assert measured == [("one_clip", 1), ("batch", 1), ("batch", 1)]
    message = f"one_clip is left out: it is not known to be of the same code ({before}; here {now})"
    assert message in capsys.readouterr().err
    written = json.loads((tmp_path / "speed.json").read_text(encoding="utf-8"))
    assert {name: section["code"] for name, section in written["sections"].items()} == {"batch": now}
    assert f", code {now}\n" in (tmp_path / "speed.md").read_text(encoding="utf-8")


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_code_is_a_commit_with_a_note_of_changes(tmp_path):
    def git(*arguments):
        identity = ("-c", "user.name=name", "-c", "user.email=name@example.org")
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    assert describe_code(tmp_path) == "unknown"
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks/speed.py").write_text("1", encoding="utf-8")
    git("init")
    git("add", ".")
    git("commit", "--message", "first")
    (tmp_path / "notes.txt").write_text("of no account", encoding="utf-8")
    assert describe_code(tmp_path) == git("rev-parse", "HEAD")
    (tmp_path / "benchmarks/speed.py").write_text("2", encoding="utf-8")
    assert describe_code(tmp_path) == git("rev-parse", "HEAD") + ", modified"


def test_without_git_code_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert describe_code() == "unknown"


def test_the_output_folder_is_that_of_suite_and_device(small_suite, measured, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(["--only", "batch", "--threads", "1"])
    assert (tmp_path / "runs/benchmarks/quick-cpu/speed.json").is_file()


@pytest.mark.parametrize(
    "error", [BrokenProcessPool("killed"), torch.OutOfMemoryError("CUDA out of memory."), MemoryError()], ids=repr
)
def test_want_of_memory_is_one_line_and_keeps_the_other_sections(
    small_suite, measured, monkeypatch, tmp_path, capsys, error
):
    main(["--only", "batch", "--threads", "1", "--output", str(tmp_path)])

    def fail(*arguments):
        raise error

    monkeypatch.setattr(speed, "_measure", fail)
    capsys.readouterr()
    assert main(["--only", "length", "--threads", "1", "--output", str(tmp_path)]) == 1
    message = "length: its process was killed or failed, probably for want of memory; what was measured before it"
    assert message in capsys.readouterr().err
    assert set(json.loads((tmp_path / "speed.json").read_text(encoding="utf-8"))["sections"]) == {"batch"}


def test_other_errors_are_not_taken_for_want_of_memory(small_suite, monkeypatch, tmp_path):
    def fail(*arguments):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(speed, "_measure", fail)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        main(["--only", "batch", "--threads", "1", "--output", str(tmp_path)])


def test_times_stay_where_memory_cannot_be_measured(monkeypatch):
    def die(*arguments):
        raise BrokenProcessPool("killed")

    monkeypatch.setattr(sections, "in_process_of_its_own", die)
    timed = [Measurement(Case("torch"), "training", 1, [1.0])]
    assert sections._with_memory(timed, 1) == timed
    assert timed[0].peak_bytes is None


def test_results_of_another_machine_are_not_mixed_in(small_suite, tmp_path, capsys):
    earlier = {"machine": {"processor": "abacus"}, "suite": "quick", "device": "cpu", "sections": {}}
    (tmp_path / "speed.json").write_text(json.dumps(earlier), encoding="utf-8")
    assert main(["--only", "batch", "--threads", "1", "--output", str(tmp_path)]) == 2
    assert "another machine" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["{", "{}", "[]"])
def test_results_that_cannot_be_read_are_named(tmp_path, capsys, text):
    (tmp_path / "speed.json").write_text(text, encoding="utf-8")
    assert main(["--only", "batch", "--threads", "1", "--output", str(tmp_path)]) == 2
    assert "speed.json: cannot be read as results; delete it" in capsys.readouterr().err


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
    ours = "torch" if reason_to_leave_out(Case("numba")) else "numba"
    assert measured == {(ours, 64), (ours, 128), ("sequential", 64)}
    assert {x.left_out for x in rows if x.case.contender == "ast"} == {"AST-base takes 1024 frames only"}


@pytest.mark.parametrize(("reason", "expected"), [(None, ["numba"]), ("numba cannot be imported", ["numba", "torch"])])
def test_on_a_cpu_the_torch_scan_takes_part_as_a_peer_or_where_numba_cannot_run(monkeypatch, reason, expected):
    monkeypatch.setattr(sections, "reason_to_leave_out", lambda case: reason)
    assert sections._own("cpu", also_torch=False) == expected
    assert sections._own("cpu", also_torch=True) == ["numba", "torch"]
    assert "numba" not in sections._own("cuda", also_torch=True)


def test_sizes_of_goals_get_one_clip_and_a_training_step_without_slow_peers(monkeypatch):
    suite = Suite(
        ("medium",), (1,), (64,), longest_sequential=0, peers_everywhere=False, rounds=1, sizes_of_goals=("tiny",)
    )
    monkeypatch.setattr(sections, "_measure_groups", lambda section, groups, threads, rounds: groups)
    monkeypatch.setattr(sections, "_with_memory", lambda groups, threads: groups)
    measured = {}
    for name, section in sections.SECTIONS.items():
        for case in itertools.chain(*section(suite, "cpu", 1)):
            measured.setdefault((name, case.size), []).append(case.contender)
    assert {name for name, size in measured if size == "tiny"} == {"one_clip", "training"}
    assert measured["one_clip", "tiny"] == ["numba", "torch", "no_scan"]
    assert measured["one_clip", "medium"] == ["numba", "torch", "no_scan", "sequential", "ast"]
    assert measured["training", "tiny"] == ["numba", "torch"]
    assert measured["training", "medium"] == ["numba", "torch", "sequential"]


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


def test_reasons_to_leave_a_case_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "mamba_ssm.ops.selective_scan_interface", None)
    assert reason_to_leave_out(Case("ast")) is None
    assert reason_to_leave_out(Case("ast", frames=CLIP_FRAMES + 1)) == "AST-base takes 1024 frames only"
    assert reason_to_leave_out(Case("mamba_ssm")) == "runs on CUDA only"
    assert reason_to_leave_out(Case("numba", device="cuda")) == "runs on a CPU only"
    assert "mamba_ssm" in reason_to_leave_out(Case("mamba_ssm", device="cuda"))
