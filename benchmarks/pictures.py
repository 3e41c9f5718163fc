"""A figure as a picture, by a browser: what a reader of the page sees."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import plotly.graph_objects as go
from playwright.sync_api import sync_playwright


def write_picture(figure: go.Figure, path: Path) -> None:
    """Write ``figure``, which has a width and a height in pixels, as a PNG."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        page_file = Path(folder) / "figure.html"
        figure.write_html(page_file)
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": figure.layout.width + 10, "height": figure.layout.height + 10})
        page.goto(page_file.as_uri())
        page.wait_for_timeout(1500)
        path.parent.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=path)
        browser.close()
