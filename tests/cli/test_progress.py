"""Long work says how far it is, how fast it goes, and what is left; without a terminal in a line now and then."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from rapidun.cli import console
from rapidun.cli.console import ConsoleReporter, Pace, duration, pace_text
from rapidun.pipeline.reporter import counting
from rapidun.pipeline.train import Losses


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that the reporter sees; set its only element."""
    now = [1000.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    return now


def reporter_of(terminal: bool) -> tuple[ConsoleReporter, io.StringIO]:
    """A reporter and what it prints."""
    reporter, text = ConsoleReporter(), io.StringIO()
    reporter.console = Console(file=text, force_terminal=terminal, width=120, highlight=False, color_system=None)
    return reporter, text


def test_durations_are_in_the_unit_that_people_use() -> None:
    assert [duration(seconds) for seconds in (7.4, 59.6, 280, 7500)] == [
        "7 s",
        "1 min 00 s",
        "4 min 40 s",
        "2 h 05 min",
    ]


def test_a_line_says_done_total_unit_rate_and_time_left() -> None:
    assert pace_text(12, 320, "steps", 0.5) == "12/320 steps, 30.0/min, 10 min 16 s left"
    assert pace_text(320, 320, "steps", 2.0) == "320/320 steps, 2.0/s"
    assert pace_text(0, 9, "rows", None) == "0/9 rows"


def test_a_resumed_count_takes_no_credit_for_what_was_done_before() -> None:
    pace = Pace(began=0.0)
    assert pace.rate(100, 0.1) is None
    assert pace.rate(110, 5.1) == pytest.approx(2.0)


def test_without_a_terminal_lines_come_by_the_clock_and_not_one_a_step(clock: list[float]) -> None:
    reporter, text = reporter_of(terminal=False)
    reporter.phase("unlearn", "Unlearning")
    for step in range(1, 3001):
        clock[0] = 1000.0 + step / 10
        reporter.progress(step, 3000, "loss 1.2, forget 2.0, retain 0.8", "steps")
    lines = text.getvalue().splitlines()
    assert 10 < len(lines) < 35
    assert lines[1] == "  100/3000 steps, 10.0/s, 4 min 50 s left  loss 1.2, forget 2.0, retain 0.8"
    assert lines[-1].startswith("  3000 steps in 5 min 00 s")


def test_a_count_that_was_quick_leaves_no_line(clock: list[float]) -> None:
    reporter, text = reporter_of(terminal=False)
    reporter.phase("weigh", "Weighing")
    reporter.progress(5, 5, unit="rows")
    assert text.getvalue().splitlines() == ["Weighing"]


def test_another_unit_is_another_count_with_a_pace_of_its_own(clock: list[float]) -> None:
    reporter, text = reporter_of(terminal=False)
    rows, prompts = counting(reporter, "rows"), counting(reporter, "prompts")
    clock[0] += 20
    rows(10, 10)
    clock[0] += 20
    prompts(2, 8)
    assert text.getvalue().splitlines()[-1] == "  2/8 prompts, 6.0/min, 1 min 00 s left"


def test_a_terminal_gets_a_bar_that_is_taken_away(clock: list[float]) -> None:
    reporter, text = reporter_of(terminal=True)
    with reporter:
        reporter.progress(1, 4, "best 0.5, 3 rows", "pulls")
        clock[0] += 2
        reporter.progress(2, 4, "best 0.7, 5 rows", "pulls")
        assert "2/4 pulls, 30.0/min, 4 s left" in str(reporter._bar and reporter._bar.tasks[0].fields["said"])
    assert reporter._bar is None
    assert "pulls" in text.getvalue()


def test_losses_are_told_apart_and_one_that_is_not_finite_is_said() -> None:
    losses = Losses()
    lines: list[dict[str, Any]] = [
        {"step": 5, "loss": 1.25, "forget_loss": 2.5, "retain_loss": 0.5, "grad_norm": 3.0},
        {"step": 10, "held_retain_loss": None},
    ]
    for line in lines:
        losses.hear(line)
    assert losses.text == "loss 1.250, forget 2.500, retain 0.500, validation not finite"
