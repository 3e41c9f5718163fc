"""Measuring: the best arms asked again after a release, what must be kept, and whether the round stays."""

from __future__ import annotations

from rapidun.files import write_json
from rapidun.pipeline.inputs import Subject
from rapidun.pipeline.revealing.context import RevealContext
from rapidun.pipeline.revealing.rounds import settle
from rapidun.pipeline.revealing.searching import again, arms_of, make_puller, pulls_of
from rapidun.reading import read_kind
from rapidun.reveal import Pull
from rapidun.reveal.utility import Utility, measure_utility

UTILITY_BEFORE = "utility_before.json"


def measure_start(context: RevealContext) -> None:
    """Utility of the model as it is."""
    write_json(context.directory / UTILITY_BEFORE, _utility(context, context.subject).to_dict())


def measure_round(context: RevealContext, number: int) -> None:
    """Ask this round's best arms again, measure what must be kept, and decide whether the round stays."""
    before = read_kind(context.directory / UTILITY_BEFORE, Utility)
    arms = arms_of(context, number)
    with context.state_after(number) as subject:
        puller = make_puller(context, subject, number)
        asked = puller.pull_each(again(context, arms), "after")
        after = _utility(context, subject)
    drop = after.drop_from(before)
    found = {
        "relevance_before": _mean_relevance(pulls_of(context, number, "before")),
        "relevance_after": _mean_relevance(asked),
        "utility": after.to_dict(),
        "drop": drop,
        "accepted": drop <= context.config.task.utility.max_drop,
    }
    write_json(context.folder(number) / "measure.json", found)
    context.reporter.note(
        f"relevance of the best arms {found['relevance_before']:.3f} -> {found['relevance_after']:.3f}; utility "
        f"({after.suite}) {before.value:.4g} -> {after.value:.4g}"
    )
    settle(context.directory.path)


def _utility(context: RevealContext, subject: Subject) -> Utility:
    rows = list(context.utility)
    settings = context.config.task.utility
    return measure_utility(
        subject.loaded,
        subject.template,
        rows,
        subject.tokenize(rows),
        settings,
        context.utility_judge,
        batch_size=context.config.task.search.batch_size,
    )


def _mean_relevance(pulls: list[Pull]) -> float:
    return sum(pull.relevance for pull in pulls) / len(pulls) if pulls else 0.0
