"""The page: its elements, and the function that answers each button."""

import json
import math
import sys
import traceback
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gradio as gr

from space_demo.limits import MAX_AT_ONCE, MAX_MEGABYTES, MAX_MINUTES, MAX_UPLOAD_BYTES
from space_demo.private_folder import remove_upload
from space_demo.recognizers import EMBEDDED, Recognizers
from space_demo.texts import EMBEDDED_NOTE, EMPTY_ANSWER, HEADER, HINT, error_html

EXAMPLE_NAMES = ("normal breathing", "crackles", "wheezes")
# The page sends a recording again that the server has removed after the last answer.
SEND = "(...inputs) => window.lungSounds.send(...inputs)"
SEND_PART = "(...inputs) => window.lungSounds.sendPart(...inputs)"
# An answer does not stay beside another recording.
FORGET = f'() => [{json.dumps(EMPTY_ANSWER)}, "", {{ __type__: "update", visible: false }}]'
WORKING: dict[str, Any] = {"concurrency_limit": MAX_AT_ONCE, "concurrency_id": "model", "show_progress": "minimal"}
WINDOW_SECONDS, HOP_SECONDS, MIN_CONFIDENCE = DEFAULT_SETTINGS = (4.0, 2.0, 0.5)
# The embedded checkpoint hears so much at once.
LONGEST_SECONDS = 8.0
# The hop stays half a window, unless it is set after the window.
FOLLOW = '(window) => ({ __type__: "update", maximum: window, value: Math.max(0.5, window / 2) })'
READY = "Ready"


