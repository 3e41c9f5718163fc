"""The suite `tofu`: model utility and forget quality on TOFU's own files (arXiv 2401.06121), by the names they have."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from rapidun.data import Rows, assert_disjoint
from rapidun.errors import InputError
from rapidun.evaluation.qa import RETAINED
from rapidun.evaluation.rouge import HINT, rouge_installed
from rapidun.evaluation.tofu import CHOICES, tofu_row_metrics, tofu_values
from rapidun.pipeline.inputs import read_rows, rows_from
from rapidun.pipeline.suites.answers import AnswerSuite
from rapidun.pipeline.suites.registry import register_suite

FILES = {
    "retain": ("retain_perturbed.json", "rows of authors to keep"),
    "real_authors": ("real_authors_perturbed.json", "questions about real authors"),
    "world_facts": ("world_facts_perturbed.json", "questions about the world"),
}
FORGET = "forget10_perturbed.json"
NO_YARDSTICK = "none"
_ADDED = {"response_wrong": "perturbed_answer", "response_paraphrased": "paraphrased_answer"}


@register_suite("tofu")
class Tofu(AnswerSuite):
    """Four files of one directory; forget quality is measured beside a retained model alone."""

    titles: ClassVar = {
        "forget": "forget",
        "retain": "retain",
        "real_authors": "real authors",
        "world_facts": "world facts",
    }

    numbers, values = staticmethod(tofu_row_metrics), staticmethod(tofu_values)

    def read(self) -> dict[str, Rows]:
        """The files, each whole or its first ``evaluation.prompts`` rows.

        Raises:
            InputError: If a file is missing, with what it is for; or a row lacks an answer that TOFU's numbers need.
        """
        data, prompts = self.config.data, self.config.evaluation.prompts
        if not rouge_installed():
            self.reporter.note(f"warning: ROUGE is left out, and model utility, which needs it: {HINT}")
        if self.config.retained is None:
            self.reporter.note("yardstick: none: forget quality needs --retained-model")
        found = {
            name: read_rows(path, self.titles[name], data, self.reporter)
            for name, path in _paths(data.evaluation, data.forget).items()
        }
        for name, rows in found.items():
            _check_answers(rows, ("response_wrong",) if name in CHOICES else tuple(_ADDED))
        assert_disjoint(found["forget"], found["retain"])
        return {name: _as_asked(rows_from(rows, 0, prompts or len(rows))) for name, rows in found.items()}

    def yardstick(self) -> str:
        """A retained model, or none."""
        return NO_YARDSTICK if self.config.retained is None else RETAINED


def _paths(directory: Path, forget: Path | None) -> dict[str, Path]:
    """The files, every one of them there."""
    if not directory.is_dir():
        raise InputError(f"{directory}: suite tofu reads a directory of TOFU's files: give it by --data.")
    paths = {"forget": forget or _only_forget(directory)}
    paths |= {name: directory / file for name, (file, _) in FILES.items()}
    for name, path in paths.items():
        if not path.is_file():
            what = FILES[name][1] if name in FILES else "rows that should have been forgotten"
            raise InputError(f"{path}: no such file; TOFU's {what}. They are on the hub, in locuslab/TOFU.")
    return paths


def _as_asked(rows: Rows) -> Rows:
    """Without the questions in other words, which none of TOFU's numbers asks: half of the answers."""
    extra = [name for name in rows.dataset.column_names if name == "prompt_paraphrased"]
    return replace(rows, dataset=rows.dataset.remove_columns(extra))


def _only_forget(directory: Path) -> Path:
    """The one forget set of a directory. Raises InputError where there are several."""
    found = sorted(directory.glob("forget*_perturbed.json"))
    if len(found) > 1:
        listed = ", ".join(path.name for path in found)
        raise InputError(f"{directory}: several forget sets ({listed}). Choose by --forget {found[-1]}")
    return found[0] if found else directory / FORGET


def _check_answers(rows: Rows, columns: tuple[str, ...]) -> None:
    """Refuse rows without an answer that a truth ratio is computed from."""
    for column in columns:
        values = rows.dataset[column] if column in rows.dataset.column_names else [None] * len(rows)
        for line, value in zip(rows.lines, values, strict=True):
            if not value:
                raise InputError(
                    f"{rows.path}:{line}: no {_ADDED[column]}, which TOFU's truth ratio needs. The files that have it "
                    "are called ..._perturbed.json."
                )
