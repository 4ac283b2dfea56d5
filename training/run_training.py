"""Trains a classifier of respiratory cycles as a YAML configuration says.

Started as `lung-srad train CONFIG.yaml [key=value ...]`, or, for several devices or machines,
`accelerate launch training/run_training.py CONFIG.yaml [key=value ...]`. The same command again goes on from the last
checkpoint of a run that was interrupted.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import default_data_collator, set_seed
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from modeling_lung_srad import LungSradFeatureExtractor, LungSradForAudioClassification
from training.arguments import LungSradTrainingArguments, RunArguments
from training.configuration import ConfigurationError, read_configuration
from training.cycle_sources import CycleSource, describe_limits, load_training_sources
from training.evaluation import compute_metrics
from training.log_mel_dataset import LogMelDataset, compute_log_mel
from training.model_setup import build_feature_extractor, build_model
from training.trainer import LungSradTrainer, sampling_weights

SUMMARY = "training_summary.json"
CONFIGURATION = "training_configuration.json"


@dataclass
class Run:
    """Everything that a run needs, checked and loaded, before anything is computed or written.

    `cycle_weights` are the chances of the training cycles, see `sampling_weights`; the other names speak.
    """

    arguments: RunArguments
    training_arguments: LungSradTrainingArguments
    training: list[CycleSource]
    validation: CycleSource
    cycle_weights: np.ndarray | None
    model: LungSradForAudioClassification
    feature_extractor: LungSradFeatureExtractor
    last_checkpoint: Path | None

    @property
    def output_dir(self) -> Path:
        return Path(str(self.training_arguments.output_dir))


def train(config: str, overrides: Sequence[str] = ()) -> int:
    """Runs, or goes on with, the training that a configuration describes.

    Args:
        config (`str`): YAML file, see `training.arguments`.
        overrides (sequence of `str`): `key=value`.

    Returns:
        `int`: exit code, 0, or 2 with one line on standard error where the configuration or the data cannot be used.
    """
    try:
        arguments, training_arguments = read_configuration(config, overrides)
        summary_file = Path(str(training_arguments.output_dir)) / SUMMARY
        last_checkpoint = find_last_checkpoint(arguments, training_arguments)
        if summary_file.exists():
            print(f"{summary_file}: this run is complete; choose another output_dir to train again")
            return 0
        run = prepare(arguments, training_arguments, last_checkpoint)
    except (ValueError, OSError) as error:
        print(f"lung-srad train: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    run_training(run)
    return 0


def prepare(
    arguments: RunArguments, training_arguments: LungSradTrainingArguments, last_checkpoint: Path | None = None
) -> Run:
    """Loads the data and builds the model.

    Raises:
        ValueError: what `load_training_sources`, `sampling_weights`, `build_feature_extractor` or `build_model`
            cannot use, or network and features with different numbers of mel bins.
    """
    training, validation = load_training_sources(arguments.data)
    names = [source.name for source in training for _ in range(len(source.cycles))]
    labels = [label for source in training for label in source.table["label"]]
    weights = sampling_weights(names, labels, arguments.sampling)
    feature_extractor = build_feature_extractor(arguments.model)
    set_seed(training_arguments.seed)
    model = build_model(arguments.model)
    if model.config.num_mel_bins != feature_extractor.num_mel_bins:
        raise ConfigurationError(
            f"model.config.num_mel_bins: {model.config.num_mel_bins} is not model.feature_extractor.num_mel_bins, "
            f"{feature_extractor.num_mel_bins}; set both to the same number"
        )
    return Run(arguments, training_arguments, training, validation, weights, model, feature_extractor, last_checkpoint)


def run_training(run: Run) -> dict[str, Any]:
    """Trains, keeps the best epoch by validation Score, and writes checkpoint and summary to `output_dir`.

    Returns:
        `dict`: the content of `training_summary.json`.
    """
    labels = [label for source in run.training for label in source.table["label"]]
    # Half precision halves the memory; it rounds log energies by at most 0.004.
    training_log_mel = compute_log_mel(run.training, run.feature_extractor, torch.float16, "log-mel, training")
    validation_log_mel = compute_log_mel([run.validation], run.feature_extractor, torch.float16, "log-mel, validation")
    trainer = LungSradTrainer(
        model=run.model,
        args=run.training_arguments,
        train_dataset=LogMelDataset(training_log_mel, labels, run.feature_extractor, run.arguments.augmentation),
        eval_dataset=LogMelDataset(validation_log_mel, run.validation.table["label"], run.feature_extractor),
        processing_class=run.feature_extractor,
        data_collator=default_data_collator,
        compute_metrics=compute_metrics,
        cycle_weights=run.cycle_weights,
        cycles_per_epoch=run.arguments.sampling.cycles_per_epoch,
    )
    if trainer.is_world_process_zero():
        _write_json(run.output_dir / CONFIGURATION, _shaping(run.arguments, run.training_arguments))
    result = trainer.train(resume_from_checkpoint=str(run.last_checkpoint) if run.last_checkpoint else None)
    best = trainer.evaluate()
    trainer.save_model()
    # The Trainer's pickle of its arguments says nothing that the summary does not.
    (run.output_dir / TRAINING_ARGS_NAME).unlink(missing_ok=True)
    summary = _summarize(run, trainer, best, result.metrics["train_runtime"])
    if trainer.is_world_process_zero():
        _write_json(run.output_dir / SUMMARY, summary)
        print(f"validation Score {summary['validation']['score']:.4f}; saved to {run.output_dir}")
    return summary


def find_last_checkpoint(arguments: RunArguments, training_arguments: LungSradTrainingArguments) -> Path | None:
    """The last complete checkpoint in `output_dir`, or `None` for a fresh start.

    Raises:
        ConfigurationError: `output_dir` holds something else, or a run with other settings.
    """
    output_dir = Path(str(training_arguments.output_dir))
    # Of several processes the first one checks, since it may be writing there while another one looks.
    if training_arguments.process_index == 0:
        _check_output_dir(output_dir, _shaping(arguments, training_arguments))
    # The state is the last file that the Trainer writes: without it the checkpoint was cut short.
    complete = [path.parent for path in output_dir.glob(f"{PREFIX_CHECKPOINT_DIR}-*/{TRAINER_STATE_NAME}")]
    return max(complete, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def _check_output_dir(output_dir: Path, shaping: dict[str, Any]) -> None:
    if output_dir.exists() and not output_dir.is_dir():
        raise ConfigurationError(f"{output_dir}: output_dir is a file; choose a folder")
    if not output_dir.exists() or not any(output_dir.iterdir()):
        return
    configuration = output_dir / CONFIGURATION
    if not configuration.exists():
        raise ConfigurationError(f"{output_dir}: is not empty and not the folder of a run; choose another output_dir")
    # A run that stopped before its first checkpoint has nothing to protect.
    if not any(output_dir.glob(f"{PREFIX_CHECKPOINT_DIR}-*")) and not any(output_dir.glob("*.safetensors")):
        return
    before = json.loads(configuration.read_text(encoding="utf-8"))
    now = json.loads(json.dumps(shaping))
    changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    if changed:
        raise ConfigurationError(
            f"{output_dir}: holds a run with another {', '.join(changed)}; use the same settings to go on, or choose "
            "another output_dir"
        )


def _shaping(arguments: RunArguments, training_arguments: LungSradTrainingArguments) -> dict[str, Any]:
    """The settings that shape the result, by dotted key."""
    shaping = {
        f"{section}.{key}": value
        for section, values in dataclasses.asdict(arguments).items()
        for key, value in values.items()
    }
    return shaping | _training_settings(training_arguments)


def _training_settings(training_arguments: LungSradTrainingArguments) -> dict[str, Any]:
    # How a run is logged, loaded and shared may change between its parts.
    operational = ("output_dir", "run_name", "dataloader", "log", "report_to", "disable_tqdm", "hub", "push")
    settings = training_arguments.to_sanitized_dict()
    return {key: value for key, value in settings.items() if not key.startswith(operational)}


def _summarize(run: Run, trainer: LungSradTrainer, best: dict[str, float], seconds: float) -> dict[str, Any]:
    history = [
        {key: value for key, value in entry.items() if key.startswith("eval_") or key in ("epoch", "step")}
        for entry in trainer.state.log_history
        if "eval_score" in entry
    ]
    sections = dataclasses.asdict(run.arguments)
    # The summary travels with the checkpoint; where files lie on this machine does not.
    for section, key in (("data", "icbhi"), ("data", "sprsound"), ("model", "checkpoint")):
        if sections[section][key] is not None:
            sections[section][key] = Path(sections[section][key]).name
    return {
        "selection": "best validation score" if run.training_arguments.load_best_model_at_end else "last epoch",
        "best_step": trainer.state.best_global_step,
        "validation": {key.removeprefix("eval_"): value for key, value in best.items()},
        "validation_notes": describe_limits(run.validation, run.arguments.data.split, "validation"),
        "validation_patients": sorted(set(run.validation.table["patient"])),
        "cycles": {
            "training": {source.name: source.count() for source in run.training},
            "validation": {run.validation.name: run.validation.count()},
        },
        "history": history,
        "parameters": run.model.num_parameters(),
        "training_seconds": seconds,
        "configuration": sections | {"training": _training_settings(run.training_arguments)},
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    partial.replace(path)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line of `accelerate launch training/run_training.py`."""
    parser = argparse.ArgumentParser(prog="run_training.py", description=__doc__)
    parser.add_argument("config", help="YAML file; training/configs has examples")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace those of the file")
    options = parser.parse_args(argv)
    return train(options.config, options.overrides)


if __name__ == "__main__":
    sys.exit(main())
