"""The command line of `python -m benchmarks.training_cost`."""

import pytest

from benchmarks import training_cost


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--frames", "0", "--frames, --batch-size and --repeats must be positive"),
        ("--batch-size", "-1", "--frames, --batch-size and --repeats must be positive"),
        ("--repeats", "0", "--frames, --batch-size and --repeats must be positive"),
        ("--output", ".", "--output .: is a folder; name a file in it"),
        ("--output", "missing/costs.json", "its folder missing does not exist; make it first"),
    ],
)
def test_options_are_checked_before_the_work(tmp_path, monkeypatch, capsys, option, value, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(training_cost, "time_steps", lambda *arguments: pytest.fail("measured"))
    with pytest.raises(SystemExit) as caught:
        training_cost.main([option, value])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
