"""Rows of the suite `qa`: the three groups, and the texts that are tried beside each row's own answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from rapidun.data import Rows, assert_disjoint
from rapidun.errors import InputError
from rapidun.evaluation import assert_disjoint_prompts
from rapidun.evaluation.qa import LOOK_ALIKES
from rapidun.evaluation.rouge import HINT, rouge_installed
from rapidun.pipeline.inputs import RunModel, read_rows, rows_from, usable
from rapidun.pipeline.reporter import Reporter
from rapidun.settings.run import MeasureConfig

_TITLES = {"forget": "forget", "retain": "retain", "held_out": "held-out"}


@dataclass(frozen=True)
class QaGroup:
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


def read_qa(config: MeasureConfig, reporter: Reporter) -> dict[str, Rows]:
    """The rows of each group, none of which can be taken for another's.

    Raises:
        InputError: If a file or row is bad, two groups share rows, or more held-out rows are asked for than there are.
    """
    data = config.data
    paths = {"forget": data.forget, "retain": data.retain, "held_out": data.evaluation}
    found = {name: read_rows(path, _TITLES[name], data, reporter) for name, path in paths.items() if path is not None}
    assert_disjoint(found["forget"], found["retain"])
    assert_disjoint_prompts(list(found["held_out"]), list(found["forget"]))
    if (prompts := config.evaluation.prompts) is not None:
        if prompts > (there := len(found["held_out"])):
            raise InputError(f"{data.evaluation}: evaluation.prompts = {prompts} rows asked for, {there} there.")
        found["held_out"] = rows_from(found["held_out"], 0, prompts)
    return found


def qa_group(rows: Rows, name: str, run_model: RunModel, config: MeasureConfig, reporter: Reporter) -> QaGroup:
    """Rows that the template and the tokenizer take, and their other texts, which they take too."""
    title = _TITLES[name]
    rows = usable(rows, run_model, config.data, reporter, name=title)
    others = {
        "wrong": _with(rows, "response", "response_wrong"),
        "paraphrased": _with(rows, "response", "response_paraphrased"),
        "asked": _with(rows, "prompt", "prompt_paraphrased"),
    }
    checked = {
        kind: usable(other, run_model, config.data, reporter, name=f"{title}, {kind}") if other is not None else None
        for kind, other in others.items()
    }
    return QaGroup(rows, **checked)


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


def say_what_is_left_out(groups: Mapping[str, QaGroup], config: MeasureConfig, reporter: Reporter) -> None:
    """Say which numbers these rows and this machine cannot give, and what the others are compared with."""
    if not rouge_installed():
        reporter.note(f"warning: ROUGE is left out, and utility is without it: {HINT}")
    compared = ("forget",) if config.retained is not None else ("forget", "held_out")
    lacking = [_TITLES[name] for name in compared if groups[name].wrong is None]
    if lacking:
        reporter.note(
            f"no row of {' and '.join(lacking)} has wrong answers (response_wrong): forget quality is left out"
        )
    if config.retained is None:
        reporter.note(f"yardstick: {LOOK_ALIKES}: held-out rows stand for what a retained model would say")
