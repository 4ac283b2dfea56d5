"""Trains a classifier of respiratory cycles as a YAML configuration says.

Started as `lung-srad train CONFIG.yaml [key=value ...]`, or, for several devices or machines,
`accelerate launch training/run_training.py CONFIG.yaml [key=value ...]`. The same command again goes on from the last
checkpoint of a run that was interrupted. `seed=1..5` makes five runs, one after the other.
"""

import argparse
import copy
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel, default_data_collator, set_seed
from transformers.trainer_utils import rotate_checkpoints

from modeling_lung_srad import LungSradFeatureExtractor, LungSradForAudioClassification
from modeling_lung_srad.errors import InputError, one_line, reports_input_errors
from modeling_lung_srad.files.checkpoint_code import write_checkpoint_code
from training.arguments import RunArguments
from training.configuration import expand_seeds, read_configuration
from training.data.cycle_sources import CycleSource, RunSources, load_training_sources
from training.data.log_mel_dataset import LogMelDataset, compute_log_mel
from training.data.sampling import CycleSampler, sampling_weights
from training.data.stretches import StretchDataset, load_recordings
from training.evaluation import compute_metrics
from training.launch import check_launch, check_processes, check_same_folder
from training.metrics.icbhi_score.icbhi_measure import CLASS_NAMES
from training.model_setup import build_feature_extractor, build_model, check_fit
from training.objective import class_weights_from_labels
from training.post_training import fit_after_training
from training.record.earlier_stages import check_earlier_stages, read_earlier_stages
from training.record.run_folder import (
    CONFIGURATION,
    TEACHER_WEIGHTS,
    check_same_teachers,
    find_last_checkpoint,
    read_json,
    shaping_settings,
    writing_alone,
)
from training.record.run_summary import describe_outcome, describe_seeds, summarize
from training.record.training_record import TRAINING_SUMMARY
from training.report.files import write_json
from training.start_notes import say_start
from training.teachers.teachers import Teacher, Teachers, load_teachers
from training.trainer import LungSradTrainer
from training.training_arguments import LungSradTrainingArguments


@dataclass
class Run:
    """Everything that a run needs, checked and loaded, before anything is computed or written.

    `cycle_weights` are the chances of the training cycles, see `sampling_weights`; `started_from` is what
    `read_earlier_stages` says of the checkpoint to start from; the other names speak.
    """

    arguments: RunArguments
    training_arguments: LungSradTrainingArguments
    sources: RunSources
    cycle_weights: np.ndarray | None
    model: PreTrainedModel
    feature_extractor: LungSradFeatureExtractor
    last_checkpoint: Path | None
    started_from: dict[str, Any] | None
    teachers: list[Teacher]

    @property
    def output_dir(self) -> Path:
        return Path(str(self.training_arguments.output_dir))

    @property
    def labels(self) -> list[int]:
        """Classes of the training cycles, source after source."""
        return [label for source in self.sources.training for label in source.table["label"]]


@reports_input_errors
def train(config: str, overrides: Sequence[str] = ()) -> int:
    """Runs, or goes on with, the training that a configuration describes.

    Args:
        config (`str`): YAML file, see `training.arguments`.
        overrides (sequence of `str`): `key=value`; `seed=1..5` stands for five runs.

    Returns:
        `int`: exit code, 0, or 2 with one line on standard error where the configuration or the data cannot be used,
        or the training cannot go on.
    """
    summaries = []
    for overrides_of_seed in expand_seeds(config, overrides):
        arguments, training_arguments = read_configuration(config, overrides_of_seed)
        check_processes(training_arguments)
        summary_file = Path(str(training_arguments.output_dir)) / TRAINING_SUMMARY
        last_checkpoint = find_last_checkpoint(arguments, training_arguments)
        check_same_folder(training_arguments, last_checkpoint)
        summaries.append(summary_file)
        if summary_file.exists():
            read_json(summary_file, "summary")
            print(f"{summary_file}: this run is complete; choose another output_dir to train again")
            continue
        run = prepare(arguments, training_arguments, last_checkpoint)
        with writing_alone(training_arguments, last_checkpoint):
            run_training(run)
    if len(summaries) > 1 and training_arguments.process_index == 0:
        print(describe_seeds(summaries))
    return 0


