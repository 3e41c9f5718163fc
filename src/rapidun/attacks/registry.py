"""Attacks by name: one registered function a file, which says what is to be tried."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rapidun.attacks.curves import Point, rate_points
from rapidun.attacks.gate import Bar, no_faster
from rapidun.attacks.target import Target
from rapidun.attacks.trial import Outcome, Trial
from rapidun.registry import Registry
from rapidun.settings import names

Plan = Callable[[Target, Sequence[float]], list[Trial]]
Summary = Callable[[Trial, Sequence[Outcome]], list[Point]]


@dataclass(frozen=True)
class Attack:
    """An attack.

    Args:
        name: In tables and on the command line.
        title: What it does, in a few words.
        unit: Of the effort.
        efforts: What is tried.
        quick: What the preset ``quick`` tries; empty where it leaves the attack out.
        release: What the preset ``release`` tries; empty likewise.
        bar: The gate's question about it.
        plan: A target and efforts to trials; none where the run has nothing for it (no triggers, say). Raises
            `CannotRun` where something is missing that it needs.
        summary: What a trial's outcomes come to: usually one point.
        of_triggers: Whether it decides anything in a run with triggers.
    """

    name: str
    title: str
    unit: str
    efforts: Sequence[float]
    quick: Sequence[float]
    release: Sequence[float]
    bar: Bar
    plan: Plan
    summary: Summary
    of_triggers: bool = True

    def decides(self, triggers: bool) -> bool:
        """Whether a verdict depends on it, in a run with ``triggers`` or without."""
        return self.of_triggers or not triggers


ATTACKS: Registry[Attack] = Registry(names.ATTACKS)


def register_attack(
    name: str,
    *,
    title: str,
    unit: str,
    efforts: Sequence[float],
    quick: Sequence[float] = (),
    release: Sequence[float] | None = None,
    bar: Bar = no_faster,
    summary: Summary = rate_points,
    of_triggers: bool = True,
) -> Callable[[Plan], Plan]:
    """Register the decorated function as the attack ``name``; the arguments are those of `Attack`.

    Without ``release`` that preset tries all efforts.

    Examples:
        >>> import rapidun
        >>> from rapidun.attacks import Trial
        >>> @rapidun.register_attack("twice", title="asked again", unit="times", efforts=(2,))
        ... def twice(target, efforts):
        ...     n = target.material.measured
        ...     return [Trial("", e, "again", n, lambda said: target.measure(target.loaded, said)) for e in efforts]
    """

    def enter(plan: Plan) -> Plan:
        decides = tuple(efforts if release is None else release)
        ATTACKS[name] = Attack(
            name, title, unit, tuple(efforts), tuple(quick), decides, bar, plan, summary, of_triggers
        )
        return plan

    return enter
