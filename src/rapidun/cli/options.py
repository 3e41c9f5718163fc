"""Options that several verbs share, defined once so that they read the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def flag(name: str, **about: Any) -> Any:
    """An option that takes no value; typer would show it with one."""
    return typer.Option(name, metavar="", **about)


_MODEL, _ROWS, _RUN, _GRADIENTS = "Model", "Rows", "Run", "Gradients"

_MODEL_HELP = "Directory of a causal language model, or its hub id."
_FORGET_HELP = "File of rows with the behaviour to remove: JSONL, JSON, CSV or Parquet."
_RETAIN_HELP = "File of rows that the model should keep answering well."
Model = Annotated[str, typer.Option("--model", help=_MODEL_HELP, rich_help_panel=_MODEL)]
ModelIfNeeded = Annotated[str | None, typer.Option("--model", help=_MODEL_HELP, rich_help_panel=_MODEL)]
Adapter = Annotated[
    Path | None, typer.Option("--adapter", help="Directory of a PEFT adapter to put on it.", rich_help_panel=_MODEL)
]
Device = Annotated[
    str,
    typer.Option("--device", help="auto (a GPU where there is one), cpu, cuda, cuda:1, mps.", rich_help_panel=_MODEL),
]
Dtype = Annotated[
    str,
    typer.Option(
        "--dtype",
        help="auto (bfloat16 on a GPU that has it, else float32), float32, bfloat16, float16.",
        rich_help_panel=_MODEL,
    ),
]
In4Bit = Annotated[
    bool,
    flag("--load-in-4bit", help="Quantise the base weights (CUDA, bitsandbytes).", rich_help_panel=_MODEL),
]
In8Bit = Annotated[
    bool,
    flag("--load-in-8bit", help="Quantise the base weights (CUDA, bitsandbytes).", rich_help_panel=_MODEL),
]
RemoteCode = Annotated[
    bool,
    flag(
        "--dangerously-trust-remote-code",
        help="Run Python code that comes with the model. It can do anything you can.",
        rich_help_panel=_MODEL,
    ),
]
Pickle = Annotated[
    bool,
    flag(
        "--dangerously-allow-pickle",
        help="Load pickled weights. A pickle can run any code.",
        rich_help_panel=_MODEL,
    ),
]
ForgetIfNeeded = Annotated[Path | None, typer.Option("--forget", help=_FORGET_HELP, rich_help_panel=_ROWS)]
RetainIfNeeded = Annotated[Path | None, typer.Option("--retain", help=_RETAIN_HELP, rich_help_panel=_ROWS)]
Columns = Annotated[
    list[str],
    typer.Option(
        "--map",
        help="prompt=question: read prompts from column question. Fields: prompt, context, response, messages, system, "
        "history, tools, response_clean, response_poisoned, id. Repeatable.",
        rich_help_panel=_ROWS,
    ),
]
Template = Annotated[
    str,
    typer.Option(
        "--template",
        help="auto (chat where the tokenizer has a chat template, else alpaca), chat, alpaca, plain, or a Jinja file.",
        rich_help_panel=_ROWS,
    ),
]
MaxLength = Annotated[
    int | None,
    typer.Option(
        "--max-length",
        help="Longest row in tokens; longer prompts lose their beginning. Default 512; with an index, the index's.",
        rich_help_panel=_ROWS,
    ),
]
OnBadRow = Annotated[
    str,
    typer.Option(
        "--on-bad-row", help="error: stop and name it; skip: leave it out and list it.", rich_help_panel=_ROWS
    ),
]
Out = Annotated[Path, typer.Option("--out", help="New directory for the results.", rich_help_panel=_RUN)]
Seed = Annotated[
    int, typer.Option("--seed", help="Seed of everything random; the same seed, the same result.", rich_help_panel=_RUN)
]
Resume = Annotated[
    bool, flag("--resume", help="Go on where a stopped run with the same settings was.", rich_help_panel=_RUN)
]
Overwrite = Annotated[
    bool, flag("--overwrite", help="Replace what an earlier command wrote there.", rich_help_panel=_RUN)
]
DryRun = Annotated[
    bool,
    flag(
        "--dry-run",
        help="Check everything, try a first batch, say how long it will take and how much memory, and stop there.",
        rich_help_panel=_RUN,
    ),
]
Json = Annotated[bool, flag("--json", help="Print JSON on standard output.", rich_help_panel=_RUN)]
Set = Annotated[
    list[str],
    typer.Option(
        "--set",
        help="Any other setting: section.key=value; `rapidun run --print-config` shows most. Repeatable.",
        rich_help_panel=_RUN,
    ),
]
Until = Annotated[
    str | None,
    typer.Option(
        "--until", help="Stop after before, trace, weigh, unlearn or after; --resume goes on.", rich_help_panel=_RUN
    ),
]
SketchLength = Annotated[
    int, typer.Option("--k", help="Length of a gradient sketch, in numbers.", rich_help_panel=_GRADIENTS)
]
Sketch = Annotated[
    str,
    typer.Option(
        "--sketch",
        help="How gradients are compressed: rapidgrad, factored, readout or exact (not at all).",
        rich_help_panel=_GRADIENTS,
    ),
]
Targets = Annotated[
    str,
    typer.Option(
        "--targets",
        help="Layers whose gradients count: auto (lora with an adapter, else linear), or names with commas between.",
        rich_help_panel=_GRADIENTS,
    ),
]
Normalize = Annotated[
    str,
    typer.Option(
        "--normalize",
        help="Scale of a row's gradient: layer (each layer's part has length 1), unit (the whole has), none.",
        rich_help_panel=_GRADIENTS,
    ),
]
MaxTokens = Annotated[
    int,
    typer.Option(
        "--max-tokens",
        help="Most tokens in a batch, padding included; fewer where memory asks for it.",
        rich_help_panel=_GRADIENTS,
    ),
]


def examples(*lines: str) -> str:
    """Example command lines, as the end of a help page."""
    return "\n\n".join(["[bold]Examples[/]", *(line.replace("[", "\\[") for line in lines)])


def listed(text: str) -> list[str]:
    """``"a, b"`` to ``["a", "b"]``."""
    return [part.strip() for part in text.split(",") if part.strip()]


def layers(text: str) -> str | list[str]:
    """The setting that ``--targets`` stands for: a word that the collector knows, or names."""
    return text if text in ("auto", "linear", "lora") else listed(text)


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
