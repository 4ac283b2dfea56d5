"""Starts the page: `python -m space_demo.app` in a clone, `python app.py` at the root of the Space."""

import os
from collections.abc import Sequence

from space_demo.gradio_import import import_gradio
from space_demo.private_folder import make_private_folder, sweep_in_background
from space_demo.signals import stopped_by_signals

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
    # Threads of torch that wait for each other do so asleep: where other programs want the processors as well, as on a
    # shared machine, an answer takes a quarter of the time.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import_gradio()
    from space_demo.page import Page
    from space_demo.recognizers import Recognizers
    from space_demo.server import serve

    offered = [name.strip() for name in os.environ.get(CHECKPOINTS_VARIABLE, "").split(",")]
    page = Page(Recognizers([*checkpoints, *filter(None, offered)], preferred=len(checkpoints) > 0), folder)
    sweep_in_background(folder)
    serve(page, folder, stopped, host, port)


if __name__ == "__main__":
    main()
