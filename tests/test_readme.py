"""The Python examples of the README do what it says, and its pages exist."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_first_example_prints_summary_quality_and_probabilities():
    example = re.search(r"```python\n(.*?)```", README, flags=re.DOTALL)[1]
    result = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.returncode == 0, result.stderr
    assert "'crackle_share': " in result.stdout
    assert re.search(r"{'normal': 0\.\d+, 'crackle': 0\.\d+, 'wheeze': 0\.\d+, 'both': 0\.\d+}", result.stdout)


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))])
def test_every_file_that_a_page_links_to_exists(page):
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if not link.startswith("http"):
            assert (page.parent / link).exists(), link


def test_every_dependency_has_a_line():
    table = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    used = [name for name in extras if name != "dev"]
    for requirement in [*project["dependencies"], *(item for name in used for item in extras[name])]:
        name = re.match(r"[\w-]+", requirement)[0]
        is_own_extra = name == project["name"]
        assert is_own_extra or re.search(rf"^\| .*\b{name}\b", table, flags=re.MULTILINE), name
