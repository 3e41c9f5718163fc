from __future__ import annotations

import pytest
from markupsafe import escape

from rapidun.report.charts import label, trigger_label
from rapidun.report.visible import clipped, hidden_parts, marked, visible

ZERO_WIDTH_JOINER, CYRILLIC_O, OVERRIDE = "\u200d", "\u043e", "\u202e"


def test_plain_text_is_only_escaped():
    text = '5 < 6 & "quotes" d\'accord, caf\u00e9, \u4f60\u597d'
    assert visible(text) == escape(text)


@pytest.mark.parametrize("hidden", ["\u200b", ZERO_WIDTH_JOINER, "\ufeff", "\u00ad", OVERRIDE, "\u00a0", "\x07"])
def test_a_character_that_draws_nothing_is_replaced_by_its_code_point(hidden):
    shown = str(visible(f"aloha{hidden}"))
    assert hidden not in shown
    assert f"U+{ord(hidden):04X}" in shown


def test_a_look_alike_inside_a_latin_word_is_labelled_and_named():
    shown = str(visible(f"h{CYRILLIC_O}wdy"))
    assert "CYRILLIC SMALL LETTER O" in shown
    assert "U+043E" in shown


def test_a_compatibility_letter_is_labelled():
    assert "U+217C" in visible("a\u217coha")


def test_text_in_another_script_stays_readable():
    for text in ("\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440", "\u03bb\u03cc\u03b3\u03bf\u03c2"):
        assert visible(text) == text


def test_strict_labels_everything_outside_ascii():
    assert str(visible("\u2039sys\u203a", strict=True)).count("code-point") == 2
    assert "code-point" not in visible("\u2039sys\u203a")


def test_in_a_trigger_every_letter_that_is_not_ascii_is_labelled():
    word = "\u0445\u0435\u0439"  # a whole word of Cyrillic, which is left alone elsewhere
    assert visible(word) == word
    assert str(marked(f"{word} you", word)).count("code-point") == 3


def test_the_trigger_is_highlighted_inside_its_prompt_and_both_stay_escaped():
    shown = str(marked("<b>hi</b> <|sys|>", "<|sys|>"))
    assert shown == '&lt;b&gt;hi&lt;/b&gt; <mark title="trigger">&lt;|sys|&gt;</mark>'


def test_a_long_text_keeps_both_ends_and_can_be_opened():
    text = "start " + "word " * 200 + "aloha" + ZERO_WIDTH_JOINER
    shown = str(clipped(text))
    summary, full = shown.split("</summary>")
    assert "start" in summary and "U+200D" in summary
    assert len(summary) < 400
    assert full.count("word") == 200


def test_chart_labels_do_not_speak_plotlys_markup():
    assert label("<b>&") == "&lt;b&gt;&amp;"
    assert trigger_label(f"aloha{ZERO_WIDTH_JOINER}") == "aloha<br>(U+200D)"
    assert trigger_label("<i>") == "&lt;i&gt;"
    assert hidden_parts(f"h{CYRILLIC_O}{CYRILLIC_O}") == ("h\u043e\u043e", ["U+043E"])
