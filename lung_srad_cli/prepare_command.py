"""`lung-srad prepare`: a database to a folder that `datasets.load_dataset` reads."""

import argparse
import sys
from typing import Any

from lung_srad_cli.argument_types import COUNT, PATIENTS, SEED, SHARE, SPLITS, Parser, path
from lung_srad_cli.errors import require_modules

EPILOG = """\
examples:
  lung-srad prepare icbhi ICBHI_final_database/ prepared/ --validation 0.2
  lung-srad prepare icbhi downloads/ prepared/ --download            fetches the published zip into downloads/ first
  lung-srad prepare sprsound SPRSound/ prepared/
  lung-srad prepare simulated sounds/ --layout icbhi                 computed sounds as .wav and .txt

The result is read by datasets.load_dataset("prepared/")."""


def add(commands: Any) -> None:
    """Adds the subcommand."""
    summary = "write a database as Parquet files of labelled cycles"
    parser = commands.add_parser("prepare", help=summary, description=summary, epilog=EPILOG)
    parser.set_defaults(run=run)
    databases = parser.add_subparsers(title="databases", metavar="DATABASE", dest="database", required=True)
    icbhi = _add_database(databases, "icbhi", "ICBHI 2017: a folder as published, or its zip")
    icbhi.add_argument("--split", choices=SPLITS, default="official", help="default: official")
    icbhi.add_argument("--download", action="store_true", help="fetch the published zip into SOURCE first")
    _add_database(databases, "sprsound", "SPRSound (BioCAS 2022): its folder")
    simulated = _add_database(databases, "simulated", "simulated lung sounds, for trials: not recordings of anyone")
    simulated.add_argument("--patients", type=PATIENTS, default=12, metavar="N", help="default: 12")
    simulated.add_argument("--recordings-per-patient", type=COUNT, default=2, metavar="N", help="default: 2")
    simulated.add_argument("--cycles-per-recording", type=COUNT, default=6, metavar="N", help="default: 6")
    simulated.add_argument(
        "--layout",
        choices=("parquet", "icbhi"),
        default="parquet",
        help="icbhi: .wav and .txt as ICBHI 2017 has",
    )


def run(arguments: argparse.Namespace) -> int:
    """Writes a database as Parquet, or simulated recordings in the layout of ICBHI; returns the exit code."""
    options = {name: value for name, value in vars(arguments).items() if name not in ("command", "database", "run")}
    if options.pop("layout", "parquet") == "icbhi":
        from dataset_scripts.simulated import write_simulated

        if options.pop("validation"):
            from modeling_lung_srad.errors import InputError

            raise InputError(
                "--validation", "does not go with --layout icbhi, whose split has two parts", "leave it out"
            )
        print(write_simulated(**options))
        return 0
    require_modules(("datasets",), extra="train")
    from dataset_scripts.prepare import count_prepared, prepare_icbhi, prepare_simulated, prepare_sprsound

    functions = {"icbhi": prepare_icbhi, "sprsound": prepare_sprsound, "simulated": prepare_simulated}
    function: Any = functions[arguments.database]
    folder = function(**options)
    for part, counts in count_prepared(folder).items():
        classes = ", ".join(f"{count} {name}" for name, count in counts.items())
        print(f"{part}: {sum(counts.values())} cycles, {classes}", file=sys.stderr)
    print(folder)
    return 0


def _add_database(databases: Any, name: str, summary: str) -> Parser:
    parser = databases.add_parser(name, help=summary, description=summary, epilog=EPILOG)
    if name != "simulated":
        parser.add_argument("source", type=path, metavar="SOURCE", help="the database on this machine")
    parser.add_argument("destination", type=path, metavar="DEST", help="folder to make; it must not exist or be empty")
    parser.add_argument(
        "--validation", type=SHARE, default=0.0, metavar="SHARE", help="of the training patients (default: 0)"
    )
    parser.add_argument("--seed", type=SEED, default=0, metavar="N", help="of all random choices (default: 0)")
    return parser
