"""Everything a run works on, read and checked before the long work starts: rows first, then the model."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rapidun.attribution.words import word_mask
from rapidun.data import BadRow, Example, Rows, RowStream, Template, assert_disjoint, load_rows, tokenize_rows
from rapidun.data.badrows import printable, raise_bad_rows
from rapidun.data.content import row_content
from rapidun.data.tokenise import PartialAnswerWarning
from rapidun.errors import InputError
from rapidun.evaluation import assert_disjoint_prompts
from rapidun.files import sha256_of
from rapidun.gradients.targets import find_targets
from rapidun.models import LoadedModel, beyond_low_rank, check_trainable, load_adapter, load_model
from rapidun.models.adapter_files import check_adapter_directory
from rapidun.models.row_losses import RowLosses, row_losses
from rapidun.models.targets import choose_targets
from rapidun.pipeline.reporter import Progress, Reporter
from rapidun.settings.model import ModelSettings, RowSettings
from rapidun.settings.run import DataSettings, RunConfig

Row = Mapping[str, Any]
LABEL = "poisoned"  # a column of training rows: whether each is, by which a trace is measured
HELD_ROWS = 256
"""Rows of the retain budget. Of 64 short rows the 95% interval of perplexity's rise is +-2.5%, of 185 +-1.8%."""
_UNUSED_SHOWN = 12
_OTHER_ANSWERS = (
    "response_clean", "response_poisoned", "response_paraphrased", "response_wrong", "prompt_paraphrased",
)  # fmt: skip
_CHECKED_AT_ONCE = 2048


@dataclass(frozen=True)
class RowGroups:
    """The row files of a run; only ``forget`` and ``retain`` are always there."""

    forget: Rows
    retain: Rows
    evaluation: Rows | None = None
    validation: Rows | None = None
    pool: Rows | None = None
    judge_poisoned: Rows | None = None

    def present(self) -> dict[str, Rows]:
        """The groups that were given, by name."""
        return {name: rows for name, rows in vars(self).items() if rows is not None}

    def skipped(self) -> dict[str, Sequence[BadRow]]:
        """Each group's rows that were left out, with file, line and reason."""
        return {name: rows.skipped for name, rows in self.present().items()}


@dataclass(frozen=True)
class RunModel:
    """The model under study with the one template and length its rows are tokenised by.

    Args:
        words: Where given, only these words of an answer carry loss: a query about them.
    """

    loaded: LoadedModel
    template: Template
    max_length: int
    words: tuple[str, ...] = ()

    def tokenize(
        self, rows: Rows | Sequence[Row], *, column: str = "response", skipped: list[BadRow] | None = None
    ) -> list[Example]:
        """Tokenise rows under the run's one template and length; ``skipped`` as for `tokenize_rows`.

        Raises:
            InputError: If a row cannot be tokenised, or its answer lacks one of ``words``.
        """
        tokenizer = self.loaded.tokenizer
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PartialAnswerWarning)  # `usable` says it once
            examples = tokenize_rows(
                rows, tokenizer, self.template, self.max_length, response_column=column, skipped=skipped
            )
        return [word_mask(e, tokenizer, words=self.words) for e in examples] if self.words else examples

    def losses(self, examples: Sequence[Example], progress: Progress | None = None) -> RowLosses:
        """Each row's answer loss by the model as it stands."""
        loaded = self.loaded
        return row_losses(loaded.model, examples, loaded.pad_token_id, loaded.device, progress=progress)

    def with_model(self, model: Any) -> RunModel:
        """The same with another model object."""
        return replace(self, loaded=replace(self.loaded, model=model))


def read_rows(
    path: Path, name: str, settings: RowSettings, reporter: Reporter, used: Collection[str | None] = ()
) -> Rows:
    """Read one row file and say what was found.

    Args:
        path: The file.
        name: What the rows are, for the user.
        settings: How rows are read.
        reporter: Told what was found.
        used: Columns that the caller reads by name.

    Raises:
        InputError: If the file or a row is bad, or no row is left.
    """
    rows = load_rows(path, columns=settings.columns or None, on_bad_row=settings.on_bad_row)
    if len(rows) == 0:
        raise InputError(f"{path}: no usable row is left.")
    left_out = f", {len(rows.skipped)} left out" if rows.skipped else ""
    reporter.note(f"{name}: {len(rows)} rows, layout {rows.layout}{left_out}")
    note_unused(rows, name, reporter, used)
    return rows


def note_unused(rows: Rows | RowStream, name: str, reporter: Reporter, used: Collection[str | None] = ()) -> None:
    """Say which columns and keys of messages were read by nobody: a misnamed one is noticed so."""
    unused = [column for column in rows.unused if column not in used]
    if unused:
        more = f" and {len(unused) - _UNUSED_SHOWN} more" if len(unused) > _UNUSED_SHOWN else ""
        reporter.note(f"{name}: columns not used: {', '.join(map(printable, unused[:_UNUSED_SHOWN]))}{more}")


