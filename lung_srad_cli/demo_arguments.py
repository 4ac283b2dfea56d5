"""The arguments of `lung-srad demo`; only the standard library is imported, so that help is immediate."""

from typing import Any

from lung_srad_cli.argument_types import number, path

DESCRIPTION = """\
Serves a page in which recordings are uploaded or recorded, classified and explained, until Ctrl+C.

Nothing that is uploaded is kept. Nothing is fetched from elsewhere unless a model of the Hub is named."""
EPILOG = """\
examples:
  lung-srad demo                                     then open the address that it shows
  lung-srad demo --checkpoint runs/first --port 8080

LUNG_SRAD_CHECKPOINTS names further checkpoints to choose from, separated by commas. It needs gradio:
pip install "lung-srad[demo]". Research software, not a medical device."""
PORT = number(int, 1, 2**16, "a port from 1 to 65535")


def add_demo(commands: Any) -> None:
    """Adds the subcommand."""
    parser = commands.add_parser(
        "demo", help="serve a page to classify recordings in", description=DESCRIPTION, epilog=EPILOG
    )
    parser.add_argument(
        "--checkpoint",
        action="append",
        default=[],
        dest="checkpoints",
        type=path,
        metavar="DIR_OR_HUB_ID",
        help="a model to choose beside the embedded one, and chosen at first; may be repeated",
    )
    parser.add_argument(
        "--port", type=PORT, metavar="N", help="default: the first free one from GRADIO_SERVER_PORT, or 7860, on"
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        type=path,
        metavar="ADDRESS",
        help="where to listen (default: 127.0.0.1, this machine only; 0.0.0.0: all networks, without a password)",
    )
