"""Changes the code in 200 places, one at a time, and counts the changes that the tests notice.

make mutants

cosmic-ray finds and makes the changes, in copies of the tree below outputs. Each mutant gets the tests that mirror its
module, in a process that is forked after torch and pytest are imported. A run goes on where it was killed.
"""

import argparse
import ast
import difflib
import hashlib
import json
import multiprocessing
import os
import queue
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "outputs" / "mutants"
COSMIC_RAY = ROOT / "outputs" / "tools" / "bin" / "cosmic-ray"
COPIED = ("modeling_lung_srad", "dataset_scripts", "training", "lung_srad_cli", "tests", "pyproject.toml")
SEED = 0
AT_ONCE = 2
# Limits for a mutant: processor time, as others may keep it busy, and time by the clock, if it waits for ever.
PROCESSOR_SECONDS, SECONDS = 120, 1800
SETTINGS = """[cosmic-ray]
module-path = [{modules}]
timeout = 10.0
excluded-modules = []
test-command = "true"
[cosmic-ray.distributor]
name = "local"
"""

TESTS = {
    "training/metrics/icbhi_score/icbhi_measure.py": ["tests/training/metrics/test_icbhi_score.py"],
    "training/metrics/sprsound_score/sprsound_measure.py": ["tests/training/metrics/test_sprsound_score.py"],
    "training/patch_mix.py": ["tests/training/test_patch_mix.py"],
    "training/objective.py": ["tests/training/test_objective.py", "tests/training/teachers/test_distillation.py"],
    "modeling_lung_srad/timeline.py": ["tests/modeling_lung_srad/test_timeline.py"],
    "modeling_lung_srad/feature_extraction_lung_srad.py": [
        "tests/modeling_lung_srad/test_feature_extraction_lung_srad.py"
    ],
    "modeling_lung_srad/torch_scan.py": ["tests/modeling_lung_srad/test_selective_scan.py"],
    "modeling_lung_srad/selective_scan.py": [
        "tests/modeling_lung_srad/test_selective_scan.py",
        "tests/modeling_lung_srad/test_numba_scan.py",
    ],
    "modeling_lung_srad/numba_scan.py": ["tests/modeling_lung_srad/test_numba_scan.py"],
    # Last, since each of its mutants is compiled.
    "modeling_lung_srad/numba_kernels.py": ["tests/modeling_lung_srad/test_numba_scan.py"],
}
# The changed line of mutants that do the same as the code, and why.
EQUIVALENT = {
    "return (inputs[ -1][: len(inputs[0]) // (1 + len(axes))],)": "the hook gets one input",
    "if waveform.shape[ -1] < shortest:": "a waveform has one axis",
    "for axis, view, draw in zip(axes, mixed, draws, strict=False):": "there is a view and a draw for each axis",
    'self.projector.requires_grad_(arguments.projector >= "trained")': "the other choice, frozen, comes before it",
    'if self.padding_mode >= "zero":': "the other choice, repeat, comes before it",
    "ELEMENTS_AT_ONCE = 2*20": "how much at once is a matter of time and memory",
    "columns_at_once = max( 2, ELEMENTS_AT_ONCE // (4 * height * channels))": "the same",
    "STEPS = 15": "the same",
    "groups = 1 if blocks <= LONGEST_CHAIN else math.isqrt(blocks - 0) + 1": "the same",
    "WIDEST_BLOCK, NARROWEST_BLOCK = 96, 15": "the same",
    "WIDEST_BLOCK, NARROWEST_BLOCK = 95, 16": "the same",
    "return _compile(scan, cache=True), _compile(scan_gradients, cache=False)": "the same",
    "return torch.stack((rows, columns, rows.flip(0), columns.flip( -1)))": "an order has one axis",
    "is_whole = part == slice(None) or (part.start < 0 and part.stop >= x.shape[dim])": "a part that is all is copied",
}


class Mutant(NamedTuple):
    """A change that cosmic-ray can make."""

    path: str
    operator: str
    occurrence: int
    line: int


