"""The valuation's page: what it says, that it is drawn in a real browser, and what it leaves out."""

from __future__ import annotations

from pathlib import Path

import pytest

from rapidun.errors import InputError
from rapidun.report import write_report
from rapidun.report.palette import contrast
from report.make_valuation import make_valuation, valuation
from report.test_browser import READABLE, SIZES, browser, until

__all__ = ["browser"]


def page_of(directory: Path) -> str:
    return write_report(directory).read_text(encoding="utf-8")


def test_it_says_what_was_found_and_escapes_what_rows_say(tmp_path):
    page = page_of(make_valuation(tmp_path))
    for text in ("Valuation report", "small-30m", "0.810 [0.770, 0.850]", "Selected by top:10%: 200 rows",
                 "50.0% [47.0, 53.0]", "Gr\u00fcn &amp; S\u00f6hne &lt;GmbH&gt;", "spelling", "U+200B"):  # fmt: skip
        assert text in page, text
    assert "Unlearning report" not in page
    assert "<b>3</b>" not in page
    assert "20.0 s" in page  # the teacher's thousand rows


def test_what_was_not_asked_for_leaves_no_trace(tmp_path):
    page = page_of(make_valuation(tmp_path, kind="linfik", student=None, by=None, selection=None))
    for text in ("Student against teacher", "Value by source", "Selected by"):
        assert text not in page
    bare = {name: value for name, value in valuation()["student"].items() if name == "kind"}
    assert "saved without what it did" in page_of(make_valuation(tmp_path / "bare", kind="student", student=bare))


@pytest.mark.parametrize(("how", "said"), [("mmr", "unlike each other (mmr)"), ("matching", "sum of their gradients")])
def test_it_says_how_rows_were_chosen(tmp_path, how, said):
    selection = {**valuation()["selection"], "diversity": how}
    assert said in page_of(make_valuation(tmp_path, selection=selection))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"histogram": {"edges": [0, 1], "counts": [1, 2]}}, "2 edges and 2 counts"),
        ({"histogram": {"edges": "x", "counts": [1]}}, "'edges' must be a list of numbers"),
        ({"student": {**valuation()["student"], "scatter": [1]}}, "'scatter' must be a list of pairs"),
        ({"summary": 3}, r"valuation\.json: summary: must be a JSON object"),
    ],
)
def test_a_broken_record_is_named(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        write_report(make_valuation(tmp_path, **changes))


@pytest.mark.browser
@pytest.mark.parametrize(("size", "scheme"), [("desktop", "light"), ("phone", "dark")])
def test_it_is_drawn_readable_quiet_offline_and_fits(browser, tmp_path, size, scheme):
    report = write_report(make_valuation(tmp_path))
    width, height = SIZES[size]
    tab = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme).new_page()
    problems, requests = [], []
    tab.on("console", lambda message: problems.append(message.text))
    tab.on("pageerror", lambda error: problems.append(str(error)))
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto(report.as_uri())
    until(tab, "[...document.querySelectorAll('.plot')].every((p) => p.querySelector('svg.main-svg'))")
    assert problems == []
    assert [url for url in requests if not url.startswith(("data:", "blob:"))] == [report.as_uri()]
    assert tab.locator("main > section").count() == 6
    assert tab.locator(".plot").count() == 6
    tab.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    unreadable = [(text, one, two) for one, two, text in tab.evaluate(READABLE) if contrast(one, two) < 4.5]
    assert unreadable == []
    tab.context.close()
