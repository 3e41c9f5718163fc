from __future__ import annotations

import pytest

from rapidun.report.palette import PALETTE, contrast, dark_partners

GROUNDS = ("page", "card", "inset")
PAIRS = [(text, ground) for text in ("ink", "muted", "link") for ground in GROUNDS]
PAIRS += [("pass", "pass_soft"), ("fail", "fail_soft"), ("ink", "pass_soft"), ("ink", "fail_soft"), ("ink", "mark")]
PAIRS += [(line, "card") for line in ("before", "after", "forget", "retain", "pass", "fail")]


@pytest.mark.parametrize("mode", ["light", "dark"])
@pytest.mark.parametrize(("text", "ground"), PAIRS)
def test_text_and_lines_are_readable_on_their_ground(text, ground, mode):
    assert contrast(getattr(PALETTE[text], mode), getattr(PALETTE[ground], mode)) >= 4.5


def test_every_light_colour_has_one_dark_partner():
    assert len(dark_partners()) == len(PALETTE)


def test_contrast_runs_from_1_to_21():
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    assert contrast("#777777", "#777777") == 1
