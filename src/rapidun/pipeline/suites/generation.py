"""The suite `generation`: how fluent free answers to clean prompts are, before and after.

What is compared with is the model without ``--adapter``, or ``--retained-model``: it answers too, and reads the answers
of both. Without either, the model's answers stand alone, and nothing reads them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rapidun.data import Rows
from rapidun.evaluation.fluency import fluency_change, fluency_rows, fluency_values
from rapidun.evaluation.row_table import write_table
from rapidun.models.token_scores import token_scores
from rapidun.pipeline.estimating import Piece
from rapidun.pipeline.inputs import RunModel, first_rows, read_rows, usable
from rapidun.pipeline.pieces import answering
from rapidun.pipeline.reporter import Reporter, counting
from rapidun.pipeline.suites.answers import answers_to
from rapidun.pipeline.suites.job import ROWS
from rapidun.pipeline.suites.registry import Suite, plain, register_suite
from rapidun.settings.run import MeasureConfig

Losses = dict[str, npt.NDArray[np.float64]]


@dataclass(frozen=True)
class Answers:
    """One model's.

    Args:
        texts: To each prompt.
        read: Whose answers this model read, by name, with their losses; empty where it is not the reference.
    """

    texts: list[str]
    read: dict[str, Losses]


@register_suite("generation")
class Generation(Suite):
    """Answers and their fluency; writes a line for each prompt and model."""

    before = True

    def __init__(self, config: MeasureConfig, reporter: Reporter) -> None:
        super().__init__(config, reporter)
        rows = read_rows(config.data.evaluation, "evaluation", config.data, reporter)
        self._rows = first_rows(rows, config.evaluation.prompts)

    def rows(self, run_model: RunModel) -> Mapping[str, Sequence[Rows]]:
        """The evaluation rows."""
        self._rows = usable(self._rows, run_model, self.config.data, self.reporter, name="evaluation")
        return {"evaluation": [self._rows]}

    def pieces(self, run_model: RunModel) -> list[Piece]:
        """The answers."""
        prompts = [run_model.template.prompt_text(row) for row in self._rows]
        return [answering(run_model, prompts, self.config.evaluation, "answers")]

    def score(self, run_model: RunModel, done: Mapping[str, Any]) -> Answers:
        """The model's answers; the reference reads them and its own."""
        texts = answers_to(run_model, list(self._rows), self.config.evaluation, self.reporter)
        if not done:
            return Answers(texts, {})
        read = {"model": done["model"].texts, "own": texts}
        return Answers(texts, {name: self._read(run_model, its) for name, its in read.items()})

    def write(self, scores: Mapping[str, Any], directory: Path) -> dict[str, Any]:
        """The table, and values of the model, of what it is compared with, and the change."""
        numbers = {name: fluency_rows(answers.texts) for name, answers in scores.items()}
        other = next((name for name in scores if name != "model"), None)
        if other is not None:
            numbers["model"] |= scores[other].read["model"]
            numbers[other] |= scores[other].read["own"]
        write_table(directory / ROWS, self._columns(scores, numbers))
        values = {name: plain(fluency_values(its)) for name, its in numbers.items()}
        if other is None:
            return {"compared_with": "none", "values": values["model"]}
        change = plain(fluency_change(numbers["model"], numbers[other]))
        return {"compared_with": other, "values": values["model"], other: values[other], "change": change}

    def _columns(self, scores: Mapping[str, Answers], numbers: Mapping[str, Losses]) -> dict[str, Any]:
        """A line for each model and prompt."""
        ids = [str(row["id"]) for row in self._rows]
        own = {
            "model": [name for name in scores for _ in ids],
            "id": ids * len(scores),
            "answer": [text for answers in scores.values() for text in answers.texts],
        }
        return own | {name: np.concatenate([its[name] for its in numbers.values()]) for name in numbers["model"]}

    def _read(self, run_model: RunModel, texts: Sequence[str]) -> Losses:
        """Loss of each answer's own tokens: one that was cut off has no end of a turn. Empty ones are not read."""
        rows = [
            {**row, "id": str(place), "response": text}
            for place, (row, text) in enumerate(zip(self._rows, texts, strict=True))
        ]
        examples = run_model.tokenize(rows, skipped=[])
        loaded = run_model.loaded
        read = token_scores(
            loaded.model, examples, loaded.pad_token_id, loaded.device, progress=counting(self.reporter, "answers")
        )
        found = {"answer_loss": np.full(len(texts), np.nan), "answer_tokens": np.zeros(len(texts))}
        for example, log_probs in zip(examples, read.log_probs, strict=True):
            found["answer_loss"][int(example.id)] = -log_probs.sum(dtype=np.float64)
            found["answer_tokens"][int(example.id)] = len(log_probs)
        return found
