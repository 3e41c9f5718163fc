"""How the command line talks: a rich bar with rate and time left on a terminal, plain lines elsewhere.

Notes and progress go to standard error, results to standard output, so ``--json`` stays clean. Whatever is printed goes
through `say`, `print_json` or a `PlainConsole`, which show text and never obey it: neither rich's markup nor a
terminal's escape sequences, wherever the text came from. No other module of the command line writes to a stream.
"""

from __future__ import annotations

import io
import logging
import math
import os
import sys
import time
from collections.abc import Iterable, Sequence
from typing import IO, TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.segment import Segment
from rich.text import Text

from rapidun.text import json_line, terminal_safe

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from rapidun.pipeline.estimating import Estimate, Piece

PLAIN_LINE_SECONDS, PLAIN_LINE_SHARE = 10.0, 0.05
"""Without a terminal a line comes every ten seconds at first, and later each time a twentieth more has passed."""


def quiet_libraries() -> None:
    """Keep the libraries' own bars and warnings off the terminal; set before they are imported."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    logging.getLogger("transformers").setLevel(logging.ERROR)


class PlainConsole(Console):
    """A rich console to which every text is only text.

    Strings are made safe before they are laid out, so that widths are right. What is left, in a `Text` for instance, is
    made safe where it is written.

    Args:
        stderr: Write to standard error instead of standard output.
        file: Write to this instead.
    """

    def __init__(self, *, stderr: bool = False, file: IO[str] | None = None, **options: Any) -> None:
        super().__init__(stderr=stderr, file=file, markup=False, highlight=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """The text as it is, in the style that is asked for."""
        shown = {name: options[name] for name in ("style", "justify", "overflow") if options.get(name) is not None}
        return Text(terminal_safe(text), **shown)

    def render(self, renderable: Any, options: Any = None) -> Iterable[Segment]:
        """The segments of anything that rich can draw; its own control codes are no text and stay."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(terminal_safe(segment.text), segment.style)


def say(text: object = "", *, err: bool = False) -> None:
    """A line, or several, on standard output or standard error."""
    stream = sys.stderr if err else sys.stdout
    stream.write(terminal_safe(str(text)) + "\n")
    stream.flush()


def show_unencodable() -> None:
    """Let standard output write as an escape what the terminal's encoding lacks, as standard error does by itself."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


class Pace:
    """How fast one count goes, from the times of its calls; a resumed count does not take credit for what was done.

    Args:
        began: When the count began, in seconds.
    """

    def __init__(self, began: float) -> None:
        self.began = began
        self.first: tuple[int, float] | None = None

    def rate(self, done: int, now: float) -> float | None:
        """Units a second: since the first call, or of the first call since the beginning; None while unknown."""
        if self.first is None:
            self.first = (done, now)
        units, since = self.first
        if done > units and now > since:
            return (done - units) / (now - since)
        return done / (now - self.began) if done and now - self.began >= 1 else None


def pace_text(done: int, total: int, unit: str, rate: float | None) -> str:
    """``12/320 steps, 20.7/min, 14 min 52 s left``."""
    parts = [f"{done}/{total} {unit}".rstrip()]
    if rate:
        parts.append(f"{rate:.1f}/s" if rate >= 1 else f"{60 * rate:.1f}/min")
        if done < total:
            parts.append(f"{duration(math.ceil((total - done) / rate))} left")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """``42 s``, ``4 min 40 s`` or ``2 h 05 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


