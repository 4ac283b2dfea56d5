"""Runs the page's server: settings, theme and shutdown."""

import threading
from pathlib import Path

import gradio as gr
from gradio.state_holder import SessionState, StateHolder
from starlette.middleware import Middleware

from space_demo.limits import MAX_UPLOAD_BYTES, MAX_WAITING
from space_demo.page import Page
from space_demo.upload_guard import UploadGuard

HERE = Path(__file__).resolve().parent
# Fonts of the system only: nothing is fetched from elsewhere. Small text is darker than gradio's, for a contrast of
# 4.5 to 1.
THEME = gr.themes.Base(
    primary_hue=gr.themes.colors.teal,
    neutral_hue=gr.themes.colors.slate,
    radius_size=gr.themes.sizes.radius_md,
    font=["system-ui", "sans-serif"],
    font_mono=["ui-monospace", "monospace"],
).set(
    **{
        f"{name}{mode}": color
        for name, *colors in (
            ("button_primary_background_fill", "*primary_700", "*primary_700"),
            ("button_primary_background_fill_hover", "*primary_800", "*primary_800"),
            ("button_primary_text_color", "white", "white"),
            ("body_text_color_subdued", "*neutral_600", "*neutral_300"),
            ("block_label_text_color", "*neutral_700", "*neutral_200"),
            ("block_title_text_color", "*neutral_700", "*neutral_200"),
            ("block_info_text_color", "*neutral_600", "*neutral_300"),
            ("input_placeholder_color", "*neutral_600", "*neutral_300"),
        )
        for mode, color in zip(("", "_dark"), colors, strict=True)
    }
)


class NothingKept(StateHolder):
    """
    Starts each request with an empty state.

    Gradio's own keeps the last answer of every visitor, with its figures and the name of the file, in memory for as
    long as the server runs. This page has nothing to remember.
    """

    def __getitem__(self, session_id: str) -> SessionState:
        return SessionState(self.blocks)


def serve(
    page: Page, folder: Path, stopped: threading.Event, host: str | None = None, port: int | None = None
) -> None:
    """Serves the page until `stopped` is set; raises `OSError` where the port is taken."""
    try:
        page.blocks.queue(max_size=MAX_WAITING, api_open=False)
        page.blocks.launch(
            server_name=host,
            server_port=port,
            max_file_size=MAX_UPLOAD_BYTES,
            share=False,
            ssr_mode=False,
            pwa=False,
            enable_monitoring=False,
            quiet=True,
            run_history=False,
            footer_links=[],
            theme=THEME,
            css_paths=[HERE / "page.css"],
            head=f"<script>{(HERE / 'page.js').read_text(encoding='utf-8')}</script>",
            app_kwargs={"middleware": [Middleware(UploadGuard, folder=folder)]},
            prevent_thread_lock=True,
        )
        page.blocks.app.state_holder = NothingKept()
        page.blocks.app.state_holder.set_blocks(page.blocks)
        print(f"Listening on {page.blocks.local_url}", flush=True)
        page.warm_up_in_background()
        # Without a time to wait, Windows lets no signal through.
        while not stopped.wait(1):
            pass
    finally:
        page.blocks.close(verbose=False)
        # Before Python ends, since no thread may be started then, and loading a model starts some.
        page.finish()
