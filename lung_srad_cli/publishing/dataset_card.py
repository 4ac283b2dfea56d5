"""The data set card: where the data come from and under which terms, and how to get them."""

from typing import Any, NamedTuple

import yaml
from huggingface_hub import DatasetCard

from modeling_lung_srad.errors import InputError, one_line

TASK = "audio-classification"
TAGS = ("respiratory-sounds", "auscultation")


class Database(NamedTuple):
    """
    A database that `lung-srad prepare` knows.

    Args:
        title (`str`): its name.
        address (`str`): where its publishers offer it and state their terms.
        source (`str`): the publication to cite.
        terms (`str`): known terms of use.
        steps (`str`): commands that make labelled cycles of it.
    """

    title: str
    address: str
    source: str
    terms: str
    steps: str


DATABASES = {
    "icbhi": Database(
        "ICBHI 2017 Respiratory Sound Database",
        "https://bhichallenge.med.auth.gr",
        "Rocha et al. 2019, An open access database for the evaluation of respiratory sound classification "
        "algorithms, Physiological Measurement 40 035001. 920 recordings, 6,898 annotated cycles, 126 subjects.",
        "Its publishers make it available for research on their page and name no licence to redistribute it; what "
        "their page says applies.",
        "lung-srad prepare icbhi downloads/ prepared/ --download   # fetches it from its publishers",
    ),
    "sprsound": Database(
        "SPRSound, the SJTU Paediatric Respiratory Sound Database",
        "https://github.com/SJTU-YONGFU-RESEARCH-GRP/SPRSound",
        "Zhang et al. 2022, SPRSound: Open-Source SJTU Paediatric Respiratory Sound Database, IEEE Transactions on "
        "Biomedical Circuits and Systems 16(5).",
        "What its publishers say in their repository applies.",
        "git clone https://github.com/SJTU-YONGFU-RESEARCH-GRP/SPRSound\n"
        "lung-srad prepare sprsound SPRSound/ prepared/",
    ),
}
POINTER = """\
# {title}, for lung-srad

**This page holds no audio.** It says where the database is and how to turn it into labelled cycles.

- Source: {address}
- {source}
- Terms: {terms}

## Use

With lung-srad installed (its extra `train`):

```bash
{steps}
```

```python
from datasets import load_dataset

cycles = load_dataset("prepared/")  # one row a cycle, with its sound, label, patient, device and location
```

Research data: nothing that is made of them is a medical device.
"""
REHOSTED = """
## Source and terms

This is a converted copy. Whoever uploaded it stated to be allowed to redistribute it.

- Source: {address}
- {source}
- Terms: {terms}
"""


def pointer_card(database: Database, license_name: str | None) -> str:
    """A card for a repository without audio."""
    text = POINTER.format(**database._asdict())
    return _with_front_matter(text, database, database.title, license_name)


def audio_card(own_card: str, repo_id: str, database: Database | None, license_name: str | None) -> str:
    """
    The card of a prepared folder, for a repository that holds its Parquet files.

    Args:
        own_card (`str`): `README.md` that `lung-srad prepare` wrote.
        repo_id (`str`): such as `user/name`.
        database (`Database`, *optional*): that the audio is from; `None` for simulated sounds.
        license_name (`str`, *optional*): identifier of the licence on the Hub.

    Raises:
        InputError: a card whose front matter cannot be read.
    """
    text = own_card.replace("PATH_OF_THIS_FOLDER", repo_id)
    if database is not None:
        text = text.rstrip() + "\n" + REHOSTED.format(**database._asdict())
    return _with_front_matter(text, database, None, license_name)


def _with_front_matter(text: str, database: Database | None, title: str | None, license_name: str | None) -> str:
    try:
        card = DatasetCard(text if text.startswith("---") else f"---\n{{}}\n---\n\n{text}")
        data: Any = card.data
        data.tags = list(dict.fromkeys([*(data.get("tags") or []), *TAGS, *([] if database else ["simulated"])]))
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise InputError("README.md", f"its front matter cannot be read ({one_line(error)})", "correct it") from error
    data.pretty_name = data.pretty_name or title
    data.task_categories = data.task_categories or [TASK]
    if license_name or database is None:
        data.license = license_name or "apache-2.0"
    else:
        data.license = "other"
        data.license_name = "terms-of-the-publishers"
        data.license_link = database.address
    return str(card)
