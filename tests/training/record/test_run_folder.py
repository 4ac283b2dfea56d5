"""One run at a time in a folder; `tests/training/test_run_training.py` has what may be gone on with."""

import json
from types import SimpleNamespace

import pytest

from modeling_lung_srad.errors import InputError
from training.record.run_folder import writing_alone
from training.record.training_record import TRAINING_SUMMARY


def arguments(folder, process=0):
    return SimpleNamespace(output_dir=str(folder), process_index=process)


def test_a_second_run_in_a_folder_is_refused_and_the_processes_of_one_run_are_not(tmp_path):
    folder = tmp_path / "runs" / "first"
    with writing_alone(arguments(folder), None):
        with (
            pytest.raises(InputError, match="first: another run is writing there"),
            writing_alone(arguments(folder), None),
        ):
            pass
        with writing_alone(arguments(folder, process=1), None):
            pass
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("written", [TRAINING_SUMMARY, "checkpoint-4"])
def test_a_run_that_another_one_overtook_is_refused(tmp_path, written):
    if written == TRAINING_SUMMARY:
        (tmp_path / written).write_text("{}")
    else:
        (tmp_path / written).mkdir()
        (tmp_path / written / "trainer_state.json").write_text(json.dumps({"global_step": 4}))
    with (
        pytest.raises(InputError, match="another run has written there meanwhile"),
        writing_alone(arguments(tmp_path), None),
    ):
        pass
