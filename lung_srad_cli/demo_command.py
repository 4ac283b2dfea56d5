"""`lung-srad demo`: the page of the Space on this machine, or with --static the one that computes in the browser."""

import argparse
import socket
from typing import Any

from lung_srad_cli.argument_types import add_revision, number, path
from lung_srad_cli.errors import require_modules
from lung_srad_cli.export_command import EXPORT_MODULES

DESCRIPTION = """\
Serves a page in which recordings are uploaded or recorded, classified and explained, until Ctrl+C.

Nothing that is uploaded is kept. Nothing is fetched from elsewhere unless a model of the Hub is named.

With --static nothing is uploaded either: the page, built in outputs/static, computes in the browser."""
EPILOG = """\
examples:
  lung-srad demo                                     then open the address that it shows
  lung-srad demo --checkpoint runs/first --port 8080
  lung-srad demo --static                            the page that computes in the browser

LUNG_SRAD_CHECKPOINTS names further checkpoints to choose from, separated by commas. It needs gradio:
pip install "lung-srad[demo]". --static needs npm, once, and pip install "lung-srad[export]".

Research software, not a medical device."""
STATIC_PORT = 7860
PORT = number(int, 1, 2**16, "a port from 1 to 65535")


def add(commands: Any) -> None:
    """Adds the subcommand."""
    parser = commands.add_parser(
        "demo", help="serve a page to classify recordings in", description=DESCRIPTION, epilog=EPILOG
    )
    kinds_of_page = parser.add_mutually_exclusive_group()
    kinds_of_page.add_argument(
        "--static", action="store_true", help="serve the page that computes in the browser, with the embedded model"
    )
    kinds_of_page.add_argument(
        "--checkpoint",
        action="append",
        default=[],
        dest="checkpoints",
        type=path,
        metavar="DIR_OR_HUB_ID",
        help="a model to choose beside the embedded one, and chosen at first; may be repeated",
    )
    parser.add_argument(
        "--port",
        type=PORT,
        metavar="N",
        help="default: the first free one from GRADIO_SERVER_PORT, or 7860, on; with --static 7860",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        type=path,
        metavar="ADDRESS",
        help="where to listen (default: 127.0.0.1, this machine only; 0.0.0.0: all networks, without a password)",
    )
    add_revision(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Serves the page until it is interrupted; returns the exit code."""
    if arguments.static:
        return run_static(arguments.host, arguments.port)
    require_modules(("gradio",), extra="demo")
    check_address(arguments.host, arguments.port)
    if arguments.checkpoints:
        from modeling_lung_srad.checkpoint_loading import load_checkpoint

        for checkpoint in arguments.checkpoints:
            load_checkpoint(checkpoint)
    from space_demo.app import main

    main(arguments.checkpoints, arguments.host, arguments.port)
    return 0


def run_static(host: str, port: int | None) -> int:
    """Builds the static page and serves it until it is interrupted; returns the exit code."""
    require_modules(EXPORT_MODULES, extra="export")
    check_address(host, port or STATIC_PORT)
    from space_demo.app import stopped_by_signals
    from space_demo.static.build import build_site
    from space_demo.static.server import serve_site

    print("building the page ...", flush=True)
    folder = build_site()
    serve_site(folder, stopped_by_signals(), host, port or STATIC_PORT)
    return 0


def check_address(host: str, port: int | None) -> None:
    """Raises [`InputError`] where nothing can listen at an address of this machine; any free port without `port`."""
    try:
        (family, _, _, _, address), *_ = socket.getaddrinfo(host, port or 0, type=socket.SOCK_STREAM)
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # A port that a server left a moment ago is free, but not without this.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        from modeling_lung_srad.errors import InputError

        place = f"{host}:{port}" if port else host
        raise InputError(
            place, f"cannot listen there ({error.strerror})", "give another --port, or leave --host out"
        ) from error
