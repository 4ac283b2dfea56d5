"""A tiny classifier of simulated events, for benchmarks that need a model which hears them.

python -m benchmarks.event_detector FOLDER [--steps 800]

It has the features of the embedded checkpoint. It learns from recordings of [`simulate_event`] that no benchmark uses,
each beside the same recording without its event, so that nothing but the event tells them apart. It knows nothing of
recordings of patients.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.command import build_parser
from dataset_scripts.simulated_events import simulate_event
from modeling_lung_srad import LungSradConfig, LungSradFeatureExtractor, LungSradForAudioClassification
from modeling_lung_srad.configuration_lung_srad import CLASS_NAMES
from modeling_lung_srad.errors import reports_input_errors
from modeling_lung_srad.saliency import frame_times

SECONDS = 8.0
NUM_FRAMES = 512
NUM_RECORDINGS = 450
SEED = 77
LOUDEST_LEVEL = 3.0
INAUDIBLE_LEVEL = 1e-9
# Two thirds of the events are crackles, which are harder to learn.
EVENTS = (CLASS_NAMES.index("crackle"), CLASS_NAMES.index("crackle"), CLASS_NAMES.index("wheeze"))


@dataclass(frozen=True)
class Stage:
    """
    A part of the training. In a short stretch, an event is loud enough to begin with; in long ones, which come later,
    breath and heart sounds must not add up to an event.

    Args:
        share (`float`): of all steps.
        frames (`int`): length of the stretches.
        pairs (`int`): a batch, each a stretch with its event and without.
        learning_rate (`float`): the largest.
    """

    share: float
    frames: int
    pairs: int
    learning_rate: float


STAGES = (Stage(0.65, 48, 16, 1.5e-3), Stage(0.35, 256, 5, 7e-4))


@dataclass(frozen=True)
class Example:
    """
    One simulated recording.

    Args:
        with_event (`torch.Tensor`): input of the model, shape `(frames, mel bins)`.
        without_event (`torch.Tensor`): the same of the same breathing, heart and noise alone.
        label (`int`): class of the event.
        first (`int`): frame in which the event starts.
        last (`int`): frame in which it ends.
    """

    with_event: torch.Tensor
    without_event: torch.Tensor
    label: int
    first: int
    last: int

    def draw_stretch(self, frames: int, generator: np.random.Generator) -> slice:
        """Frames with the whole event, or with nothing else where it is longer."""
        earliest, latest = np.clip(sorted((self.last - frames, self.first)), 0, len(self.with_event) - frames)
        start = int(generator.integers(earliest, latest + 1))
        return slice(start, start + frames)


def train_event_detector(
    steps: int = 800,
) -> tuple[LungSradForAudioClassification, LungSradFeatureExtractor]:
    """
    Trains it from scratch, on the CPU, on 450 recordings of 8 s.

    Args:
        steps (`int`, *optional*, defaults to 800): number of batches.

    Returns:
        `tuple[LungSradForAudioClassification, LungSradFeatureExtractor]`: the model in evaluation mode.
    """
    torch.manual_seed(0)
    feature_extractor = LungSradFeatureExtractor(cycle_seconds=SECONDS, num_frames=NUM_FRAMES)
    config = LungSradConfig(
        dims=(24, 64, 128, 192), depths=(1, 1, 1, 1), gaussian_blocks=(0,), drop_path_rate=0.0, initializer_range=0.04
    )
    model = LungSradForAudioClassification(config).train()
    examples = [
        simulate_example(feature_extractor, index) for index in tqdm(range(NUM_RECORDINGS), "simulating", leave=False)
    ]
    for stage in STAGES:
        _train_stage(model, examples, stage, max(1, round(stage.share * steps)))
    return model.eval(), feature_extractor


def simulate_example(feature_extractor: LungSradFeatureExtractor, index: int) -> Example:
    """Training recording number `index`, whose event is one to three times as loud as usual."""
    label = EVENTS[index % len(EVENTS)]
    level = float(LOUDEST_LEVEL ** np.random.default_rng([SEED, index]).random())
    rate = feature_extractor.sampling_rate
    waveform, event = simulate_event(label, SECONDS, rate, np.random.default_rng([SEED, index]), level)
    alone, _ = simulate_event(label, SECONDS, rate, np.random.default_rng([SEED, index]), INAUDIBLE_LEVEL)
    with_event, without_event = feature_extractor([waveform, alone], sampling_rate=rate, return_tensors="pt")[
        "input_values"
    ]
    first, last = np.searchsorted(frame_times(feature_extractor), (event.start, event.end))
    return Example(with_event, without_event, label, int(first), int(last))


def _train_stage(model: LungSradForAudioClassification, examples: Sequence[Example], stage: Stage, steps: int) -> None:
    generator = np.random.default_rng(stage.frames)
    optimizer = torch.optim.AdamW(model.parameters(), lr=stage.learning_rate, betas=(0.9, 0.95), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, stage.learning_rate, total_steps=steps, pct_start=0.1)
    progress = tqdm(range(steps), f"training on {stage.frames} frames", unit="step", leave=False)
    average_loss = None
    for _ in progress:
        inputs, labels = [], []
        for example in (examples[index] for index in generator.integers(len(examples), size=stage.pairs)):
            stretch = example.draw_stretch(stage.frames, generator)
            inputs += [example.with_event[stretch], example.without_event[stretch]]
            labels += [example.label, CLASS_NAMES.index("normal")]
        loss = model(torch.stack(inputs), labels=torch.tensor(labels)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        average_loss = loss.item() if average_loss is None else 0.95 * average_loss + 0.05 * loss.item()
        progress.set_postfix(loss=f"{average_loss:.3f}")


@reports_input_errors
def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = build_parser("event_detector", __doc__)
    parser.add_argument("folder", help="where the checkpoint goes")
    parser.add_argument("--steps", type=int, default=800, help="(default: 800)")
    options = parser.parse_args(argv)
    if options.steps < 2:
        parser.error("give at least 2 steps")
    model, feature_extractor = train_event_detector(options.steps)
    model.save_pretrained(options.folder)
    feature_extractor.save_pretrained(options.folder)
    print(f"saved to {options.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
