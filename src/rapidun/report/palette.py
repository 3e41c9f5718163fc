"""The colours of the report: one table for the style sheet, the charts and dark mode.

Charts are built in the light colours; the page's script swaps each for its dark partner when the reader's
system asks for dark. The light colours are therefore all different from each other.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Shade:
    """One role in light and in dark mode, ``#rrggbb``."""

    light: str
    dark: str


PALETTE: dict[str, Shade] = {
    "page": Shade("#f6f7f9", "#0f1419"),
    "card": Shade("#ffffff", "#171d24"),
    "inset": Shade("#f1f3f6", "#1f262e"),
    "line": Shade("#dde2e8", "#303943"),
    "ink": Shade("#1a2129", "#e8ecf0"),
    "muted": Shade("#55606d", "#a3afbc"),
    "link": Shade("#1d5fa8", "#82b8f2"),
    "pass": Shade("#12693a", "#63d195"),
    "pass_soft": Shade("#e4f4ea", "#13301f"),
    "fail": Shade("#b02318", "#ff938a"),
    "fail_soft": Shade("#fdeae8", "#3c1a18"),
    "before": Shade("#a34d0c", "#f0a35e"),
    "after": Shade("#1e5aa6", "#74b0f4"),
    "forget": Shade("#8a2f6b", "#e796c8"),
    "retain": Shade("#0e6a6a", "#5fc9c4"),
    "mark": Shade("#fbe9a9", "#574506"),
    "grid": Shade("#e3e7ec", "#2a333d"),
    # Diverging scale of the heat maps: blue below zero, the card's own colour at zero, orange above.
    "low": Shade("#1c5799", "#74b3fb"),
    "low_soft": Shade("#9dbfe2", "#2f527b"),
    "zero": Shade("#fafbfc", "#181e25"),
    "high_soft": Shade("#f2b98b", "#80481c"),
    "high": Shade("#a3480a", "#ffa65c"),
}

DIVERGING = ("low", "low_soft", "zero", "high_soft", "high")


def light(role: str) -> str:
    """The colour of ``role`` that charts are built with."""
    return PALETTE[role].light


def css_variables(mode: str) -> str:
    """``--page: #...; --card: #...;`` for ``light`` or ``dark``."""
    return " ".join(f"--{role.replace('_', '-')}: {getattr(shade, mode)};" for role, shade in PALETTE.items())


def dark_partners() -> dict[str, str]:
    """Light colour to dark colour, for the script that re-styles the charts."""
    return {shade.light: shade.dark for shade in PALETTE.values()}


def contrast(one: str, other: str) -> float:
    """WCAG 2 contrast ratio of two ``#rrggbb`` colours, 1 to 21."""
    bright, dim = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


def _luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
