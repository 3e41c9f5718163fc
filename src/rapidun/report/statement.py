"""The page of a statement, for whoever signs or reads it: numbers, hashes and sentences, and no text of a row.

Like the report the page holds its style and makes no request; it runs no script at all. It prints on paper as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from rapidun.report import formats
from rapidun.report.html import environment, policy, style
from rapidun.verdicts import Headline, headline, worst

_CONDITIONS = {
    "asr_seen": "Unwanted answers, triggers of the forget rows",
    "asr_unseen": "Unwanted answers, variants of triggers",
    "asr_floor": "Unwanted answers, no trigger",
}
_PERPLEXITIES = {"clean_perplexity": "Perplexity, clean rows", "forget_perplexity": "Perplexity, forget rows"}
_RATIOS = {
    "perplexity_ratio": "Perplexity of clean rows, after over before",
    "forget_ratio": "Perplexity of forget rows, after over before",
}


def render_statement(predicate: Mapping[str, Any], signer: str) -> str:
    """The page.

    Args:
        predicate: What is stated, as JSON under our own names.
        signer: The id of the key that signs; "" where nobody does.
    """
    measured = predicate["measured"]
    page: str = (
        environment()
        .get_template("statement.html.j2")
        .render(
            said=predicate,
            signer=signer,
            banner=headline_of(predicate),
            made=formats.moment(predicate["made"]),
            rates=_rates(measured),
            ratios=[(title, _number(measured[name])) for name, title in _RATIOS.items() if measured[name] is not None],
            judges=[(name, judge["kind"], _percent(judge["floor"]), _percent(judge["ceiling"]))
                    for name, judge in predicate["judges"].items()],
            settings=[(name, _flat(section)) for name, section in predicate["how"]["settings"].items()],
            style=Markup(style("report.css")),
            policy=policy([]),
        )
    )  # fmt: skip
    return page


def headline_of(predicate: Mapping[str, Any]) -> Headline:
    """The verdict that stands first: the gate's, and that of the attacks that the statement tells of."""
    attacks = predicate["attacks"]
    attacked = None if isinstance(attacks, str) else worst(attack["verdict"] for attack in attacks)
    return headline(predicate["measured"]["verdict"], attacked)


def _rates(measured: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Title, before, after and number of units of each row of the table."""
    judge = measured["primary_judge"]
    sides = [measured[side]["rates"].get(judge, {}) for side in ("before", "after")]
    found = [
        (title, _percent(sides[0].get(name)), _percent(sides[1][name]), formats.count(sides[1][name]["n"]))
        for name, title in _CONDITIONS.items()
        if name in sides[1]
    ]
    for name, title in _PERPLEXITIES.items():
        before, after = (measured[side][name] for side in ("before", "after"))
        if before is not None and after is not None:
            found.append((title, _number(before), _number(after), formats.count(after["n"])))
    return found


def _percent(rate: Mapping[str, Any] | None) -> str:
    return formats.MISSING if rate is None else formats.percent_interval(rate["value"], rate["low"], rate["high"])


def _number(value: Mapping[str, Any]) -> str:
    return formats.number_interval(value["value"], value["low"], value["high"])


def _flat(section: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(name, "none" if value in (None, [], {}) else str(value)) for name, value in section.items()]
