"""The heat map of a terminal: colours where there are any, the strongest pairs always."""

from __future__ import annotations

import io

from rapidun.cli.console import PlainConsole
from rapidun.cli.token_view import print_tokens, strongest_pairs
from report.make_tokens import token_lines


def printed(*, colour: bool, lines=None) -> str:
    file = io.StringIO()
    colours = "truecolor" if colour else None
    console = PlainConsole(file=file, force_terminal=colour, color_system=colours, width=100)
    print_tokens(lines or token_lines(), console, top=3)
    return file.getvalue()


def test_without_colour_the_strongest_pairs_say_it_all():
    text = printed(colour=False)
    assert "\x1b" not in text
    assert "+0.5000" in text
    assert "-0.4000" in text
    assert text.count("\u2018Tor\u2019") >= 2
    assert "strongest pairs" in text


def test_with_colour_tokens_have_backgrounds_by_sign_and_size():
    text = printed(colour=True)
    # the strongest helping token at full strength; rich keeps a style's codes, also those of a terminal of 256 colours
    assert "48;2;242;185;139" in text or "48;5;216" in text
    assert "helps the query" in text


def test_text_of_rows_is_neither_markup_nor_control_sequence():
    lines = token_lines()
    lines[0]["train"]["pieces"][6] = "[red]\x1b[2J"
    lines[0]["id"] = "[bold]x"
    text = printed(colour=False, lines=lines)
    assert "[red]\\u001b[2J" in text
    assert "row [bold]x" in text


def test_the_strongest_pairs_are_places_in_the_rows():
    (first, second) = strongest_pairs(token_lines(by="loss")[0], 2)
    assert first == (0.5, 7, 6)
    assert second == (-0.4, 9, 8)


def test_every_row_and_every_query_is_printed():
    text = printed(colour=False, lines=token_lines(2, by="loss"))
    assert text.count("strongest pairs") == 4
    assert text.count("query words: Toronto") == 2
