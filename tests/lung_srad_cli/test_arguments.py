import re
import subprocess
import sys

import pytest

from lung_srad_cli import build_parser
from lung_srad_cli.argument_types import at_revision

COMMANDS = [
    [],
    ["classify"],
    ["train"],
    ["evaluate"],
    ["embed"],
    ["convert"],
    ["prepare"],
    ["prepare", "icbhi"],
    ["prepare", "sprsound"],
    ["prepare", "simulated"],
    ["export"],
    ["publish"],
    ["publish", "model"],
    ["publish", "dataset"],
    ["publish", "space"],
    ["demo"],
    ["spectrum"],
    ["env"],
]


def test_help_of_every_command_imports_nothing_heavy():
    script = (
        "import sys\n"
        "from lung_srad_cli import main\n"
        f"for command in {COMMANDS}:\n"
        "    try:\n"
        "        main([*command, '--help'])\n"
        "    except SystemExit as stopped:\n"
        "        print('exit code', stopped.code)\n"
        "print('heavy:', sorted({'numpy', 'torch', 'transformers', 'datasets', 'matplotlib'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.count("exit code 0") == len(COMMANDS)
    assert done.stdout.endswith("heavy: []\n")
    assert done.stderr == ""


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_has_examples_that_the_parser_accepts(command, run):
    text = run(*command, "--help").output
    examples = re.findall(r"^  lung-srad (.*?)(?:  .*)?$", text, flags=re.MULTILINE)
    assert examples
    for example in examples:
        if "COMMAND" not in example:
            assert build_parser().parse_args(example.split()).command == example.split()[0]


def test_research_use_is_stated_at_the_top_and_nowhere_twice(run):
    counts = [run(*command, "--help").output.count("not a medical device") for command in COMMANDS]
    assert counts[0] == max(counts) == 1


def test_version_is_that_of_the_package(run):
    outcome = run("--version")
    assert outcome.exit_code == 0
    assert re.fullmatch(r"lung-srad \d+\.\d+\.\d+\S*\n", outcome.output)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["classify"], "PATH"),
        (["guess"], "'guess'"),
        (["classify", "a.wav", "--window", "0"], "--window: '0'"),
        (["classify", "a.wav", "--hop", "-1"], "--hop: '-1'"),
        (["classify", "a.wav", "--window", "nan"], "--window: 'nan'"),
        (["classify", "a.wav", "--window", "inf"], "--window: 'inf'"),
        (["classify", "a.wav", "--batch-size", "0"], "--batch-size: '0'"),
        (["classify", "a.wav", "--format", "xml"], "--format"),
        (["evaluate"], "CHECKPOINT, DATA"),
        (["evaluate", "runs/first"], "DATA"),
        (["evaluate", "--compare", "a"], "--compare"),
        (["evaluate", "runs/first", "ICBHI", "--split", "fold9"], "--split"),
        (["prepare", "icbhi", "a", "b", "--validation", "1"], "--validation: '1'"),
        (["prepare", "simulated", "a", "--patients", "1"], "--patients: '1'"),
    ],
)
def test_wrong_arguments_are_one_line_that_points_to_the_help(run, arguments, said):
    outcome = run(*arguments)
    assert outcome.exit_code == 2
    assert len(outcome.errors) == 1
    assert outcome.errors[0].startswith("lung-srad: error:")
    assert said in outcome.errors[0]
    assert "--help`" in outcome.errors[0]


@pytest.mark.parametrize("place", range(3))
def test_checkpoints_and_data_of_evaluate_are_found_around_its_options(place):
    words = ["runs/first", "ICBHI"]
    words[place:place] = ["--split", "leak_free"]
    parsed = build_parser().parse_args(["evaluate", *words])
    assert (parsed.checkpoints, parsed.data, parsed.split) == (["runs/first"], "ICBHI", "leak_free")


def test_the_last_of_several_paths_of_evaluate_is_the_data():
    parsed = build_parser().parse_args(["evaluate", "one", "two", "three", "ICBHI", "--output", "seeds"])
    assert (parsed.checkpoints, parsed.data) == (["one", "two", "three"], "ICBHI")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--compare", "a", "b", "runs/first"], "CHECKPOINT: does not go with --compare"),
        (["--compare", "a", "b", "--split", "official"], "--split: does not go with --compare"),
        (["--compare", "a", "b", "--predictions", "c"], "--predictions: does not go with --compare"),
        (["--predictions", "c", "--part", "train"], "--part: does not go with --predictions"),
        (["--predictions", "c", "--batch-size", "3"], "--batch-size: does not go with --predictions"),
        (["runs/first", "ICBHI", "--predictions", "c"], "CHECKPOINT: does not go with --predictions"),
    ],
)
def test_options_of_evaluate_that_do_not_go_together_are_named(run, arguments, said):
    outcome = run("evaluate", *arguments)
    assert outcome.exit_code == 2
    assert len(outcome.errors) == 1
    assert said in outcome.errors[0]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["classify", "a.wav", "--checkpoint", "user/name"], "user/name@v1"),
        (["export", "user/name", "onnx"], "user/name@v1"),
        (["spectrum", "user/name", "a.wav"], "user/name@v1"),
        (["evaluate", "user/name", "user/other", "icbhi"], ["user/name@v1", "user/other@v1"]),
        (["demo", "--checkpoint", "user/name"], ["user/name@v1"]),
        (["classify", "a.wav"], None),
    ],
)
def test_a_revision_goes_with_the_names_of_checkpoints(arguments, named):
    parsed = build_parser().parse_args([*arguments, "--revision", "v1"])
    at_revision(parsed)
    assert (parsed.checkpoints if "checkpoints" in parsed else parsed.checkpoint) == named


def test_a_revision_of_no_checkpoint_is_an_error(run):
    outcome = run("classify", "a.wav", "--revision", "v1")
    assert outcome.exit_code == 2
    assert outcome.errors == [
        "lung-srad: error: --revision: is of a checkpoint on the Hub; name that as well, or leave it out"
    ]
