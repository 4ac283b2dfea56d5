"""`lung-srad demo`: the page of the Space on this machine."""

import argparse
import socket

from lung_srad_cli.errors import UsageError


def run(arguments: argparse.Namespace) -> int:
    """
    Serves the page until it is interrupted.

    Args:
        arguments (`argparse.Namespace`): of `lung-srad demo`.

    Returns:
        `int`: the exit code, 0.

    Raises:
        UsageError: where the address cannot be listened on.
    """
    check_address(arguments.host, arguments.port)
    from space_demo.app import main

    main(arguments.checkpoints, arguments.host, arguments.port)
    return 0


def check_address(host: str, port: int | None) -> None:
    """
    Raises [`UsageError`] where nothing can listen.

    Args:
        host (`str`): name or address of this machine.
        port (`int`, *optional*): any free one by default.
    """
    try:
        (family, _, _, _, address), *_ = socket.getaddrinfo(host, port or 0, type=socket.SOCK_STREAM)
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # A port that a server left a moment ago is free, but not without this.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        place = f"{host}:{port}" if port else host
        raise UsageError(
            f"{place}: cannot be listened on ({error.strerror}); give another --port, or leave --host out"
        ) from error
