"""A phase of a run: done once, measured while it runs, marked when its files are in place."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable

from rapidun.gradients.rapidgrad import forget_hashes
from rapidun.lifecycle import RunDirectory
from rapidun.pipeline.meter import Meter
from rapidun.pipeline.reporter import Reporter


def do_phase(directory: RunDirectory, reporter: Reporter, name: str, title: str, step: Callable[[], object]) -> None:
    """Do ``step`` and mark it, unless it is marked already."""
    if directory.done(name):
        reporter.note(f"{name}: done before")
        return
    reporter.phase(name, title)
    _give_back_memory()
    with Meter(name) as meter:
        step()
    directory.mark(meter.record)


def _give_back_memory() -> None:
    """What the phase before remembered, and what it freed and glibc keeps: a gigabyte, of a small chat model."""
    forget_hashes()
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
