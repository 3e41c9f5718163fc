"""Every row's numbers of the suite `qa` as a Parquet table, from which anyone can compute the values again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from rapidun.errors import InputError
from rapidun.evaluation.qa import GROUPS, FloatArray, RowScores
from rapidun.files import atomic_write

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
    tables = [_table(model, group, scores[model][group], metrics[model][group]) for model in scores for group in GROUPS]
    with atomic_write(path, "wb") as file:
        pq.write_table(pa.concat_tables(tables), file)


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
    try:
        table = pq.read_table(path)
        names = [field.name for field in table.schema if field.type == pa.float64()]
        return {
            model: {group: _numbers(table, names, model, group) for group in GROUPS}
            for model in dict.fromkeys(table.column("model").to_pylist())
        }
    except (pa.ArrowException, OSError, KeyError) as error:
        raise InputError(f"{path}: no table of rows that rapidun evaluate --suite qa wrote: {error}") from error


def _numbers(table: Any, names: list[str], model: str, group: str) -> dict[str, FloatArray]:
    chosen = np.array(table.column("model").to_pylist()) == model
    chosen &= np.array(table.column("group").to_pylist()) == group
    return {name: table.column(name).to_numpy()[chosen] for name in names}
