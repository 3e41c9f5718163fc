"""The suites `backdoor` and `perplexity`, and `auto`, which is one or the other by the rows that are given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rapidun.data import Rows
from rapidun.pipeline.estimating import Piece
from rapidun.pipeline.inputs import RunModel, read_rows, usable
from rapidun.pipeline.measure import Measurement, make_suite, measure
from rapidun.pipeline.pieces import measuring
from rapidun.pipeline.reporter import Reporter
from rapidun.pipeline.suites.registry import Suite, register_suite
from rapidun.settings.run import MeasureConfig


@register_suite("auto")
@register_suite("perplexity")
@register_suite("backdoor")
class Backdoor(Suite):
    """Attack success by every judge where example answers fit one, and clean perplexity; writes ``answers.json``."""

    def __init__(self, config: MeasureConfig, reporter: Reporter) -> None:
        super().__init__(config, reporter)
        data = config.data
        self._rows = read_rows(data.evaluation, "evaluation", data, reporter)
        poisoned, clean = (
            read_rows(path, name, data, reporter) if path is not None else None
            for name, path in (("poisoned", data.judge_poisoned), ("clean", data.validation))
        )
        self._suite = make_suite(self._rows, config.evaluation, poisoned=poisoned, clean=clean, reporter=reporter)

    def rows(self, run_model: RunModel) -> Mapping[str, Sequence[Rows]]:
        """The evaluation rows."""
        found = usable(self._rows, run_model, self.config.data, self.reporter, name="evaluation")
        self._suite = replace(self._suite, rows=list(found)[: self.config.evaluation.prompts])
        return {"evaluation": [found]}

    def pieces(self, run_model: RunModel) -> list[Piece]:
        """Perplexity, and answers where there are triggers."""
        return measuring(run_model, self._suite, self.config.evaluation, "measuring")

    def score(self, run_model: RunModel, done: Mapping[str, Any]) -> Measurement:
        """Everything that is measured."""
        return measure(run_model, self._suite, self.config.evaluation, self.reporter)

    def write(self, scores: Mapping[str, Any], directory: Path) -> dict[str, Any]:
        """The answers, and rates by every judge."""
        found: Measurement = scores["model"]
        found.save(directory / "answers.json")
        return {
            "suite": self._suite.suite,
            "values": found.summary(self._suite.primary),
            "primary_judge": self._suite.primary,
            "judges": {name: card.to_dict() for name, card in self._suite.cards.items()},
            "by_variant": found.by_variant,
            "all_judges": found.rates,
        }
