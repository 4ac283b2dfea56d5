"""Runs the usage snippet of a card as a stranger would: in a process without this package, and without network."""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile

from dataset_scripts.simulated import simulate_cycle
from lung_srad_cli.publishing.repository_files import OWN_PACKAGES
from modeling_lung_srad.errors import InputError

PYTHON_BLOCK = re.compile(r"^```python[ \t]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
# A simulated one of this name is in the folder in which the snippet runs.
RECORDING = "recording.wav"
SAMPLING_RATE = 16000
TIMEOUT_SECONDS = 600
SECRETS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH")
RUNNER = """\
import sys

def refuse_network(event, arguments):
    if event == "socket.getaddrinfo" or (event == "socket.connect" and isinstance(arguments[1], tuple)):
        raise OSError("the snippet is tried without network")

sys.addaudithook(refuse_network)
for name in sys.argv[2:]:
    sys.modules[name] = None
with open(sys.argv[1], encoding="utf-8") as file:
    code = compile(file.read(), "the usage snippet", "exec")
exec(code, {"__name__": "__main__"})
"""


def usage_snippet(card: str) -> str:
    """The Python blocks of a card, one after another; empty where it has none."""
    return "\n".join(PYTHON_BLOCK.findall(card))


def run_snippet(snippet: str, repo_id: str, folder: Path) -> str:
    """
    Runs a usage snippet against a folder that looks as the repository will.

    The snippet names the repository by its id, in quotes, which is replaced by the folder. A simulated
    `recording.wav` lies in the working directory. The token of the user is not handed to it.

    Args:
        snippet (`str`): Python code.
        repo_id (`str`): such as `user/name`.
        folder (`Path`): the prepared files.

    Returns:
        `str`: its output.

    Raises:
        InputError: where it fails, prints nothing, does not name the repository, or takes more than ten minutes.
    """
    local = re.sub(rf"([\"']){re.escape(repo_id)}\1", lambda match: repr(str(folder)), snippet)
    if local == snippet:
        raise InputError("README.md", f'the usage snippet does not load "{repo_id}"', "name the repository in it")
    with tempfile.TemporaryDirectory(prefix="lung-srad-snippet-") as name:
        workplace = Path(name)
        (workplace / "snippet.py").write_text(local, encoding="utf-8")
        write_recording(workplace / RECORDING)
        environment = {key: value for key, value in os.environ.items() if key not in SECRETS}
        environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(workplace / "huggingface"), "TQDM_DISABLE": "1"}
        try:
            done = subprocess.run(
                [sys.executable, "-I", "-c", RUNNER, "snippet.py", *OWN_PACKAGES],
                cwd=workplace,
                env=environment,
                capture_output=True,
                text=True,
                timeout=TIMEOUT_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise InputError(
                "README.md", f"the usage snippet takes more than {TIMEOUT_SECONDS // 60} minutes", "shorten it"
            ) from None
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise InputError(
            "README.md",
            f"the usage snippet fails with the files to be published ({reason.strip()[:300]})",
            "correct the snippet or the checkpoint; nothing was uploaded",
        )
    if not done.stdout.strip():
        raise InputError("README.md", "the usage snippet prints nothing", "let it show its result")
    return done.stdout


def write_recording(path: Path) -> None:
    """Writes three simulated cycles as a mono recording of 9 s."""
    generator = np.random.default_rng(0)
    cycles = [simulate_cycle(label, 3.0, SAMPLING_RATE, generator) for label in (0, 2, 1)]
    soundfile.write(path, np.concatenate(cycles), SAMPLING_RATE)
