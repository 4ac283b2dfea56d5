import re
import subprocess
import sys

import pytest

from lung_srad_cli.arguments import build_parser

COMMANDS = [
    [],
    ["classify"],
    ["train"],
    ["evaluate"],
    ["convert"],
    ["prepare"],
    ["prepare", "icbhi"],
    ["prepare", "sprsound"],
    ["prepare", "simulated"],
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


def test_research_use_is_stated_once_and_only_at_the_top(run):
    texts = [run(*command, "--help").output for command in COMMANDS]
    assert [text.count("not a medical device") for text in texts] == [1] + [0] * (len(COMMANDS) - 1)


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
