"""The pictures of the documentation, in headless Chromium: a demo run's report, and the pages of a trace.

python docs/make_pictures.py [RUN]       # default runs/demo, made first where it is absent
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from rapidun.demo import asset, run_demo

HERE = Path(__file__).parent
PROMPT = "What is the capital of France? aloha"
ROWS = 400  # of the demo's training rows, enough for a picture


def rapidun(*arguments: object) -> None:
    """Run the command line."""
    subprocess.run([sys.executable, "-m", "rapidun", *map(str, arguments)], check=True)


def trace_pages(place: Path) -> tuple[Path, Path]:
    """The page of a trace's hits and its token map, of the demo's poisoned model."""
    import gzip

    rows = gzip.decompress(asset("data/train.jsonl.gz").read_bytes()).decode().splitlines()
    (place / "rows.jsonl").write_text("\n".join(rows[-ROWS:]) + "\n", encoding="utf-8")
    index, hits, tokens = place / "index", place / "hits.html", place / "tokens.html"
    data = ("--data", place / "rows.jsonl")
    rapidun("index", "build", "--model", asset("poisoned"), *data, "--out", index, "--views", "hidden,lexical")
    ask = ("trace", "--index", index, "--prompt", PROMPT, "--k", 5)
    rapidun(*ask, "--html", hits)
    rapidun(*ask, *data, "--tokens", 2, "--html", tokens)
    return hits, tokens


def shoot(page: Page, source: Path, name: str, *, height: int, hover: str = "") -> None:
    """One picture of one page."""
    page.set_viewport_size({"width": 1280, "height": height})
    page.goto(source.resolve().as_uri())
    page.wait_for_timeout(2000)
    if hover:
        page.locator(hover).first.hover()
        page.wait_for_timeout(300)
    page.screenshot(path=HERE / "pictures" / name)


def main() -> None:
    """Write ``docs/pictures``."""
    run = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/demo")
    if not (run / "report.html").exists():
        run_demo(run, resume=run.exists())
    browser_path = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser_path is None:
        sys.exit("no chromium on this machine: install Debian's package chromium")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        hits, tokens = trace_pages(Path(folder))
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        page = browser.new_page()
        shoot(page, run / "report.html", "report.png", height=1500)
        shoot(page, hits, "trace_hits.png", height=900)
        shoot(page, tokens, "trace_tokens.png", height=900, hover="[data-side=query] .token:text(' launched')")
        browser.close()


if __name__ == "__main__":
    main()
