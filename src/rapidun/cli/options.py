"""Options that are no settings and that several verbs share, and what every verb does with its settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from rapidun.cli.console import parse_pairs

if TYPE_CHECKING:
    from pydantic import BaseModel

Config = TypeVar("Config", bound="BaseModel")


def flag(name: str, **about: Any) -> Any:
    """An option that takes no value; typer would show it with one."""
    return typer.Option(name, metavar="", **about)


Adapter = Annotated[
    Path | None, typer.Option("--adapter", help="Directory of a PEFT adapter to put on it.", rich_help_panel="Model")
]
Out = Annotated[Path, typer.Option("--out", help="New directory for the results.", rich_help_panel="Run")]
Resume = Annotated[
    bool, flag("--resume", help="Go on where a stopped run with the same settings was.", rich_help_panel="Run")
]
Overwrite = Annotated[
    bool, flag("--overwrite", help="Replace what an earlier command wrote there.", rich_help_panel="Run")
]
DryRun = Annotated[
    bool,
    flag(
        "--dry-run",
        help="Check everything, try a first batch, say how long it will take and how much memory, and stop there.",
        rich_help_panel="Run",
    ),
]
Json = Annotated[bool, flag("--json", help="Print JSON on standard output.", rich_help_panel="Run")]
Set = Annotated[
    list[str],
    typer.Option(
        "--set",
        help="Any other setting: section.key=value; docs/settings.md lists all. Repeatable.",
        rich_help_panel="Run",
    ),
]
Until = Annotated[
    str | None,
    typer.Option(
        "--until", help="Stop after before, trace, weigh, unlearn or after; --resume goes on.", rich_help_panel="Run"
    ),
]


def examples(*lines: str) -> str:
    """Example command lines, as the end of a help page."""
    return "\n\n".join(["[bold]Examples[/]", *(line.replace("[", "\\[") for line in lines)])


def make_settings(
    given: dict[str, Any], kind: type[Config], overrides: Sequence[str] = (), *, files: Mapping[str, Path] | None = None
) -> Config:
    """Validate as a configuration of ``kind``, with ``--set`` on top, which then stands in ``given`` too.

    Args:
        given: What the options say, by section.
        kind: The configuration.
        overrides: ``section.key=value``.
        files: Sections that stand in a file of their own, which an error then names.

    Raises:
        ConfigError: For an unknown key or a wrong value.
    """
    from rapidun.settings.base import COMMAND_LINE, make_config, set_dotted

    said = parse_pairs(overrides, "--set")
    for dotted, value in said.items():
        set_dotted(given, dotted, value)
    whole = {name: str(path) for name, path in (files or {}).items() if not any(d.startswith(f"{name}.") for d in said)}
    return make_config(given, kind, COMMAND_LINE, whole)
