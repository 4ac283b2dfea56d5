"""Gives a target inputs that libFuzzer changes by the lines that they reach; needs `pip install atheris`, on Linux.

python -m tests.fuzz.coverage_guided TARGET [-max_total_time=SECONDS] [options of libFuzzer]
"""

import sys
import tempfile
from pathlib import Path

import atheris

OWN_FOLDERS = ["modeling_lung_srad", "dataset_scripts", "training", "space_demo"]


def main(name: str, options: list[str]) -> None:
    """Runs until the time is over or something is found; libFuzzer writes that input into the current folder."""
    with atheris.instrument_imports(include=OWN_FOLDERS):
        from modeling_lung_srad.errors import InputError
        from tests.fuzz.targets import TARGETS
    with tempfile.TemporaryDirectory() as scratch, tempfile.TemporaryDirectory() as corpus:
        target = TARGETS[name](Path(scratch))
        for number, seed in enumerate(target.seeds):
            (Path(corpus) / str(number)).write_bytes(seed)

        def take(data: bytes) -> None:
            try:
                target.run(data)
            except InputError:
                return

        atheris.Setup([sys.argv[0], "-timeout=10", "-rss_limit_mb=4096", *options, corpus], take)
        atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
