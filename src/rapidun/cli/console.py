"""How the command line talks: a rich bar with rate and time left on a terminal, plain lines elsewhere.

Notes and progress go to standard error, results to standard output, so ``--json`` stays clean.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

PLAIN_LINE_SECONDS = 10.0


def quiet_libraries() -> None:
    """Keep the libraries' own bars and warnings off the terminal; set before they are imported."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    logging.getLogger("transformers").setLevel(logging.ERROR)


class ConsoleReporter:
    """A `rapidun.pipeline.reporter.Reporter` for people; its bar is taken away where its ``with`` block ends."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False)
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._title = ""
        self._said = 0.0

    def __enter__(self) -> ConsoleReporter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def phase(self, name: str, title: str) -> None:
        """Print the phase's title; its bar appears with its first progress."""
        self.close()
        self._title, self._said = title, time.monotonic()
        self.console.print(f"[bold cyan]{title}[/]")

    def progress(self, done: int, total: int, detail: str = "") -> None:
        """Move the bar, or print a line now and then where there is no terminal."""
        if not self.console.is_terminal:
            self._plain(done, total, detail)
            return
        bar, task = self._open_bar(total)
        speed = bar.tasks[0].speed
        bar.update(task, completed=done, total=total, rate=f"{speed:.1f}/s" if speed else "", detail=detail)
        if done >= total:
            self.close()

    def _open_bar(self, total: int) -> tuple[Progress, TaskID]:
        if self._bar is None or self._task is None:
            self._bar = Progress(
                TextColumn("  "),
                BarColumn(bar_width=40),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[detail]}", markup=False),
                console=self.console,
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task("", total=total, rate="", detail="")
        return self._bar, self._task

    def _plain(self, done: int, total: int, detail: str) -> None:
        if time.monotonic() - self._said >= PLAIN_LINE_SECONDS:
            self._said = time.monotonic()
            self.console.print(f"  {done}/{total}  {detail}".rstrip(), markup=False)

    def note(self, text: str) -> None:
        """One line under the phase."""
        self.console.print(f"  {text}", markup=False, soft_wrap=True)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
        self._bar, self._task = None, None


def print_json(value: Any) -> None:
    """One JSON object on standard output."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")


def parse_method_options(pairs: list[str]) -> dict[str, Any]:
    """``--option beta=0.2`` to ``{"beta": 0.2}``. Raises as `_parse_pairs`."""
    return _parse_pairs(pairs, "--option", "name=value, for example beta=0.2")


def parse_overrides(pairs: list[str]) -> dict[str, Any]:
    """``--set a.b=c`` to ``{"a.b": c}``. Raises as `_parse_pairs`."""
    return _parse_pairs(pairs, "--set", "section.key=value, for example unlearning.steps=100")


def _parse_pairs(pairs: list[str], flag: str, form: str) -> dict[str, Any]:
    """Names to values read as YAML.

    Raises:
        ConfigError: If there is no equals sign.
    """
    import yaml

    from rapidun.errors import ConfigError

    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise ConfigError(f"{flag} {pair}: write it as {form}.")
        found[name.strip()] = yaml.safe_load(value)
    return found
