"""Summary of a finished training run, `training_summary.json`, and the table of several seeds."""

import dataclasses
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from training.arguments import RunArguments
from training.data.cycle_sources import RunSources, describe_limits
from training.metrics.icbhi_score.icbhi_measure import RATES
from training.record.earlier_stages import earlier_stage_notes
from training.record.run_folder import training_settings
from training.record.training_record import record_of
from training.trainer import LungSradTrainer
from training.training_arguments import LungSradTrainingArguments

TEST_SELECTION_NOTE = "Selected on the test set (the protocol of the paper and of most of the field): optimistic."


def summarize(
    arguments: RunArguments,
    training_arguments: LungSradTrainingArguments,
    sources: RunSources,
    trainer: LungSradTrainer,
    measured: dict[str, float],
    train_metrics: dict[str, float],
    started_from: dict[str, Any] | None = None,
    teachers: Sequence[dict[str, Any]] = (),
    resumed: bool = False,
) -> dict[str, Any]:
    """The content of `training_summary.json`.

    Args:
        measured (`dict`): rates of the epoch that was kept, as `LungSradTrainer.evaluate` returns them.
        train_metrics (`dict`): what `Trainer.train` returns.
        started_from (`dict`, *optional*): what `read_earlier_stages` says of the checkpoint to start from.
        teachers (sequence of `dict`, *optional*): `description` of each [`Teacher`].
        resumed (`bool`, *optional*, defaults to `False`): whether the run went on from a checkpoint, so that the time
            of its training is not known.

    Returns:
        `dict`: `selection` says on which part the epoch was chosen, `scored_part` which one the rates under it and in
        `history` are of, `notes` what must stand beside them. `started_from` and `teachers` are as given. With
        `record_test`, `protocols` holds the test rates of the epoch that each rule of selection would have reported.
    """
    selection = training_arguments.selection
    part = "test" if selection == "test" else "validation"
    scored = sources.part(part)
    history = _history(trainer, part)
    sections = dataclasses.asdict(arguments)
    # The summary travels with the checkpoint; where files lie on this machine does not.
    for section, key in (("data", "icbhi"), ("data", "sprsound"), ("model", "checkpoint")):
        if sections[section][key] is not None:
            sections[section][key] = Path(sections[section][key]).name
    sections["teacher"]["checkpoints"] = [Path(name).name for name in sections["teacher"]["checkpoints"]]
    validation_patients = sorted(set(sources.validation.table["patient"])) if sources.validation else []
    summary: dict[str, Any] = {
        "selection": selection,
        "best_step": trainer.state.global_step if selection == "last" else trainer.state.best_global_step,
        "scored_part": part,
        part: {key.removeprefix("eval_"): value for key, value in measured.items() if key.startswith("eval_")},
        "notes": ([TEST_SELECTION_NOTE] if selection == "test" else [])
        + ([] if scored is None else describe_limits(scored, arguments.data.split, part)),
        "validation_patients": validation_patients,
        "training_patients": {source.kind: sorted(set(source.table["patient"])) for source in sources.training},
        "started_from": started_from,
        "teachers": list(teachers),
        "cycles": {"training": {source.name: source.count() for source in sources.training}}
        | {name: {source.name: source.count()} for name in ("validation", "test") if (source := sources.part(name))},
        "history": history,
        "parameters": trainer.training_model.classifier.num_parameters(),
        "training_seconds": None if resumed else train_metrics["train_runtime"],
        "processes": training_arguments.world_size,
        "configuration": sections | {"training": training_settings(training_arguments)},
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
    summary["notes"] += earlier_stage_notes(record_of(summary), arguments.data.split)
    if training_arguments.record_test:
        summary["protocols"] = _protocols(history, training_arguments)
    return summary


def describe_outcome(summary: dict[str, Any]) -> str:
    """One sentence about a finished run, with what must be said beside its Score."""
    part = summary["scored_part"]
    if "score" not in summary[part]:
        return "trained; nothing was scored"
    return " ".join([f"{part} Score {summary[part]['score']:.4f}.", *summary["notes"]]).rstrip(".")


def describe_seeds(summaries: Sequence[Path]) -> str:
    """A Markdown table of several runs, a row each and their mean ± sample standard deviation, rates in percent."""
    runs = [json.loads(path.read_text(encoding="utf-8")) for path in summaries]
    part = runs[0]["scored_part"]
    scored = [run[part] for run in runs if "score" in run[part]]
    if len(scored) < len(runs):
        return f"{len(runs)} runs are complete; nothing was scored"
    lines = [f"| {part} of | " + " | ".join(RATES) + " |", "|" + " --- |" * (len(RATES) + 1)]
    for path, rates in zip(summaries, scored, strict=True):
        lines.append(f"| {path.parent.name} | " + " | ".join(f"{100 * rates[rate]:.2f}" for rate in RATES) + " |")
    cells = []
    for rate in RATES:
        values = [100 * rates[rate] for rates in scored]
        cells.append(f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}")
    lines += ["| mean ± std | " + " | ".join(cells) + " |", "", *runs[0]["notes"]]
    return "\n".join(lines)


def _history(trainer: LungSradTrainer, part: str) -> list[dict[str, Any]]:
    """Each evaluated step: `step`, `epoch`, and the rates and the loss of each part that was scored."""
    names = {"eval_": part, "test_": "test"}
    steps: dict[int, dict[str, Any]] = {}
    for entry in trainer.state.log_history:
        for prefix, name in names.items():
            if f"{prefix}score" in entry:
                kept = {rate: entry[f"{prefix}{rate}"] for rate in ("loss", *RATES)}
                row = steps.setdefault(int(entry["step"]), {"step": entry["step"], "epoch": entry["epoch"]})
                # The final evaluation repeats the step of the last epoch with the weights that were kept.
                row.setdefault(name, kept)
    return list(steps.values())


def _protocols(history: list[dict[str, Any]], arguments: LungSradTrainingArguments) -> dict[str, Any]:
    """Test rates under each rule of selection, from the same run; each rule takes the first best epoch."""
    metric, sign = arguments.metric_for_best_model, 1 if arguments.greater_is_better else -1
    epochs = [row for row in history if "test" in row]
    rules = {"last": epochs[-1], "test": max(epochs, key=lambda row: sign * row["test"][metric])}
    with_validation = [row for row in epochs if "validation" in row]
    if with_validation:
        rules["validation"] = max(with_validation, key=lambda row: sign * row["validation"][metric])
    return {name: {"epoch": row["epoch"], "test": row["test"]} for name, row in sorted(rules.items())}