def find_mutants() -> list[list[Mutant]]:
    """All mutants, grouped by their place in the code; types in signatures are left out."""
    settings, session = WORK / "settings.toml", WORK / "session.sqlite"
    settings.write_text(SETTINGS.format(modules=", ".join(f'"{path}"' for path in TESTS)))
    session.unlink(missing_ok=True)
    subprocess.run([COSMIC_RAY, "init", settings, session], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    columns = "module_path, operator_name, occurrence, start_pos_row, start_pos_col"
    rows = sqlite3.connect(session).execute(f"select {columns} from mutation_specs order by 1, 4, 5, 2, 3")
    annotated = {path: _annotated(path) for path in TESTS}
    places = defaultdict(list)
    for path, operator, occurrence, line, column in rows:
        if not any(start <= (line, column) < end for start, end in annotated[path]):
            places[path, line, column].append(Mutant(path, operator, occurrence, line))
    return list(places.values())


def _annotated(path: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    nodes = list(ast.walk(ast.parse((ROOT / path).read_text())))
    types = [getattr(node, name, None) for node in nodes for name in ("annotation", "returns")]
    return [((node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)) for node in types if node]


def run_tests(tree: Path, tests: list[str]) -> None:
    """Runs in a process of its own and ends it with the exit code of pytest."""
    resource.setrlimit(resource.RLIMIT_CPU, (PROCESSOR_SECONDS, PROCESSOR_SECONDS + 5))
    log = os.open(tree / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(tree)
    sys.path[:] = [str(tree), *(path for path in sys.path if Path(path).resolve() not in (ROOT, ROOT / "tests"))]
    import pytest

    # The slow ones compile the scan again.
    os._exit(pytest.main(["-x", "-q", "-m", "not slow", "-p", "no:cacheprovider", "-p", "no:xdist", *tests]))


def outcome(tree: Path, path: str) -> str:
    """`"alive"`, `"killed"`, or `"killed by time"`."""
    process = multiprocessing.get_context("fork").Process(target=run_tests, args=(tree, TESTS[path]))
    process.start()
    process.join(SECONDS)
    if process.is_alive():
        process.kill()
        process.join()
    if process.exitcode is None or process.exitcode < 0:
        return "killed by time" if process.exitcode in (-signal.SIGXCPU, -signal.SIGKILL) else "killed"
    return "killed" if process.exitcode else "alive"


def try_mutant(mutant: Mutant, trees: queue.Queue) -> tuple[Mutant, str, str]:
    """The mutant, its result, and its change as `line -> line`."""
    tree = trees.get()
    file = tree / mutant.path
    original, status = file.read_text(), file.stat()
    try:
        command = [COSMIC_RAY, "apply", mutant.path, mutant.operator, str(mutant.occurrence)]
        subprocess.run(command, cwd=tree, check=True, stdout=subprocess.DEVNULL)
        difference = difflib.unified_diff(original.splitlines(), file.read_text().splitlines(), n=0, lineterm="")
        lines = list(difference)[3:]
        before, after = (" ".join(line[1:].strip() for line in lines if line[0] == sign) for sign in "-+")
        result = outcome(tree, mutant.path)
    finally:
        file.write_text(original)
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
        trees.put(tree)
    print(f"{result}: {mutant.path}:{mutant.line}: {before} -> {after}", file=sys.stderr, flush=True)
    return mutant, result, f"{before} -> {after}"


class Results:
    """Results of earlier runs, used while the module is unchanged. Mutants that lived are tried again."""

    def __init__(self, file: Path):
        self.file = file
        rows = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
        self.known = {key: (Mutant(*mutant), result, change) for key, mutant, result, change in rows}

    def get_or_try(self, mutant: Mutant, trees: queue.Queue) -> tuple[Mutant, str, str]:
        key = f"{hashlib.sha256((ROOT / mutant.path).read_bytes()).hexdigest()} {mutant.operator} {mutant.occurrence}"
        if self.known.get(key, (mutant, "alive"))[1] == "alive":
            self.known[key] = try_mutant(mutant, trees)
            with self.file.open("a") as file:
                file.write(json.dumps([key, *self.known[key]]) + "\n")
        return self.known[key]


def print_table(results: list[tuple[Mutant, str, str]]) -> None:
    """By module: mutants, killed, equivalent, others that live; then each that lives."""
    print("| module | mutants | killed | equivalent | alive |\n| --- | --- | --- | --- | --- |")
    for name in [*TESTS, "all"]:
        own = [(result, change) for mutant, result, change in results if name in (mutant.path, "all")]
        alive = [change for result, change in own if result == "alive"]
        same = sum(_reason(change) is not None for change in alive)
        print(f"| {name} | {len(own)} | {len(own) - len(alive)} | {same} | {len(alive) - same} |")
    for mutant, result, change in results:
        if result == "alive":
            print(f"- {mutant.path}:{mutant.line}: `{change}`: {_reason(change) or 'alive'}")


def _reason(change: str) -> str | None:
    return next((reason for line, reason in EQUIVALENT.items() if change.endswith(f"-> {line}")), None)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutants", type=int, default=200)
    parser.add_argument("--seed", type=int, default=SEED)
    arguments = parser.parse_args()
    sys.dont_write_bytecode = True
    trees: queue.Queue = queue.Queue()
    for number in range(AT_ONCE):
        tree = WORK / str(number) / "tree"
        shutil.rmtree(tree, ignore_errors=True)
        for name in COPIED:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            tree.mkdir(parents=True, exist_ok=True)
            copy(ROOT / name, tree / name)
        trees.put(tree)
    generator = random.Random(arguments.seed)
    drawn = [generator.choice(place) for place in generator.sample(find_mutants(), arguments.mutants)]
    drawn.sort(key=lambda mutant: list(TESTS).index(mutant.path))

    # Each process would import these first.
    os.environ["NUMBA_CACHE_DIR"] = str(WORK / "numba")
    import numba  # noqa: F401
    import pytest  # noqa: F401
    import torch  # noqa: F401
    import transformers.pipelines  # noqa: F401

    results, tried = Results(WORK / "results.jsonl"), []
    with ThreadPoolExecutor(AT_ONCE) as threads:
        for path in dict.fromkeys(mutant.path for mutant in drawn):
            if outcome(tree, path) != "alive":
                sys.exit(f"{path}: its tests fail without a change, see {tree / 'log.txt'}")
            own = [mutant for mutant in drawn if mutant.path == path]
            tried += threads.map(lambda mutant: results.get_or_try(mutant, trees), own)
    print_table(tried)


if __name__ == "__main__":
    main()
