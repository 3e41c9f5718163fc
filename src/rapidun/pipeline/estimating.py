"""What long work will take, from a little of it done for real.

    seconds of a piece = seconds of a first batch * (all units / units of the batch)
    memory             = what is in use now + what the batch added * (largest batch / this batch)

The batch is of rows of middle length, after one that is not timed: the first use of a kernel costs extra.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from rapidun.data import Example
from rapidun.files import disk_error
from rapidun.pipeline.meter import MEBIBYTE, Meter

SHARE = 16
"""A batch that is tried is at most one part in so many of the work, so that trying stays cheap."""
ANSWER_TOKENS = 8
STEPS = 3


@dataclass(frozen=True)
class Trial:
    """What trying a little of a piece showed.

    Args:
        seconds: Of the whole piece.
        larger: How many times as large the largest batch is as the one that was tried.
    """

    seconds: float
    larger: float = 1.0


@dataclass(frozen=True)
class Piece:
    """Long work of one kind.

    Args:
        title: What it does.
        total: How many units of it.
        unit: Of what.
        attempt: Does a little of it, leaving no trace.
    """

    title: str
    total: int
    unit: str
    attempt: Callable[[], Trial]


@dataclass(frozen=True)
class Estimate:
    """What a piece will take: seconds, and MiB of memory at its peak (of the process; on a CUDA device too)."""

    title: str
    total: int
    unit: str
    seconds: float
    memory_mib: float
    device_memory_mib: float | None = None


def estimate(piece: Piece) -> Estimate:
    """Try a piece."""
    used = psutil.Process().memory_info().rss / MEBIBYTE
    with Meter(piece.title) as meter:
        trial = piece.attempt()
    memory = used + max(0.0, meter.record["peak_memory_mib"] - used) * trial.larger
    return Estimate(
        piece.title, piece.total, piece.unit, trial.seconds, memory, meter.record.get("peak_device_memory_mib")
    )


def summary(found: Sequence[Estimate]) -> dict[str, Any]:
    """Everything together: seconds are summed, memory is the largest."""
    device = [each.device_memory_mib for each in found if each.device_memory_mib is not None]
    return {
        "parts": [vars(each) for each in found],
        "seconds": sum(each.seconds for each in found),
        "memory_gib": max((each.memory_mib for each in found), default=0.0) / 1024,
        "device_memory_gib": max(device) / 1024 if device else None,
    }


def timed(work: Callable[[], Any]) -> float:
    """Seconds that ``work`` takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def over_rows(examples: Sequence[Example], max_tokens: int, work: Callable[[list[Example]], Any]) -> Trial:
    """Try ``work``, whose cost is that of the rows' tokens, on rows of middle length.

    Args:
        examples: All the rows.
        max_tokens: Tokens of a batch.
        work: Takes any of the rows.
    """
    ordered = sorted(examples, key=len)
    lengths = np.array([len(example) for example in ordered])
    tokens = int(lengths.sum())
    whole = min(max_tokens, tokens)
    count = max(1, round(min(whole, tokens / SHARE) / lengths.mean()))
    start = (len(ordered) - count) // 2
    chosen = ordered[start : start + count]
    work(ordered[:1])
    seconds = timed(lambda: work(chosen))
    tried = sum(map(len, chosen))
    return Trial(seconds * tokens / tried, max(1.0, whole / tried))


def over_prompts(
    prompts: Sequence[str], batch_size: int, max_new_tokens: int, generate: Callable[[list[str], int], Any]
) -> Trial:
    """Try generating: a batch of middle length to one token, and to some more. Answers count as long as they may be.

    Args:
        prompts: All the prompts.
        batch_size: Prompts at once.
        max_new_tokens: Longest answer.
        generate: Takes prompts and a number of new tokens.
    """
    ordered = sorted(prompts, key=len)
    count = min(batch_size, len(ordered))
    start = (len(ordered) - count) // 2
    chosen = ordered[start : start + count]
    generate(ordered[:1], 1)
    first = timed(lambda: generate(chosen, 1))
    more = min(ANSWER_TOKENS, max_new_tokens)
    longer = timed(lambda: generate(chosen, more)) if more > 1 else first
    token = max(0.0, longer - first) / max(1, more - 1)
    return Trial((first + token * (max_new_tokens - 1)) * len(ordered) / count)


def over_steps(steps: int, check_every: int, train: Callable[[int, Path, Callable[[int, int], None]], Any]) -> Trial:
    """Try training for a few steps in a directory that goes away: the first is not timed, the last holds a check.

    Args:
        steps: Of the whole training.
        check_every: Steps between two checks of the retain budget.
        train: Takes a number of steps, a directory for checkpoints, and what hears of each step.
    """
    ends: list[float] = []
    few = min(steps, STEPS)
    began = time.perf_counter()
    try:
        with tempfile.TemporaryDirectory() as place:
            train(few, Path(place), lambda done, total: ends.append(time.perf_counter()))
    except OSError as error:
        raise disk_error(error, Path(tempfile.gettempdir())) from error
    if len(ends) < STEPS:
        return Trial((time.perf_counter() - began) * steps / few)
    plain, checked = ends[-2] - ends[0], ends[-1] - ends[-2]
    step = plain / (len(ends) - 2)
    return Trial(step * steps + max(0.0, checked - step) * (steps // check_every))


def repeated(piece: Piece, times: int, title: str) -> Piece:
    """A piece that is done several times."""

    def attempt() -> Trial:
        trial = piece.attempt()
        return replace(trial, seconds=trial.seconds * times)

    return replace(piece, title=title, total=piece.total * times, attempt=attempt)
