"""What is done with values: the file of values, the rows selected, shares by source, and the record for the report.

Values are computed once; this part is cheap and done anew in every run, so a finished run can be asked again with
another selection.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rapidun.data.content import as_record
from rapidun.errors import ConfigError, InputError
from rapidun.files import write_json
from rapidun.jsonl import write_jsonl
from rapidun.lifecycle import RunDirectory
from rapidun.pipeline.reporter import Reporter
from rapidun.pipeline.valuing.pool import Pool
from rapidun.report import write_report
from rapidun.settings.value import Selection, Uses
from rapidun.valuation.diversity import MATCHING, pick_diverse
from rapidun.valuation.features import HashedText, texts_of
from rapidun.valuation.parts import chunked, read_column, value_columns, write_values
from rapidun.valuation.selection import Ordinals, choose, choose_diverse, shortlist
from rapidun.valuation.shares import Shares

SELECTED = "selected.jsonl"
_SHOWN, _BINS, _PREVIEW = 10, 40, 2000
_AT_ONCE = 4096
NO_GRADIENTS = (
    "--diversity matching compares gradients, and a saved student has none: give --model and --task-data, or choose "
    "facility or mmr."
)
Gradients = Callable[[Ordinals], tuple[Ordinals, npt.NDArray[np.float32], npt.NDArray[np.float32]]]
_NOWHERE = "(none)"  # rows without a value in the column that names the source


@dataclass(frozen=True)
class Found:
    """Values of a pool on disk.

    Args:
        kind: ``"linfik"``, ``"alinfik"`` or ``"student"``.
        tasks: In the order of their columns.
        parts: The files, in the pool's order.
        student: Its kind and how it did on held-out rows.
    """

    kind: str
    tasks: list[str]
    parts: list[Path]
    student: dict[str, Any] | None = None


def use_values(
    found: Found,
    pool: Pool,
    uses: Uses,
    directory: RunDirectory,
    *,
    tokenizer: str | None,
    seed: int,
    reporter: Reporter,
    gradients: Gradients | None = None,
) -> dict[str, Any]:
    """Write ``values.*``, ``selected.jsonl`` and ``valuation.json``; returns what the last one holds.

    Args:
        found: The values.
        pool: The rows they are of.
        uses: What is wanted.
        directory: The run's.
        tokenizer: The teacher's ``tokenizer.json``, for a budget in tokens.
        seed: Of the bootstrap.
        reporter: Told the phase.
        gradients: Of rows by ordinal, see `Teacher.gradients`; for a selection by matching.

    Raises:
        ConfigError: If a budget is asked for and there is no tokenizer, or matching and there are no gradients, or too
            many diverse rows.
    """
    reporter.phase("use", "Writing values")
    values = read_column(found.parts, "value").astype(np.float32)
    path = write_values(found.parts, directory.path, uses.format)
    selection, tokens = uses.selection, None
    if selection is not None and selection.kind == "budget":
        tokens = count_tokens(pool, tokenizer)
    chosen = None if selection is None else _chosen(selection, uses.diversity, pool, values, tokens, gradients)
    best, worst, shares = _read_through(pool, values, chosen, uses, directory.path, seed)
    record: dict[str, Any] = {
        "kind": found.kind,
        "rows": pool.count,
        "tasks": _tasks(found),
        "summary": _summary(values),
        "histogram": _histogram(values, chosen),
        "best": best,
        "worst": worst,
        "values": path.name,
    }
    if found.student is not None:
        record["student"] = found.student
    if chosen is not None:
        record["selection"] = {"asked": uses.select, "diversity": uses.diversity, **_selected(values, chosen, tokens)}
    if uses.by is not None:
        record["by"] = {"column": uses.by, "shares": _shares(shares, reporter)}
    write_json(directory / "valuation.json", record)
    write_report(directory.path)
    return record


def count_tokens(pool: Pool, tokenizer: str | None) -> npt.NDArray[np.int64]:
    """Tokens of every row's prompt and answer as plain text, without the template, (rows,).

    Raises:
        ConfigError: If there is no tokenizer.
    """
    if tokenizer is None:
        raise ConfigError("--select budget: this student knows no tokenizer. Select by top or threshold.")
    from tokenizers import Tokenizer

    counter = Tokenizer.from_str(tokenizer)
    counter.no_truncation()
    counter.no_padding()
    counts = []
    for chunk in chunked(pool.rows(), _AT_ONCE):
        texts = ["\n".join(texts_of(row)) for _, row in chunk]
        counts.append([len(found.ids) for found in counter.encode_batch(texts, add_special_tokens=False)])
    return np.concatenate([np.array(part, dtype=np.int64) for part in counts])


def _chosen(
    selection: Selection,
    diversity: str | None,
    pool: Pool,
    values: npt.NDArray[np.float32],
    tokens: npt.NDArray[np.int64] | None,
    gradients: Gradients | None,
) -> Ordinals:
    if diversity is None:
        return choose(selection, values, tokens)
    candidates = shortlist(selection, values, tokens)
    if diversity == MATCHING:
        if gradients is None:
            raise ConfigError(NO_GRADIENTS)
        candidates, features, numbers = gradients(candidates)
    else:
        features, numbers = _features(pool, candidates), values[candidates]
    count = selection.count(pool.count) if selection.kind == "top" else len(candidates)
    picked = pick_diverse(diversity, features, numbers, count)
    return choose_diverse(selection, candidates, picked, tokens)


def _features(pool: Pool, candidates: Ordinals) -> Any:
    """Hashed text of the candidates, in their order."""
    import scipy.sparse as sp

    order = np.argsort(candidates)
    hashed = HashedText()
    ascending = iter(row for _, row in pool.at(candidates))
    stacked = sp.vstack([hashed.text_only(chunk) for chunk in chunked(ascending, _AT_ONCE)], format="csr")
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    return stacked[place]


def _read_through(
    pool: Pool,
    values: npt.NDArray[np.float32],
    chosen: Ordinals | None,
    uses: Uses,
    directory: Path,
    seed: int,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], Shares]:
    """One pass over the pool: selected rows are written, sources add up, the best and worst rows are kept."""
    order = np.argsort(-values, kind="stable")
    ends = {int(ordinal) for part in (order[:_SHOWN], order[-_SHOWN:]) for ordinal in part}
    shown: dict[int, dict[str, Any]] = {}
    shares = Shares(seed)
    marked = np.zeros(len(values), dtype=bool)
    marked[[] if chosen is None else chosen] = True

    def wanted() -> Iterator[dict[str, Any]]:
        first = 0
        for chunk in chunked(pool.rows(), _AT_ONCE):
            here = values[first : first + len(chunk)]
            if uses.by is not None:
                shares.add([_source(row, uses.by) for _, row in chunk], here)
            for place, (line, row) in enumerate(chunk):
                if first + place in ends:
                    shown[first + place] = _preview(line, row, float(here[place]), uses.by)
                if marked[first + place]:
                    kept = {("value_original" if name == "value" else name): v for name, v in as_record(row).items()}
                    yield {**kept, "value": float(here[place])}
            first += len(chunk)

    if chosen is None:
        deque(wanted(), maxlen=0)  # nothing is selected: the pass is made for sources and for the ends
        (directory / SELECTED).unlink(missing_ok=True)
    else:
        write_jsonl(directory / SELECTED, wanted())
    best = [shown[int(ordinal)] for ordinal in order[:_SHOWN]]
    worst = [shown[int(ordinal)] for ordinal in order[_SHOWN:][::-1][:_SHOWN]]
    return best, worst, shares


def _shares(shares: Shares, reporter: Reporter) -> list[dict[str, Any]]:
    """Every source's share; none, with a note, where no row has any value."""
    try:
        return [asdict(share) for share in shares.found()]
    except InputError as error:  # after long work, and the values themselves are in order
        reporter.note(str(error))
        return []


