"""What a suite found, as a table for a terminal: its own, or each value beside the one it is compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from rapidun.cli.console import PlainConsole
from rapidun.cli.qa_tables import print_qa, print_tofu, value_text
from rapidun.cli.tables import print_measurement

TITLES = {
    "empty": ("empty", "answers without a word"),
    "endless": ("endless", "answers whose end says the same again and again"),
    "alike": ("alike", "answers that another prompt got too"),
    "words": ("words", "of an answer"),
    "distinct_1": ("distinct-1", "different words over all words of an answer"),
    "distinct_2": ("distinct-2", "different pairs of words over all pairs of an answer"),
    "ngram_entropy": ("n-gram entropy", "of an answer's pairs and triples of words, in bits (ROME's fluency)"),
    "answer_perplexity": ("perplexity", "of the answers, read by the model that is compared with"),
}
"""Name to its title and what it says."""
COMPARED = {"before": "no adapter", "retained": "retained model"}


def print_found(metrics: Mapping[str, Any]) -> None:
    """As the suite wants it; of answers that were decoded with a mitigation, what that means."""
    OWN.get(metrics["suite"], print_values)(metrics)
    if said := metrics.get("mitigation"):
        PlainConsole().print(f"{said['text']} ({said['kind']}): the rates are of its answers alone, not of its weights")


def print_values(metrics: Mapping[str, Any]) -> None:
    """Every value, that of the model it is compared with, and the change by row."""
    other = metrics.get("compared_with", "none")
    columns = [metrics["values"], *((metrics[other], metrics["change"]) if other in COMPARED else ())]
    table = Table(title="[95% interval over rows]", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("", "model", *((COMPARED[other], "change") if other in COMPARED else ()), "n"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, value in metrics["values"].items():
        cells = [value_text(column.get(name), 3) for column in columns]
        table.add_row(TITLES.get(name, (name,))[0], *cells, str(value["n"]))
    console = PlainConsole()
    console.print(table)
    for title, says in (TITLES[name] for name in metrics["values"] if name in TITLES):
        console.print(f"{title}: {says}")


def _print_measured(metrics: Mapping[str, Any]) -> None:
    print_measurement(metrics["values"], metrics["primary_judge"])


OWN: dict[str, Callable[[Mapping[str, Any]], None]] = {
    "qa": print_qa,
    "tofu": print_tofu,
    "backdoor": _print_measured,
    "perplexity": _print_measured,
}
