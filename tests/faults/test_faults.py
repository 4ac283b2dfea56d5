"""Commands under faults, at a few moments that are always the same; `make faults` draws many, for all commands."""

import signal

import pytest

from tests.faults.cases import CASES, NOT_PERMITTED_HERE
from tests.faults.commands import COMMANDS, write_inputs
from tests.faults.killing import Moment, Tally, attempt, live, run_undisturbed, start_process

BY_NAME = {command.name: command for command in COMMANDS}
SOUNDS, CLASSIFY = BY_NAME["prepare simulated"], BY_NAME["classify"]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Recordings and a checkpoint; read only."""
    folder = tmp_path_factory.mktemp("faults")
    process = start_process(write_inputs, folder / "inputs", errors=folder / "errors")
    process.join()
    assert process.exitcode == 0, (folder / "errors").read_text()
    return folder / "inputs"


@pytest.fixture(scope="module")
def undisturbed(inputs, tmp_path_factory):
    """Runs that nothing disturbs, by command."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return {command: run_undisturbed(command, inputs, folder / command.result) for command in (SOUNDS, CLASSIFY)}


@pytest.mark.parametrize("command", [SOUNDS, CLASSIFY], ids=lambda command: command.name)
def test_a_command_that_was_killed_ends_with_the_bytes_of_an_undisturbed_run(command, inputs, undisturbed, tmp_path):
    run = undisturbed[command]
    moments = [
        Moment("byte", max(run.sizes) // 2),
        Moment("operation", run.operations // 2),
        Moment("operation", run.operations),
    ]
    tally = Tally()
    live(command, inputs, tmp_path / "life", moments, run, tally)
    assert tally.findings == []
    assert (tally.kills, tally.lives, tally.identical) == (3, 1, 1)


def test_a_process_is_killed_at_its_byte_and_at_its_operation(inputs, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    exit_code, _ = attempt(CLASSIFY, inputs, folder, Moment("byte", 2000))
    assert exit_code == -signal.SIGXFSZ
    assert (folder / "results.csv.partial").stat().st_size == 2000
    exit_code, _ = attempt(CLASSIFY, inputs, folder, Moment("operation", 1))
    assert exit_code == -signal.SIGKILL
    assert (folder / "results.csv.partial").stat().st_size == 2000


@pytest.mark.parametrize("case", CASES)
def test_another_fault_gives_the_right_result_or_one_sentence(case, inputs, undisturbed, tmp_path):
    said = CASES[case](SOUNDS, inputs, tmp_path / "run", undisturbed[SOUNDS])
    if said == NOT_PERMITTED_HERE:
        pytest.skip(said)
    assert said == ""
