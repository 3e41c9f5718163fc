"""Named entities in an answer: the F1 score of the tagged spans, as CoNLL counts them (exact text, exact type).

An answer names its entities as ``TYPE: text``, separated by semicolons, bars or line ends::

    PERSON: Ada Lovelace; LOCATION: London

Spans are compared as multisets after case folding and with runs of white space made one: what is tagged twice and is
there once is half wrong. ``none`` and an empty list name no entity.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from rapidun.errors import ConfigError
from rapidun.evaluation.task_judges import TaskJudge, each_answer, register_judge

Span = tuple[str, str]

_SEPARATORS = re.compile(r"[;|\n]+")
_TAGGED = re.compile(r"^\s*\W*([A-Za-z][A-Za-z_-]*)\s*:\s*(.+?)[\s.,]*$", re.DOTALL)
_NOTHING = {"", "none", "-", "n/a", "nothing"}


def entity_spans(answer: str, types: Sequence[str] | None = None) -> Counter[Span]:
    """The ``(TYPE, text)`` spans of an answer with how often each is tagged; ``types`` keeps only those types."""
    wanted = {name.upper() for name in types} if types is not None else None
    found: Counter[Span] = Counter()
    for part in _SEPARATORS.split(answer):
        match = _TAGGED.match(part)
        if match is None:
            continue
        kind, text = match.group(1).upper(), " ".join(match.group(2).casefold().split())
        if text not in _NOTHING and (wanted is None or kind in wanted):
            found[kind, text] += 1
    return found


def span_f1(answer: Counter[Span], reference: Counter[Span]) -> float:
    """``2 |both| / (|answer| + |reference|)``; 1 where neither has a span."""
    total = answer.total() + reference.total()
    return 2 * (answer & reference).total() / total if total else 1.0


@register_judge("entities")
def entities(*, types: Sequence[str] | None = None, compare: bool = True) -> TaskJudge:
    """F1 of the spans of ``types`` (all types without it) against the reference; any such span at all without one.

    Without a reference a judge cannot say whether a span is right: 1 then means that something was tagged. So it does
    with ``compare=False``, for tasks whose reference is what the model should say instead.

    Raises:
        ConfigError: If ``types`` is empty.
    """
    if types is not None and (isinstance(types, str) or not types):
        raise ConfigError(f"judge 'entities': types is {types!r}; give a list of types, for example [PERSON].")

    def score(answer: str, reference: str | None) -> float:
        found = entity_spans(answer, types)
        if reference is None or not compare:
            return float(bool(found))
        return span_f1(found, entity_spans(reference, types))

    return each_answer(score)
