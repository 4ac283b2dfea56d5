"""Classifies one breathing cycle with an export of `lung-srad export`: onnxruntime and numpy, without torch.

    python examples/classify_onnx.py EXPORT_FOLDER CYCLE.wav

The sound is one cycle, at the rate of the checkpoint (16 kHz). Research software, not a medical device.
"""

import json
import sys
from pathlib import Path

import onnxruntime
import soundfile
from numpy_features import input_values, read_settings

folder, recording = Path(sys.argv[1]), sys.argv[2]
settings = read_settings(folder)
waveform, sampling_rate = soundfile.read(recording, dtype="float32", always_2d=True)
if sampling_rate != settings["sampling_rate"]:
    sys.exit(f"{recording}: has {sampling_rate} Hz; resample it to {settings['sampling_rate']} Hz")
session = onnxruntime.InferenceSession(folder / "model.onnx")
labels = json.loads(session.get_modelmeta().custom_metadata_map["labels"])
(logits,) = session.run(["logits"], {"input_values": input_values(waveform.mean(axis=1), settings)})
for index, logit in enumerate(logits[0]):
    print(f"{labels[str(index)]} {logit:.4f}")
