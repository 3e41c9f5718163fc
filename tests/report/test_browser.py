"""The report in a real browser: drawn, readable, offline, at desktop and phone width."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from rapidun.files import write_json
from rapidun.jsonl import read_jsonl, write_jsonl
from rapidun.reading import read_json
from rapidun.report import write_report
from rapidun.report.palette import contrast
from report.make_run import make_attacks, make_known, make_run
from report.make_valuation import make_valuation

pytestmark = pytest.mark.browser

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
SIZES = {"desktop": (1280, 900), "phone": (375, 812)}

DRAWN = "[...document.querySelectorAll('.plot')].every((p) => p.querySelector('svg.main-svg'))"

# Text elements with the colour they are read in and the first opaque colour behind them.
READABLE = """() => {
  const hex = (c) => '#' + c.match(/[\\d.]+/g).slice(0, 3).map((v) => (+v | 0).toString(16).padStart(2, '0')).join('');
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const c = getComputedStyle(e).backgroundColor;
      if (!/^rgba\\(.*, 0\\)$/.test(c)) return hex(c);
    }
    return '#ffffff';
  };
  const pairs = new Map();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; (node = walker.nextNode()); ) {
    const e = node.parentElement;
    if (!node.data.trim() || ['SCRIPT', 'STYLE', 'NOSCRIPT'].includes(e.tagName)) continue;
    const inChart = e instanceof SVGElement;
    const colour = inChart ? getComputedStyle(e).fill : getComputedStyle(e).color;
    if (!colour.startsWith('rgb')) continue;
    pairs.set(hex(colour) + ground(e), [hex(colour), ground(e), node.data.trim().slice(0, 40)]);
  }
  return [...pairs.values()];
}"""


def until(page, expression: str, seconds: float = 10) -> None:
    """Wait for ``expression``; the page's own policy forbids the eval behind Playwright's wait_for_function."""
    end = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < end, f"still not true after {seconds} s: {expression}"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    return write_report(make_known(make_attacks(make_run(tmp_path_factory.mktemp("run")))))


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="browser tests need `pip install playwright`")
    if CHROMIUM is None:
        pytest.skip("browser tests need Chromium: apt-get install chromium")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(params=[(size, scheme) for size in SIZES for scheme in ("light", "dark")], ids="-".join)
def tab(browser, report, request):
    """The report in a tab that remembers its console, its errors and its requests."""
    size, scheme = request.param
    width, height = SIZES[size]
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    page = context.new_page()
    page.problems, page.requests = [], []
    page.on("console", lambda message: page.problems.append(message.text))
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("request", lambda request: page.requests.append(request.url))
    page.goto(report.as_uri())
    until(page, DRAWN)
    yield page
    context.close()


def test_it_is_drawn_readable_quiet_offline_and_fits(tab, report):
    assert tab.problems == []
    assert [url for url in tab.requests if not url.startswith(("data:", "blob:"))] == [report.as_uri()]
    assert tab.title() == "Unlearning of the triggers A_surface, B_style and C_semantic \u00b7 rapidun report"
    assert tab.locator("main > section").count() == 12
    assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    for plot in tab.locator(".plot").all():
        assert plot.locator("svg.main-svg .xy, svg.main-svg .cartesianlayer").count() > 0
    pairs = tab.evaluate(READABLE)
    assert len(pairs) > 8
    unreadable = [(text, one, two) for one, two, text in pairs if contrast(one, two) < 4.5]
    assert unreadable == []


def test_opening_everything_still_fits(tab):
    tab.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    wide = (
        "[...document.querySelectorAll('.plot')].filter((p) => p.querySelector('svg').clientWidth > p.clientWidth + 1)"
    )
    assert tab.evaluate(f"{wide}.length") == 0


HIDDEN = """() => {
  const edge = document.documentElement.clientWidth;
  const cut = [...document.querySelectorAll('.scroll, nav')].filter((e) => e.scrollWidth > e.clientWidth + 1);
  const texts = [...document.querySelectorAll('.plot')].flatMap((plot) => {
    const box = plot.getBoundingClientRect();
    return [...plot.querySelectorAll('text')].filter((text) => {
      const own = text.getBoundingClientRect();
      return own.width && (own.left < box.left - 1 || own.right > Math.min(box.right + 1, edge));
    });
  });
  const over = [...document.querySelectorAll('.checks li')].filter((line) => {
    const [one, two] = ['.badge', '.bound'].map((name) => line.querySelector(name)?.getBoundingClientRect());
    return two && one.bottom > two.top + 1 && one.top < two.bottom - 1 && one.right > two.left;
  });
  return [...cut, ...texts, ...over].map((e) => e.getAttribute('aria-label') ?? e.textContent.trim().slice(0, 60));
}"""


@pytest.mark.parametrize("make", [make_run, make_valuation])
def test_nothing_is_cut_or_covered_at_the_width_of_a_phone(browser, tmp_path, make):
    page = browser.new_page(viewport={"width": 375, "height": 812})
    page.goto(write_report(make(tmp_path / "run")).as_uri())
    until(page, DRAWN)
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert page.evaluate(HIDDEN) == []
    page.close()


def test_charts_follow_the_colour_scheme_and_the_window(browser, report):
    page = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light").new_page()
    page.goto(report.as_uri())
    until(page, DRAWN)
    tick = "getComputedStyle(document.querySelector('#chart-training-losses .xtick text')).fill"
    light = page.evaluate(tick)
    page.emulate_media(color_scheme="dark")
    until(page, f"{tick} !== {light!r}")
    page.set_viewport_size({"width": 375, "height": 812})
    until(page, "document.querySelector('#chart-training-losses svg').clientWidth <= 360")
    page.context.close()


def test_a_script_that_slipped_in_would_not_run(browser, report, tmp_path):
    """Defence in depth: were escaping ever forgotten, the content policy would still stop the script."""
    broken = tmp_path / "broken.html"
    html = report.read_text(encoding="utf-8")
    broken.write_text(html.replace("<main>", "<main><script>document.title = 'owned'</script>"), encoding="utf-8")
    page = browser.new_page()
    page.goto(broken.as_uri())
    assert "owned" not in page.title()
    page.close()


def test_hostile_lengths_do_not_widen_the_page(browser, tmp_path):
    run = make_run(tmp_path / "run")
    long = "unbroken" * 60
    manifest, metrics = read_json(run / "manifest.json"), read_json(run / "metrics.json")
    manifest["model"], manifest["phases"][0]["name"] = long, long
    metrics["by_variant"]["after"][0]["trigger"] = long
    metrics["gate"]["checks"][0]["text"] = long
    metrics["judges"][long] = {"kind": long, "floor": 0.1, "ceiling": 0.9, "keywords": [long]}
    write_json(run / "manifest.json", manifest)
    write_json(run / "metrics.json", metrics)
    samples = [{**sample, "prompt": long, "before": long} for sample in read_jsonl(run / "samples.jsonl")]
    write_jsonl(run / "samples.jsonl", samples)
    page = browser.new_page(viewport={"width": 375, "height": 812})
    page.goto(write_report(run).as_uri())
    until(page, DRAWN)
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    page.close()


def test_charts_on_paper_are_as_wide_as_half_a_page_and_grow_back(browser, report):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(report.as_uri())
    until(page, DRAWN)
    width = "document.querySelector('#chart-weights-forget svg').clientWidth"
    before = page.evaluate(width)
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate(width) == 310
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    until(page, f"{width} === {before}")
    page.close()


def test_printing_opens_what_is_folded_and_uses_ink_on_white(browser, report, tmp_path):
    page = browser.new_context(color_scheme="dark").new_page()
    page.goto(report.as_uri())
    until(page, DRAWN)
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open]):not(.clip)").count() == 0
    fill = page.evaluate("getComputedStyle(document.querySelector('#chart-training-losses .xtick text')).fill")
    assert fill == "rgb(85, 96, 109)"
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert page.locator("details[data-unfolded]").count() == 0
    page.context.close()
