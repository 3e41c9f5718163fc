"""RapidIn's result files, read and written: ``influence_results_{N}_{FTF,FTR,RTF,RTR}.json``.

``N`` is the number of scored training rows. The first letter of the name is the group of those rows, the last
letter the group of the queries, so ``40_FTR`` scores the 40 forget rows on the retain queries. A file
maps each query ("0", "1", ...) to two ranked lists of training rows: ``helpful`` (highest influence first) and
``harmful`` (lowest first), each with its values in ``*_infl``. Rows in neither list have no value in the file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import StrictInt

from rapidun.errors import InputError
from rapidun.files import write_json
from rapidun.reading import as_kind, read_object
from rapidun.weighting.scores import BlocksLike, FloatArray, checked_blocks
from rapidun.weighting.weight_file import Finite

SUFFIXES = {"ff": "FTF", "fr": "FTR", "rf": "RTF", "rr": "RTR"}
"""Block name to the last part of its file's name."""

_FILE_NAME = re.compile(r"influence_results_(\d+)_(FTF|FTR|RTF|RTR)\.json")


@dataclass(frozen=True)
class RapidinQuery:
    """What a file says about one query: two lists of rows (index within their group) with their influence."""

    helpful: list[StrictInt]
    helpful_infl: list[Finite]
    harmful: list[StrictInt] = field(default_factory=list)
    harmful_infl: list[Finite] = field(default_factory=list)


@dataclass(frozen=True)
class RapidinBlock:
    """One file: ``rows`` scored training rows and its queries in order."""

    path: Path
    rows: int
    queries: tuple[RapidinQuery, ...]

    def filled(self) -> FloatArray:
        """(rows, queries) float64: values of both lists, 0 for rows in neither."""
        block = np.zeros((self.rows, len(self.queries)))
        for column, query in enumerate(self.queries):
            block[query.helpful, column] = query.helpful_infl
            block[query.harmful, column] = query.harmful_infl
        return block

    def top_helpful(self, top_k: int) -> FloatArray:
        """(rows, queries) float64: each query's ``top_k`` most helpful rows (of equals the first listed)."""
        block = np.zeros((self.rows, len(self.queries)))
        for column, query in enumerate(self.queries):
            values = np.array(query.helpful_infl, dtype=np.float64)
            kept = np.argsort(-values, kind="stable")[:top_k]
            block[np.array(query.helpful, dtype=np.int64)[kept], column] = values[kept]
        return block


@dataclass(frozen=True, eq=False)
class FilledBlocks:
    """The four blocks as arrays, each (scored rows, queries) float64."""

    ff: FloatArray
    fr: FloatArray
    rf: FloatArray
    rr: FloatArray


@dataclass(frozen=True)
class RapidinResults:
    """The four files of one directory; first letter = scored group, second = group of the queries."""

    ff: RapidinBlock
    fr: RapidinBlock
    rf: RapidinBlock
    rr: RapidinBlock

    def blocks(self) -> FilledBlocks:
        """Every value in the files, 0 where they give none: the input of `fuse` and `scheme_weights`."""
        return FilledBlocks(self.ff.filled(), self.fr.filled(), self.rf.filled(), self.rr.filled())

    def top_helpful(self, top_k: int) -> FilledBlocks:
        """Each query's ``top_k`` most helpful rows only, as RapidUn's released code reads the files."""
        return FilledBlocks(
            self.ff.top_helpful(top_k),
            self.fr.top_helpful(top_k),
            self.rf.top_helpful(top_k),
            self.rr.top_helpful(top_k),
        )


def read_rapidin(directory: str | Path) -> RapidinResults:
    """The four RapidIn result files in ``directory``.

    Raises:
        InputError: If a file is missing, present twice (with two counts) or not JSON; if two files of a group
            disagree on its size; or if a query is missing, repeats a row, names a row outside the group, or has a
            value that is not a finite number. The message names the file and the key.
    """
    paths = _result_paths(Path(directory))
    found = {name: _read_block(path, rows) for name, (path, rows) in paths.items()}
    for first, second in (("ff", "fr"), ("rf", "rr")):
        if found[first].rows != found[second].rows:
            raise InputError(
                f"{found[first].path} scores {found[first].rows} rows and {found[second].path} scores "
                f"{found[second].rows}; both score the same group. Compute both on the same rows."
            )
    return RapidinResults(**found)


