"""A group of rows with the texts that are tried beside each row's own answer."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rapidun.data import Rows
from rapidun.pipeline.inputs import RunModel, usable
from rapidun.pipeline.reporter import Reporter
from rapidun.settings.model import RowSettings


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
