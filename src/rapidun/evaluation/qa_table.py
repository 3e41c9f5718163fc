"""Every row's numbers of the suites `qa` and `tofu` as a Parquet table: anyone can compute the values again from it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]

from rapidun.evaluation.qa import FloatArray, RowScores
from rapidun.evaluation.row_table import write_table
from rapidun.table_files import load_table

_ADVICE = "Give a table of rows that rapidun evaluate --suite qa or tofu wrote."
_COLUMNS = {"model": pa.string(), "group": pa.string(), "id": pa.string(), "truth_ratio": pa.float64()}
ByGroup = dict[str, dict[str, FloatArray]]


def write_rows(
    path: Path, scores: Mapping[str, Mapping[str, RowScores]], metrics: Mapping[str, Mapping[str, Any]]
) -> None:
    """One line for each row and model: what was measured token by token, and what follows from it.

    Args:
        path: The file.
        scores: "model", and "retained" where there is one, to each group's scores.
        metrics: The same to `row_metrics` of them.
    """
    tables = [
        _table(model, group, scores[model][group], metrics[model][group]) for model in scores for group in scores[model]
    ]
    write_table(path, pa.concat_tables(tables))


def _table(model: str, group: str, scores: RowScores, metrics: Mapping[str, Any]) -> Any:
    count = len(scores.ids)
    wrong = [[loss for loss in row if not np.isnan(loss)] for row in scores.wrong.tolist()]
    columns = {
        "model": pa.array([model] * count),
        "group": pa.array([group] * count),
        "id": pa.array(list(scores.ids)),
        "answer": pa.array(list(scores.answers)),
        "correct_loss": pa.array(scores.correct, pa.float64()),
        "wrong_losses": pa.array(wrong, pa.list_(pa.float64())),
        "log_probs": pa.array(list(scores.log_probs), pa.list_(pa.float32())),
        "z_scores": pa.array(list(scores.z_scores), pa.list_(pa.float32())),
        "hits": pa.array([row.tolist() for row in scores.hits], pa.list_(pa.bool_())),
    }
    return pa.table(columns | {name: pa.array(values, pa.float64()) for name, values in metrics.items()})


def read_rows(path: Path) -> dict[str, ByGroup]:
    """The numbers that `write_rows` stored: model to group to name to (rows,), as `qa_values` takes them.

    Raises:
        InputError: If it is no such file.
    """
    table = _read(path)
    names = [field.name for field in table.schema if field.type == pa.float64()]
    return {
        model: {group: _numbers(part, names) for group, part in _split(of_model, "group").items()}
        for model, of_model in _split(table, "model").items()
    }


def read_ids(path: Path) -> dict[str, list[str]]:
    """The rows that were measured: each group to their ids, in order. Raises InputError likewise."""
    own = _split(_read(path), "model").get("model")
    return {group: part.column("id").to_pylist() for group, part in _split(own, "group").items()} if own else {}


def _read(path: Path) -> Any:
    return load_table(path, _ADVICE, _COLUMNS, others=True)


def _split(table: Any, column: str) -> dict[str, Any]:
    """The table's lines by what a column says, in order of first appearance."""
    values = np.array(table.column(column).to_pylist())
    return {value: table.filter(pa.array(values == value)) for value in dict.fromkeys(values.tolist())}


def _numbers(table: Any, names: list[str]) -> dict[str, FloatArray]:
    return {name: table.column(name).to_numpy() for name in names}
