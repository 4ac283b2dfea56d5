"""The splits of ICBHI 2017: official, leak-free and five-fold."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from modeling_lung_srad.errors import InputError, shortened

RECORDING_NAME = re.compile(r"(\d+)_([^_]+)_([A-Z][a-z])_(sc|mc)_([^_.]+)")
PARTS = ("train", "test")


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Official split of the ICBHI 2017 challenge (ICBHI_challenge_train_test.txt): these patients and twelve recordings.
TEST_PATIENTS = _names(
    "101 102 104 109 113 118 119 123 124 126 133 136 139 143 144 145 146 147 149 150 151 160 165 169 170 171 173 174 "
    "175 176 177 178 182 185 187 194 195 198 202 205 207 211 214 216 223 224 225"
)
# Recordings on the test side of the two patients who are on both sides.
LEAKED_RECORDINGS = _names(
    "156_2b3_Al_mc_AKGC417L 156_2b3_Lr_mc_AKGC417L 156_2b3_Pl_mc_AKGC417L 156_5b3_Ar_mc_AKGC417L "
    "156_5b3_Ll_mc_AKGC417L 156_5b3_Pl_mc_AKGC417L 156_8b3_Al_mc_AKGC417L 156_8b3_Lr_mc_AKGC417L "
    "218_1b1_Al_sc_Meditron 218_1b1_Pl_sc_Meditron 218_1b1_Pr_sc_Meditron 218_1p1_Pl_sc_Litt3200"
)
# The publisher's split file has another name for one recording than the archive.
RENAMED = {"226_1b1_Pl_sc_Meditron": "226_1b1_Pl_sc_LittC2SE"}
# Five folds by patient of RespireNet (arXiv 2011.00196).
FOLD_PATIENTS = (
    _names("107 114 130 138 146 147 154 156 158 160 162 163 170 172 177 180 184 186 193 200 203 204 205 207 211 213"),
    _names("101 108 115 120 127 131 137 152 153 161 167 168 173 183 188 197 201 206 208 210 215 216 218 223 224"),
    _names("105 110 111 116 121 123 125 129 136 144 148 157 159 164 165 166 169 179 182 190 196 209 217 222 225"),
    _names("103 104 106 112 117 118 122 124 128 132 134 140 141 142 155 175 185 191 192 195 199 212 219 220 226"),
    _names("102 109 113 119 126 133 135 139 143 145 149 150 151 171 174 176 178 181 187 189 194 198 202 214 221"),
)
PATIENTS = frozenset.union(*FOLD_PATIENTS)
SPLITS = ("official", "leak_free", *(f"fold{fold}" for fold in range(len(FOLD_PATIENTS))))

# Recordings and cycles of the complete database, to tell what an incomplete copy lacks.
TOTAL_RECORDINGS, TOTAL_CYCLES = 920, 6898
PUBLISHED_TEST_COUNTS = {
    "official": (381, 2756),
    "leak_free": (369, 2636),
    "fold0": (512, 3455),
    "fold1": (61, 704),
    "fold2": (50, 536),
    "fold3": (99, 759),
    "fold4": (198, 1444),
}
LEAKED_COUNTS = (12, 120)


@dataclass(frozen=True)
class RecordingName:
    """Parts of a recording's name: patient, recording index, chest location, acquisition mode and device."""

    patient: str
    index: str
    location: str
    acquisition_mode: str
    device: str


def parse_recording_name(name: str) -> RecordingName | None:
    """Parts of a name such as `101_1b1_Al_sc_Meditron`; `None` where it is not the name of an ICBHI recording."""
    match = RECORDING_NAME.fullmatch(name)
    return RecordingName(*match.groups()) if match else None


def check_split(split: str) -> None:
    """Raises `InputError` where `split` is not one of `SPLITS`."""
    if split not in SPLITS:
        raise InputError("split", f"{split!r} is not known", f"choose one of {', '.join(SPLITS)}")


def published_counts(split: str) -> dict[str, tuple[int, int]]:
    """Recordings and cycles of each part in the complete database."""
    test = PUBLISHED_TEST_COUNTS[split]
    left_out = LEAKED_COUNTS if split == "leak_free" else (0, 0)
    return {
        "train": (TOTAL_RECORDINGS - test[0] - left_out[0], TOTAL_CYCLES - test[1] - left_out[1]),
        "test": test,
    }


def assign_parts(names: Iterable[str], split: str, split_file: str | os.PathLike | None = None) -> dict[str, str]:
    """
    Part (`train` or `test`) of each recording.

    Args:
        names (`Iterable[str]`): names of ICBHI recordings.
        split (`str`): one of `SPLITS`. A fold is the test part, the other four are the training part.
        split_file (`str` or `os.PathLike`, *optional*):
            file of the official split, instead of the one known here; the folds do not depend on it.

    Returns:
        `dict[str, str]`: part by name; recordings that the split leaves out are missing.

    Raises:
        InputError: where a recording is in no part of the split, or the split file cannot be used.
    """
    check_split(split)
    if split.startswith("fold"):
        patients = FOLD_PATIENTS[int(split.removeprefix("fold"))]
        return {name: "test" if _fold_patient(name) in patients else "train" for name in names}
    if split_file is None:
        parts = {name: official_part(name) for name in names}
        leaked: Iterable[str] = LEAKED_RECORDINGS
    else:
        listed = read_split_file(split_file)
        parts = {name: _listed_part(name, listed, split_file) for name in names}
        train_patients = {name.split("_")[0] for name, part in listed.items() if part == "train"}
        leaked = {name for name, part in listed.items() if part == "test" and name.split("_")[0] in train_patients}
    if split == "leak_free":
        parts = {name: part for name, part in parts.items() if name not in leaked}
    return parts


def official_part(name: str) -> str:
    """Part of a recording in the official split, from the patient lists above; whatever is not test is train."""
    return "test" if name.split("_")[0] in TEST_PATIENTS or name in LEAKED_RECORDINGS else "train"


def read_split_file(path: str | os.PathLike) -> dict[str, str]:
    """
    Reads a file with one recording a line and, after white space, `train` or `test`.

    Raises:
        InputError: naming file and line, where a line is not like that or names a recording twice.
    """
    parts: dict[str, str] = {}
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise InputError(path, "is not UTF-8 text", "save it as plain text") from None
    for number, line in enumerate(lines, start=1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 2 or fields[1].lower() not in PARTS:
            problem = f"{shortened(line)} is not a recording and its part"
            raise InputError(path, f"line {number}: {problem}", "write the name, a tab, and train or test")
        name = _name_in_archive(fields[0].removesuffix(".wav").removesuffix(".txt"))
        if parts.setdefault(name, fields[1].lower()) != fields[1].lower():
            raise InputError(path, f"line {number}: {name} is in both parts", "keep one of its lines")
    if not parts:
        raise InputError(path, "names no recordings", "write one a line with train or test, or remove the file")
    return parts


def _fold_patient(name: str) -> str:
    patient = name.split("_")[0]
    if patient not in PATIENTS:
        raise InputError(name, f"patient {patient} is in no fold of ICBHI 2017", "use the split 'official'")
    return patient


def _name_in_archive(name: str) -> str:
    return RENAMED.get(name, name)


def _listed_part(name: str, listed: dict[str, str], split_file: str | os.PathLike) -> str:
    if _name_in_archive(name) not in listed:
        raise InputError(split_file, f"does not name {name}", "add it with train or test, or remove the file")
    return listed[_name_in_archive(name)]
