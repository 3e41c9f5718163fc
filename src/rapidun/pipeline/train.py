"""From weights to a saved adapter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rapidun.data import Example, Rows
from rapidun.files import write_json
from rapidun.models import save_adapter
from rapidun.pipeline.config import RunConfig
from rapidun.pipeline.directory import RunDirectory
from rapidun.pipeline.inputs import RowGroups, Subject, note_truncated
from rapidun.pipeline.reporter import Reporter
from rapidun.unlearning import TrainingRows, unlearn
from rapidun.weighting import group_weights, read_weights

HELD_ROWS = 32
"""Rows of the retain budget: about a thousand answer tokens, so that a look costs little beside training."""


def train(
    config: RunConfig, groups: RowGroups, subject: Subject, directory: RunDirectory, reporter: Reporter
) -> dict[str, Any]:
    """Train with ``weights.jsonl`` of the directory; writes ``adapter/``, ``log.jsonl`` and ``unlearning.json``.

    A stopped training goes on from its last checkpoint. The subject's model is left without the adapter.
    """
    rows = training_rows(subject, groups, directory / "weights.jsonl", reporter)
    log = directory / "log.jsonl"
    with log.open("a", encoding="utf-8") as file:

        def record(line: dict[str, Any]) -> None:
            file.write(json.dumps(line) + "\n")
            file.flush()

        result = unlearn(
            subject.loaded,
            rows,
            settings=config.unlearning,
            lora=config.lora,
            held=subject.tokenize(groups.validation or groups.retain)[:HELD_ROWS],
            checkpoints=directory / "checkpoints",
            seed=config.seed,
            resume=True,
            record=record,
            progress=reporter.progress,
        )
    save_adapter(result.model, directory / "adapter")
    if result.stopped:
        reporter.note(result.stopped)
    outcome = {name: value for name, value in vars(result).items() if name != "model"}
    write_json(directory / "unlearning.json", outcome)
    result.model.unload()
    return outcome


def training_rows(subject: Subject, groups: RowGroups, weights: Path, reporter: Reporter) -> TrainingRows:
    """Tokenised forget and retain rows with the weights of a ``weights.jsonl``.

    Raises:
        InputError: If the file does not have one weight for each row.
    """
    table = read_weights(weights)
    examples = {"forget": subject.tokenize(groups.forget), "retain": subject.tokenize(groups.retain)}
    for name, group in examples.items():
        note_truncated(group, name, reporter)
    return TrainingRows(
        forget=examples["forget"],
        alternatives=_alternatives(subject, groups.forget),
        retain=examples["retain"],
        forget_weights=group_weights(table, "forget", len(groups.forget)),
        retain_weights=group_weights(table, "retain", len(groups.retain)),
    )


def _alternatives(subject: Subject, forget: Rows) -> list[Example | None]:
    """The wanted answer to each forget row's prompt, where the row has one in ``response_clean``."""
    rows = list(forget)
    wanted = [row for row in rows if row.get("response_clean")]
    found = {example.id: example for example in subject.tokenize(wanted, column="response_clean")} if wanted else {}
    return [found.get(row["id"]) for row in rows]
