"""The picture of the report in the README: the top of a demo run's page in headless Chromium.

python docs/make_pictures.py [RUN]       # default runs/demo, made first where it is absent
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

HERE = Path(__file__).parent


def main() -> None:
    """Write ``docs/pictures/report.png``."""
    run = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/demo")
    if not (run / "report.html").exists():
        from rapidun.demo import run_demo

        run_demo(run, resume=run.exists())
    browser_path = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser_path is None:
        sys.exit("no chromium on this machine: install Debian's package chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 1500})
        page.goto((run / "report.html").resolve().as_uri())
        page.wait_for_timeout(2000)
        page.screenshot(path=HERE / "pictures" / "report.png")
        browser.close()


if __name__ == "__main__":
    main()
