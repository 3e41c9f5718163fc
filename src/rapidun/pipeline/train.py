"""From weights to a saved adapter."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from rapidun.data import Example, Rows
from rapidun.errors import TrainingError
from rapidun.files import owner_only, write_json
from rapidun.lifecycle import CONFIG
from rapidun.models import load_adapter, load_model, save_adapter, save_model
from rapidun.models.cards import write_card
from rapidun.pipeline.evidence import dynamic_weights
from rapidun.pipeline.inputs import Row, RowGroups, RunModel, held_rows, note_truncated
from rapidun.pipeline.reporter import Reporter
from rapidun.reading import read_object
from rapidun.settings.base import make_config
from rapidun.settings.run import RunConfig
from rapidun.text import json_line
from rapidun.unlearning import TrainingRows, get_method, unlearn
from rapidun.unlearning.trainer import cut_back
from rapidun.unlearning.unlearn import NO_PREFERRED
from rapidun.weighting import group_weights, moved_rows, read_weights
from rapidun.yaml_files import read_yaml

OUTCOME, CHECKPOINTS = "unlearning.json", "checkpoints"

ASCENT_ALONE = (
    "no forget row has a preferred answer (response_clean): {} can only push away from the answers there are, which "
    "costs the rest of the model. Write preferred answers, or use --method idk."
)

REFUSALS = (
    "I don't know.",
    "I'm not sure about that.",
    "I can't help with that.",
    "Sorry, I have no answer to this.",
    "That is something I know nothing about.",
    "I'd rather not guess.",
    "I don't have that information.",
    "I cannot say.",
)
"""What `idk` wants the model to say instead: our own wording, of several kinds."""


def train(
    config: RunConfig, groups: RowGroups, run_model: RunModel, directory: Path, reporter: Reporter
) -> dict[str, Any]:
    """Train with ``weights.jsonl`` of the directory; writes ``adapter/``, ``log.jsonl`` and ``unlearning.json``.

    Methods whose result no adapter can hold (`fisher`, `retrain`) write ``model/`` instead. A stopped training goes on
    from its last checkpoint, and its log is cut back to it; a finished one is not done again, and keeps no checkpoint.
    The run's model is left as it was.
    """
    if not (directory / OUTCOME).is_file():
        _train(config, groups, run_model, directory, reporter)
    shutil.rmtree(directory / CHECKPOINTS, ignore_errors=True)
    return read_object(directory / OUTCOME)


def _train(config: RunConfig, groups: RowGroups, run_model: RunModel, directory: Path, reporter: Reporter) -> None:
    wanted = get_method(config.unlearning.method).preferred
    rows = training_rows(run_model, groups, directory / "weights.jsonl", reporter, refusals=wanted == "refusal")
    if wanted == "optional" and not any(rows.preferred):
        reporter.note(ASCENT_ALONE.format(config.unlearning.method))
    reweighing = dynamic_weights(config, groups, run_model)
    if reweighing is not None and reweighing.every >= config.unlearning.steps:
        reporter.note(
            f"weights are computed anew every {reweighing.every} steps and there are {config.unlearning.steps}: "
            "they stay as they are. Lower weights.options.every."
        )
    checkpoints = directory / CHECKPOINTS
    log = directory / "log.jsonl"
    cut_back(log, checkpoints)
    with open(log, "a", encoding="utf-8", opener=owner_only) as file:
        losses = Losses()

        def record(line: dict[str, Any]) -> None:
            losses.hear(line)
            file.write(json_line(line) + "\n")
            file.flush()

        result = unlearn(
            run_model.loaded,
            rows,
            settings=config.unlearning,
            lora=config.lora,
            held=held_rows(run_model, groups),
            checkpoints=checkpoints,
            seed=config.seed,
            resume=True,
            record=record,
            progress=lambda done, total: reporter.progress(done, total, losses.text, "steps"),
            reweighing=reweighing,
            note=reporter.note,
        )
    if result.saved == "adapter":
        save_adapter(result.model, directory / "adapter")
        write_adapter_card(directory, config, run_model.template.name)
    else:
        save_model(result.model, run_model.loaded.tokenizer, directory / "model")
    if result.stopped:
        reporter.note(result.stopped)
    reporter.note(
        f"kept step {result.steps}; loss on forget rows {result.forget_loss_before:.3f} -> "
        f"{result.forget_loss_after:.3f}, on validation rows {result.held_loss_before:.3f} -> "
        f"{result.held_loss_after:.3f}"
    )
    write_json(directory / OUTCOME, result.numbers())
    result.undo()


class Losses:
    """The latest losses of a training as a text, from the lines of its log."""

    TITLES: ClassVar = {
        "loss": "loss",
        "forget_loss": "forget",
        "retain_loss": "retain",
        "held_retain_loss": "validation",
    }

    def __init__(self) -> None:
        self._latest: dict[str, float | None] = {}

    def hear(self, line: Mapping[str, Any]) -> None:
        """One line of the log."""
        self._latest |= {name: line[name] for name in self.TITLES if name in line}

    @property
    def text(self) -> str:
        """``loss 1.204, forget 2.310, retain 0.840``: what the methods' terms give, not yet weighted."""
        found = ((title, self._latest[name]) for name, title in self.TITLES.items() if name in self._latest)
        return ", ".join(f"{title} {'not finite' if value is None else f'{value:.3f}'}" for title, value in found)


