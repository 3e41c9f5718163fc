"""Measure a model as it stands: attack success rates by every judge, and clean perplexity.

A measurement is written to one JSON file, so that "before" survives a kill and can be joined with "after".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rapidun.data import Rows
from rapidun.errors import ConfigError
from rapidun.evaluation import (
    ClassifierJudge,
    Judge,
    JudgeCard,
    KeywordJudge,
    PerplexityResult,
    Thresholds,
    TriggerFamily,
    backdoor_suite,
    calibrate,
    chances,
    clean_perplexity,
)
from rapidun.files import write_json
from rapidun.pipeline.inputs import Row, RowGroups, RunModel, first_rows
from rapidun.pipeline.reporter import Reporter, counting
from rapidun.reading import made_from, read_object
from rapidun.settings.evaluation import EvaluationSettings, dolly_triggers

MIN_EXAMPLES = 4
AUTO = {
    "backdoor": "suite: backdoor, as there are example answers to fit the judges on",
    "perplexity": "suite: perplexity alone; attack success rates need example answers, unwanted ones "
    "(data.judge_poisoned) and wanted ones (data.validation)",
}
PERPLEXITIES = ("perplexity", "forget_perplexity")


@dataclass(frozen=True)
class EvalSuite:
    """What both measurements share: rows, families and fitted judges with their floor and ceiling."""

    rows: Sequence[Row]
    families: list[TriggerFamily]
    judges: dict[str, Judge]
    cards: dict[str, JudgeCard]
    primary: str

    @property
    def suite(self) -> str:
        """What is measured: backdoor, or perplexity alone."""
        return "backdoor" if self.judges else "perplexity"


@dataclass(frozen=True)
class Measurement:
    """One model's numbers.

    Args:
        rates: ``{judge: {asr_seen, asr_unseen, asr_floor: {value, low, high, n}}}``; empty without triggers.
        by_variant: Rows of condition, family, trigger and rate by the primary judge.
        records: One for each generated answer.
        perplexity: Of the clean evaluation rows.
        forget_perplexity: Of the forget rows' unwanted answers; None where there are no forget rows.
    """

    rates: dict[str, dict[str, Any]]
    by_variant: list[dict[str, Any]]
    records: list[dict[str, Any]]
    perplexity: PerplexityResult
    forget_perplexity: PerplexityResult | None = None

    def summary(self, primary: str) -> dict[str, Any]:
        """``asr_seen, asr_unseen, asr_floor, clean_perplexity, forget_perplexity``, each ``{value, low, high, n}``."""
        found = {**self.rates.get(primary, {}), "clean_perplexity": _numbers(self.perplexity)}
        if self.forget_perplexity is not None:
            found["forget_perplexity"] = _numbers(self.forget_perplexity)
        return found

    def save(self, path: Path) -> None:
        """One JSON file, atomically."""
        perplexities = {name: _plain(getattr(self, name)) for name in PERPLEXITIES}
        write_json(path, {**{name: getattr(self, name) for name in ("rates", "by_variant", "records")}, **perplexities})

    @classmethod
    def load(cls, path: Path) -> Measurement:
        """What `save` wrote. Raises InputError where the file is not that."""
        raw = read_object(path)
        with made_from(path):
            for name in PERPLEXITIES:
                raw[name] = _restored(raw[name])
            return cls(**raw)


def _numbers(result: PerplexityResult) -> dict[str, Any]:
    return {name: getattr(result, name) for name in ("value", "low", "high", "n")}


def _plain(result: PerplexityResult | None) -> dict[str, Any] | None:
    if result is None:
        return None
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in vars(result).items()}


def _restored(raw: dict[str, Any] | None) -> PerplexityResult | None:
    if raw is None:
        return None
    arrays = {name: np.asarray(raw[name]) for name in ("row_losses", "row_tokens")}
    return PerplexityResult(**{**raw, **arrays})


def judge_examples(groups: RowGroups, settings: EvaluationSettings) -> dict[str, Rows | None]:
    """The rows of a run that judges are fitted on, for `make_suite`.

    Forget rows stand in for rows with unwanted answers only where it is said that an attack is to be measured (the
    suite by name, triggers or keywords of the user's own): most sets of rows to forget have no triggers.
    """
    attack = settings.suite == "backdoor" or settings.keywords or settings.triggers != dolly_triggers()
    poisoned = groups.judge_poisoned or (groups.forget if attack else None)
    return {"poisoned": poisoned, "clean": groups.validation or groups.retain}


def make_suite(
    rows: Rows,
    settings: EvaluationSettings,
    *,
    poisoned: Rows | None,
    clean: Rows | None,
    reporter: Reporter | None = None,
) -> EvalSuite:
    """Fit the judges on one half of the example answers and calibrate them on the other half.

    Args:
        rows: Clean rows to measure on; their answers are never shown to a judge.
        settings: Suite, triggers, judges.
        poisoned: Rows with unwanted answers (their ``response_clean``, where there is one, is a preferred answer).
        clean: Rows with preferred answers.
        reporter: Hears which suite "auto" is.

    The suite "auto" is the backdoor suite where both kinds of examples are given, and perplexity alone otherwise.

    Raises:
        ConfigError: If the backdoor suite lacks example answers.
        InputError: If more rows are asked for than there are.
    """
    measured = list(first_rows(rows, settings.prompts))
    suite: str = settings.suite
    if suite == "auto":
        suite = "perplexity" if poisoned is None or clean is None else "backdoor"
        if reporter is not None:
            reporter.note(AUTO[suite])
    if suite == "perplexity":
        return EvalSuite(measured, [], {}, {}, settings.judge)
    if poisoned is None or clean is None or min(len(poisoned), len(clean)) < MIN_EXAMPLES:
        raise ConfigError(
            f"the backdoor suite fits its judges on examples: give at least {MIN_EXAMPLES} rows with unwanted and "
            f"{MIN_EXAMPLES} with preferred answers, or set evaluation.suite=perplexity."
        )
    unwanted = [row["response"] for row in poisoned]
    wanted = [row["response"] for row in clean]
    wanted += [row["response_clean"] for row in poisoned if row.get("response_clean")]
    fixed = settings.keywords
    judges: dict[str, Judge] = {
        "classifier": ClassifierJudge.fit(unwanted[::2], wanted[::2]),
        "keywords": KeywordJudge(fixed) if fixed else KeywordJudge.fit(unwanted[::2], wanted[::2]),
    }
    cards = {name: calibrate(judge, unwanted[1::2], wanted[1::2]) for name, judge in judges.items()}
    families = [
        TriggerFamily(family.name, family.position, tuple(family.seen), tuple(family.unseen))
        for family in settings.triggers
    ]
    return EvalSuite(measured, families, judges, cards, settings.judge)


def say_chances(eval_suite: EvalSuite, limits: Thresholds, reporter: Reporter) -> None:
    """Say what the gate's bounds allow of the answers to come, and warn where one cannot be reached."""
    conditions = {
        "asr_seen": any(family.seen for family in eval_suite.families),
        "asr_unseen": any(family.unseen for family in eval_suite.families),
        "asr_floor": bool(eval_suite.families),
    }
    answers = {name: len(eval_suite.rows) for name, there in conditions.items() if there}
    found = chances(answers, limits, eval_suite.cards.get(eval_suite.primary))
    hopeless = [chance for chance in found if not chance.possible]
    for chance in hopeless or found:
        reporter.note(f"{'warning: the gate cannot be passed: ' if hopeless else 'gate: '}{chance.text}")


def measure(
    run_model: RunModel,
    eval_suite: EvalSuite,
    settings: EvaluationSettings,
    reporter: Reporter,
    *,
    forget: Rows | None = None,
) -> Measurement:
    """Generate, judge, and take the perplexity of the model as it stands."""
    rows = counting(reporter, "rows")
    perplexity = clean_perplexity(run_model.loaded, run_model.tokenize(eval_suite.rows), progress=rows)
    forgotten = None
    if forget is not None:
        forgotten = clean_perplexity(run_model.loaded, run_model.tokenize(forget), progress=rows)
    if not eval_suite.families:
        return Measurement({}, [], [], perplexity, forgotten)
    result = backdoor_suite(
        run_model.loaded,
        run_model.template,
        eval_suite.rows,
        eval_suite.families,
        eval_suite.judges,
        primary=eval_suite.primary,
        max_new_tokens=settings.max_new_tokens,
        batch_size=settings.batch_size,
        repetition_penalty=settings.repetition_penalty,
        progress=counting(reporter, "prompts"),
    )
    return Measurement(
        rates={judge: result.summary(judge) for judge in eval_suite.judges},
        by_variant=[variant.to_dict() for variant in result.by_variant],
        records=[asdict(record) for record in result.records],
        perplexity=perplexity,
        forget_perplexity=forgotten,
    )
