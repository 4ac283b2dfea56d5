"""Starts the page: `python -m space_demo.app` in a clone, `python app.py` at the root of the Space."""

import gc
import inspect
import os
import signal
import threading
from collections.abc import Sequence
from typing import Any

from space_demo.private_folder import make_private_folder, sweep_in_background

# Further checkpoints to choose from: ids on the Hub or folders, separated by commas.
CHECKPOINTS_VARIABLE = "LUNG_SRAD_CHECKPOINTS"


def main(checkpoints: Sequence[str] = (), host: str | None = None, port: int | None = None) -> None:
    """
    Serves the page until the process is interrupted or terminated.

    Only gradio is imported before the first page can be served; the model and all that it needs follow in the
    background.

    Args:
        checkpoints (sequence of `str`, *optional*):
            folders or ids on the Hub to choose from beside the embedded one; the first of them is chosen at first.
            Those of the environment variable LUNG_SRAD_CHECKPOINTS follow.
        host (`str`, *optional*): address to listen on; by default that of GRADIO_SERVER_NAME, or 127.0.0.1.
        port (`int`, *optional*): by default the first free one from GRADIO_SERVER_PORT, or 7860, on.

    Raises:
        OSError: where the port is taken.
    """
    stopped = stopped_by_signals()
    folder = make_private_folder()
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    import_gradio()
    from space_demo.page import Page
    from space_demo.recognizers import Recognizers
    from space_demo.server import serve

    offered = [name.strip() for name in os.environ.get(CHECKPOINTS_VARIABLE, "").split(",")]
    page = Page(Recognizers([*checkpoints, *filter(None, offered)], preferred=len(checkpoints) > 0), folder)
    sweep_in_background(folder)
    serve(page, folder, stopped, host, port)


def stopped_by_signals() -> threading.Event:
    """
    An event that is set by Ctrl+C and by a request to terminate, instead of an exception.

    An exception could come anywhere, such as between the start of a thread and its registration.
    """
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    return stopped


def import_gradio() -> None:
    """
    Imports gradio in half the time: without the editor stubs that it makes, and without looking for garbage meanwhile.

    At each import gradio parses the source of all of its components and writes `.pyi` files beside them, which takes
    half of the time and needs a writable installation. It leaves components without a source file out.
    """
    find_source_file = inspect.getfile

    def find_no_component(thing: Any) -> str:
        if isinstance(thing, type) and thing.__module__.startswith("gradio."):
            raise OSError(f"{thing} must not get a stub")
        return find_source_file(thing)

    inspect.getfile = find_no_component  # type: ignore[assignment]
    gc.disable()
    try:
        import gradio  # noqa: F401
    finally:
        inspect.getfile = find_source_file
        # Imported modules stay, so garbage collection can skip them.
        gc.freeze()
        gc.enable()


if __name__ == "__main__":
    main()
