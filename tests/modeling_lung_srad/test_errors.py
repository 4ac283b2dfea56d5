import pickle

import pytest

from modeling_lung_srad.errors import InputError, is_about_input, one_line, report, reports_input_errors


@pytest.mark.parametrize(
    ("remedy", "message"),
    [("record it again", "a  b.wav: is empty; record it again"), (None, "a  b.wav: is empty")],
)
def test_an_input_error_is_name_problem_and_remedy(remedy, message):
    error = InputError("a  b.wav", "is empty", remedy)
    assert str(error) == message
    assert (error.name, error.problem, error.remedy) == ("a  b.wav", "is empty", remedy)
    assert isinstance(error, ValueError)


def test_an_input_error_is_one_line():
    assert str(InputError("a\nb.wav", "is\nsilent", "record\nagain")) == "a b.wav: is silent; record again"


def test_an_input_error_comes_back_whole_from_another_process():
    error = pickle.loads(pickle.dumps(InputError("a\nb.wav", "is silent", "record again")))
    assert (type(error), error.name, error.problem, error.remedy) == (
        InputError,
        "a\nb.wav",
        "is silent",
        "record again",
    )


def test_a_place_is_put_in_front():
    error = InputError("std", "must be positive", "give 1").within("config.yaml")
    assert str(error) == "config.yaml: std: must be positive; give 1"
    assert error.remedy == "give 1"


def test_messages_of_libraries_become_one_short_line():
    assert one_line(RuntimeError("a\n  b")) == "a b"
    assert one_line(RuntimeError("ab" * 200), longest=3) == "aba"
    assert one_line(RuntimeError()) == "RuntimeError"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (InputError("a", "is wrong"), True),
        (FileNotFoundError(2, "No such file", "a"), True),
        (OSError(28, "No space left on device"), True),
        (OSError("a library says something"), False),
        (ValueError("shapes do not match"), False),
        (KeyError("weight"), False),
    ],
)
def test_errors_about_the_input_are_told_from_bugs(error, expected):
    assert is_about_input(error) is expected


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (InputError("a\x1b[2J.wav", "is silent", "record again"), r"a\x1b[2J.wav: is silent; record again"),
        (
            PermissionError(13, "Permission denied", "a"),
            "a: Permission denied; check the path, its permissions and the space on its disk",
        ),
    ],
)
def test_a_report_is_one_line_that_cannot_control_the_terminal(capsys, error, line):
    report(error)
    assert capsys.readouterr() == ("", f"lung-srad: error: {line}\n")


def _program(error):
    @reports_input_errors
    def program():
        if error is not None:
            raise error
        return 0

    return program


def test_a_program_reports_wrong_input_and_returns_2(capsys):
    assert _program(None)() == 0
    assert _program(InputError("a", "is wrong"))() == 2
    assert _program(FileNotFoundError(2, "No such file", "b"))() == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first == "lung-srad: error: a: is wrong"
    assert second.startswith("lung-srad: error: b: No such file; ")


@pytest.mark.parametrize("error", [ValueError("shapes do not match"), OSError("no system said this")])
def test_a_bug_in_a_program_keeps_its_traceback(error):
    with pytest.raises(type(error), match=str(error)):
        _program(error)()
