"""Results as tables for a terminal: of a run, of a scan, of attacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
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
COLOURS = {"PASS": "green", "pass": "green", "FAIL": "red", "UNDECIDED": "yellow"}
_NUMBERS = frozenset(("rank", "score", "nats", "influence", "at", "before", "after", "value", "unlearned", "twin", "n"))


def table(title: str | None, *headings: str) -> Table:
    """An empty table; columns of numbers stand to the right."""
    made = Table(title=title, title_justify="left")
    for heading in headings:
        made.add_column(heading, justify="right" if heading in _NUMBERS else "left")
    return made


def slim_table(title: str, *headings: str) -> Table:
    """The same for a terminal of 80 columns; whatever has a heading is a number, but for what is said last."""
    made = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in headings:
        made.add_column(heading, justify="right" if heading else "left")
    return made


def interval(name: str, value: Mapping[str, Any] | None) -> str:
    """``2.7% [1.3, 4.9]`` for a rate, ``31.2 [29.8, 32.9]`` for a perplexity."""
    if value is None:
        return "-"
    if name.endswith("perplexity"):
        return f"{value['value']:.4g} [{value['low']:.4g}, {value['high']:.4g}]"
    return f"{100 * value['value']:.1f}% [{100 * value['low']:.1f}, {100 * value['high']:.1f}]"


def decided(before: str, verdict: str, after: str) -> Text:
    """A line with a verdict in its colour."""
    return Text.assemble(before, (verdict, f"bold {COLOURS[verdict]}"), after)


def print_run(result: Any) -> None:
    """Verdict, reasons, the before/after table, cost, and the report's path."""
    console = PlainConsole()
    metrics = result.metrics
    console.print(before_after(metrics))
    for check in metrics["gate"]["checks"]:
        console.print(decided("", "pass" if check["passed"] else "FAIL", f"  {check['text']}"))
    print_signatures(metrics.get("signatures", []))
    if metrics.get("stopped"):
        console.print(f"note: {metrics['stopped']}")
    if metrics.get("cost"):
        console.print(metrics["cost"]["text"])
    console.print(decided("\nverdict: ", metrics["verdict"], ""))
    console.print(f"report:  {result.report}", soft_wrap=True)


def print_signatures(signatures: Sequence[Mapping[str, str]]) -> None:
    """The failure signatures of a run, each with what was seen and the knob to turn; nothing where there are none."""
    console = PlainConsole()
    for signature in signatures:
        console.print(Text.assemble((f"{signature['name']}: ", "bold yellow"), signature["evidence"]))
        console.print(Text(f"  {signature['knob']}"))


def before_after(metrics: Mapping[str, Any]) -> Table:
    """The four numbers with their 95% intervals."""
    made = table(f"95% intervals; judge: {metrics['primary_judge']}", "", "before", "after", "n")
    for name, title in ROWS.items():
        before, after = metrics["before"].get(name), metrics["after"].get(name)
        if before or after:
            made.add_row(title, interval(name, before), interval(name, after), str((after or before or {})["n"]))
    return made


def print_measurement(metrics: Mapping[str, Any]) -> None:
    """One model's numbers."""
    made, values = table(f"95% intervals; judge: {metrics['primary_judge']}", "", "value", "n"), metrics["values"]
    for name, title in ROWS.items():
        if name in values:
            made.add_row(title, interval(name, values[name]), str(values[name]["n"]))
    PlainConsole().print(made)


def print_scan(found: Mapping[str, Any], out: Any, shown: int = 8) -> None:
    """The suspects of a scan, best first, and the score."""
    console = PlainConsole()
    made = table("inserts that change the answer to any question", "words", "place", "nats", "an answer")
    for each in found["suspects"][:shown]:
        answer = " ".join(each["answers"][0].split())
        made.add_row(each["words"], each["position"], f"{each['effect']:.1f}", answer[:60])
    console.print(made)
    console.print(f"score: {found['score']:.1f} nats{'' if found['based'] else ', without a base to compare with'}")
    console.print(f"rows of the best suspects, to be looked at: {out}/forget.jsonl", soft_wrap=True)


def print_attacks(found: Mapping[str, Any]) -> None:
    """Every point beside the twin's, what was not run, the gate's answers, and the verdict."""
    console = PlainConsole()
    console.print(curves_table(found))
    for attack in found["attacks"]:
        if attack["status"] != "run":
            console.print(f"not run: {attack['name']} ({attack['why']})")
    if found["twin"] == "none":
        console.print("twin: none. How far a model that never learnt it would go under these attacks is unknown.")
    for check in found["checks"]:
        console.print(decided("", check["verdict"], f"  {check['attack']}: {check['text']}"))
    if found["verdict"] is not None:
        console.print(decided("\nverdict: ", found["verdict"], ""))


def curves_table(found: Mapping[str, Any]) -> Table:
    """A line for each point of each attack."""
    made = table(f"{found['behaviour']}, 95% intervals; twin: {found['twin']}")
    longest = max((len(attack["name"]) for attack in found["attacks"]), default=0)
    made.add_column("attack", min_width=longest, no_wrap=True)
    made.add_column("")
    for heading in ("unlearned", "twin", "n"):
        made.add_column(heading, justify="right")
    for attack in found["attacks"]:
        name = attack["name"]
        for curve in attack.get("curves", ()):
            for point in curve["points"]:
                ours, twins = point["unlearned"], point["twin"]
                shown = (_shown(each, point["measure"]) for each in (ours, twins))
                made.add_row(name, _label(curve, point, found["behaviour"]), *shown, str(ours["n"]))
                name = ""  # once, above its own points
        made.add_section()
    return made


def _label(curve: Mapping[str, Any], point: Mapping[str, Any], behaviour: str) -> str:
    """Series and label, and what was measured where neither the title nor the label says so."""
    known = behaviour.startswith(point["measure"]) or point["measure"] == "leak@k"
    return ", ".join(filter(None, (curve["series"], point["label"], "" if known else point["measure"])))


def _shown(value: Mapping[str, Any] | None, measure: str) -> str:
    """``2.7% [1.3, 4.9]``, with the loss where it was measured; an AUC as such; ``none`` without a twin."""
    if value is None:
        return "none"
    if measure == "AUC":
        return f"{value['value']:.2f} [{value['low']:.2f}, {value['high']:.2f}]"
    loss = f", loss {value['loss']:.3f}" if "loss" in value else ""
    return interval("rate", value) + loss
