"""Work in a process of its own that is killed (SIGKILL): before its n-th change of a directory, or at a moment."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

FORK = multiprocessing.get_context("fork")
CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.symlink", "os.truncate", "shutil.rmtree"}
Work = Callable[[], object]


def killed(work: Work, below: Path, place: int, look: Work | None = None) -> int | None:
    """Do ``work``, killed before its ``place``-th change below a directory; how many there were where it was not.

    A rename, a removal, a new directory, a link, and a file opened to be written is a change. ``look`` is called before
    each, in the process that works.
    """
    child, told = _started(work, str(below), place, look)
    return _ending(child, told)


def killed_when(work: Work, moment: Callable[[], bool], victim: Callable[[int], int] = int) -> int | None:
    """Do ``work``, killed as soon as ``moment`` says so; what `killed` gives.

    Args:
        work: What to do.
        moment: Asked again and again while the work goes on; it is not asked again once it has said so.
        victim: From the work's process to the one that is killed in its place, one of its children.
    """
    child, told = _started(work, "", -1)
    while not told.poll(0.001):
        if moment():
            with suppress(ProcessLookupError):
                os.kill(victim(child.pid), signal.SIGKILL)
            break
    return _ending(child, told)


def killed_after(work: Work, seconds: float) -> int | None:
    """Do ``work``, killed when its process has used so many seconds of the CPU; what `killed` gives.

    Unlike a moment of the clock it is the same place in the work however busy the machine is.
    """
    child, told = _started(work, "", -1)
    clock, left = (~child.pid << 3) | 2, seconds  # how Linux numbers the CPU clock of another process
    while not told.poll(max(left, 0.0005)):
        if (left := seconds - time.clock_gettime(clock)) <= 0:
            child.kill()
            break
    return _ending(child, told)


def after(seconds: float) -> Callable[[], bool]:
    """A moment for `killed_when`: so many seconds from now."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() >= end


def _started(work: Work, below: str, place: int, look: Work | None = None) -> tuple[Any, Any]:
    ours, theirs = FORK.Pipe(duplex=False)
    child = FORK.Process(target=_child, args=(work, below, place, theirs, look))
    child.start()
    theirs.close()
    return child, ours


def _ending(child: Any, told: Any) -> int | None:
    try:
        found: int | str | None = told.recv()
    except EOFError:
        found = None
    child.join()
    assert not isinstance(found, str), found
    assert found is not None or child.exitcode == -signal.SIGKILL
    return found


def places(work: Work, below: Path, count: int, seed: int) -> list[int]:
    """``count`` different places for `killed`, after counting them once; the first and the last are among them."""
    total = killed(work, below, -1)
    assert total is not None
    if total <= count:
        return list(range(1, total + 1))
    return sorted({1, total, *random.Random(seed).sample(range(2, total), count - 2)})


def _child(work: Work, below: str, place: int, told: Any, look: Work | None) -> None:
    changes = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal changes
        if event == "open":
            writes = isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
            changed = bool(writes) and below in str(arguments[0])
        else:  # what is removed with its directory is named beside an open directory
            changed = event in CHANGES and (below in str(arguments) or arguments[-1] not in (-1, None))
        if changed:
            changes += 1
            if look is not None:
                look()
            if changes == place:
                os.kill(os.getpid(), signal.SIGKILL)

    torch.set_num_threads(1)
    sys.addaudithook(hook)
    try:
        work()
        told.send(changes)
    except BaseException:
        told.send(traceback.format_exc())
    os._exit(0)