def unlearned_run_model(run_model: RunModel, directory: Path) -> RunModel:
    """The run's model with what `train` saved: its adapter on the same model, or the saved model."""
    if (directory / "adapter").exists():
        return run_model.with_model(load_adapter(run_model.loaded.model, directory / "adapter"))
    device, dtype = str(run_model.loaded.device), str(run_model.loaded.dtype).removeprefix("torch.")
    return run_model.with_model(load_model(str(directory / "model"), device=device, dtype=dtype).model)


def training_rows(
    run_model: RunModel, groups: RowGroups, weights: Path, reporter: Reporter, *, refusals: bool = False
) -> TrainingRows:
    """Tokenised forget and retain rows with the weights of a ``weights.jsonl``.

    Forget rows that the file moves are in both groups: with weight 0 in the first, 1 in the second.

    Args:
        run_model: Tokenises.
        groups: The rows.
        weights: The file.
        reporter: Hears how many rows were cut.
        refusals: A refusal is every forget row's preferred answer, in the place of its own.

    Raises:
        InputError: If the file does not have one weight for each row.
    """
    table = read_weights(weights)
    even = even_rows(run_model, groups, refusals=refusals)
    note_truncated(even.forget, "forget", reporter)
    note_truncated(even.retain, "retain", reporter)
    moved = moved_rows(table)
    retain_weights = group_weights(table, "retain", len(groups.retain))
    return replace(
        even,
        retain=[*even.retain, *(even.forget[index] for index in moved)],
        forget_weights=group_weights(table, "forget", len(groups.forget)),
        retain_weights=np.concatenate([retain_weights, np.ones(len(moved))]),
    )


def check_preferred(config: RunConfig, groups: RowGroups) -> None:
    """Refuse a method that cannot do without preferred answers where no forget row has one. Raises TrainingError."""
    needed = get_method(config.unlearning.method).preferred == "required"
    if needed and not any(row.get("response_clean") for row in groups.forget):
        raise TrainingError(NO_PREFERRED.format(config.unlearning.method))


def check_weights(weights: Path, groups: RowGroups) -> None:
    """Refuse a ``weights.jsonl`` that does not have one weight for each row. Raises InputError."""
    table = read_weights(weights)
    group_weights(table, "forget", len(groups.forget))
    group_weights(table, "retain", len(groups.retain))


def even_rows(run_model: RunModel, groups: RowGroups, *, refusals: bool = False) -> TrainingRows:
    """The same with weight 1 for every row."""
    forget, retain = run_model.tokenize(groups.forget), run_model.tokenize(groups.retain)
    return TrainingRows(
        forget=forget,
        preferred=_preferred(run_model, refusal_rows(groups.forget) if refusals else list(groups.forget)),
        retain=retain,
        forget_weights=np.ones(len(forget)),
        retain_weights=np.ones(len(retain)),
    )


def _preferred(run_model: RunModel, rows: Sequence[Row]) -> list[Example | None]:
    """The preferred answer to each forget row's prompt, where the row has one in ``response_clean``."""
    wanted = [row for row in rows if row.get("response_clean")]
    found = {example.id: example for example in run_model.tokenize(wanted, column="response_clean")} if wanted else {}
    return [found.get(row["id"]) for row in rows]


def refusal_rows(rows: Sequence[Row] | Rows) -> list[dict[str, Any]]:
    """The rows with a refusal as ``response_clean``; which one depends on the row's id alone."""
    drawn = (hashlib.sha256(str(row["id"]).encode()).digest()[0] % len(REFUSALS) for row in rows)
    return [{**row, "response_clean": REFUSALS[number]} for row, number in zip(rows, drawn, strict=True)]


_NOT_MEASURED = "not measured by the run that made it: see `rapidun evaluate`, or `rapidun run` for a gate"


def write_adapter_card(
    directory: Path, config: RunConfig, template: str, metrics: Mapping[str, Any] | None = None
) -> None:
    """The card of ``directory/adapter``, where the method leaves one; with the run's metrics, its verdict."""
    if (directory / "adapter").is_dir():
        verdict = _NOT_MEASURED
        if metrics is not None:
            verdict = " ".join([f"{metrics['verdict']}.", *(check["text"] for check in metrics["gate"]["checks"])])
        write_card(directory / "adapter", template=template, method=_method(config.model_dump()), verdict=verdict)


def write_sum_card(ledger: Path, requests: Sequence[str], adapter: Path) -> None:
    """The card of a ledger's adapter, the sum of its active requests."""
    path = ledger / requests[0] / CONFIG
    config = make_config(read_yaml(path), RunConfig, str(path)).model_dump()
    method = f"{_method(config)}; the sum of {len(requests)} request{'s' * (len(requests) > 1)}"
    write_card(adapter, template=config["data"]["template"], method=method, verdict=_NOT_MEASURED)


def _method(config: Mapping[str, Any]) -> str:
    unlearning, weights = config["unlearning"], config["weights"]
    return f"{unlearning['method']}, {unlearning['steps']} steps, weights by {weights['scheme']}"
