"""What the suites `qa` and `tofu` share: rows in groups, scored by their right and wrong answers and what a model says.

rows -> texts tried beside each row's own answer -> `RowScores` of each group -> `rows.parquet` and values
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from rapidun.data import Rows
from rapidun.errors import InputError
from rapidun.evaluation.qa import NO_ROWS, Metrics, RowScores, row_metrics
from rapidun.evaluation.qa_table import read_ids, read_rows, write_rows
from rapidun.files import file_sha256
from rapidun.models.row_losses import BATCH_TOKENS, row_losses
from rapidun.pipeline.estimating import Piece, over_rows
from rapidun.pipeline.inputs import RunModel
from rapidun.pipeline.pieces import answering
from rapidun.pipeline.reporter import Reporter
from rapidun.pipeline.suites.job import ROWS, stored_rows
from rapidun.pipeline.suites.registry import Suite, plain
from rapidun.pipeline.suites.scores import AnswerGroup, answer_group, longest_answer, scored
from rapidun.settings.run import MeasureConfig
from rapidun.stats import Interval


class AnswerSuite(Suite):
    """A suite of questions with right and wrong answers."""

    titles: ClassVar[Mapping[str, str]]
    """Each group to what it is called."""
    numbers: Callable[[RowScores], Mapping[str, Any]] = staticmethod(row_metrics)
    """Every row's numbers."""
    values: Callable[[Mapping[str, Metrics], Mapping[str, Metrics] | None], dict[str, Interval]]
    """What the numbers of the rows come to: of the model, and of a retained one."""

    def __init__(self, config: MeasureConfig, reporter: Reporter) -> None:
        super().__init__(config, reporter)
        self.groups: dict[str, AnswerGroup] = {}
        self._files = self.read()
        self._stored_at = stored_rows(config.retained)
        if self._stored_at is not None:
            self.stored = read_rows(self._stored_at).get("model", {})
            self._check_columns(self._stored_at)

    @abstractmethod
    def read(self) -> dict[str, Rows]:
        """The rows of each group of `titles`, none of which can be taken for another's."""

    @abstractmethod
    def yardstick(self) -> str:
        """What the forget rows are compared with."""

    def rows(self, run_model: RunModel) -> Mapping[str, Sequence[Rows]]:
        """Rows that the template and the tokenizer take, and their other texts, which they take too."""
        self.groups = {
            name: answer_group(rows, self.titles[name], run_model, self.config.data, self.reporter)
            for name, rows in self._files.items()
        }
        if self._stored_at is not None:
            self._check_same_rows(self._stored_at)
        return {name: group.parts for name, group in self.groups.items()}

    def marks(self) -> dict[str, str]:
        """The rows of the retained model, where they are stored."""
        return {"retained rows": file_sha256(self._stored_at)} if self._stored_at is not None else {}

    def pieces(self, run_model: RunModel) -> list[Piece]:
        """All forward passes and all answers."""
        loaded, settings = run_model.loaded, self.config.evaluation
        work = partial(
            row_losses, loaded.model, pad_token_id=loaded.pad_token_id, device=loaded.device, max_tokens=BATCH_TOKENS
        )
        groups = self.groups.values()
        every = [example for group in groups for part in group.parts for example in run_model.tokenize(part)]
        asked = [row for group in groups for part in (group.rows, group.asked) for row in part or ()]
        few = settings.model_copy(update={"max_new_tokens": longest_answer(run_model, self.groups, settings)})
        losses = Piece("losses of answers", len(every), "texts", partial(over_rows, every, BATCH_TOKENS, work))
        return [losses, answering(run_model, [run_model.template.prompt_text(row) for row in asked], few, "answers")]

    def score(self, run_model: RunModel, done: Mapping[str, Any]) -> dict[str, RowScores]:
        """Each group's scores."""
        return scored(run_model, self.groups, self.config.evaluation, self.reporter)

    def write(self, scores: Mapping[str, Any], directory: Path) -> dict[str, Any]:
        """The table of rows; returns values with n, interval and unit, and what they were compared with."""
        metrics = {model: {name: self.numbers(rows) for name, rows in its.items()} for model, its in scores.items()}
        write_rows(directory / ROWS, scores, metrics)
        retained = metrics.get("retained", self.stored)
        found: dict[str, Any] = {
            "yardstick": self.yardstick(),
            "convention": "tofu",
            "values": plain(self.values(metrics["model"], retained)),
        }
        return found if retained is None else {**found, "retained": plain(self.values(retained, None))}

    def _check_columns(self, path: Path) -> None:
        missing = [name for name in self.titles if name not in self.stored]
        missing += [column for column in self.numbers(NO_ROWS) for rows in self.stored.values() if column not in rows]
        if missing:
            raise InputError(
                f"{path}: no rows of this suite: {missing[0]} is not there. Measure the retained model by the same "
                "suite on the same files."
            )

    def _check_same_rows(self, path: Path) -> None:
        stored = read_ids(path)
        for name, group in self.groups.items():
            if stored.get(name) != [str(row["id"]) for row in group.rows]:
                raise InputError(
                    f"{path}: its {self.titles[name]} rows are not those of this measurement. Measure the retained "
                    "model by the same suite on the same files."
                )
