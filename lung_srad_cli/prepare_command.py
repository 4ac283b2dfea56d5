"""`lung-srad prepare`: a database to a folder that `datasets.load_dataset` reads."""

import argparse
import sys
from typing import Any

from lung_srad_cli.errors import UsageError, require_modules


def run(arguments: argparse.Namespace) -> int:
    """Writes a database as Parquet, or simulated recordings in the layout of ICBHI."""
    options = {name: value for name, value in vars(arguments).items() if name not in ("command", "database")}
    if options.pop("layout", "parquet") == "icbhi":
        from dataset_scripts.simulated import write_simulated

        if options.pop("validation"):
            raise UsageError("--validation does not go with --layout icbhi, whose split has two parts; leave it out")
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
