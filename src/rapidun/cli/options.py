"""Options that are no settings and that several verbs share, and what every verb does with its settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from rapidun.cli.console import ConsoleReporter, parse_pairs, print_json

if TYPE_CHECKING:
    from pydantic import BaseModel

Config = TypeVar("Config", bound="BaseModel")
Found = TypeVar("Found")


def option(name: str, says: str, panel: str | None = None, **about: Any) -> Any:
    """An option with its help, under the heading ``panel`` of the help page."""
    return typer.Option(name, help=says, rich_help_panel=panel, **about)


def flag(name: str, says: str, panel: str | None = None) -> Any:
    """An option that takes no value; typer would show it with one."""
    return option(name, says, panel, metavar="")


Adapter = Annotated[Path | None, option("--adapter", "Directory of a PEFT adapter to put on it.", "Model")]
Out = Annotated[Path, option("--out", "New directory for the results.", "Run")]
Resume = Annotated[bool, flag("--resume", "Go on where a stopped run with the same settings was.", "Run")]
Overwrite = Annotated[bool, flag("--overwrite", "Replace what an earlier command wrote there.", "Run")]
DryRun = Annotated[
    bool,
    flag(
        "--dry-run",
        "Check everything, try a first batch, say how long it will take and how much memory, and stop there.",
        "Run",
    ),
]
Json = Annotated[bool, flag("--json", "Print JSON on standard output.", "Run")]
Set = Annotated[
    list[str],
    option("--set", "Any other setting: section.key=value; docs/settings.md lists all. Repeatable.", "Run"),
]
Until = Annotated[
    str | None,
    option("--until", "Stop after before, trace, weigh, unlearn or after; --resume goes on.", "Run"),
]


_KINDS = {
    "resume": Resume, "overwrite": Overwrite, "until": Until, "dry_run": DryRun, "overrides": Set, "as_json": Json,
}  # fmt: skip


@dataclass(frozen=True)
class How:
    """How a verb is carried out, and how it says what it found; a verb has the options that its `Asks` names."""

    resume: bool = False
    overwrite: bool = False
    until: str | None = None
    dry_run: bool = False
    overrides: Sequence[str] = ()
    as_json: bool = False

    @property
    def place(self) -> dict[str, bool]:
        """What becomes of results that are there already."""
        return {"resume": self.resume, "overwrite": self.overwrite}

    def carry_out(self, job: Callable[..., Found], *what: Any, **more: Any) -> Found:
        """Do the long work and tell of it on standard error."""
        with ConsoleReporter(dry_run=self.dry_run, as_json=self.as_json) as reporter:
            return job(*what, **more, reporter=reporter)

    def show(self, found: Any, say_found: Callable[[Any], None]) -> None:
        """Print what was found: as JSON where that is asked for, otherwise by ``say_found``."""
        print_json(found) if self.as_json else say_found(found)


class Asks:
    """Says in the annotation of a verb's `How` which of its options the verb has, in the order of its help page."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def options(self) -> dict[str, Any]:
        """Name to annotation."""
        return {name: _KINDS[name] for name in self.names}


Job = Annotated[How, Asks("resume", "overwrite", "dry_run", "overrides", "as_json")]
"""What most verbs have."""


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
