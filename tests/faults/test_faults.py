"""Commands under faults, at a few moments that are always the same; `make faults` draws many, for all commands."""

import signal

import pytest

from tests.faults.cases import CASES, NOT_PERMITTED_HERE
from tests.faults.commands import COMMANDS, write_inputs
from tests.faults.killing import Moment, Tally, attempt, live, run_undisturbed, start_process

NAMES = ("prepare simulated", "classify")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Recordings and a checkpoint; read only."""
    folder = tmp_path_factory.mktemp("faults")
    process = start_process(write_inputs, folder / "inputs", errors=folder / "errors")
    process.join()
    assert process.exitcode == 0, (folder / "errors").read_text()
    return folder / "inputs"


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", [command for command in COMMANDS if command.name in NAMES], ids=lambda command: command.name
)
def test_a_command_that_was_killed_ends_with_the_bytes_of_an_undisturbed_run(command, inputs, tmp_path):
    undisturbed = run_undisturbed(command, inputs, tmp_path / "undisturbed")
    moments = [
        Moment("byte", max(undisturbed.sizes) // 2),
        Moment("operation", undisturbed.operations // 2),
        Moment("operation", undisturbed.operations),
    ]
    tally = Tally()
    live(command, inputs, tmp_path / "life", moments, undisturbed, tally)
    assert tally.findings == []
    assert (tally.kills, tally.lives, tally.identical) == (3, 1, 1)


@pytest.mark.slow
def test_a_process_is_killed_at_its_byte_and_at_its_operation(inputs, tmp_path):
    (command,) = (command for command in COMMANDS if command.name == "classify")
    folder = tmp_path / "run"
    folder.mkdir()
    exit_code, _ = attempt(command, inputs, folder, Moment("byte", 2000))
    assert exit_code == -signal.SIGXFSZ
    assert (folder / "results.csv.partial").stat().st_size == 2000
    exit_code, _ = attempt(command, inputs, folder, Moment("operation", 1))
    assert exit_code == -signal.SIGKILL
    assert (folder / "results.csv.partial").stat().st_size == 2000


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_another_fault_gives_the_right_result_or_one_sentence(case, inputs, tmp_path):
    (command,) = (command for command in COMMANDS if command.name == "prepare simulated")
    undisturbed = run_undisturbed(command, inputs, tmp_path / "undisturbed")
    said = CASES[case](command, inputs, tmp_path / "run", undisturbed)
    if said == NOT_PERMITTED_HERE:
        pytest.skip(said)
    assert said == ""
