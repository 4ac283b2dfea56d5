"""`lung-srad embed`: recordings in; pooled features of their windows out."""

import argparse
from pathlib import Path
from typing import Any

from lung_srad_cli.argument_types import add_pipeline, path

DESCRIPTION = """\
Writes the features that the network has before its classifier, a row for each window of recordings, for retrieval,
clustering or a classifier of your own."""
EPILOG = """\
examples:
  lung-srad embed recordings/ --output embeddings.parquet
  lung-srad embed recording.wav --window 2 --hop 1 --output embeddings.npz

.npz: arrays recording, start, end (seconds) and embeddings (windows, width); .parquet: the same as columns, embeddings
as lists. In Python: load_pipeline().embed("recording.wav")."""
SUFFIXES = (".npz", ".parquet")


def add(commands: Any) -> None:
    """Adds the subcommand."""
    parser = commands.add_parser("embed", help="features of recordings", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument(
        "paths", nargs="+", type=path, metavar="PATH", help="a recording, a folder or zip of them, @FILE or -"
    )
    parser.add_argument("--output", type=path, required=True, metavar="FILE", help=".npz or .parquet file to write")
    add_pipeline(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Embeds; returns 2 where at least one recording could not be read, otherwise 0."""
    import numpy as np
    from tqdm import tqdm

    from lung_srad_cli.argument_types import INPUT_ERROR
    from lung_srad_cli.classify_command import find_distinct, load_found
    from lung_srad_cli.errors import reported, require_modules
    from modeling_lung_srad import load_pipeline
    from modeling_lung_srad.errors import InputError
    from modeling_lung_srad.files.output_files import check_output, replaced_when_complete

    output = Path(arguments.output)
    if output.suffix.lower() not in SUFFIXES:
        raise InputError(output, f"{output.suffix or 'no suffix'} says no format", f"use {' or '.join(SUFFIXES)}")
    if output.suffix.lower() == ".parquet":
        require_modules(("pyarrow",), extra="parquet")
    failures: list[Exception] = []
    recordings = list(find_distinct(arguments.paths, failures).values())
    check_output(output, [recording for recording in recordings if isinstance(recording, Path)])
    if not recordings:
        return INPUT_ERROR
    lung_sounds = load_pipeline(arguments.checkpoint)
    window, hop = lung_sounds.choose_window(arguments.window, arguments.hop)
    found = []
    for recording in tqdm(recordings, unit="recording", disable=None, leave=False):
        with reported(failures):
            loaded = load_found(recording, lung_sounds.feature_extractor.sampling_rate)
            found.append(lung_sounds.embed(loaded, window, hop, batch_size=arguments.batch_size))
    if found:
        columns = {
            "recording": np.repeat([one.file or "" for one in found], [len(one.start) for one in found]),
            "start": np.concatenate([one.start for one in found]),
            "end": np.concatenate([one.end for one in found]),
            "embeddings": np.concatenate([one.embeddings for one in found]),
        }
        with replaced_when_complete(output) as temporary:
            _write(temporary, columns)
    return INPUT_ERROR if failures else 0


def _write(file: Path, columns: dict[str, Any]) -> None:
    if file.suffix.lower() == ".npz":
        import numpy as np

        np.savez(file, **columns)
        return
    import pyarrow
    from pyarrow import parquet

    table = {name: pyarrow.array(list(values)) for name, values in columns.items()}
    parquet.write_table(pyarrow.table(table), file)
