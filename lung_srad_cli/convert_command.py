"""`lung-srad convert`: weights of DASS or VMamba to a folder of this layout."""

import argparse
from pathlib import Path

from lung_srad_cli.errors import UsageError
from modeling_lung_srad.conversion import convert_checkpoint, convert_feature_extractor


def run(arguments: argparse.Namespace) -> int:
    """Converts `source` to a new folder."""
    destination = Path(arguments.destination)
    if destination.is_file() or (destination.is_dir() and any(destination.iterdir())):
        raise UsageError(f"{destination}: holds something already; name a new folder")
    model = convert_checkpoint(arguments.source, num_labels=arguments.num_labels)
    model.save_pretrained(destination)
    convert_feature_extractor(arguments.source).save_pretrained(destination)
    print(f"{destination}: {model.num_parameters() / 1e6:.1f} M parameters, {model.config.num_labels} labels")
    return 0
