"""Results as tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from rapidun.cli.console import PlainConsole

ROWS = {
    "asr_seen": "attack success, seen triggers",
    "asr_unseen": "attack success, unseen variants",
    "asr_floor": "false alarms, no trigger",
    "clean_perplexity": "clean perplexity",
    "forget_perplexity": "perplexity of forget rows",
}


def interval(name: str, value: Mapping[str, Any] | None) -> str:
    """``2.7% [1.3, 4.9]`` for a rate, ``31.2 [29.8, 32.9]`` for a perplexity."""
    if value is None:
        return "-"
    if name.endswith("perplexity"):
        return f"{value['value']:.4g} [{value['low']:.4g}, {value['high']:.4g}]"
    return f"{100 * value['value']:.1f}% [{100 * value['low']:.1f}, {100 * value['high']:.1f}]"


def print_run(result: Any) -> None:
    """Verdict, reasons, the before/after table, cost, and the report's path."""
    console = PlainConsole()
    metrics = result.metrics
    console.print(before_after(metrics))
    for check in metrics["gate"]["checks"]:
        mark, colour = ("pass", "green") if check["passed"] else ("FAIL", "red")
        console.print(Text.assemble((f"{mark}  ", f"bold {colour}"), check["text"]))
    print_signatures(metrics.get("signatures", []), console)
    if metrics.get("stopped"):
        console.print(f"note: {metrics['stopped']}")
    if metrics.get("cost"):
        console.print(metrics["cost"]["text"])
    colour = "green" if result.passed else "red"
    console.print(Text.assemble("\nverdict: ", (metrics["verdict"], f"bold {colour}")))
    console.print(f"report:  {result.report}", soft_wrap=True)


def print_signatures(signatures: Sequence[Mapping[str, str]], console: PlainConsole | None = None) -> None:
    """The failure signatures of a run, each with what was seen and the knob to turn; nothing where there are none."""
    console = console or PlainConsole()
    for signature in signatures:
        console.print(Text.assemble((f"{signature['name']}: ", "bold yellow"), signature["evidence"]))
        console.print(Text(f"  {signature['knob']}"))


def before_after(metrics: Mapping[str, Any]) -> Table:
    """The four numbers with their 95% intervals."""
    table = Table(title=f"95% intervals; judge: {metrics['primary_judge']}", title_justify="left")
    for heading in ("", "before", "after", "n"):
        table.add_column(heading, justify="left" if not heading else "right")
    for name, title in ROWS.items():
        before, after = metrics["before"].get(name), metrics["after"].get(name)
        if before or after:
            table.add_row(title, interval(name, before), interval(name, after), str((after or before or {})["n"]))
    return table


def print_scan(found: Mapping[str, Any], out: Any, shown: int = 8) -> None:
    """The suspects of a scan, best first, and the score."""
    console = PlainConsole()
    table = Table(title="inserts that change the answer to any question", title_justify="left")
    for heading in ("words", "place", "nats", "an answer"):
        table.add_column(heading, justify="right" if heading == "nats" else "left")
    for each in found["suspects"][:shown]:
        answer = " ".join(each["answers"][0].split())
        table.add_row(each["words"], each["position"], f"{each['effect']:.1f}", answer[:60])
    console.print(table)
    console.print(f"score: {found['score']:.1f} nats{'' if found['based'] else ', without a base to compare with'}")
    console.print(f"rows of the best suspects, to be looked at: {out}/forget.jsonl", soft_wrap=True)


def print_measurement(summary: Mapping[str, Any], judge: str) -> None:
    """One model's numbers."""
    table = Table(title=f"95% intervals; judge: {judge}", title_justify="left")
    for heading in ("", "value", "n"):
        table.add_column(heading, justify="left" if not heading else "right")
    for name, title in ROWS.items():
        if name in summary:
            table.add_row(title, interval(name, summary[name]), str(summary[name]["n"]))
    PlainConsole().print(table)