def prepare(
    arguments: RunArguments, training_arguments: LungSradTrainingArguments, last_checkpoint: Path | None = None
) -> Run:
    """Loads the data and builds the model.

    Raises:
        InputError: what `load_training_sources`, `sampling_weights`, `CycleSampler`, `build_feature_extractor`,
            `build_model`, `check_fit`, `check_earlier_stages`, `load_teachers` or `check_same_teachers` cannot use, a
            batch too small for the contrastive loss, or `record_test` where nothing is scored.
    """
    if training_arguments.record_test and training_arguments.selection == "last" and arguments.data.validation == 0:
        raise InputError(
            "record_test",
            "the test part is scored where validation patients are, and data.validation is 0",
            "make that larger, or leave record_test out",
        )
    sources = load_training_sources(
        arguments.data, training_arguments.selection, training_arguments.record_test, arguments.sampling.left_out
    )
    names = [source.name for source in sources.training for _ in range(len(source.cycles))]
    labels = [label for source in sources.training for label in source.table["label"]]
    patients = [f"{source.name} {patient}" for source in sources.training for patient in source.table["patient"]]
    devices = [device for source in sources.training for device in source.table["device"]]
    weights = sampling_weights(names, labels, arguments.sampling, patients, devices)
    batch_size = training_arguments.train_batch_size
    CycleSampler(
        len(labels), batch_size * training_arguments.world_size, 0, weights, arguments.sampling.cycles_per_epoch
    )
    if arguments.augmentation.stretch_frames is None and (
        arguments.sampling.windows or arguments.data.simulated_events or arguments.data.other_sounds
    ):
        raise InputError(
            "sampling.windows, data.simulated_events, data.other_sounds",
            "go with augmentation.stretch_frames",
            "set it, such as to 128",
        )
    if arguments.data.other_sounds and (arguments.teacher.weight_of_labels or arguments.teacher.weight):
        raise InputError(
            "data.other_sounds",
            "have no class to learn",
            "set teacher.weight=0 and teacher.label_weight=0, or leave them out",
        )
    if arguments.objective.axes and batch_size < 2:
        raise InputError(
            "per_device_train_batch_size",
            f"{batch_size} leaves objective.mode {arguments.objective.mode!r} nothing to mix and to tell apart",
            "use 2 or more, better 16",
        )
    feature_extractor = build_feature_extractor(arguments.model)
    set_seed(training_arguments.seed)
    model = build_model(arguments.model)
    if isinstance(model, LungSradForAudioClassification):
        # Those of the checkpoint to start from were fitted to its weights.
        model.config.temperature = model.config.familiarity_digest = model.config.context_weight = None
        model.config.crackle_threshold = model.config.wheeze_threshold = None
    check_fit(model, feature_extractor, arguments)
    record, started_from = read_earlier_stages(arguments.model.checkpoint)
    check_earlier_stages(record, sources)
    teachers = load_teachers(arguments, feature_extractor)
    for teacher in teachers:
        check_earlier_stages(teacher.record, sources, f"teacher.checkpoints: {teacher.checkpoint}")
    check_same_teachers(last_checkpoint, [teacher.sha256 for teacher in teachers])
    return Run(
        arguments,
        training_arguments,
        sources,
        weights,
        model,
        feature_extractor,
        last_checkpoint,
        started_from,
        teachers,
    )


def run_training(run: Run) -> dict[str, Any]:
    """Trains, keeps the epoch that `selection` asks for, and writes checkpoint and summary to `output_dir`.

    Returns:
        `dict`: the content of `training_summary.json`.

    Raises:
        InputError: a loss that is NaN or infinite, a damaged checkpoint, a disk that cannot be written to, or no epoch
            to select; what was saved before is kept.
    """
    if run.training_arguments.process_index == 0 and run.last_checkpoint is None:
        augmentation, sampling = run.arguments.augmentation, run.arguments.sampling
        frames = augmentation.stretch_frames or augmentation.crop_frames or run.feature_extractor.num_frames
        cycles = sampling.cycles_per_epoch or len(run.labels)
        say_start(run.model, run.arguments.model.checkpoint, frames, run.training_arguments.num_train_epochs, cycles)
    trainer = build_trainer(run)
    if trainer.is_world_process_zero():
        run.output_dir.mkdir(parents=True, exist_ok=True)
        settings = shaping_settings(run.arguments, run.training_arguments)
        if run.teachers:
            settings[TEACHER_WEIGHTS] = [teacher.sha256 for teacher in run.teachers]
        write_json(run.output_dir / CONFIGURATION, settings)
    result = trainer.train(resume_from_checkpoint=str(run.last_checkpoint) if run.last_checkpoint else None)
    if run.training_arguments.load_best_model_at_end and trainer.state.best_model_checkpoint is None:
        raise InputError(
            run.output_dir,
            f"no checkpoint was scored, so that selection={run.training_arguments.selection} has none to keep",
            "lower eval_delay, eval_steps and save_steps, or use selection=last",
        )
    if trainer.is_world_process_zero():
        # A run that was killed between saving its last checkpoint and this saves no more.
        rotate_checkpoints(
            str(run.output_dir), run.training_arguments.save_total_limit, trainer.state.best_model_checkpoint
        )
    measured = trainer.evaluate() if trainer.eval_dataset is not None else {}
    familiarity = fit_after_training(trainer, run.sources)
    try:
        trainer.save_model()
        if familiarity is not None:
            familiarity.save(run.output_dir)
        if isinstance(run.model, LungSradForAudioClassification) and trainer.is_world_process_zero():
            write_checkpoint_code(run.output_dir)
    except (OSError, SafetensorError) as error:
        raise InputError(
            run.output_dir,
            f"the model cannot be written ({one_line(error)})",
            "free space on its disk and start the same command again",
        ) from error
    summary = summarize(
        run.arguments,
        run.training_arguments,
        run.sources,
        trainer,
        measured,
        result.metrics,
        started_from=run.started_from,
        teachers=[teacher.description for teacher in run.teachers],
        resumed=run.last_checkpoint is not None,
    )
    if trainer.is_world_process_zero():
        write_json(run.output_dir / TRAINING_SUMMARY, summary)
        print(f"{describe_outcome(summary)}; saved to {run.output_dir}")
    return summary