def _source(row: dict[str, Any], column: str) -> str:
    value = row.get(column)
    return _NOWHERE if value is None or value == "" else str(value)


def _preview(line: int, row: dict[str, Any], value: float, by: str | None) -> dict[str, Any]:
    prompt, response = (text[:_PREVIEW] for text in texts_of(row))
    found = {"id": row["id"], "line": line, "value": value, "prompt": prompt, "response": response}
    return found if by is None else {**found, "source": _source(row, by)}


def _summary(values: npt.NDArray[np.float32]) -> dict[str, float]:
    low, median, high = np.percentile(values, [5, 50, 95])
    return {
        "mean": float(values.mean(dtype=np.float64)),
        "low": float(low),
        "median": float(median),
        "high": float(high),
        "least": float(values.min()),
        "most": float(values.max()),
        "positive": float((values > 0).mean()),
    }


def _tasks(found: Found) -> list[dict[str, Any]]:
    names = value_columns(found.tasks)[-len(found.tasks) :]
    return [
        {"name": task, **_summary(read_column(found.parts, name).astype(np.float32))}
        for task, name in zip(found.tasks, names, strict=True)
    ]


def _histogram(values: npt.NDArray[np.float32], chosen: Ordinals | None) -> dict[str, Any]:
    """Counts in equal bins, of all rows and of the selected ones."""
    counts, edges = np.histogram(values.astype(np.float64), bins=_BINS)
    found = {"edges": edges.tolist(), "counts": counts.tolist()}
    if chosen is not None:
        found["selected"] = np.histogram(values[chosen].astype(np.float64), bins=edges)[0].tolist()
    return found


def _selected(
    values: npt.NDArray[np.float32], chosen: Ordinals, tokens: npt.NDArray[np.int64] | None
) -> dict[str, Any]:
    picked: Sequence[float] = values[chosen].astype(float).tolist()
    return {
        "rows": len(picked),
        "least": min(picked, default=None),
        "mean": float(np.mean(picked)) if picked else None,
        "tokens": None if tokens is None else int(tokens[chosen].sum()),
        "file": SELECTED,
    }
