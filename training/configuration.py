"""YAML configurations and `key=value` overrides, to the arguments of a run.

A configuration is a YAML file whose keys are those of [`LungSradTrainingArguments`] (all of
`transformers.TrainingArguments`) plus the sections of [`RunArguments`]. `extends: base.yaml` takes over another file,
relative to this one; what the inheriting file or an override says wins, key by key, also inside sections.
"""

import dataclasses
import difflib
import enum
import re
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from modeling_lung_srad.errors import InputError, one_line
from training.arguments import RunArguments
from training.training_arguments import LungSradTrainingArguments

CONFIGS = Path(__file__).resolve().parent / "configs"
SECTIONS: dict[str, Any] = {section.name: section.type for section in dataclasses.fields(RunArguments)}


MOST_SEEDS = 1000
SEED = re.compile(r"\d{1,18}")


class StrictLoader(yaml.SafeLoader):
    """`yaml.SafeLoader`, with errors for two values of a key (that takes the last) and for endless numbers."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"{key} is there twice, from line {node.start_mark.line + 1} on; keep one")
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        # Python limits decimal digits only, and then cannot print a number of as many octal ones.
        return int(str(super().construct_yaml_int(node)))


StrictLoader.add_constructor("tag:yaml.org,2002:int", StrictLoader.construct_yaml_int)


def read_configuration(
    path: str | Path, overrides: Sequence[str] = ()
) -> tuple[RunArguments, LungSradTrainingArguments]:
    """Reads a YAML configuration, what it extends and the overrides from the command line.

    `output_dir` is `runs/NAME` for the configuration `NAME.yaml` where nothing else is said.

    Args:
        path (`str`): the YAML file.
        overrides (sequence of `str`): `key=value`, a dot for keys inside sections: `data.icbhi=/data/icbhi`.

    Raises:
        InputError: file missing or not YAML, unknown key (the nearest valid one is named), value of the wrong
            type, an override without `=`, or two of the same key.
    """
    check_overrides(overrides)
    values = _read_yaml(Path(path), ())
    for override in overrides:
        key, _, text = override.partition("=")
        # YAML reads no text as null, which an unset shell variable hardly means.
        if not text.strip():
            raise InputError(f"{override!r}", "lacks a value", f"give one, or {key}=null to empty the key")
        _set(values, key.split("."), _parse_yaml(text, f"override {override!r}"), override)
    sections = {name: _fill(section, values.pop(name, None), f"{name}.", path) for name, section in SECTIONS.items()}
    training = _checked(LungSradTrainingArguments, values, "", path)
    if "load_best_model_at_end" in training:
        raise InputError(path, "load_best_model_at_end: use selection instead: validation, last or test")
    training["output_dir"] = training.get("output_dir") or f"runs/{Path(path).stem}"
    return RunArguments(**sections), _made(LungSradTrainingArguments, training, path)


def check_overrides(overrides: Sequence[str]) -> None:
    """Raises `InputError` for an override that is not `key=value`, or whose key another one has."""
    given: dict[str, str] = {}
    for override in overrides:
        key, separator, _ = override.partition("=")
        if not separator or not all(key.split(".")):
            raise InputError(f"{override!r}", "an override is key=value, such as seed=1 or data.icbhi=FOLDER")
        if key in given:
            raise InputError(f"{override!r}", f"{key} is there twice, first as {given[key]!r}", "keep one")
        given[key] = override


def expand_seeds(config: str | Path, overrides: Sequence[str]) -> list[list[str]]:
    """The overrides of each run where one of them is `seed=FIRST..LAST`; otherwise the overrides alone.

    Each of several runs has its own folder, `seed-K` in the `output_dir` that a single one would have.

    Raises:
        InputError: a range that is empty or not of whole numbers, or a key that is there twice.
    """
    check_overrides(overrides)
    texts = {key: text for key, _, text in (override.partition("=") for override in overrides)}
    if ".." not in texts.get("seed", ""):
        return [list(overrides)]
    first, _, last = texts["seed"].partition("..")
    if not all(SEED.fullmatch(seed) for seed in (first, last)) or int(first) > int(last):
        raise InputError(f"seed={texts['seed']}", "should be a range of whole numbers such as seed=1..5")
    if int(last) - int(first) >= MOST_SEEDS:
        raise InputError(f"seed={texts['seed']}", f"is more than {MOST_SEEDS} runs", "give a shorter range")
    others = [override for override in overrides if not override.startswith("seed=")]
    output_dir = read_configuration(config, others)[1].output_dir
    others = [override for override in others if not override.startswith("output_dir=")]
    return [
        [*others, f"seed={seed}", f"output_dir={output_dir}/seed-{seed}"] for seed in range(int(first), int(last) + 1)
    ]


def _read_yaml(path: Path, extended_by: tuple[Path, ...]) -> dict[str, Any]:
    try:
        path = path.resolve()
        is_file = path.is_file()
    except (OSError, ValueError) as error:
        # Too long a name, or signs that no name can have.
        raise InputError(path, f"is not a valid file name ({one_line(error, 80)})", "check the path") from error
    if path in extended_by:
        raise InputError(path, "extends itself", "remove one `extends`")
    if not is_file:
        known = {config.stem: config for config in CONFIGS.rglob("*.yaml")}
        nearest = known[difflib.get_close_matches(path.stem, known, n=1, cutoff=0.0)[0]]
        asked_by = f" (extends of {extended_by[-1]})" if extended_by else ""
        raise InputError(
            path,
            f"no such configuration file{asked_by}",
            f"of those that come with the project in {CONFIGS}, the nearest is {nearest.relative_to(CONFIGS)}",
        )
    values = _parse_yaml(path.read_text(encoding="utf-8", errors="replace"), str(path))
    if not isinstance(values, dict):
        raise InputError(path, "is not a YAML mapping of keys to values")
    base = values.pop("extends", None)
    if base is None:
        return values
    if not isinstance(base, str) or not base:
        raise InputError(path, f"extends: {base!r} should be the path of one configuration, relative to it")
    return _merge(_read_yaml(path.parent / base, (*extended_by, path)), values)


def _parse_yaml(text: str, where: str) -> Any:
    try:
        return yaml.load(text, StrictLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # Also a date or number that is out of range, and brackets nested too deeply.
        raise InputError(where, f"is not valid YAML: {one_line(error)}") from error


def _merge(base: dict[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in values.items():
        both_sections = isinstance(value, Mapping) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both_sections else value
    return merged


def _set(values: dict[str, Any], keys: list[str], value: Any, override: str) -> None:
    for key in keys[:-1]:
        values[key] = {} if values.get(key) is None else values[key]
        if not isinstance(values[key], dict):
            raise InputError(f"{override!r}", f"{key} is a value, not a section with keys")
        values = values[key]
    values[keys[-1]] = value


def _fill(section: type, values: Any, prefix: str, path: str | Path) -> Any:
    if values is not None and not isinstance(values, Mapping):
        raise InputError(path, f"{prefix[:-1]} is a section", f"give it keys, not the value {values!r}")
    return _made(section, _checked(section, values or {}, prefix, path), path)


def _made(arguments: type, values: Mapping[str, Any], path: str | Path) -> Any:
    try:
        return arguments(**values)
    except InputError as error:
        raise error.within(path) from error
    except (ValueError, ImportError, OSError, TypeError) as error:
        raise InputError(path, one_line(error)) from error


def _checked(arguments: type, values: Mapping[str, Any], prefix: str, path: str | Path) -> dict[str, Any]:
    hints = typing.get_type_hints(arguments)
    fields = {item.name for item in dataclasses.fields(arguments) if item.init}
    for key in values:
        if key not in fields:
            raise InputError(path, f"unknown key {prefix}{key}", _nearest(f"{prefix}{key}"))
    return {key: coerce(value, hints[key], f"{path}: {prefix}{key}") for key, value in values.items()}


def _nearest(key: str) -> str:
    """Names the valid key nearest to `key`, by its full dotted name or by its last part alone."""
    names = {item.name: item.name for item in dataclasses.fields(LungSradTrainingArguments) if item.init}
    names |= {name: name for name in SECTIONS}
    for section_name, section in SECTIONS.items():
        for item in dataclasses.fields(section):
            names[f"{section_name}.{item.name}"] = f"{section_name}.{item.name}"
            names.setdefault(item.name, f"{section_name}.{item.name}")
    close = difflib.get_close_matches(key, names, n=1, cutoff=0.5)
    close = close or difflib.get_close_matches(key.rpartition(".")[2], names, n=1, cutoff=0.0)
    return f"the nearest valid one is {names[close[0]]}"


def coerce(value: Any, hint: Any, where: str) -> Any:
    """`value` as the type that a field asks for; YAML reads `1e-3` as text and `1` as a whole number."""
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    options = [typing.get_origin(option) or option for option in (typing.get_args(hint) if is_union else (hint,))]
    if value is None and (types.NoneType in options or Any in options):
        return None
    if value is None and dict in options:
        return {}
    for option in options:
        if option is Any or (option in (dict, list, bool, str) and isinstance(value, option)):
            return value
        if option in (int, float) and not isinstance(value, bool):
            try:
                number = float(value)
            except (TypeError, ValueError, OverflowError):
                continue
            if option is float or number.is_integer():
                return option(number)
        if isinstance(option, type) and issubclass(option, enum.Enum):
            choices = [str(member.value) for member in option]
            # YAML reads an unquoted `no` as false.
            text = "no" if value is False else str(value)
            if text in choices:
                return text
            nearest = difflib.get_close_matches(text, choices, n=1, cutoff=0.0)[0]
            raise InputError(where, f"{value!r} is not one of {', '.join(choices)}", f"the nearest is {nearest}")
    wanted = " or ".join("null" if option is types.NoneType else option.__name__ for option in options)
    raise InputError(where, f"{value!r} should be of type {wanted}")
