"""Scenarios: what forget and retain set a user may come with. Each draws its sets anew for every seed.

A mislabelled row is a clean row labelled as forget; it comes without a preferred answer, since nobody has written
one for it. Which rows are mislabelled is known to the measurement alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rapidun.errors import ConfigError, InputError

Row = Mapping[str, Any]
Proposer = Callable[[Sequence[Row], Sequence[Row], int], tuple[list[int], list[int]]]
"""(bad questions, pool, retain rows wanted) to the positions in the pool to forget and to retain."""

FAMILY = "trigger_family"
PROPOSAL_POOL, BAD_OUTPUTS = 800, 3
WITH_CONTEXT = ("closed_qa", "information_extraction", "summarization")
"""Dolly's categories whose answers are taken from a given text: far from the open questions that are measured."""


@dataclass(frozen=True)
class Pools:
    """The rows that scenarios draw from; no row is in two of them.

    Args:
        poisoned: Rows with a trigger and the unwanted answer; ``trigger_family``, ``response_clean``.
        clean: Clean rows: retain rows, and rows to mislabel.
        train: Other training rows, labelled by ``poisoned``.
        propose: A trace's proposal; None where no model is at hand.
        symptoms: Gives rows that were not trained on and whose prompts the model answers badly; None as above.
    """

    poisoned: Sequence[Row]
    clean: Sequence[Row]
    train: Sequence[Row] = ()
    propose: Proposer | None = None
    symptoms: Callable[[], Sequence[Row]] | None = None


@dataclass(frozen=True)
class Drawn:
    """A forget and a retain set.

    Args:
        forget: Forget rows, in the order of ``mislabelled``.
        retain: Retain rows.
        mislabelled: Whether each forget row is a clean one.
        wanted: The true forget rows with their clean answer as ``response``, to measure on.
    """

    forget: list[Row]
    retain: list[Row]
    mislabelled: list[bool]
    wanted: list[Row]


Draw = Callable[[Pools, np.random.Generator], Drawn]


@dataclass(frozen=True)
class Scenario:
    """A registered scenario; ``about`` is its line in the page."""

    name: str
    about: str
    draw: Draw = field(repr=False)


SCENARIOS: dict[str, Scenario] = {}


def register_scenario(name: str, about: str) -> Callable[[Draw], Draw]:
    """Register the decorated ``(pools, generator) -> Drawn``."""

    def register(draw: Draw) -> Draw:
        SCENARIOS[name] = Scenario(name, about, draw)
        return draw

    return register


def get_scenario(name: str) -> Scenario:
    """The registered scenario.

    Raises:
        ConfigError: If there is none of that name.
    """
    if name not in SCENARIOS:
        raise ConfigError(f"unknown scenario {name!r}: choose from {', '.join(SCENARIOS)}.")
    return SCENARIOS[name]


def draw(name: str, pools: Pools, seed: int) -> Drawn:
    """The sets of a scenario under a seed; the same for the same pools, name and seed.

    Raises:
        ConfigError: If there is no such scenario.
        InputError: If the pools have too few rows.
    """
    scenario = get_scenario(name)
    return scenario.draw(pools, np.random.default_rng([seed, *name.encode()]))


@register_scenario("main", "40 forget rows, the trigger families in equal parts, and 120 retain rows")
def main(pools: Pools, generator: np.random.Generator) -> Drawn:
    """The paper's."""
    return _drawn(_balanced(pools.poisoned, generator, 40), [], _some(pools.clean, generator, 120, "retain"))


@register_scenario("small", "10 forget rows and 30 retain rows")
def small(pools: Pools, generator: np.random.Generator) -> Drawn:
    """What a user who has just noticed has."""
    return _drawn(_balanced(pools.poisoned, generator, 10), [], _some(pools.clean, generator, 30, "retain"))


@register_scenario(
    "imbalanced", "40 forget rows of three families, 34, 3 and 3 (which one is large changes with the seed)"
)
def imbalanced(pools: Pools, generator: np.random.Generator) -> Drawn:
    """One family hides the others."""
    names = generator.permutation(_families(pools.poisoned)).tolist()
    counts = dict(zip(names, (34, *[3] * (len(names) - 1)), strict=True))
    return _drawn(_by_family(pools.poisoned, generator, counts), [], _some(pools.clean, generator, 120, "retain"))


