"""What the suites `qa` and `tofu` share: rows in groups, scored by their right and wrong answers and what a model says.

rows -> texts tried beside each row's own answer -> `RowScores` of each group -> `rows.parquet` and values
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from rapidun.data import Rows
from rapidun.errors import InputError, ModelError
from rapidun.evaluation import generate_answers
from rapidun.evaluation.generation import context_length
from rapidun.evaluation.qa import NO_ROWS, Metrics, RowScores, row_metrics
from rapidun.evaluation.qa_table import read_ids, read_rows, write_rows
from rapidun.evaluation.rouge import rouge_installed, rouge_l_recall
from rapidun.files import file_sha256
from rapidun.models.row_losses import BATCH_TOKENS, row_losses
from rapidun.models.token_scores import token_scores
from rapidun.pipeline.estimating import Piece, over_rows
from rapidun.pipeline.inputs import Row, RunModel, usable
from rapidun.pipeline.pieces import answering
from rapidun.pipeline.reporter import Reporter, counting
from rapidun.pipeline.suites.job import ROWS, stored_rows
from rapidun.pipeline.suites.registry import Suite, plain
from rapidun.settings.evaluation import MeasureSettings
from rapidun.settings.model import RowSettings
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
        few = _long_enough(run_model, self.groups, settings)
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


def scored(
    run_model: RunModel, groups: Mapping[str, AnswerGroup], settings: MeasureSettings, reporter: Reporter
) -> dict[str, RowScores]:
    """Each group's scores by the model as it stands.

    Raises:
        ModelError: If a loss is no finite number; names the row.
    """
    few = _long_enough(run_model, groups, settings)
    return {name: _scores(run_model, group, few, reporter) for name, group in groups.items()}


def _scores(run_model: RunModel, group: AnswerGroup, settings: MeasureSettings, reporter: Reporter) -> RowScores:
    """One forward pass over the rows, one over their other texts, and an answer to every question."""
    rows, loaded = list(group.rows), run_model.loaded
    ids, texts = [str(row["id"]) for row in rows], [str(row["response"]) for row in rows]
    examples = run_model.tokenize(group.rows)
    scored = token_scores(
        loaded.model, examples, loaded.pad_token_id, loaded.device, progress=counting(reporter, "rows")
    )
    wrong, paraphrased, asked = (
        _losses(run_model, part, reporter) for part in (group.wrong, group.paraphrased, group.asked)
    )
    losses = np.array(scored.losses)
    _check_finite(ids, losses)
    answers = answers_to(run_model, rows, settings, reporter)
    again = list(group.asked) if group.asked is not None else []
    others = dict(zip([str(row["id"]) for row in again], answers_to(run_model, again, settings, reporter), strict=True))
    return RowScores(
        ids=ids,
        losses=losses,
        log_probs=scored.log_probs,
        hits=scored.hits,
        z_scores=scored.z_scores,
        texts=texts,
        correct=np.array([paraphrased.get(name, [own])[0] for name, own in zip(ids, losses, strict=True)]),
        wrong=_rectangle([wrong.get(name, []) for name in ids]),
        rouge=_recall(dict(zip(ids, answers, strict=True)), ids, texts),
        paraphrased_losses=np.array([asked.get(name, [np.nan])[0] for name in ids]),
        paraphrased_rouge=_recall(others, ids, texts),
        answers=answers,
    )


def _losses(run_model: RunModel, rows: Rows | None, reporter: Reporter) -> dict[str, list[float]]:
    """Mean losses of a row's other texts, by the row's id."""
    found: dict[str, list[float]] = {}
    if rows is None:
        return found
    examples = run_model.tokenize(rows)
    means = run_model.losses(examples, counting(reporter, "texts")).means
    _check_finite([example.id for example in examples], means)
    for example, loss in zip(examples, means.tolist(), strict=True):
        found.setdefault(example.id, []).append(loss)
    return found


def _check_finite(ids: Sequence[str], losses: Any) -> None:
    broken = np.flatnonzero(~np.isfinite(losses))
    if broken.size:
        raise ModelError(
            f"the loss of row {ids[broken[0]]} is {losses[broken[0]]}: the model gives no numbers. Training may have "
            "diverged, or the dtype is too narrow; try float32."
        )


def _rectangle(rows: Sequence[Sequence[float]]) -> Any:
    """Lists of different lengths as one array, filled up by NaN."""
    found = np.full((len(rows), max(map(len, rows), default=0)), np.nan)
    for place, row in enumerate(rows):
        found[place, : len(row)] = row
    return found


def _recall(answers: Mapping[str, str], ids: Sequence[str], texts: Sequence[str]) -> Any:
    """ROUGE-L recall of the rows that were answered; NaN of the others, and of all where nothing can count it."""
    found = np.full(len(ids), np.nan)
    places = [place for place, name in enumerate(ids) if name in answers]
    if places and rouge_installed():
        found[places] = rouge_l_recall([answers[ids[place]] for place in places], [texts[place] for place in places])
    return found


def answers_to(run_model: RunModel, rows: Sequence[Row], settings: MeasureSettings, reporter: Reporter) -> list[str]:
    """The model's answer to each row's prompt."""
    if not rows:
        return []
    return generate_answers(
        run_model.loaded,
        [run_model.template.prompt_text(row) for row in rows],
        max_new_tokens=settings.max_new_tokens,
        batch_size=settings.batch_size,
        repetition_penalty=settings.repetition_penalty,
        progress=counting(reporter, "answers"),
    )


def _long_enough(run_model: RunModel, groups: Mapping[str, AnswerGroup], settings: MeasureSettings) -> MeasureSettings:
    """With the tokens that an answer may take: as set, else those of the longest right one, within the model's context.

    A recall counts what is there of the right answer, so a shorter limit would make a model seem to know less; and a
    group whose right answers are short would else be asked for less than the others.
    """
    if "max_new_tokens" in settings.model_fields_set:
        return settings
    examples = [example for group in groups.values() for example in run_model.tokenize(group.rows)]
    longest = max(len(example) - example.answer_start for example in examples)
    room = context_length(run_model.loaded.model) - max(example.answer_start for example in examples)
    return settings.model_copy(update={"max_new_tokens": max(1, min(longest, room))})


@dataclass(frozen=True)
class AnswerGroup:
    """Rows of one group with the texts that are tried beside their answers.

    Args:
        rows: As read; ``response`` is the right answer.
        wrong: A row for each wrong answer, with the id of its own row.
        paraphrased: A row for each right answer in other words, likewise.
        asked: A row for each question in other words, likewise.
    """

    rows: Rows
    wrong: Rows | None
    paraphrased: Rows | None
    asked: Rows | None

    @property
    def parts(self) -> list[Rows]:
        """Everything whose loss is taken."""
        return [rows for rows in vars(self).values() if rows is not None]


def answer_group(rows: Rows, title: str, run_model: RunModel, settings: RowSettings, reporter: Reporter) -> AnswerGroup:
    """Rows that the template and the tokenizer take, and their other texts, which they take too."""
    rows = usable(rows, run_model, settings, reporter, name=title)
    others = {
        "wrong": _with(rows, "response", "response_wrong"),
        "paraphrased": _with(rows, "response", "response_paraphrased"),
        "asked": _with(rows, "prompt", "prompt_paraphrased"),
    }
    checked = {
        kind: usable(other, run_model, settings, reporter, name=f"{title}, {kind}") if other is not None else None
        for kind, other in others.items()
    }
    return AnswerGroup(rows, **checked)


def _with(rows: Rows, column: str, source: str) -> Rows | None:
    """A row for each text of ``source``, in the place of ``column``; None where no row has one."""
    if source not in rows.dataset.column_names:
        return None
    texts = [text if isinstance(text, list) else [text] if text else [] for text in rows.dataset[source]]
    places = [place for place, each in enumerate(texts) for _ in each]
    if not places:
        return None
    chosen = rows.dataset.select(places).remove_columns(column)
    flat = [text for each in texts for text in each]
    return replace(
        rows, dataset=chosen.add_column(column, flat), lines=[rows.lines[place] for place in places], skipped=[]
    )
