"""The Python examples of the README do what it says, its pages exist, and the command knows what pages call."""

import re
import shlex
import string
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from lung_srad_cli import build_parser
from training.configuration import expand_seeds

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SECURITY = ROOT / "SECURITY.md"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", SECURITY, *sorted((ROOT / "docs").glob("*.md"))]


def test_the_first_example_prints_what_it_says():
    example = re.search(r"```python\n(.*?)```", README, flags=re.DOTALL)[1]
    result = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == re.findall(r"^# (.*)$", example, flags=re.MULTILINE)[-1]


def called_commands(page):
    """The words of each `lung-srad` command in the shell blocks of a page, variables of the block filled in."""
    for block in re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL):
        variables = {}
        for line in block.replace("\\\n", " ").splitlines():
            for name, value in re.findall(r'(?:^|\s)(\w+)=("[^"]*"|\S+)', line if re.match(r"\w+=", line) else ""):
                variables[name] = " ".join(value.strip('"').split())
            if line.startswith("lung-srad "):
                yield shlex.split(string.Template(line).safe_substitute(variables), comments=True)[1:]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_of_a_page_is_understood(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    for words in called_commands(page):
        parsed = build_parser().parse_args(words)
        if parsed.command == "train":
            expand_seeds(parsed.config, parsed.overrides)


def test_pages_call_commands():
    assert {words[0] for page in PAGES for words in called_commands(page)} >= {
        "classify",
        "train",
        "evaluate",
        "export",
    }


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_a_page_links_to_exists(page):
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if not link.startswith("http"):
            assert (page.parent / link).exists(), link


def test_every_test_that_the_security_page_names_exists():
    named = set(re.findall(r"`(test_\w+)`", SECURITY.read_text(encoding="utf-8")))
    tests = {
        name
        for file in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"def (test_\w+)", file.read_text())
    }
    assert named
    assert named <= tests


def test_every_dependency_has_a_line():
    table = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    used = [name for name in extras if name != "dev"]
    for requirement in [*project["dependencies"], *(item for name in used for item in extras[name])]:
        name = re.match(r"[\w-]+", requirement)[0]
        is_own_extra = name == project["name"]
        assert is_own_extra or re.search(rf"^\| .*\b{name}\b", table, flags=re.MULTILINE), name
