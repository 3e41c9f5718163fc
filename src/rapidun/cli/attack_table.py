"""What `rapidun attack` found, as a table for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from rapidun.cli.console import PlainConsole
from rapidun.cli.tables import interval

COLOURS = {"PASS": "green", "FAIL": "red", "UNDECIDED": "yellow"}


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
        mark = Text.assemble((f"{check['verdict']}  ", f"bold {COLOURS[check['verdict']]}"), f"{check['attack']}: ")
        console.print(mark + Text(check["text"]))
    if found["verdict"] is not None:
        console.print(Text.assemble("\nverdict: ", (found["verdict"], f"bold {COLOURS[found['verdict']]}")))


def curves_table(found: Mapping[str, Any]) -> Table:
    """A line for each point."""
    title = f"{found['behaviour']}, 95% intervals; twin: {found['twin']}"
    table = Table(title=title, title_justify="left")
    longest = max((len(attack["name"]) for attack in found["attacks"]), default=0)
    table.add_column("attack", min_width=longest, no_wrap=True)
    table.add_column("")
    for heading in ("unlearned", "twin", "n"):
        table.add_column(heading, justify="right")
    for attack in found["attacks"]:
        name = attack["name"]
        for curve in attack.get("curves", ()):
            for point in curve["points"]:
                ours, twins = point["unlearned"], point["twin"]
                shown = (_shown(each, point["measure"]) for each in (ours, twins))
                table.add_row(name, _label(curve, point, found["behaviour"]), *shown, str(ours["n"]))
                name = ""  # once, above its own points
        table.add_section()
    return table


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
