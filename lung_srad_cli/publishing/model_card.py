"""The model card: YAML front matter for the Hub, and a text where the checkpoint brings none."""

import re
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard

from lung_srad_cli.publishing.checkpoint_folder import CheckpointFolder
from lung_srad_cli.publishing.evaluation_results import evaluation_results, figures_section
from lung_srad_cli.publishing.repository_files import OWN_PACKAGES
from lung_srad_cli.publishing.snippet import PYTHON_BLOCK, RECORDING, usage_snippet
from modeling_lung_srad.errors import InputError, one_line
from training.report.text import markdown_table

DEFAULT_LICENSE = "apache-2.0"
PIPELINE_TAG, LIBRARY = "audio-classification", "transformers"
TAGS = ("respiratory-sounds", "auscultation", "state-space-model")
DATASETS = {"icbhi": "icbhi_2017", "sprsound": "sprsound", "simulated": "simulated"}
DATASET_TITLES = {"icbhi": "ICBHI 2017", "sprsound": "SPRSound", "simulated": "simulated sounds"}
CYCLE_COLUMNS = ("cycles", "normal", "crackle", "wheeze", "both", "recordings", "patients")

PIPELINE_SNIPPET = """\
from transformers import pipeline

lung_sounds = pipeline(model="{repo_id}", trust_remote_code=True)
print(lung_sounds("{recording}")["summary"])
"""
CARD = """\
# {title}

Classifies breathing cycles, or windows of a lung sound recording, as `normal`, `crackle`, `wheeze` or `both`: a
[Lung-SRAD](https://arxiv.org/abs/2606.11922) network, a state space model on log-mel spectrograms, with
{parameters:,} parameters (dims {dims}, depths {depths}).

**Research software, not a medical device.** Do not use it for diagnosis or treatment.

{usage}
Input: mono, {rate} Hz, cycles of up to {seconds:g} s; of a longer one the beginning is used.

## Training data

{training}

## Figures

{figures}

## Limits

- People, devices, chest locations and rooms other than those of the training data are untested.
- Speech, handling noise, heart murmurs and sounds of other kinds are answered with one of the four classes, too.
- {calibration} They are not the risk of a disease.
"""
USAGE = """\
## Use

```python
{snippet}```
"""
NOT_MEASURED = "**Nothing was measured**: no evaluation report was given, so nothing is known about its accuracy."
CALIBRATED = "The pipeline divides the logits by a temperature that was fitted on validation patients."
NOT_CALIBRATED = "The probabilities are not calibrated."
NOT_RECORDED = "Not recorded: the checkpoint lacks a training summary."


def build_card(repo_id: str, folder: CheckpointFolder, report: dict[str, Any] | None, license_name: str | None) -> str:
    """
    The content of `README.md`.

    A card that the checkpoint brings keeps its text, with the id for the folder in its snippet, and another snippet in
    place of one that needs this package; its front matter is completed. Otherwise a text is written from
    configuration, training summary and report.

    Args:
        repo_id (`str`): such as `user/name`.
        folder ([`CheckpointFolder`]): the checkpoint.
        report (`dict`, *optional*): of `read_evaluation`.
        license_name (`str`, *optional*): identifier of the licence on the Hub; it replaces the licence of the card.

    Returns:
        `str`

    Raises:
        InputError: a card whose front matter cannot be read.
    """
    usage = USAGE.format(snippet=default_snippet(repo_id))
    if folder.card is None:
        text = _write_text(repo_id, folder, report, usage)
    else:
        text = for_strangers(with_id_for_folder(folder.card, folder.path, repo_id), default_snippet(repo_id))
        if not usage_snippet(text):
            text = f"{text.rstrip()}\n\n{usage}"
    return _with_front_matter(text, repo_id, folder.summary, report, license_name)


def default_snippet(repo_id: str) -> str:
    """Code that classifies `recording.wav` by the pipeline that travels with the checkpoint."""
    return PIPELINE_SNIPPET.format(repo_id=repo_id, recording=RECORDING)


