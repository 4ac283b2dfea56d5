import json

import pytest

from dataset_scripts.simulated import write_simulated
from training.configuration import CONFIGS
from training.record.training_record import TRAINING_SUMMARY
from training.run_training import train


@pytest.mark.slow
def test_whole_method_learns_simulated_sounds(tmp_path):
    """The longest test of all: a minute of training, on patients of whom each is heard once."""
    sounds = write_simulated(tmp_path / "sounds", patients=480, recordings_per_patient=1, sampling_rate=16000)
    settings = [f"data.icbhi={sounds}", f"output_dir={tmp_path / 'run'}", "use_cpu=true", "save_strategy=no"]
    assert train(str(CONFIGS / "simulated.yaml"), settings) == 0
    summary = json.loads((tmp_path / "run" / TRAINING_SUMMARY).read_text(encoding="utf-8"))
    assert summary["configuration"]["objective"]["mode"] == "dual"
    # The last epoch is kept, so the validation patients have chosen nothing.
    assert summary["selection"] == "last"
    assert summary["validation"]["score"] >= 0.85
