"""A phase of a run: done once, measured while it runs, marked when its files are in place."""

from __future__ import annotations

from collections.abc import Callable

from rapidun.lifecycle import RunDirectory
from rapidun.pipeline.meter import Meter
from rapidun.pipeline.reporter import Reporter


def do_phase(directory: RunDirectory, reporter: Reporter, name: str, title: str, step: Callable[[], object]) -> None:
    """Do ``step`` and mark it, unless it is marked already."""
    if directory.done(name):
        reporter.note(f"{name}: done before")
        return
    reporter.phase(name, title)
    with Meter(name) as meter:
        step()
    directory.mark(meter.record)