class ConsoleReporter:
    """A `rapidun.pipeline.reporter.Reporter` for people; its bar is taken away where its ``with`` block ends.

    Args:
        dry_run: End the command where long work would begin.
        as_json: Whether the plan of a dry run is printed as JSON.
    """

    def __init__(self, *, dry_run: bool = False, as_json: bool = False) -> None:
        self.console = PlainConsole(stderr=True)
        self.dry_run, self.as_json = dry_run, as_json
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._count: tuple[str, int, int] | None = None  # unit, total, done
        self._pace = Pace(time.monotonic())
        self._said = 0.0

    def __enter__(self) -> ConsoleReporter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def phase(self, name: str, title: str) -> None:
        """Print the phase's title; its bar appears with its first progress."""
        self.close()
        self.console.print(title, style="bold cyan")

    def progress(self, done: int, total: int, detail: str = "", unit: str = "") -> None:
        """Move the bar, or print a line now and then where there is no terminal."""
        if self._count is not None and (self._count[:2] != (unit, total) or done < self._count[2]):
            self.close()
        self._count = (unit, total, done)
        now = time.monotonic()
        said = pace_text(done, total, unit, self._pace.rate(done, now))
        if self.console.is_terminal:
            bar, task = self._open_bar(total)
            bar.update(task, completed=done, total=total, said=said, detail=detail)
        elif now - self._said >= max(PLAIN_LINE_SECONDS, PLAIN_LINE_SHARE * (now - self._pace.began)):
            self._said = now
            self.console.print(f"  {said}  {detail}".rstrip(), soft_wrap=True)
        if done >= total:
            self._finish(now, detail)

    def _finish(self, now: float, detail: str) -> None:
        """What a count came to, where it took long enough to be of interest."""
        taken, (unit, total, _) = now - self._pace.began, self._count or ("", 0, 0)
        self.close()
        if taken >= PLAIN_LINE_SECONDS and total:
            self.note(f"{total} {unit or 'of them'} in {duration(taken)}  {detail}".rstrip())

    def _open_bar(self, total: int) -> tuple[Progress, TaskID]:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        if self._bar is None or self._task is None:
            self._bar = Progress(
                TextColumn("  "),
                BarColumn(bar_width=30),
                TextColumn("{task.fields[said]}", markup=False),
                TimeElapsedColumn(),
                TextColumn("{task.fields[detail]}", markup=False),
                console=self.console,
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task("", total=total, said="", detail="")
        return self._bar, self._task

    def note(self, text: str) -> None:
        """One line under the phase."""
        self.console.print(f"  {text}", soft_wrap=True)

    def plan(self, pieces: Sequence[Piece]) -> None:
        """Try a little of every piece and say what the whole will take.

        Raises:
            Exit: In a dry run, once that is said: the command is done.
        """
        from rapidun.pipeline.estimating import estimate, summary

        self.phase("estimate", "Trying a first batch of each part")
        found = [estimate(piece) for piece in pieces]
        self.close()
        if self.dry_run:
            if self.as_json:
                print_json(summary(found))
            else:
                say("\n".join([*plan_lines(found), "dry run: nothing was done or written."]))
            raise typer.Exit
        for line in plan_lines(found):
            self.note(line)

    def close(self) -> None:
        """Take the bar away; what comes next is another count."""
        if self._bar is not None:
            self._bar.stop()
        self._bar, self._task, self._count = None, None, None
        self._pace = Pace(time.monotonic())
        self._said = self._pace.began


def plan_lines(found: Sequence[Estimate]) -> list[str]:
    """What is about to be done, a line for each part, and the whole."""
    from rapidun.pipeline.estimating import summary

    lines = [f"{each.title}: {each.total} {each.unit}, about {duration(each.seconds)}" for each in found]
    whole = summary(found)
    memory = f"{whole['memory_gib']:.1f} GiB of memory"
    if whole["device_memory_gib"] is not None:
        memory += f", {whole['device_memory_gib']:.1f} GiB on the device"
    return [*lines, f"in all about {duration(whole['seconds'])}, {memory}"]


def print_json(value: Any) -> None:
    """One JSON object on standard output; what is not finite, which JSON has no number for, as null."""
    say(json_line(value))


FORMS = {
    "--map": "ours=theirs, for example prompt=question",
    "--option": "name=value, for example beta=0.2",
    "--template-option": "name=value, for example enable_thinking=false",
    "--set": "section.key=value, for example unlearning.steps=100",
}


def parse_pairs(pairs: Sequence[str], flag: str, *, plain: bool = False) -> dict[str, Any]:
    """``["beta=0.2"]`` to ``{"beta": 0.2}``: names to values read as YAML, or as they are where they are ``plain``.

    Raises:
        ConfigError: If there is no equals sign, or the value is not YAML.
    """
    from rapidun.errors import ConfigError, InputError
    from rapidun.yaml_files import parse_yaml

    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not all(part.strip() for part in name.split(".")) or (plain and not value):
            raise ConfigError(f"{flag} {pair}: write it as {FORMS[flag]}.")
        try:
            found[name if plain else name.strip()] = value if plain else parse_yaml(value, f"{flag} {pair}")
        except InputError as error:
            raise ConfigError(f"{error} Put a text that is no YAML into quotation marks.") from error
    return found
