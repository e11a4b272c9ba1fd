"""Starting the page: where it listens, what it accepts, and that it asks nothing of the outside."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deepcorrect.explorer._exhibits import Exhibits
from deepcorrect.explorer._page import build
from deepcorrect.explorer._requests import LocalFilesOnly
from deepcorrect.runtime import InputError, optional_import

STYLE = Path(__file__).with_name("page.css")
LARGEST_UPLOAD = 20
POLL_SECONDS = 0.2
FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "DejaVu Sans", "sans-serif")
FIXED_FONTS = ("ui-monospace", "Menlo", "DejaVu Sans Mono", "monospace")
COLOURS = {
    "button_primary_background_fill": "*primary_700",
    "button_primary_background_fill_hover": "*primary_800",
    "button_primary_background_fill_dark": "*primary_700",
    "button_primary_text_color": "white",
    "color_accent": "*primary_700",
    "slider_color": "*primary_600",
    "checkbox_background_color_selected": "*primary_700",
    "checkbox_border_color_selected": "*primary_700",
    "body_text_color_subdued": "*neutral_600",
    "body_text_color_subdued_dark": "*neutral_400",
    "block_label_text_color": "*neutral_700",
    "block_title_text_color": "*neutral_700",
}
"""Colours that are darker than the theme's own, so that text on and beside them can be read."""
QUIET = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
"""Settings of the environment under which Gradio and the hub's library report nothing."""


def serve(
    exhibits: Exhibits,
    host: str = "127.0.0.1",
    port: int | None = None,
    *,
    upload_megabytes: int = LARGEST_UPLOAD,
    started: Callable[[str], None] | None = None,
) -> Any:
    """Starts the page.

    It serves its own files and what `exhibits` holds. Every other path of the machine is refused.

    Args:
        exhibits: What the page offers.
        host: The address to listen at; the default is reached from this machine alone.
        port: The port; None takes the first free one from 7860 on.
        upload_megabytes: The largest file that can be uploaded.
        started: Called with the page's address when it answers; `serve` then returns when the page
            is stopped. None returns at once.

    Returns:
        Gradio's `Blocks`, whose `close` stops the page and whose `local_url` is its address.

    Raises:
        InputError: The address or the port cannot be used.
        MissingExtraError: Gradio is not installed.
    """
    os.environ.update(QUIET)
    if "GRADIO_TEMP_DIR" not in os.environ:
        uploads = tempfile.mkdtemp(prefix="deepcorrect-explorer-")
        atexit.register(shutil.rmtree, uploads, ignore_errors=True)
        os.environ["GRADIO_TEMP_DIR"] = uploads
    gr = optional_import("gradio", "explore")
    fonts = {"font": list(FONTS), "font_mono": list(FIXED_FONTS)}
    theme = gr.themes.Base(primary_hue="teal", neutral_hue="slate", **fonts).set(**COLOURS)
    middleware = optional_import("starlette.middleware", "explore")
    blocks = build(exhibits)
    blocks.queue(default_concurrency_limit=4, max_size=64)
    try:
        blocks.launch(
            server_name=host,
            server_port=port,
            theme=theme,
            css=STYLE.read_text(encoding="utf-8"),
            share=False,
            inbrowser=False,
            quiet=True,
            ssr_mode=False,
            footer_links=[],
            enable_monitoring=False,
            allowed_paths=[],
            app_kwargs={"middleware": [middleware.Middleware(LocalFilesOnly)]},
            max_file_size=upload_megabytes * 2**20,
            prevent_thread_lock=True,
        )
    except OSError as error:
        raise InputError(f"the page cannot be started at {host}: {error}") from None
    if started is not None:
        started(blocks.local_url)
        try:
            while blocks.is_running:
                time.sleep(POLL_SECONDS)
        finally:
            blocks.close(verbose=False)
    return blocks
