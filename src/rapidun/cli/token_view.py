"""The tokens behind a hit, on a terminal: a heat map in background colours, and the strongest pairs in words.

The pairs are printed always; without colour (a pipe, ``NO_COLOR``) they are all there is, and nothing is lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.text import Text

from rapidun.cli.console import PlainConsole
from rapidun.cli.tables import table
from rapidun.text import on_one_line, terminal_safe

Line = Mapping[str, Any]
_HELPS, _HARMS = (242, 185, 139), (157, 191, 226)  # at full strength; black text is readable on both
_FAINT = 0.08  # weaker than this share of the strongest token: no colour
_GROUND = 255


def print_tokens(lines: Iterable[Line], console: PlainConsole | None = None, *, top: int = 8) -> None:
    """Print the lines of `rapidun.pipeline.tokens.token_lines`, one block for each training row.

    Args:
        lines: Of one query or of several.
        console: Where to; default standard output.
        top: How many of the strongest pairs to list for each row.
    """
    console = console or PlainConsole()
    asked = None
    for line in lines:
        if line["query_index"] != asked:
            asked = line["query_index"]
            _print_legend(line, console)
        _print_row(line, console, top)


def _print_legend(line: Line, console: PlainConsole) -> None:
    meaning = {
        "position": "a token's share is what was learnt where it was read, to predict the next one",
        "loss": "a token's share is the loss of predicting it",
    }[line["by"]]
    console.print(f"\ntokens by {line['by']}: {meaning}")
    if line["words"]:
        console.print(f"query words: {', '.join(line['words'])}")
    if _coloured(console):
        legend = Text.assemble(
            (" helps the query ", _style(1)), "  ", (" a little ", _style(0.4)), "  no colour: hardly  ",
            (" a little ", _style(-0.4)), "  ", (" works against it ", _style(-1)),
        )  # fmt: skip
        console.print(legend)


def _print_row(line: Line, console: PlainConsole, top: int) -> None:
    console.print(f"\n{line['rank']}. row {line['id']}, influence {line['score']:.4f}")
    matrix = line["matrix"]
    if _coloured(console):
        by_query = [sum(row) for row in matrix]
        by_train = [sum(column) for column in zip(*matrix, strict=True)]
        for title, side, sums in (("query", line["query"], by_query), ("row", line["train"], by_train)):
            console.print(f"{title}:", style="bold")
            console.print(_heat(side, sums), soft_wrap=False)
    made = table("strongest pairs", "influence", "query token", "at", "train token", "at")
    for value, asked, trained in strongest_pairs(line, top):
        cells: list[str | Text] = [f"{value:+.4f}"]
        for side, place in (("query", asked), ("train", trained)):
            cells += [_shown(line[side]["pieces"][place]), str(place)]
        made.add_row(*cells)
    console.print(made)


def strongest_pairs(line: Line, top: int) -> list[tuple[float, int, int]]:
    """``(influence, place in the query, place in the training row)`` of the largest pairs of either sign."""
    pairs = [
        (value, line["query"]["traced"][i], line["train"]["traced"][j])
        for i, row in enumerate(line["matrix"])
        for j, value in enumerate(row)
        if value
    ]
    return sorted(pairs, key=lambda pair: -abs(pair[0]))[:top]


def _heat(side: Mapping[str, Any], sums: Sequence[float]) -> Text:
    largest = max((abs(value) for value in sums), default=0.0) or 1.0
    shares = {place: value / largest for place, value in zip(side["traced"], sums, strict=True)}
    text = Text()
    for place, piece in enumerate(side["pieces"]):
        text.append(terminal_safe(piece.replace("\r\n", "\n")), style=_style(shares.get(place, 0.0)))
    return text


def _style(share: float) -> str:
    """Black on a colour between white and the sign's own; nothing for a faint token."""
    strength = min(abs(share), 1.0)
    if strength < _FAINT:
        return ""
    colour = _HELPS if share > 0 else _HARMS
    red, green, blue = (round(_GROUND + (part - _GROUND) * strength) for part in colour)
    return f"black on #{red:02x}{green:02x}{blue:02x}"


def _coloured(console: PlainConsole) -> bool:
    return console.color_system is not None and not console.no_color


def _shown(piece: str) -> Text:
    """A token in quotes, so that its spaces can be seen."""
    return Text(f"\u2018{on_one_line(piece)}\u2019")