def sample_rows(rows: Rows, count: int | None, seed: int, stratify: str | None = None) -> Rows:
    """``count`` rows drawn by ``seed``, in file order; with ``stratify``, evenly over that column's values.

    Raises:
        InputError: If there are fewer rows, or no such column.
    """
    if count is None or count == len(rows):
        return rows
    if count > len(rows):
        raise InputError(f"{rows.path}: {count} rows asked for, {len(rows)} there.")
    order = np.random.default_rng([seed, 40]).permutation(len(rows)).tolist()
    if stratify is not None:
        if stratify not in rows.dataset.column_names:
            raise InputError(f"{rows.path}: no column {stratify!r} to stratify by.")
        order = _round_robin(order, rows.dataset[stratify][:])
    return rows_at(rows, sorted(order[:count]))


def _round_robin(order: list[int], values: Sequence[Any]) -> list[int]:
    """``order`` with the values taking turns."""
    turns: dict[Any, int] = {}
    keyed = []
    for index in order:
        turn = turns[values[index]] = turns.get(values[index], -1) + 1
        keyed.append((turn, str(values[index]), index))
    return [index for _, _, index in sorted(keyed)]


def read_groups(data: DataSettings, reporter: Reporter, seed: int) -> RowGroups:
    """Read every row file of the configuration and check that the groups can be told apart.

    Raises:
        InputError: If a file or row is bad, forget and retain share rows, or evaluation shares a prompt with forget.
    """
    names = ("forget", "retain", "evaluation", "validation", "pool", "judge_poisoned")
    used = {"forget": (data.stratify,), "pool": (LABEL,)}
    found = {
        name: read_rows(path, name, data, reporter, used.get(name, ()))
        for name in names
        if (path := getattr(data, name)) is not None
    }
    for name, count in data.sample.items():
        if name in found:
            found[name] = sample_rows(found[name], count, seed, data.stratify if name == "forget" else None)
    assert_disjoint(found["forget"], found["retain"])
    if "evaluation" in found:
        assert_disjoint_prompts(list(found["evaluation"]), list(found["forget"]))
    return RowGroups(**found)


def rows_fingerprint(rows: Rows) -> str:
    """SHA-256 of ids, of all that decides the rows' tokens, and of their other answers, in order."""
    return sha256_of(
        part
        for row in rows
        for part in (*row_content(row), *(f"{name}: {row[name]}".encode() for name in _OTHER_ANSWERS if row.get(name)))
    )


def load_by(settings: ModelSettings, source: str | None = None) -> LoadedModel:
    """The model that the settings name, or another that is loaded as they say. Raises ModelError."""
    return load_model(
        source or settings.source,
        device=settings.device,
        dtype=settings.dtype,
        quantize=settings.quantize,
        dangerously_trust_remote_code=settings.dangerously_trust_remote_code,
        dangerously_allow_pickle=settings.dangerously_allow_pickle,
    )


def open_run_model(
    model: ModelSettings,
    rows: RowSettings,
    reporter: Reporter,
    *,
    adapter: Path | None = None,
    loaded: LoadedModel | None = None,
) -> RunModel:
    """Load the model, with an adapter on it where one is given, and settle template and length; says what was chosen.

    Args:
        model: Which, and how it is loaded.
        rows: Template and length.
        reporter: Hears what was chosen.
        adapter: Put on it.
        loaded: The model itself, where somebody holds it already; nothing is loaded then.

    Raises:
        ModelError: Before any long work.
    """
    if adapter is not None:
        check_adapter_directory(adapter)
    loaded = loaded or load_by(model)
    if adapter is not None:
        adapted = load_adapter(loaded.model, adapter)
        loaded = replace(loaded, model=adapted, notes=(*loaded.notes, *beyond_low_rank(adapted, adapter)))
    template = Template.resolve(rows.template, loaded.tokenizer, rows.template_options)
    parameters = sum(parameter.numel() for parameter in loaded.model.parameters()) / 1e6
    reporter.note(
        f"model: {loaded.source}, {parameters:.1f} M parameters, {str(loaded.dtype).removeprefix('torch.')} on "
        f"{loaded.device}, template {template.name}"
    )
    for note in loaded.notes:
        reporter.note(note)
    return RunModel(loaded, template, min(rows.max_length, loaded.context_length or rows.max_length))


def check_there(paths: Sequence[Path]) -> None:
    """Refuse checkpoints that are not there, before a model is loaded.

    Raises:
        InputError: Naming the first.
    """
    for path in paths:
        if not path.exists():
            raise InputError(f"{path}: no such checkpoint. Give a directory or a safetensors file.")