def with_id_for_folder(card: str, checkpoint: Path, repo_id: str) -> str:
    """Puts the id in place of quoted paths of the checkpoint's folder in Python blocks."""
    folder = checkpoint.resolve()

    def replace(quoted: re.Match[str]) -> str:
        path = Path(quoted[2])
        is_folder = path.parts and (path == folder or (not path.is_absolute() and folder.match(quoted[2])))
        return f'"{repo_id}"' if is_folder else quoted[0]

    def replace_in_block(block: re.Match[str]) -> str:
        return re.sub(r"([\"'])([^\"'\n]+)\1", replace, block[0])

    return re.sub(r"^```python.*?^```", replace_in_block, card, flags=re.MULTILINE | re.DOTALL)


def for_strangers(card: str, snippet: str) -> str:
    """Puts a snippet in place of Python blocks that import this package, which strangers do not have."""
    imports = "|".join(OWN_PACKAGES)

    def replace(block: re.Match[str]) -> str:
        is_ours = re.search(rf"^\s*(?:from|import) (?:{imports})\b", block[1], flags=re.MULTILINE)
        return f"```python\n{snippet}```" if is_ours else block[0]

    return PYTHON_BLOCK.sub(replace, card)


def _write_text(repo_id: str, folder: CheckpointFolder, report: dict[str, Any] | None, usage: str) -> str:
    return CARD.format(
        title=repo_id.partition("/")[2],
        parameters=folder.num_parameters,
        dims=", ".join(map(str, folder.settings["dims"])),
        depths=", ".join(map(str, folder.settings["depths"])),
        usage=usage,
        rate=folder.extractor_settings.get("sampling_rate", 16000),
        seconds=folder.extractor_settings.get("cycle_seconds", 8.0),
        training=_training_section(folder.summary),
        figures=NOT_MEASURED if report is None else figures_section(report),
        calibration=CALIBRATED if folder.settings.get("temperature") else NOT_CALIBRATED,
    )


def _with_front_matter(
    text: str, repo_id: str, summary: dict[str, Any] | None, report: dict[str, Any] | None, license_name: str | None
) -> str:
    try:
        card = ModelCard(text if text.startswith("---") else f"---\n{{}}\n---\n\n{text}")
        data: Any = card.data
        data.tags = _united(data.tags, TAGS)
        trained_on = [DATASETS.get(name, name) for name in _training_counts(summary)]
        data.datasets = _united(data.datasets, trained_on) or None
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise InputError("README.md", f"its front matter cannot be read ({one_line(error)})", "correct it") from error
    data.library_name = data.library_name or LIBRARY
    data.pipeline_tag = data.pipeline_tag or PIPELINE_TAG
    data.license = license_name or data.license or DEFAULT_LICENSE
    if report is not None:
        data.model_name = repo_id.partition("/")[2]
        data.eval_results = evaluation_results(report)
    return str(card)


def _united(first: str | list[str] | None, second: Any) -> list[str]:
    """Both lists, without repetitions; one that is a single word counts as a list of it."""
    given = [first] if isinstance(first, str) else first or []
    return list(dict.fromkeys([*given, *second]))


def _training_counts(summary: dict[str, Any] | None) -> dict[str, dict[str, int]]:
    return ((summary or {}).get("cycles") or {}).get("training") or {}


def _training_section(summary: dict[str, Any] | None) -> str:
    counts = _training_counts(summary)
    if not counts:
        return NOT_RECORDED
    rows = [
        [DATASET_TITLES.get(name, name), *(f"{numbers.get(column, 0):,}" for column in CYCLE_COLUMNS)]
        for name, numbers in counts.items()
    ]
    lines = markdown_table(["data", *CYCLE_COLUMNS], rows)
    return "\n".join([*lines, "", "`training_summary.json` has the settings of the run and its epochs."])
