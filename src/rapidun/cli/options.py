"""Options that several verbs share, defined once so that they read the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_MODEL, _ROWS, _RUN = "Model", "Rows", "Run"

Model = Annotated[
    str, typer.Option("--model", help="Directory or hub id of a causal language model.", rich_help_panel=_MODEL)
]
Adapter = Annotated[
    Path | None, typer.Option("--adapter", help="PEFT adapter to put on the model.", rich_help_panel=_MODEL)
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, mps.", rich_help_panel=_MODEL)]
Dtype = Annotated[str, typer.Option("--dtype", help="auto, float32, bfloat16, float16.", rich_help_panel=_MODEL)]
In4Bit = Annotated[bool, typer.Option("--load-in-4bit", help="Quantise the base weights.", rich_help_panel=_MODEL)]
In8Bit = Annotated[bool, typer.Option("--load-in-8bit", help="Quantise the base weights.", rich_help_panel=_MODEL)]
RemoteCode = Annotated[
    bool,
    typer.Option(
        "--dangerously-trust-remote-code",
        help="Run Python code that comes with the model. It can do anything you can.",
        rich_help_panel=_MODEL,
    ),
]
Pickle = Annotated[
    bool,
    typer.Option(
        "--dangerously-allow-pickle",
        help="Load pickled weights. A pickle can run any code.",
        rich_help_panel=_MODEL,
    ),
]
Forget = Annotated[Path, typer.Option("--forget", help="Rows with the behaviour to remove.", rich_help_panel=_ROWS)]
Retain = Annotated[Path, typer.Option("--retain", help="Rows to keep answering well.", rich_help_panel=_ROWS)]
Columns = Annotated[
    list[str], typer.Option("--map", help="Name a column: prompt=question. Repeatable.", rich_help_panel=_ROWS)
]
Template = Annotated[
    str, typer.Option("--template", help="auto, alpaca, plain, or a Jinja file.", rich_help_panel=_ROWS)
]
MaxLength = Annotated[int, typer.Option("--max-length", help="Longest row in tokens.", rich_help_panel=_ROWS)]
OnBadRow = Annotated[
    str, typer.Option("--on-bad-row", help="error: stop; skip: list and leave out.", rich_help_panel=_ROWS)
]
Out = Annotated[Path, typer.Option("--out", help="New directory for the results.", rich_help_panel=_RUN)]
Seed = Annotated[int, typer.Option("--seed", help="Seed of everything random.", rich_help_panel=_RUN)]
Resume = Annotated[bool, typer.Option("--resume", help="Go on where a stopped run was.", rich_help_panel=_RUN)]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a run that is there.", rich_help_panel=_RUN)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.", rich_help_panel=_RUN)]
Set = Annotated[
    list[str],
    typer.Option("--set", help="Any key of the configuration: section.key=value. Repeatable.", rich_help_panel=_RUN),
]
Until = Annotated[
    str | None, typer.Option("--until", help="Stop after this phase; --resume goes on.", rich_help_panel=_RUN)
]


def column_map(pairs: list[str]) -> dict[str, str]:
    """``["prompt=question"]`` to ``{"prompt": "question"}``.

    Raises:
        ConfigError: If an entry has no equals sign.
    """
    from rapidun.errors import ConfigError

    found = {}
    for pair in pairs:
        ours, equals, theirs = pair.partition("=")
        if not equals or not ours or not theirs:
            raise ConfigError(f"--map {pair}: write it as ours=theirs, for example prompt=question.")
        found[ours] = theirs
    return found


def quantization(in_4bit: bool, in_8bit: bool) -> str | None:
    """The ``model.quantize`` setting of the two flags.

    Raises:
        ConfigError: If both are given.
    """
    from rapidun.errors import ConfigError

    if in_4bit and in_8bit:
        raise ConfigError("--load-in-4bit and --load-in-8bit: choose one.")
    return "4bit" if in_4bit else "8bit" if in_8bit else None
