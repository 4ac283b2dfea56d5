"""A tiny classifier of simulated events, for benchmarks that need a model which hears them.

python -m benchmarks.event_detector FOLDER [--steps 800]

It has the features of the embedded checkpoint and learns from stretches of one second, with or without an event, of
recordings of [`simulate_event`] whose seeds no benchmark uses. It knows nothing of recordings of patients.
"""

import argparse
import sys
from collections.abc import Sequence

import numpy as np
import torch
from tqdm import tqdm

from dataset_scripts.simulated_events import simulate_event
from modeling_lung_srad import LungSradConfig, LungSradFeatureExtractor, LungSradForAudioClassification
from modeling_lung_srad.saliency import frame_times

NUM_RECORDINGS = 400
SECONDS = 8.0
SEED_OF_TRAINING = 77
STRETCH_FRAMES = 64
BATCH_SIZE = 32
EVENT_SHARE = 0.6
LEARNING_RATE = 1.5e-3


def train_event_detector(
    steps: int = 800, recordings: int = NUM_RECORDINGS
) -> tuple[LungSradForAudioClassification, LungSradFeatureExtractor]:
    """
    Trains it from scratch on the CPU; the same steps give the same weights on one machine.

    Args:
        steps (`int`, *optional*, defaults to 800): of 32 stretches.
        recordings (`int`, *optional*, defaults to 400): of 8 s, half of them with crackles and half with a wheeze.

    Returns:
        `tuple[LungSradForAudioClassification, LungSradFeatureExtractor]`: the model in evaluation mode.
    """
    torch.manual_seed(0)
    feature_extractor = LungSradFeatureExtractor(cycle_seconds=SECONDS, num_frames=512)
    config = LungSradConfig(
        dims=(24, 64, 128, 192), depths=(1, 1, 1, 1), gaussian_blocks=(0,), drop_path_rate=0.0, initializer_range=0.04
    )
    model = LungSradForAudioClassification(config).train()
    examples = _simulate(feature_extractor, recordings)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.1)
    generator = np.random.default_rng(0)
    progress = tqdm(range(steps), desc="training", unit="step", leave=False)
    for _ in progress:
        stretches, labels = _draw_batch(*examples, generator)
        loss = model(stretches, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        progress.set_postfix(loss=f"{loss.item():.2f}")
    return model.eval(), feature_extractor
