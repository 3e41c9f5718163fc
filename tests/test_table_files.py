"""A Parquet file of our own is read as it was written, or refused in one line that names it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from index.cases import some_plan
from rapidun.attribution.store import build_index, open_index
from rapidun.errors import InputError
from rapidun.table_files import load_table
from rapidun.valuation.parts import write_parts, write_values

TABLE = pa.table({"id": ["a", "b", "c"], "value": pa.array([1, 2, 3], pa.float32())})
KINDS = {"id": pa.string(), "value": pa.float32()}


def test_a_whole_table_is_read(tmp_path: Path) -> None:
    pq.write_table(TABLE, tmp_path / "t.parquet")
    assert load_table(tmp_path / "t.parquet", "Make it again.", KINDS, rows=3) == TABLE


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (TABLE.slice(1), "2 rows where 3 belong"),
        (TABLE.drop_columns("id"), "no column 'id' of type string"),
        (TABLE.set_column(1, "value", pa.array(["x"] * 3)), "no column 'value' of type float"),
        (TABLE.append_column("id", pa.array(["x"] * 3)), "two columns have the same name"),
    ],
)
def test_a_table_with_other_rows_columns_or_types_is_refused(table: pa.Table, said: str, tmp_path: Path) -> None:
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(InputError, match=rf"t\.parquet: {said}.* Make it again\."):
        load_table(tmp_path / "t.parquet", "Make it again.", KINDS, rows=3)


def test_an_index_whose_table_lost_its_rows_says_so_when_they_are_asked_for(tmp_path: Path) -> None:
    build_index(some_plan(tmp_path, 5, shard_rows=2))
    part = tmp_path / "index" / "rows.parquet" / "00001.parquet"
    pq.write_table(pq.read_table(part).slice(0, 0), part)
    index = open_index(tmp_path / "index")
    assert index.ids_of([0, 4]) == {0: "r0", 4: "r4"}
    with pytest.raises(InputError, match=r"00001\.parquet: 0 rows where 2 belong\. Check the index"):
        index.ids_of([3])


def test_a_part_of_the_values_that_holds_other_rows_is_not_taken_for_done(tmp_path: Path) -> None:
    rows = [(line, {"id": f"r{line}"}) for line in range(1, 6)]

    def work() -> list[Path]:
        return write_parts(tmp_path, iter(rows), lambda rows: np.ones((len(rows), 1)), ["task"], part_rows=2, total=5)

    first, second, _ = work()
    whole, other = pq.read_table(first), pq.read_table(second)
    for table, said in ((whole.slice(1), "1 rows where 2 belong"), (other, "holds other rows than 1 to 2")):
        pq.write_table(table, first)
        with pytest.raises(InputError, match=rf"000000\.parquet: {said}\. Delete it and run again with --resume"):
            work()


def test_values_whose_parts_have_other_columns_are_not_put_together(tmp_path: Path) -> None:
    whole = pa.table({"line": [1, 2], "id": ["a", "b"], "value": pa.array([0.5, 1], pa.float32())})
    parts = [tmp_path / f"{number}.parquet" for number in (0, 1)]
    pq.write_table(whole, parts[0])
    pq.write_table(whole.append_column("tokens", pa.array([1, 2])), parts[1])
    for form in ("csv", "jsonl", "parquet"):
        with pytest.raises(InputError, match=r"1\.parquet: other columns than in .*0\.parquet\. Delete both"):
            write_values(parts, tmp_path, form)
