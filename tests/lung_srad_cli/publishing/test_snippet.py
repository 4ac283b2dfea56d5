"""Usage snippets run as a stranger would run them."""

import os

import pytest

from lung_srad_cli.publishing.snippet import run_snippet, usage_snippet
from modeling_lung_srad.errors import InputError

LOAD = 'checkpoint = "user/sounds"\n'


def test_the_python_blocks_of_a_card_are_taken_in_order():
    card = "# A\n```python\na = 1\n```\ntext\n```bash\nls\n```\n```python\nprint(a)\n```\n"
    assert usage_snippet(card) == "a = 1\n\nprint(a)\n"
    assert usage_snippet("# A\n```\na\n```\n") == ""


def test_the_id_becomes_the_folder_and_a_recording_is_there(tmp_path):
    code = LOAD + "import soundfile\nprint(checkpoint, *soundfile.read('recording.wav')[0].shape)\n"
    assert run_snippet(code, "user/sounds", tmp_path).split() == [str(tmp_path), "144000"]


def test_this_package_the_network_and_the_token_are_out_of_reach(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    for line, problem in (
        ("import modeling_lung_srad", "import of modeling_lung_srad halted"),
        ("import urllib.request; urllib.request.urlopen('http://127.0.0.1:9')", "tried without network"),
        ("import socket; socket.create_connection(('localhost', 9))", "tried without network"),
    ):
        with pytest.raises(InputError, match=problem):
            run_snippet(LOAD + line, "user/sounds", tmp_path)
    code = LOAD + "import huggingface_hub, os; print(huggingface_hub.get_token(), os.environ.get('HF_TOKEN'))"
    assert run_snippet(code, "user/sounds", tmp_path).split() == ["None", "None"]
    assert os.environ["HF_TOKEN"] == "hf_secret"


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("print(1)", 'does not load "user/sounds"; name the repository in it'),
        (LOAD, "prints nothing; let it show its result"),
        (LOAD + "print(", r"fails .*SyntaxError"),
        (LOAD + "raise SystemExit(3)", r"fails .*\(exit code 3\)"),
    ],
)
def test_a_snippet_that_shows_nothing_is_refused(tmp_path, code, problem):
    with pytest.raises(InputError, match=problem):
        run_snippet(code, "user/sounds", tmp_path)
