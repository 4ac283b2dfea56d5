"""`lung-srad convert`: weights of DASS or VMamba to a folder of this layout."""

import argparse
from typing import Any

from lung_srad_cli.argument_types import COUNT, path

EPILOG = """\
examples:
  lung-srad convert DASS_medium_v2.pth converted/
  lung-srad convert vssm_small.pth start/ --num-labels 4             ImageNet weights, a new head of four classes

SOURCE is a .pth or .safetensors file of DASS, of VMamba or of the authors' training, or a folder with config.json and
model.safetensors as DASS has on the Hub. Pickles are read without running code."""


def add(commands: Any) -> None:
    """Adds the subcommand."""
    summary = "convert an original checkpoint (DASS, VMamba) to this layout"
    parser = commands.add_parser("convert", help=summary, description=summary, epilog=EPILOG)
    parser.add_argument("source", type=path, metavar="SOURCE", help="the original checkpoint")
    parser.add_argument("destination", type=path, metavar="DEST", help="folder to make; it must not exist or be empty")
    parser.add_argument(
        "--num-labels", type=COUNT, metavar="N", help="classes; a head with another number is replaced by a new one"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Converts `source` to a new folder; returns the exit code."""
    from modeling_lung_srad.conversion import convert_checkpoint, convert_feature_extractor
    from modeling_lung_srad.files.output_files import check_new_folder, folder_when_complete

    destination = arguments.destination
    check_new_folder(destination)
    model = convert_checkpoint(arguments.source, num_labels=arguments.num_labels)
    with folder_when_complete(destination) as folder:
        model.save_pretrained(folder)
        convert_feature_extractor(arguments.source).save_pretrained(folder)
    print(f"{destination}: {model.num_parameters() / 1e6:.1f} M parameters, {model.config.num_labels} labels")
    return 0
