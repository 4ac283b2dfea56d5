"""Classifies one breathing cycle with an export of `lung-srad export`: onnxruntime and numpy, without torch.

    python examples/classify_onnx.py EXPORT_FOLDER CYCLE.wav

The sound is one cycle, at the rate of the checkpoint (16 kHz). Research software, not a medical device.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import soundfile
from numpy_features import FRAME_SECONDS, input_values, read_settings

if len(sys.argv) != 3:
    sys.exit("usage: python examples/classify_onnx.py EXPORT_FOLDER CYCLE.wav")
folder, recording = Path(sys.argv[1]), sys.argv[2]
if not (folder / "model.onnx").is_file():
    sys.exit(f"{folder}: lacks model.onnx; make it by `lung-srad export CHECKPOINT {folder}`")
settings = read_settings(folder)
try:
    waveform, sampling_rate = soundfile.read(recording, dtype="float32", always_2d=True)
except soundfile.SoundFileError as error:
    sys.exit(f"{recording}: cannot be read ({error}); name a sound file")
if sampling_rate != settings["sampling_rate"]:
    sys.exit(f"{recording}: has {sampling_rate} Hz; resample it to {settings['sampling_rate']} Hz")
if len(waveform) < FRAME_SECONDS * sampling_rate or not np.isfinite(waveform).all():
    sys.exit(f"{recording}: is shorter than {FRAME_SECONDS} s or has NaN or infinite samples; record it again")
session = onnxruntime.InferenceSession(folder / "model.onnx")
labels = json.loads(session.get_modelmeta().custom_metadata_map["labels"])
(logits,) = session.run(["logits"], {"input_values": input_values(waveform.mean(axis=1), settings)})
for index, logit in enumerate(logits[0]):
    print(f"{labels[str(index)]} {logit:.4f}")
