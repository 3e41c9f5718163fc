"""The token map in a real browser: pointing lights up, offline, readable, at phone width, whatever the text."""

from __future__ import annotations

from pathlib import Path

import pytest

from rapidun.errors import InputError
from rapidun.report.palette import contrast
from rapidun.report.token_map import render_token_map, write_token_map
from report.make_tokens import token_lines
from report.test_browser import READABLE, SIZES, browser

__all__ = ["browser"]

LIT = """(side) => [...document.querySelectorAll(`[data-side=${side}] .lit`)].map((t) => t.textContent)"""
STRONGEST = """() => { const size = (t) => Math.abs(+t.title.replace('\\u2212', '-'));
  const tokens = [...document.querySelector('[data-query]').querySelectorAll('[data-side=train] .token')];
  return tokens.sort((a, b) => size(b) - size(a))[0].textContent; }"""


def test_text_is_escaped_and_nothing_is_left_out():
    page = render_token_map(token_lines(2), "a <b> title")
    assert "<script>alert(1)" not in page
    assert "row-1<b>" not in page
    assert "a &lt;b&gt; title" in page
    assert page.count("data-query aria") == 2
    assert "U+200B" in page


def test_a_map_of_nothing_is_refused():
    with pytest.raises(InputError, match="at least one training row"):
        render_token_map([], "t")


def test_only_traced_tokens_can_be_pointed_at():
    page = render_token_map(token_lines(by="loss"), "t")
    assert page.count('role="button"') == 4
    assert "Only these words carry loss: <q>Toronto</q>" in page


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    return write_token_map(token_lines(2), tmp_path_factory.mktemp("page") / "tokens.html")


@pytest.fixture(params=[(size, scheme) for size in SIZES for scheme in ("light", "dark")], ids="-".join)
def tab(browser, written, request):
    size, scheme = request.param
    width, height = SIZES[size]
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, has_touch=size == "phone"
    )
    page = context.new_page()
    page.problems, page.requests = [], []
    page.on("console", lambda message: page.problems.append(message.text))
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("request", lambda request: page.requests.append(request.url))
    page.goto(written.as_uri())
    yield page
    context.close()


def query_token(page, text: str):
    return page.locator("[data-query]").first.locator("[data-side=query] [data-place]", has_text=text).first


@pytest.mark.browser
def test_it_is_readable_quiet_offline_and_fits(tab, written):
    assert tab.problems == []
    assert tab.requests == [written.as_uri()]
    assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    tab.evaluate("for (const t of document.querySelectorAll('.token')) t.style.background = ''")  # measured below
    unreadable = [(text, a, b) for a, b, text in tab.evaluate(READABLE) if contrast(a, b) < 4.5]
    assert unreadable == []
    query_token(tab, "Tor").click()
    assert tab.locator(".lit").count() > 0
    for lit in tab.locator(".lit").all():
        colours = lit.evaluate(
            """(e) => { const c = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
            const at = (v) => { c.fillStyle = v; c.fillRect(0, 0, 1, 1); return [...c.getImageData(0, 0, 1, 1).data]; };
            const card = getComputedStyle(e.closest('article, .asked')).backgroundColor;
            at(card); const ground = at(getComputedStyle(e).backgroundColor); const ink = at(getComputedStyle(e).color);
            const hex = (v) => '#' + v.slice(0, 3).map((x) => x.toString(16).padStart(2, '0')).join('');
            return [hex(ground), hex(ink)]; }"""
        )
        assert contrast(*colours) >= 4.5


@pytest.mark.browser
def test_pointing_at_a_query_token_lights_the_tokens_behind_it(tab):
    query_token(tab, "Tor").hover()
    tab.get_by_text("Behind \u2018Tor\u2019").first.wait_for()
    assert "Tor" in tab.evaluate(LIT, "train")
    assert tab.evaluate(STRONGEST) == "Tor"
    assert "Behind \u2018Tor\u2019" in tab.locator("[role=status]").first.inner_text()
    assert "from" in query_token(tab, "Tor").get_attribute("class")


@pytest.mark.browser
def test_a_tap_keeps_a_token_and_another_lets_go(tab):
    token = query_token(tab, "Tor")
    token.tap() if tab.evaluate("navigator.maxTouchPoints > 0") else token.click()
    assert token.get_attribute("aria-pressed") == "true"
    tab.locator("h1").hover()
    assert "Behind \u2018Tor\u2019" in tab.locator("[role=status]").first.inner_text()
    token.tap() if tab.evaluate("navigator.maxTouchPoints > 0") else token.click()
    assert token.get_attribute("aria-pressed") == "false"


@pytest.mark.browser
def test_the_keyboard_walks_from_token_to_token(tab):
    tab.keyboard.press("Tab")
    for _ in range(9):
        tab.keyboard.press("ArrowRight")
    assert "Behind \u2018.\u2019 " in tab.locator("[role=status]").first.inner_text()
    assert tab.evaluate(STRONGEST) == " it"
    tab.keyboard.press("Enter")
    assert query_token(tab, ".").get_attribute("aria-pressed") == "true"
    tab.keyboard.press("Escape")
    assert query_token(tab, ".").get_attribute("aria-pressed") == "false"


@pytest.mark.browser
def test_a_training_token_lights_the_query_tokens_it_is_behind(tab):
    tab.locator("[data-side=train] [data-place='6']").first.hover()
    assert "Tor" in tab.evaluate(LIT, "query")
    assert "of row 1 is behind: \u2018Tor\u2019 0.5" in tab.locator("[role=status]").first.inner_text()
