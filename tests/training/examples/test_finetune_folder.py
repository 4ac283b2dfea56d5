import subprocess
import sys

import pytest
import soundfile

from dataset_scripts.simulated import simulate_cycle
from modeling_lung_srad import LungSradForAudioClassification
from training.configuration import CONFIGS

SCRIPT = CONFIGS.parent / "examples" / "finetune_folder.py"


@pytest.mark.slow
def test_stock_trainer_fine_tunes_on_a_folder_of_wav_files_with_classes_of_its_own(tmp_path):
    for label, name in enumerate(("clear", "crackling")):
        (tmp_path / "sounds" / name).mkdir(parents=True)
        for patient in ("anna", "ben"):
            waveform = simulate_cycle(label, 1.5 + len(patient), sampling_rate=8000)
            soundfile.write(tmp_path / "sounds" / name / f"{patient}_1.wav", waveform, 8000)
    command = [sys.executable, str(SCRIPT), str(tmp_path / "sounds"), str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "on 2 cycles of patients held out (0.50 by chance)" in done.stdout
    assert "2 cycles of clear, crackling; saved to" in done.stdout
    assert "familiarity" not in done.stderr
    model = LungSradForAudioClassification.from_pretrained(tmp_path / "run")
    assert model.config.id2label == {0: "clear", 1: "crackling"}
    assert model.config.temperature is None
    assert model.config.familiarity_digest is None
    assert model.head.out_features == 2
