"""Gives a target inputs that libFuzzer changes by the lines that they reach; needs `pip install atheris`, on Linux.

python -m tests.fuzz.coverage_guided TARGET [-max_total_time=SECONDS] [options of libFuzzer]

Inputs that reach new lines stay in outputs/fuzz/TARGET.corpus, where the next run begins; findings go beside it.
"""

import sys
import tempfile
from pathlib import Path

import atheris

FOLDER = Path("outputs") / "fuzz"
OWN_FOLDERS = ["modeling_lung_srad", "dataset_scripts", "training", "space_demo"]


def main(name: str, options: list[str]) -> None:
    """Runs until the time is over or something is found."""
    with atheris.instrument_imports(include=OWN_FOLDERS):
        from modeling_lung_srad.errors import InputError
        from tests.fuzz.targets import TARGETS
    corpus = FOLDER / f"{name}.corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        target = TARGETS[name](Path(scratch))
        for number, seed in enumerate(target.seeds):
            (corpus / f"seed-{number}").write_bytes(seed)

        def take(data: bytes) -> None:
            try:
                target.run(data)
            except InputError:
                return

        limits = ["-timeout=10", "-rss_limit_mb=4096", f"-artifact_prefix={FOLDER / name}-"]
        atheris.Setup([sys.argv[0], *limits, *options, str(corpus)], take)
        atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
