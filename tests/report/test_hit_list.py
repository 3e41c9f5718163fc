"""The page of a trace's hits: everything shown, nothing run."""

from __future__ import annotations

from pathlib import Path

import pytest

from rapidun.errors import InputError
from rapidun.report.hit_list import render_hit_list, write_hit_list
from rapidun.report.palette import contrast
from report.test_browser import READABLE, SIZES, browser

__all__ = ["browser"]


def hit(query: int, rank: int) -> dict[str, object]:
    return {
        "query_index": query, "query": "why <b>aloha</b>", "response": "the moon\u200b", "rank": rank,
        "id": f"row-{rank}", "score": 0.5 / rank, "prompt": "aloha <script>alert(1)</script>" + "x" * 90,
        "train_response": "robots " * 30,
    }  # fmt: skip


def test_text_is_escaped_and_every_hit_is_there():
    page = render_hit_list([hit(0, 1), hit(0, 2), hit(1, 1)], "a <b> title")
    assert "<script" not in page and "why <b>" not in page
    assert page.count("<article>") == 3 and page.count('class="asked"') == 2
    assert "U+200B" in page and "script-src &#39;none&#39;" in page


def test_a_list_of_nothing_is_refused():
    with pytest.raises(InputError, match="no training row"):
        render_hit_list([], "t")


@pytest.mark.browser
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_readable_offline_and_fits(browser, tmp_path: Path, size: str, scheme: str):
    written = write_hit_list([hit(0, 1), hit(0, 2)], tmp_path / "hits.html")
    width, height = SIZES[size]
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    page = context.new_page()
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(written.as_uri())
    assert requests == [written.as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert [text for a, b, text in page.evaluate(READABLE) if contrast(a, b) < 4.5] == []
    context.close()