def check_targets(run_model: RunModel, config: RunConfig, *, gradients: bool = True) -> None:
    """Find out right after loading whether the layers that the configuration names are there.

    Args:
        run_model: The model.
        config: Names the layers of the adapter and those whose gradients are taken.
        gradients: Whether any are taken.

    Raises:
        ModelError: If adapter targets match nothing, or the weights are quantised so that no adapter can be trained.
        ConfigError: If gradient targets match nothing.
    """
    check_trainable(run_model.loaded.model)
    choose_targets(run_model.loaded.model, config.lora.targets)
    if gradients:
        find_targets(run_model.loaded.model, config.influence.targets)


def usable_groups(groups: RowGroups, run_model: RunModel, settings: RowSettings, reporter: Reporter) -> RowGroups:
    """The groups without rows that cannot be tokenised (`usable`), forget rows with their preferred answers.

    Raises:
        InputError: For such a row under ``on_bad_row="error"``, or if a group has none left.
    """
    columns = {"forget": ("response", "response_clean")}
    found = {
        name: usable(rows, run_model, settings, reporter, name=name, columns=columns.get(name, ("response",)))
        for name, rows in groups.present().items()
    }
    return RowGroups(**found)


def usable(
    rows: Rows,
    run_model: RunModel,
    settings: RowSettings,
    reporter: Reporter,
    *,
    name: str = "rows",
    columns: Sequence[str] = ("response",),
) -> Rows:
    """The rows that template and tokenizer take; found before long work starts.

    Looked at a few at a time, so that memory does not grow with them.

    Args:
        rows: Of one file.
        run_model: Tokenises.
        settings: Whether a bad row stops the work or is left out.
        reporter: Hears of rows left out, and of answers that the template cuts.
        name: What the rows are called.
        columns: The answers that are used; all but ``response`` may be missing from a row.

    Raises:
        InputError: If such rows are not skipped, with the first of them; or if none is left.
    """
    bad: dict[int, BadRow] = {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", PartialAnswerWarning)
        for start in range(0, len(rows), _CHECKED_AT_ONCE):
            part = rows_from(rows, start, _CHECKED_AT_ONCE)
            for column in columns:
                here = part if column == "response" else with_answer(part, column)
                faults: list[BadRow] = []
                tokenize_rows(
                    here, run_model.loaded.tokenizer, run_model.template, run_model.max_length,
                    response_column=column, skipped=faults,
                )  # fmt: skip
                bad |= {fault.line: fault for fault in faults if fault.line not in bad}
    for said in dict.fromkeys(str(warning.message) for warning in caught):
        reporter.note(f"{name}: {said}")
    found = [bad[line] for line in sorted(bad)]
    if found and settings.on_bad_row == "error":
        raise_bad_rows(found, len(rows), rows.path)
    if found:
        reporter.note(f"{name}: {len(found)} rows that cannot be tokenised are left out, the first {found[0]}")
    return without_rows(rows, found)


def first_rows(rows: Rows, count: int | None) -> Rows:
    """The first ``count`` rows, or all. Raises InputError where there are fewer."""
    if count is not None and count > len(rows):
        raise InputError(f"{rows.path}: evaluation.prompts = {count} rows asked for, {len(rows)} there.")
    return rows if count is None else rows_from(rows, 0, count)


def rows_from(rows: Rows, start: int, count: int) -> Rows:
    """``count`` rows from ``start`` on, or what there is of them."""
    return rows_at(rows, range(start, min(start + count, len(rows))))


def with_answer(rows: Rows, column: str) -> Rows:
    """The rows that have an answer in ``column``."""
    answers = rows.dataset[column] if column in rows.dataset.column_names else []
    return rows_at(rows, [place for place, answer in enumerate(answers) if answer])


def rows_at(rows: Rows, places: Sequence[int]) -> Rows:
    """The rows at these places."""
    return replace(rows, dataset=rows.dataset.select(places), lines=[rows.lines[place] for place in places])


def without_rows(rows: Rows, bad: Sequence[BadRow]) -> Rows:
    """The rows that are not among ``bad``, which are counted as skipped.

    Raises:
        InputError: If none is left.
    """
    if not bad:
        return rows
    lines = {row.line for row in bad}
    kept = [place for place, line in enumerate(rows.lines) if line not in lines]
    if not kept:
        raise InputError(f"{rows.path}: no usable row is left; the first fault is {bad[0]}.")
    return replace(rows_at(rows, kept), skipped=[*rows.skipped, *bad])


def held_rows(run_model: RunModel, groups: RowGroups) -> list[Example]:
    """The rows of the retain budget, which nothing is trained on where there are validation rows."""
    return run_model.tokenize(groups.validation or groups.retain)[:HELD_ROWS]


def note_truncated(examples: Sequence[Example], name: str, reporter: Reporter) -> int:
    """Say how many rows were cut from the left to fit, and return the number."""
    cut = sum(example.truncated for example in examples)
    if cut:
        reporter.note(f"{name}: {cut} of {len(examples)} prompts were cut from the left to fit the context")
    return cut
