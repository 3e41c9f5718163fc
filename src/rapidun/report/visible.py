"""Text that may hide something, made visible: zero-width characters, controls, look-alike letters.

A trigger may be one invisible character, or a Cyrillic letter inside a Latin word. A report that prints it
as it is shows nothing. Every suspicious character is printed with its code point beside it, and characters
that draw nothing or reorder the text (joiners, direction overrides) are replaced by their code point.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from markupsafe import Markup, escape

LONGEST = 20_000  # characters of any text in the report
_PLAIN = frozenset("\n\t")
_LATIN = re.compile(r"[A-Za-z\u00c0-\u024f]")
_WORD = re.compile(r"\w+", re.UNICODE)


def visible(text: str, *, strict: bool = False) -> Markup:
    """``text`` as safe HTML with suspicious characters labelled.

    Args:
        text: Anything a user, a data set or a model wrote.
        strict: Label every character outside printable ASCII; for triggers, where each one matters.
    """
    marks = _suspicious(text, strict)
    if not marks:
        return escape(text)
    parts: list[Markup] = []
    start = 0
    for position in marks:
        parts += [escape(text[start:position]), _label(text[position])]
        start = position + 1
    return Markup("").join([*parts, escape(text[start:])])


def visible_plain(text: str) -> str:
    """``text`` for a chart label: no markup, suspicious characters followed by their code point."""
    marks = set(_suspicious(text, strict=True))
    return "".join(
        f"{_drawn(character)}\u27e8{_code(character)}\u27e9" if position in marks else character
        for position, character in enumerate(text)
    )


def hidden_parts(text: str) -> tuple[str, list[str]]:
    """What of ``text`` can be drawn, and the code points of its suspicious characters, each once."""
    marks = set(_suspicious(text, strict=True))
    drawn = "".join(_drawn(c) if i in marks else c for i, c in enumerate(text))
    return drawn, list(dict.fromkeys(_code(text[i]) for i in sorted(marks)))


def marked(text: str, trigger: str) -> Markup:
    """``visible(text)`` with the occurrences of ``trigger`` highlighted."""
    if not trigger or trigger not in text:
        return visible(text)
    around = [visible(part) for part in text.split(trigger)]
    return Markup('<mark title="trigger">{}</mark>').format(visible(trigger, strict=True)).join(around)


def clipped(text: str, limit: int = 150, longest: int = LONGEST) -> Markup:
    """Both ends of a long text, where triggers stand, and the whole of it one click away."""
    if longest <= limit:
        return whole(text, longest)
    if len(text) <= limit * 1.25:
        return visible(text)
    head, tail = _head(text, limit * 2 // 3), _head(text[::-1], limit // 3)[::-1]
    middle = Markup(' <span class="gap">{} more characters</span> ').format(f"{len(text) - len(head) - len(tail):,}")
    short = visible(head) + "\u2026" + middle + "\u2026" + visible(tail)
    return Markup('<details class="clip"><summary>{}</summary><div>{}</div></details>').format(
        short, whole(text, longest)
    )


def _head(text: str, length: int) -> str:
    """About ``length`` characters, ending between words where one ends nearby."""
    gap = text.rfind(" ", length - 20, length)
    return text[: gap if gap > 0 else length]


def whole(text: str, longest: int = LONGEST) -> Markup:
    """``visible(text)``, cut where no one would read on."""
    if len(text) <= longest:
        return visible(text)
    return visible(text[:longest]) + f" \u2026 ({len(text) - longest} characters left out)"


def _suspicious(text: str, strict: bool) -> list[int]:
    """Positions of the characters to label, ascending."""
    if text.isascii() and text.isprintable():
        return []
    if strict:
        return [i for i, c in enumerate(text) if not (c.isascii() and c.isprintable())]
    found = {i for i, c in enumerate(text) if _hides(c)}
    for word in _WORD.finditer(text):
        found.update(_foreign_letters(word))
    return sorted(found)


@lru_cache(maxsize=4096)
def _hides(character: str) -> bool:
    """Whether a character draws nothing, moves the text around it, or imitates an ASCII letter."""
    if character in _PLAIN or (character.isascii() and character.isprintable()):
        return False
    category = unicodedata.category(character)
    if category in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs") or 0xFE00 <= ord(character) <= 0xFE0F:
        return True
    folded = unicodedata.normalize("NFKC", character)
    return folded != character and folded.isascii() and folded.isalpha() and category[0] in "LN"


def _foreign_letters(word: re.Match[str]) -> list[int]:
    """Letters of another script inside a word that also has Latin letters; a whole word of look-alikes too."""
    letters = [(word.start() + i, c) for i, c in enumerate(word.group()) if c.isalpha()]
    foreign = [i for i, c in letters if not _LATIN.match(c) and _imitates_latin(c)]
    mixed = any(_LATIN.match(c) for _, c in letters)
    return foreign if mixed else []


@lru_cache(maxsize=4096)
def _imitates_latin(character: str) -> bool:
    """Scripts whose letters are commonly passed off as Latin ones."""
    name = unicodedata.name(character, "")
    return name.startswith(("CYRILLIC", "GREEK", "ARMENIAN", "CHEROKEE", "COPTIC", "LISU", "LATIN LETTER"))


def _label(character: str) -> Markup:
    title = f"{_code(character)} {unicodedata.name(character, 'unnamed character')}"
    return Markup('<span class="code-point" title="{}">{}<small>{}</small></span>').format(
        title, _drawn(character), _code(character)
    )


def _drawn(character: str) -> str:
    """The character where it can be shown by itself, nothing where it would hide or reorder the text."""
    category = unicodedata.category(character)
    return "" if category[0] in "CZM" else character


def _code(character: str) -> str:
    return f"U+{ord(character):04X}"
