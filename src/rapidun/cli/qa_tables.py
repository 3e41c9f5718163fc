"""What suites of questions found, for a terminal of 80 columns: a table of groups of rows, and what compares them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from rapidun.cli.console import PlainConsole

SHARES = {
    "probability": ("probability", "of the right answer, per token"),
    "rouge_l_recall": ("ROUGE-L recall", "words of the right answer that the model says"),
    "truth_score": (
        "truth score",
        "1: only the right answer is likely; 0: wrong ones are as likely",
    ),
    "extraction_strength": ("extraction strength", "how much of the answer's end comes by itself"),
    "exact_memorisation": ("exact memorisation", "tokens of the answer that are the model's first choice"),
    "paraphrased_probability": ("reworded probability", "of the right answer, asked in other words"),
    "paraphrased_rouge_l_recall": ("reworded ROUGE-L", "words of the right answer, asked in other words"),
}
"""Name to its title and what it says."""
_AUC = "AUC; 0.5: not at all"
COMPARED = {
    "membership.loss": ("forget told by loss", _AUC),
    "membership.zlib_ratio": ("... by loss / zlib", _AUC),
    "membership.min_k": ("... by Min-K%", _AUC),
    "membership.min_k_plus_plus": ("... by Min-K%++", _AUC),
    "membership.reference_ratio": ("... by loss / retained", _AUC),
    "privleak": ("PrivLeak", "-1: known, >0: too far"),
    "forget_quality": ("forget quality", "p-value; near 0: unlike"),
    "utility": ("utility of retain rows", "0: nothing left, 1: all"),
}
"""Name to its title and how to read it."""


QA_GROUPS = {"forget": "forget", "retain": "retain", "held_out": "held-out"}
TOFU_GROUPS = {"forget": "forget", "retain": "retain", "real_authors": "authors", "world_facts": "world"}
TOFU_TERMS = ("probability", "rouge_l_recall", "truth_score")


def print_qa(metrics: Mapping[str, Any]) -> None:
    """Each group's means; then what tells forget rows from held-out ones, and how like the yardstick the model is."""
    console, values = PlainConsole(), metrics["values"]
    retained = metrics.get("retained", {})
    console.print(_of_groups(values, retained, QA_GROUPS, tuple(SHARES)))
    _say(console, values, tuple(SHARES))
    console.print()
    console.print(_of_comparisons(values, metrics["yardstick"]))


def print_tofu(metrics: Mapping[str, Any]) -> None:
    """The nine terms and those of the forget rows; then utility and forget quality, or why there is none."""
    console, values = PlainConsole(), metrics["values"]
    console.print(_of_groups(values, metrics.get("retained", {}), TOFU_GROUPS, TOFU_TERMS))
    _say(console, values, TOFU_TERMS)
    console.print("authors, world: probability among the choices of a question")
    utility, quality = values.get("model_utility"), values.get("forget_quality")
    console.print()
    console.print(f"model utility:  {value_text(utility, 3) if utility else 'none: it needs ROUGE'}")
    against = f"p-value against the {metrics['yardstick']}; near 0: unlike"
    console.print(f"forget quality: {value_text(quality, 3)} ({against})" if quality else NO_QUALITY)


NO_QUALITY = "forget quality: none: it needs --retained-model"


def _say(console: PlainConsole, values: Mapping[str, Any], names: Sequence[str]) -> None:
    for name in names:
        if f"forget.{name}" in values:
            console.print(f"{SHARES[name][0]}: {SHARES[name][1]}")


def _of_groups(
    values: Mapping[str, Any], retained: Mapping[str, Any], groups: Mapping[str, str], names: Sequence[str]
) -> Table:
    columns = [(title, values, group) for group, title in groups.items()]
    columns += [("retained: forget", retained, "forget")] if retained else []
    table = Table(title="mean over rows [95% interval]", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("")
    for title, found, group in columns:
        table.add_column(f"{title}, n={found[f'{group}.probability']['n']}", justify="right")
    for name in names:
        cells = [found.get(f"{group}.{name}") for _, found, group in columns]
        if any(cells):
            table.add_row(SHARES[name][0], *(value_text(cell, 2) for cell in cells))
    return table


def _of_comparisons(values: Mapping[str, Any], yardstick: str) -> Table:
    table = Table(
        title=f"compared with: {yardstick}",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for heading in ("", "value", "n", ""):
        table.add_column(heading, justify="right" if heading else "left")
    for name, (title, how) in COMPARED.items():
        if name in values:
            table.add_row(title, value_text(values[name], 3), str(values[name]["n"]), how)
    return table


def value_text(value: Mapping[str, Any] | None, digits: int) -> str:
    """``0.123 [0.100, 0.146]``; a small p-value, which has no interval, as what it is; a dash for nothing."""
    if value is None:
        return "-"
    number, ends = value["value"], (value["low"], value["high"])
    if None not in ends:
        return f"{number:.{digits}f} [{ends[0]:.{digits}f}, {ends[1]:.{digits}f}]"
    return f"{number:.1e}" if 0 < number < 0.5 * 10**-digits else f"{number:.{digits}f}"
