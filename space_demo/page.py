"""The page: what is on it, and which function answers which button."""

import sys
import threading
import traceback
from pathlib import Path
from typing import Any

import gradio as gr

from space_demo.errors import is_about_input
from space_demo.limits import MAX_AT_ONCE, MAX_MEGABYTES, MAX_MINUTES, MAX_UPLOAD_BYTES
from space_demo.private_folder import remove_upload
from space_demo.recognizers import EMBEDDED, Recognizers
from space_demo.texts import EMBEDDED_NOTE, EMPTY_ANSWER, HEADER, HINT, error_html

EXAMPLE_NAMES = ("normal breathing", "crackles", "wheezes")
# The page sends a recording again that the server has removed after the last answer.
SEND = "(...inputs) => window.lungSounds.send(...inputs)"
WORKING: dict[str, Any] = {"concurrency_limit": MAX_AT_ONCE, "concurrency_id": "model", "show_progress": "minimal"}
READY = "Ready"


class Page:
    """
    The page and what it answers.

    Args:
        recognizers ([`Recognizers`]): the checkpoints to choose from.
        folder (`Path`): the private folder, to which gradio writes uploads.
    """

    def __init__(self, recognizers: Recognizers, folder: Path):
        self.recognizers = recognizers
        self.folder = folder
        self._turn = threading.Lock()
        with gr.Blocks(title="Lung-SRAD: lung sounds", analytics_enabled=False) as self.blocks:
            gr.HTML(HEADER, padding=False)
            with gr.Row():
                with gr.Column(scale=1, min_width=320):
                    self._build_question()
                with gr.Column(scale=2, min_width=320):
                    self._build_answer()
            self._connect()

    def warm_up_in_background(self) -> None:
        """Imports and loads, in a thread, what the first answer needs, by answering an example."""

        def warm_up() -> None:
            path = self.example(EXAMPLE_NAMES[0])
            checkpoint = self.recognizers.default
            try:
                with self._turn:
                    self.recognizers.get(checkpoint)
            except ValueError as error:
                print(error, file=sys.stderr)
                checkpoint = EMBEDDED
            self.answer(path, checkpoint, 8.0, 4.0, 0.5)
            print(READY, flush=True)

        threading.Thread(target=warm_up, name="warm-up", daemon=True).start()

    def finish(self, seconds: float) -> None:
        """
        Waits for the work in progress and begins none any more.

        Args:
            seconds (`float`): how long to wait at most. A thread that computes while Python ends would abort it.
        """
        self._turn.acquire(timeout=seconds)

    def example(self, name: str) -> str:
        """A file with an example, for this request alone."""
        with self._turn:
            from space_demo.examples.simulate import write_example

            return str(write_example(name, self.folder))

    def answer(
        self, path: str | None, checkpoint: str, window: float, hop: float, min_confidence: float
    ) -> tuple[str, Any, str, Any]:
        """
        Classifies a recording and removes it.

        Args:
            path (`str`, *optional*): the upload.
            checkpoint (`str`): one of the names of the recognizers.
            window (`float`): seconds.
            hop (`float`): seconds.
            min_confidence (`float`): probability below which there is no answer.

        Returns:
            `tuple[str, Any, str, Any]`: the answer as HTML, the parts that can be explained, an empty explanation, and
            whether explanations are shown.
        """
        try:
            with self._turn:
                from space_demo.analysis import analyse

                answer = analyse(path, self.folder, self.recognizers.get(checkpoint), window, hop, min_confidence)
        except Exception as error:
            return self._problem(error), gr.Dropdown(choices=[]), "", gr.Column(visible=False)
        finally:
            self._remove(path)
        parts = gr.Dropdown(choices=answer.parts, value=answer.parts[0][1])
        return answer.html, parts, "", gr.Column(visible=True)

    def explain(self, path: str | None, checkpoint: str, part: str | None) -> str:
        """
        Shows which times and frequencies made a part of the recording what the model says it is.

        Args:
            path (`str`, *optional*): the upload, which is removed.
            checkpoint (`str`): one of the names of the recognizers.
            part (`str`, *optional*): one of the parts of the last answer.

        Returns:
            `str`: HTML.
        """
        try:
            with self._turn:
                from space_demo.explanation import explain

                return explain(path, self.folder, self.recognizers.get(checkpoint), part)
        except Exception as error:
            return self._problem(error)
        finally:
            self._remove(path)

    def _build_question(self) -> None:
        self.recording = gr.Audio(
            sources=["upload", "microphone"],
            type="filepath",
            label="Recording",
            buttons=[],
            editable=False,
            elem_id="recording",
        )
        gr.HTML(HINT.format(megabytes=MAX_MEGABYTES, minutes=MAX_MINUTES, bytes=MAX_UPLOAD_BYTES), padding=False)
        with gr.Row(elem_id="examples"):
            self.examples = [gr.Button(f"Simulated {name}", size="sm", min_width=90) for name in EXAMPLE_NAMES]
        self.checkpoint = gr.Dropdown(
            self.recognizers.names,
            value=self.recognizers.default,
            label="Model",
            info=EMBEDDED_NOTE,
        )
        with gr.Accordion("Windows and confidence", open=False):
            self.window = gr.Slider(1, 10, 8, step=0.5, label="Window", info="seconds that are classified at once")
            self.hop = gr.Slider(0.5, 10, 4, step=0.5, label="Hop", info="seconds from window to window")
            self.min_confidence = gr.Slider(
                0, 1, 0.5, step=0.05, label="Least confidence", info="below it there is no answer for a window"
            )
        self.ask = gr.Button("Classify", variant="primary", elem_id="classify")

    def _build_answer(self) -> None:
        self.result = gr.HTML(EMPTY_ANSWER, elem_id="answer", padding=False)
        with gr.Column(visible=False, elem_id="explain") as self.explaining:
            with gr.Row(equal_height=True):
                self.part = gr.Dropdown([], label="Window to explain", elem_id="part", scale=2)
                self.ask_why = gr.Button("Show what made its class", elem_id="why", scale=1)
            self.explanation = gr.HTML(elem_id="explanation", padding=False)

    def _connect(self) -> None:
        settings = [self.window, self.hop, self.min_confidence]
        self.ask.click(
            self.answer,
            [self.recording, self.checkpoint, *settings],
            [self.result, self.part, self.explanation, self.explaining],
            js=SEND,
            api_name="classify",
            **WORKING,
        )
        self.ask_why.click(
            self.explain,
            [self.recording, self.checkpoint, self.part],
            self.explanation,
            js=SEND,
            api_name="explain",
            **WORKING,
        )
        for name, button in zip(EXAMPLE_NAMES, self.examples, strict=True):
            button.click(lambda name=name: self.example(name), None, self.recording, api_visibility="private")

    def _problem(self, error: Exception) -> str:
        if is_about_input(error):
            return error_html(str(error))
        traceback.print_exception(error, file=sys.stderr)
        return error_html("the page: could not answer, because of a mistake of its own; try another recording")

    def _remove(self, path: str | None) -> None:
        if path is not None:
            remove_upload(Path(path), self.folder)