def write_rapidin(
    directory: str | Path,
    blocks: BlocksLike,
    *,
    keep: int | None = None,
    config: str = "",
    forget_rows: Sequence[Mapping[str, Any]] | None = None,
    retain_rows: Sequence[Mapping[str, Any]] | None = None,
) -> list[Path]:
    """Write ``blocks`` as RapidIn result files, atomically each.

    Args:
        directory: Where the four files go.
        blocks: ``ff, fr, rf, rr``, each (scored rows, queries); values are written with full precision.
        keep: Length of the helpful and harmful lists; None keeps every row, which loses nothing.
        config: Free text for the files' ``config``.
        forget_rows: The forget queries, for ``test_data``; null where None.
        retain_rows: The retain queries, for ``test_data``; null where None.

    Returns:
        The paths written, in the order FTF, FTR, RTF, RTR.

    Raises:
        InputError: If the blocks cannot be used; see `fuse`.
    """
    queries = {"f": forget_rows, "r": retain_rows}
    paths = []
    for name, block in zip(SUFFIXES, checked_blocks(blocks), strict=True):
        path = Path(directory) / f"influence_results_{block.shape[0]}_{SUFFIXES[name]}.json"
        write_json(path, _block_as_json(block, keep, config, queries[name[1]]))
        paths.append(path)
    return paths


def _result_paths(directory: Path) -> dict[str, tuple[Path, int]]:
    if not directory.is_dir():
        raise InputError(f"{directory}: no such directory. Give the one with RapidIn's influence_results_*.json.")
    matches = [match for path in sorted(directory.glob("*.json")) if (match := _FILE_NAME.fullmatch(path.name))]
    found: dict[str, tuple[Path, int]] = {}
    for name, suffix in SUFFIXES.items():
        named = [match for match in matches if match[2] == suffix]
        if len(named) != 1:
            have = ", ".join(match[0] for match in named) or "no such file"
            raise InputError(
                f"{directory}: needs exactly one influence_results_{{N}}_{suffix}.json, where N is the number of "
                f"scored rows; found {have}."
            )
        found[name] = (directory / named[0][0], int(named[0][1]))
    return found


def _read_block(path: Path, rows: int) -> RapidinBlock:
    content = read_object(path)
    count = sum(key.isdecimal() for key in content)
    if count == 0:
        raise InputError(f'{path}: has no queries; expected keys "0", "1", ...')
    missing = [str(index) for index in range(count) if str(index) not in content]
    if missing:
        raise InputError(f"{path}: query {missing[0]!r} is missing, of {count} queries. Was the RapidIn run cut short?")
    queries = tuple(_read_query(content[str(index)], f"{path}: query '{index}'", rows) for index in range(count))
    return RapidinBlock(path, rows, queries)


def _read_query(value: object, where: str, rows: int) -> RapidinQuery:
    query = as_kind(RapidinQuery, value, where, "Give helpful, helpful_infl and the like, as RapidIn does.")
    _check_rows(query.helpful, query.helpful_infl, "helpful", where, rows)
    _check_rows(query.harmful, query.harmful_infl, "harmful", where, rows)
    known = dict(zip(query.helpful, query.helpful_infl, strict=True))
    for row, influence in zip(query.harmful, query.harmful_infl, strict=True):
        if not math.isclose(known.get(row, influence), influence, rel_tol=1e-6, abs_tol=1e-12):
            raise InputError(f"{where}: row {row} is {known[row]} in helpful_infl and {influence} in harmful_infl.")
    return query


def _check_rows(ids: list[int], values: list[float], key: str, where: str, rows: int) -> None:
    if len(ids) != len(values):
        raise InputError(f"{where}: {key} has {len(ids)} rows but {key}_infl has {len(values)} values.")
    outside = [row for row in ids if not 0 <= row < rows]
    if outside:
        raise InputError(f"{where}: {key} names row {outside[0]}; rows are 0 to {rows - 1} (N in the file's name).")
    if len(set(ids)) != len(ids):
        twice = next(row for place, row in enumerate(ids) if row in ids[:place])
        raise InputError(f"{where}: {key} names row {twice} twice.")


def _block_as_json(
    block: FloatArray, keep: int | None, config: str, queries: Sequence[Mapping[str, Any]] | None
) -> dict[str, Any]:
    if queries is not None and len(queries) != block.shape[1]:
        raise InputError(f"{len(queries)} query rows were given for a block of {block.shape[1]} queries.")
    content: dict[str, Any] = {"config": config}
    for index, column in enumerate(block.T):
        helpful = np.argsort(-column, kind="stable")[:keep]
        harmful = np.argsort(column, kind="stable")[:keep]
        content[str(index)] = {
            "test_data": None if queries is None else dict(queries[index]),
            **_ranked_as_json("helpful", helpful, column),
            **_ranked_as_json("harmful", harmful, column),
        }
    return content


def _ranked_as_json(key: str, rows: npt.NDArray[np.intp], column: FloatArray) -> dict[str, list[Any]]:
    return {key: rows.tolist(), f"{key}_infl": column[rows].tolist()}