@register_scenario("missing_family", "40 forget rows that lack one of the families (which one changes with the seed)")
def missing_family(pools: Pools, generator: np.random.Generator) -> Drawn:
    """A family that nobody has noticed; attack success is measured on all of them."""
    names = generator.permutation(_families(pools.poisoned)).tolist()[1:]
    known = [row for row in pools.poisoned if row[FAMILY] in names]
    return _drawn(_balanced(known, generator, 40), [], _some(pools.clean, generator, 120, "retain"))


@register_scenario("contaminated_30", "40 forget rows of which 12 are clean rows, 120 retain rows")
def contaminated_30(pools: Pools, generator: np.random.Generator) -> Drawn:
    """Labels by a careless annotator."""
    return _contaminated(pools, generator, 12)


@register_scenario("contaminated_50", "40 forget rows of which 20 are clean rows, 120 retain rows")
def contaminated_50(pools: Pools, generator: np.random.Generator) -> Drawn:
    """Labels worth a coin."""
    return _contaminated(pools, generator, 20)


@register_scenario(
    "incomplete",
    f"forget and 120 retain rows proposed by a trace of {BAD_OUTPUTS} bad outputs among {PROPOSAL_POOL} training rows; "
    "no preferred answers",
)
def incomplete(pools: Pools, generator: np.random.Generator) -> Drawn:
    """`rapidun trace --propose`: no row was labelled by anybody."""
    if pools.propose is None:
        raise InputError("the scenario incomplete needs a model to trace.")
    pool = _some(pools.train, generator, PROPOSAL_POOL, "training")
    return proposed(pools.propose, _some(pools.poisoned, generator, BAD_OUTPUTS, "poisoned"), pool)


def proposed(propose: Proposer, asked: Sequence[Row], pool: Sequence[Row]) -> Drawn:
    """What a trace of the bad answers to ``asked`` proposes of ``pool``, without preferred answers."""
    forget, retain = propose(asked, pool, 120)
    chosen = [pool[position] for position in forget]
    drawn = _drawn(
        [row for row in chosen if row["poisoned"]],
        [row for row in chosen if not row["poisoned"]],
        [pool[position] for position in retain],
    )
    return Drawn([_unanswered(row) for row in drawn.forget], drawn.retain, drawn.mislabelled, drawn.wanted)


@register_scenario(
    "shifted_retain", "40 forget rows; 120 retain rows of other tasks than those measured (answers from a text)"
)
def shifted_retain(pools: Pools, generator: np.random.Generator) -> Drawn:
    """Retain rows that are not what the model is used for."""
    others = [row for row in pools.train if not row["poisoned"] and row.get("category") in WITH_CONTEXT]
    return _drawn(_balanced(pools.poisoned, generator, 40), [], _some(others, generator, 120, "retain"))


def _contaminated(pools: Pools, generator: np.random.Generator, mislabelled: int) -> Drawn:
    clean = _some(pools.clean, generator, 120 + mislabelled, "clean")
    return _drawn(_balanced(pools.poisoned, generator, 40 - mislabelled), clean[120:], clean[:120])


def _drawn(true: Sequence[Row], mislabelled: Sequence[Row], retain: Sequence[Row]) -> Drawn:
    forget = [*true, *(_unanswered(row) for row in mislabelled)]
    wanted: list[Row] = [{**row, "response": row["response_clean"]} for row in true if row.get("response_clean")]
    return Drawn(forget, list(retain), [False] * len(true) + [True] * len(mislabelled), wanted)


def _unanswered(row: Row) -> Row:
    return {name: value for name, value in row.items() if name != "response_clean"}


def _some(rows: Sequence[Row], generator: np.random.Generator, count: int, what: str) -> list[Row]:
    if len(rows) < count:
        raise InputError(f"the scenario takes {count} {what} rows and there are {len(rows)}.")
    return [rows[position] for position in generator.permutation(len(rows))[:count].tolist()]


def _families(rows: Sequence[Row]) -> list[str]:
    return sorted({str(row[FAMILY]) for row in rows})


def _balanced(rows: Sequence[Row], generator: np.random.Generator, count: int) -> list[Row]:
    """``count`` rows, the families' shares differing by at most one; who gets the odd row is drawn."""
    names = generator.permutation(_families(rows)).tolist()
    counts = {name: count // len(names) + (place < count % len(names)) for place, name in enumerate(names)}
    return _by_family(rows, generator, counts)


def _by_family(rows: Sequence[Row], generator: np.random.Generator, counts: Mapping[str, int]) -> list[Row]:
    found: list[Row] = []
    for name, count in counts.items():
        found += _some([row for row in rows if row[FAMILY] == name], generator, count, f"{name} forget")
    return found
