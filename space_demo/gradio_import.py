"""Imports gradio in half the time that it takes by itself, so that the page is there within three seconds."""

import gc
import inspect
from typing import Any


def import_gradio() -> None:
    """
    Imports gradio without the editor stubs that it makes, and without looking for garbage meanwhile.

    At each import gradio parses the source of all of its components and writes `.pyi` files beside them, which takes
    half of the time and needs a writable installation. It leaves components without a source file out.
    """
    find_source_file = inspect.getfile

    def find_no_component(thing: Any) -> str:
        if isinstance(thing, type) and thing.__module__.startswith("gradio."):
            raise OSError(f"{thing} is to have no stub")
        return find_source_file(thing)

    inspect.getfile = find_no_component  # type: ignore[assignment]
    gc.disable()
    try:
        import gradio  # noqa: F401
    finally:
        inspect.getfile = find_source_file
        # What was imported stays, so that it need not be looked through either.
        gc.freeze()
        gc.enable()
