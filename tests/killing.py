"""Work in a process of its own that kills itself (SIGKILL) before its n-th change of a directory."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

FORK = multiprocessing.get_context("fork")
CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.symlink", "os.truncate", "shutil.rmtree"}
Work = Callable[[], object]


def killed(work: Work, below: Path, place: int) -> int | None:
    """Do ``work``, killed before its ``place``-th change below a directory; how many there were where it was not.

    A rename, a removal, a new directory, a link, and a file opened to be written is a change.
    """
    ours, theirs = FORK.Pipe(duplex=False)
    child = FORK.Process(target=_child, args=(work, str(below), place, theirs))
    child.start()
    theirs.close()
    try:
        found: int | str | None = ours.recv()
    except EOFError:
        found = None
    child.join()
    assert not isinstance(found, str), found
    assert child.exitcode == (-signal.SIGKILL if found is None else 0)
    return found


def places(work: Work, below: Path, count: int, seed: int) -> list[int]:
    """``count`` different places for `killed`, after counting them once; the first and the last are among them."""
    total = killed(work, below, -1)
    assert total is not None
    if total <= count:
        return list(range(1, total + 1))
    return sorted({1, total, *random.Random(seed).sample(range(2, total), count - 2)})


def _child(work: Work, below: str, place: int, told: Any) -> None:
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