def build_trainer(run: Run) -> LungSradTrainer:
    """The trainer of a run, with the log-mel spectrograms of its cycles."""
    # A copy, since the settings of the run are those that the same command has the next time.
    arguments = copy.copy(run.training_arguments)
    monitored = run.sources.part("test" if arguments.selection == "test" else "validation")
    recorded = run.sources.test if arguments.record_test and arguments.selection != "test" else None
    if monitored is None:
        arguments.eval_strategy = "no"

    def cycles(sources: Sequence[CycleSource], part: str, augmented: bool) -> LogMelDataset:
        log_mel = compute_log_mel(sources, run.feature_extractor, torch.float16, f"log-mel, {part}")
        labels = [label for source in sources for label in source.table["label"]]
        return LogMelDataset(log_mel, labels, run.feature_extractor, run.arguments.augmentation if augmented else None)

    cycle_names = [name for source in run.sources.training for name in source.cycle_names]
    cycle_weights = run.cycle_weights
    training: LogMelDataset | StretchDataset
    if run.arguments.augmentation.stretch_frames is None:
        training = cycles(run.sources.training, "training", augmented=True)
    else:
        training = stretches(run)
        cycle_names = training.names
        cycle_weights = sampling_weights(
            training.sources, training.labels, run.arguments.sampling, training.patients, training.devices
        )
    return LungSradTrainer(
        model=run.model,
        args=arguments,
        objective=run.arguments.objective,
        class_weights=class_weights_from_labels(run.labels, len(CLASS_NAMES), run.arguments.objective.class_balance),
        train_dataset=training,
        eval_dataset=None if monitored is None else cycles([monitored], "selection", augmented=False),
        recorded_dataset=None if recorded is None else cycles([recorded], "test", augmented=False),
        processing_class=run.feature_extractor,
        data_collator=default_data_collator,
        compute_metrics=compute_metrics,
        cycle_weights=cycle_weights,
        cycles_per_epoch=run.arguments.sampling.cycles_per_epoch,
        cycle_names=cycle_names,
        teachers=Teachers(run.teachers, run.arguments.teacher) if run.teachers else None,
    )


def stretches(run: Run) -> StretchDataset:
    """The training stretches of a run, whose spectrograms are computed at every start: that takes a minute or two."""
    data = run.arguments.data
    recordings = load_recordings(
        run.sources.training, run.feature_extractor, data.sprsound, data.simulated_events, data.other_sounds
    )
    windows = run.arguments.sampling.windows > 0
    return StretchDataset(recordings, run.feature_extractor, run.arguments.augmentation, windows)


@reports_input_errors
def main(argv: Sequence[str] | None = None) -> int:
    """The command line of `accelerate launch training/run_training.py`."""
    parser = argparse.ArgumentParser(prog="run_training.py", description=__doc__)
    parser.add_argument("config", help="YAML file; training/configs has examples")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace those of the file")
    options = parser.parse_args(argv)
    check_launch()
    try:
        return train(options.config, options.overrides)
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


if __name__ == "__main__":
    exit_code = main()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        # Native threads of the process group may outlive it, and now and then end the process by SIGABRT when the
        # interpreter shuts down. All files are written and closed by now.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)
    sys.exit(exit_code)
