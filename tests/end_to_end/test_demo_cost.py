"""The demo's cost ratio compares like with like, and says when the machine was busy."""

from __future__ import annotations

import pytest

from rapidun.demo.cost import Timed, compared

RECORD = {"seconds": 300.0, "steps": 1000, "answered_tokens": 2_000_000}


def test_on_a_quiet_machine_the_smaller_figure_is_compared_with() -> None:
    steps = Timed(seconds=4.0, cpu_seconds=7.8, threads=2)
    found = compared(Timed(50.0, 90.0, 2), steps, 100, RECORD)
    assert (found["busy"], found["retrain_seconds"], found["ratio"]) == (False, 300.0, 6.0)
    assert found["text"] == "cost: 50.0 s of unlearning, influence included; retraining 300 s: 6x"
    assert compared(Timed(50.0, 90.0, 2), steps, 50, RECORD)["retrain_seconds"] == 200.0


def test_on_a_busy_machine_steps_of_the_same_load_are_compared_with_and_that_is_said() -> None:
    """Half of the cores went to others all the time: everything takes twice as long, and the ratio stays."""
    quiet = compared(Timed(50.0, 100.0, 2), Timed(4.0, 8.0, 2), 60, RECORD)
    busy = compared(Timed(100.0, 100.0, 2), Timed(8.0, 8.0, 2), 60, RECORD)
    assert busy["ratio"] == pytest.approx(quiet["ratio"])
    assert busy["text"].endswith("The machine was busy: unlearning got 50% of its cores, retraining 50%.")


def test_steps_timed_under_a_heavier_load_than_unlearning_do_not_make_it_look_faster() -> None:
    found = compared(Timed(50.0, 90.0, 2), Timed(16.0, 8.0, 2), 60, RECORD)
    assert found["busy"]
    assert found["retrain_seconds"] == pytest.approx(16.0 * 60 * 0.25 / 0.9)


def test_a_gpu_and_a_record_without_cpu_seconds_are_taken_by_the_clock() -> None:
    assert not compared(Timed(50.0, 5.0, 0), Timed(4.0, 0.4, 0), 100, RECORD)["busy"]