class Page:
    """
    The page and its answers.

    Args:
        recognizers ([`Recognizers`]): the checkpoints to choose from.
        folder (`Path`): the private folder, to which gradio writes uploads.
    """

    def __init__(self, recognizers: Recognizers, folder: Path):
        self.recognizers = recognizers
        self.folder = folder
        # The model's thread keeps its memory from request to request, which gradio's changing threads would not.
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="model")
        with gr.Blocks(title="Lung-SRAD: lung sounds", analytics_enabled=False) as self.blocks:
            gr.HTML(HEADER, padding=False)
            with gr.Row():
                with gr.Column(scale=1, min_width=320):
                    self._build_question()
                with gr.Column(scale=2, min_width=320):
                    self._build_answer()
            self._connect()

    def warm_up_in_background(self) -> None:
        """Answers an example, so that all imports and the model are loaded before the first question."""

        def warm_up() -> None:
            from modeling_lung_srad.errors import InputError

            checkpoint = self.recognizers.default
            try:
                self.recognizers.get(checkpoint)
            except InputError as error:
                print(error, file=sys.stderr)
                checkpoint = EMBEDDED
            path = self._example(EXAMPLE_NAMES[0])
            self._answer(path, checkpoint, *DEFAULT_SETTINGS)
            self._remove(path)
            print(READY, flush=True)

        self._worker.submit(warm_up).add_done_callback(_tell_failure)

    def finish(self) -> None:
        """Waits for the work in progress and accepts no new work: a thread that computes while Python exits aborts."""
        self._worker.shutdown(cancel_futures=True)

    def example(self, name: str) -> str:
        """A file with an example, for this request alone."""
        return self._worker.submit(self._example, name).result()

    def answer(
        self, path: str | None, checkpoint: str, window: float, hop: float, min_confidence: float
    ) -> tuple[str, str, Any]:
        """Classifies an upload and removes it; returns HTML, no explanation, and the column that asks for one."""
        try:
            answer = self._worker.submit(self._answer, path, checkpoint, window, hop, min_confidence).result()
        except Exception as error:
            return self._problem(error), "", gr.Column(visible=False)
        finally:
            self._remove(path)
        return answer, "", gr.Column(visible=True)

    def explain(self, path: str | None, checkpoint: str, part: str | None) -> str:
        """Shows the times and frequencies that made the class of a part of an upload, and removes it; returns HTML."""
        try:
            return self._worker.submit(self._explain, path, checkpoint, part).result()
        except Exception as error:
            return self._problem(error)
        finally:
            self._remove(path)

    def limits(self, checkpoint: str) -> Any:
        """The slider of the window with the default and the longest one of a checkpoint."""
        try:
            window, longest = self._worker.submit(self._limits, checkpoint).result()
        except Exception as error:  # The next answer says what is wrong with the checkpoint.
            self._problem(error)
            return gr.Slider()
        return gr.Slider(maximum=longest, value=window)

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
        names, default = self.recognizers.names, self.recognizers.default
        self.checkpoint = gr.Radio(names, value=default, label="Model", info=EMBEDDED_NOTE)
        with gr.Accordion("Windows and confidence", open=False):
            self.window = gr.Slider(
                1,
                LONGEST_SECONDS,
                WINDOW_SECONDS,
                step=0.5,
                label="Window",
                info="seconds that are classified at once",
            )
            self.hop = gr.Slider(
                0.5, WINDOW_SECONDS, HOP_SECONDS, step=0.5, label="Hop", info="seconds from window to window"
            )
            self.min_confidence = gr.Slider(
                0,
                1,
                MIN_CONFIDENCE,
                step=0.05,
                label="Least confidence",
                info="below it the answer for a window is marked as unsure",
            )
        self.ask = gr.Button("Classify", variant="primary", elem_id="classify")

    def _build_answer(self) -> None:
        self.result = gr.HTML(EMPTY_ANSWER, elem_id="answer", padding=False)
        with gr.Column(visible=False, elem_id="explain") as self.explaining:
            # The part that is chosen in the answer; the script of the page fills it in.
            self.part = gr.Textbox(visible=False, label="Part")
            self.ask_why = gr.Button("Show what made its class", elem_id="why")
            self.explanation = gr.HTML(elem_id="explanation", padding=False)

    def _connect(self) -> None:
        settings = [self.window, self.hop, self.min_confidence]
        self.window.change(None, self.window, self.hop, js=FOLLOW)
        self.checkpoint.input(self.limits, self.checkpoint, self.window, api_visibility="private", **WORKING)
        answered = [self.result, self.explanation, self.explaining]
        self.recording.change(None, None, answered, js=FORGET)
        asked = [self.recording, self.checkpoint, *settings]
        self.ask.click(self.answer, asked, answered, js=SEND, api_name="classify", **WORKING)
        asked = [self.recording, self.checkpoint, self.part]
        self.ask_why.click(self.explain, asked, self.explanation, js=SEND_PART, api_name="explain", **WORKING)
        for name, button in zip(EXAMPLE_NAMES, self.examples, strict=True):
            button.click(lambda name=name: self.example(name), None, self.recording, api_visibility="private")

    # These import torch, which would delay the first page.

    def _limits(self, checkpoint: str) -> tuple[float, float]:
        lung_sounds = self.recognizers.get(checkpoint)
        longest = lung_sounds.feature_extractor.cycle_seconds
        return lung_sounds.choose_window()[0], math.floor(2 * longest) / 2

    def _example(self, name: str) -> str:
        from space_demo.examples import write_example

        return str(write_example(name, self.folder))

    def _answer(self, path: str | None, checkpoint: str, *settings: float) -> str:
        from space_demo.analysis import analyse

        return analyse(path, self.folder, self.recognizers.get(checkpoint), *settings)

    def _explain(self, path: str | None, checkpoint: str, part: str | None) -> str:
        from space_demo.explanation import explain

        return explain(path, self.folder, self.recognizers.get(checkpoint), part)

    def _problem(self, error: Exception) -> str:
        from modeling_lung_srad.errors import InputError

        if isinstance(error, InputError):
            return error_html(str(error))
        traceback.print_exception(error, file=sys.stderr)
        return error_html("the page: could not answer, because of a mistake of its own; try another recording")

    def _remove(self, path: str | None) -> None:
        if path is not None:
            remove_upload(Path(path), self.folder)


def _tell_failure(done: Future) -> None:
    if not done.cancelled() and (error := done.exception()):
        traceback.print_exception(error, file=sys.stderr)
