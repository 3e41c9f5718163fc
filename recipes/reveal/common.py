"""What the reveal recipes share: changes to a task file, pulls taken over from another run, tables over seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

from rapidun.files import atomic_write
from rapidun.models import adapter_merged, load_adapter
from rapidun.pipeline import RevealConfig
from rapidun.pipeline.inputs import RunModel
from rapidun.pipeline.reporter import Silent
from rapidun.pipeline.revealing.context import open_reveal
from rapidun.pipeline.revealing.rounds import round_directory
from rapidun.settings.base import set_dotted
from rapidun.stats import over_units

Values = Mapping[str, float]
Found = Mapping[str, Mapping[str, Values]]
"""{variant: {seed: {measure: value}}}."""


def changed(task: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The task with ``{"section.key": value}`` put in."""
    found = deepcopy(task)
    for dotted, value in changes.items():
        set_dotted(found, dotted, deepcopy(value))
    return found


def place_of(name: str, seed: int, out: Path) -> Path:
    """Where a variant keeps its files."""
    return out / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}"


def take_over_pulls(config: RevealConfig, source: Path, place: Path) -> None:
    """Begin a run whose first search is known: open it as `reveal` does, then put the other run's log there.

    A pull depends on model, judge, arm and seed, so where only the release differs the same pulls would be made again.
    What was asked after the other run's release is left out.
    """
    log = round_directory(source, 1) / "pulls.jsonl"
    if place.exists() or not log.exists():
        return
    open_reveal(config, place, False, False, Silent())
    lines = log.read_bytes().split(b"\n")
    target = round_directory(place, 1) / "pulls.jsonl"
    target.parent.mkdir(parents=True)
    target.write_bytes(b"\n".join(line for line in lines if b'"stage": "after"' not in line))


@contextmanager
def with_adapter(run_model: RunModel, adapter: Path | None) -> Iterator[RunModel]:
    """The run's model, with an adapter merged for the time of the block where there is one."""
    if adapter is None:
        yield run_model
        return
    model = load_adapter(run_model.loaded.model, adapter)
    try:
        with adapter_merged(model):
            yield run_model.with_model(model)
    finally:
        model.unload()


def shown(values: list[float]) -> str:
    """The mean, with its 95% t interval where there is more than one value."""
    mean = over_units(values, "seeds")
    return "" if mean is None else mean.text()


def table(found: Found, columns: Mapping[str, Callable[[Values], float]]) -> str:
    """Markdown: a line a variant, mean over seeds and its interval; a cell is empty where all its values are NaN."""
    head = ("variant", "seeds", *columns)
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, by_seed in found.items():
        values = ([value(row) for row in by_seed.values()] for value in columns.values())
        cells = [shown([each for each in found if not math.isnan(each)]) for found in values]
        lines.append("| " + " | ".join([name, str(len(by_seed)), *cells]) + " |")
    return "\n".join(lines)


def check_page(page: Path | None, *markers: str) -> None:
    """Refuse, before hours of work, a page that has no place for a table.

    Raises:
        SystemExit: Naming the page and the line that is missing.
    """
    text = page.read_text(encoding="utf-8") if page is not None and page.is_file() else ""
    for marker in markers if page is not None else ():
        if f"<!-- {marker} -->" not in text:
            raise SystemExit(f"{page}: there is no line '<!-- {marker} -->' to put the table at.")


def write_table(page: Path, marker: str, text: str) -> None:
    """Put the table into the page, between ``<!-- marker -->`` and ``<!-- end marker -->``."""
    begin, end = f"<!-- {marker} -->", f"<!-- end {marker} -->"
    before, found, rest = page.read_text(encoding="utf-8").partition(begin)
    if not found:
        raise SystemExit(f"{page}: there is no line {begin!r} to put the table at.")
    with atomic_write(page) as file:
        file.write(f"{before}{begin}\n{text}\n{end}{rest.partition(end)[2]}")
