from __future__ import annotations

import math

import pytest

from rapidun.report import formats


def test_percentages_have_one_decimal_and_intervals_share_the_sign():
    assert formats.percent_interval(0.042, 0.021, 0.076) == "4.2% [2.1, 7.6]"
    assert formats.percent(1.0) == "100.0%"
    assert formats.percent_interval(0.5, None, None) == "50.0%"


def test_a_small_negative_number_is_not_a_negative_zero():
    assert formats.percent(-0.0001) == "0.0%"
    assert formats.percent(-0.5) == "\u221250.0%"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (6.7123, "6.71"), (12345.6, "12,346"), (0.01234, "0.0123"), (1.5e-7, "1.50e-07"), (-2.0, "\u22122.00")],
)
def test_numbers_keep_three_digits(value, text):
    assert formats.number(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.3, "0.30 s"), (48.2, "48.2 s"), (200, "3 min 20 s"), (7500, "2 h 5 min"), (59.99, "60.0 s")]
)
def test_durations_read_like_speech(value, text):
    assert formats.seconds(value) == text


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_what_was_not_measured_says_so_instead_of_showing_nan(value):
    for form in (formats.percent, formats.number, formats.ratio, formats.count, formats.seconds, formats.memory):
        assert form(value) == formats.MISSING


def test_memory_and_ratio_and_time():
    assert formats.memory(512) == "512 MiB"
    assert formats.memory(2890) == "2.8 GiB"
    assert formats.ratio(1.03) == "1.03\u00d7"
    assert formats.ratio(139.2) == "139\u00d7"
    assert formats.moment("2026-11-21T10:42:07Z") == "21 November 2026, 10:42 UTC"
    assert formats.moment("yesterday") == "yesterday"
