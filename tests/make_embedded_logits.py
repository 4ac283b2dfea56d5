"""Writes `tests/fixtures/embedded_logits.json`, to be run when the embedded checkpoint is replaced.

The network runs in float64 with a scan that takes one position after another, so not by the code paths that users run.
"""

import json

import numpy as np
import torch

from benchmarks.peers import replaced_scan, sequential_scan_2d
from modeling_lung_srad import LungSradFeatureExtractor, LungSradForAudioClassification
from modeling_lung_srad.checkpoint_loading import DEFAULT_CHECKPOINT
from tests.conftest import FIXTURES


def make_input() -> torch.Tensor:
    """A chirp and pulses of 4 s, `(1, frames, num_mel_bins)`."""
    time = np.arange(4 * 16000) / 16000
    waveform = 0.1 * np.sin(2 * np.pi * (200 + 100 * time) * time) + 0.3 * (np.sin(2 * np.pi * 5 * time) > 0.99)
    extractor = LungSradFeatureExtractor.from_pretrained(DEFAULT_CHECKPOINT)
    return extractor(waveform.astype(np.float32), sampling_rate=16000, return_tensors="pt")["input_values"]


if __name__ == "__main__":
    model = LungSradForAudioClassification.from_pretrained(DEFAULT_CHECKPOINT).double().eval()
    with torch.inference_mode(), replaced_scan(sequential_scan_2d):
        logits = model(make_input().double()).logits
    (FIXTURES / "embedded_logits.json").write_text(json.dumps(logits.tolist()) + "\n", encoding="utf-8")
