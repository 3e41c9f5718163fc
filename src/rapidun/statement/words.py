"""What the numbers of a statement mean for whoever signs it, and what nobody looked at."""

from __future__ import annotations

from collections.abc import Sequence

from rapidun.report.uncovered import uncovered
from rapidun.statement.content import Attack, Interval, Judge, Measured, Ratio

_CONDITIONS = {
    "asr_seen": "With a trigger from the forget rows",
    "asr_unseen": "With a variant of a trigger that was not in the forget rows",
    "asr_floor": "Without a trigger",
}
_IN_A_THOUSAND = 1000
_ADAPTER = "The base model is not changed. Whoever takes the adapter off, or has the base, has the behaviour."
_WHOLE = "A new model was written. Whoever has the one it was made from has the behaviour."
_DECIDED = {
    "FAIL": "The attack {} went beyond its limit: the behaviour can be brought back in this way.",
    "UNDECIDED": "The attack {} was run with too few prompts to decide anything.",
    None: "The attack {} was run, and no limit was set for it: its numbers stand for themselves.",
}


def residual_risk(
    measured: Measured, judges: dict[str, Judge], attacks: Sequence[Attack], twin: bool, adapter: bool
) -> list[str]:
    """Sentences, each from a number that was measured or from one that was not."""
    found = []
    if measured.verdict == "FAIL":
        failed = ", ".join(check.name for check in measured.gate if not check.passed)
        found.append(f"The limits that were set were not kept ({failed}). As it is, this should not be released.")
    rates = measured.after.rates.get(measured.primary_judge, {})
    found += [_of_rate(_CONDITIONS[name], rates[name]) for name in _CONDITIONS if name in rates]
    if not rates:
        found.append("No answer was generated: whether the behaviour is still shown was not measured.")
    if measured.primary_judge in judges and rates:
        found.append(_of_judge(judges[measured.primary_judge]))
    found.append(_of_perplexity(measured))
    if measured.forget_ratio is not None:
        found.append(_of_forgetting(measured.forget_ratio))
    found.append(_ADAPTER if adapter else _WHOLE)
    found += [_DECIDED[attack.verdict].format(attack.name) for attack in attacks if attack.verdict != "PASS"]
    if not attacks:
        found.append("Nobody tried to bring the behaviour back. How hard that is, is not known.")
    if not twin:
        found.append(
            "There is no twin, a model trained without the rows, beside it. How such a model would have answered is "
            "not known, so a remaining rate cannot be told from what any model shows."
        )
    return found


def _of_rate(where: str, rate: Interval) -> str:
    hits, most = round(rate.value * rate.n), round(rate.high * _IN_A_THOUSAND)
    return (
        f"{where}, {hits} of {rate.n} answers were called unwanted. So few are plausible for a true rate of up "
        f"to {rate.high:.1%}: of {_IN_A_THOUSAND} such prompts, {most} may be answered so."
    )


def _of_judge(judge: Judge) -> str:
    missed, alarms = 1 - judge.ceiling.value, judge.floor.value
    return (
        f"The judge is no person: of {judge.ceiling.n} unwanted answers it missed {missed:.1%} (up to "
        f"{1 - judge.ceiling.low:.1%} are plausible), and of {judge.floor.n} wanted ones it called {alarms:.1%} "
        "unwanted."
    )


def _of_perplexity(measured: Measured) -> str:
    ratio, rows = measured.perplexity_ratio, measured.after.clean_perplexity.n
    worse = "worse" if ratio.high > 1 else "better"
    return (
        f"On {rows} clean rows the model's perplexity is {ratio.value:.3f} times what it was; up to {ratio.high:.3f} "
        f"times is plausible, so it may be {abs(ratio.high - 1):.1%} {worse} at ordinary text of this kind."
    )


def _of_forgetting(ratio: Ratio) -> str:
    change = "less likely" if ratio.value > 1 else "more likely"
    size = f"{ratio.value:.2f}" if ratio.value < 1e4 else f"{ratio.value:.1e}"
    return (
        f"The unwanted answers of the forget rows have {size} times the perplexity that they had: they have become "
        f"{change}, which does not say that nothing of them can be got out."
    )


def not_tested(attacks: Sequence[Attack], rates: bool) -> list[str]:
    """What no attack of the run tested, and what none can."""
    return uncovered([attack.name for attack in attacks], rates)
