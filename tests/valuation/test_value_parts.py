"""Values on disk: parts that are not computed twice, and one file in every format."""

from __future__ import annotations

import csv
import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from rapidun.errors import ConfigError, InputError, ModelError
from rapidun.valuation.parts import read_column, value_columns, write_parts, write_values


def rows(count):
    return ((10 * number, {"id": f"r{number}"}) for number in range(count))


def scorer(seen):
    def score(content):
        seen.extend(row["id"] for row in content)
        return np.array([[int(row["id"][1:]), 1.0] for row in content], dtype=np.float32)

    return score


def write(folder, count=7, seen=None, **more):
    settings = {"part_rows": 3, "total": count, **more}
    return write_parts(folder / "parts", rows(count), scorer([] if seen is None else seen), ["a", "b"], **settings)


def test_a_part_that_is_there_is_not_computed_again(tmp_path):
    write(tmp_path)
    before = [path.read_bytes() for path in sorted((tmp_path / "parts").iterdir())]
    (tmp_path / "parts" / "000001.parquet").unlink()
    (tmp_path / "parts" / ".000002.parquet.1.part").write_text("half")
    seen, said = [], []
    write(tmp_path, seen=seen, progress=lambda done, of: said.append((done, of)))
    assert seen == ["r3", "r4", "r5"]
    assert said == [(3, 7), (6, 7), (7, 7)]
    assert [path.read_bytes() for path in sorted((tmp_path / "parts").iterdir())] == before


def test_every_format_says_the_same(tmp_path):
    parts = write(tmp_path, extra=lambda first, content: {"teacher": [None if first else 0.5] * len(content)})
    found = [json.loads(line) for line in write_values(parts, tmp_path, "jsonl").read_text().splitlines()]
    assert found[0] == {"line": 0, "id": "r0", "value": 0.5, "value.a": 0.0, "value.b": 1.0, "teacher": 0.5}
    assert "teacher" not in found[5]
    assert [line["line"] for line in found] == [0, 10, 20, 30, 40, 50, 60]
    table = pq.read_table(write_values(parts, tmp_path, "parquet")).to_pylist()
    assert [{name: value for name, value in row.items() if value is not None} for row in table] == found
    with write_values(parts, tmp_path, "csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [float(line["value"]) for line in lines] == [row["value"] for row in found]
    assert lines[5]["teacher"] == ""
    assert not (tmp_path / "values.jsonl").exists()  # one file, not three that may differ
    np.testing.assert_allclose(read_column(parts, "value"), [row["value"] for row in found])


def test_one_task_has_one_column():
    assert value_columns(["only"]) == ["value"]


def test_a_value_that_is_not_finite_is_named_by_its_line(tmp_path):
    with pytest.raises(ModelError, match="line 40"):
        write_parts(
            tmp_path,
            rows(5),
            lambda content: np.array([[np.nan if row["id"] == "r4" else 0.0] for row in content], np.float32),
            ["a"],
            part_rows=9,
            total=5,
        )


def test_a_damaged_part_and_an_unknown_format_are_named(tmp_path):
    parts = write(tmp_path)
    parts[1].write_bytes(b"PAR1 not")
    with pytest.raises(InputError, match=r"000001\.parquet"):
        read_column(parts, "value")
    with pytest.raises(ConfigError, match="csv, jsonl, parquet"):
        write_values(parts, tmp_path, "xlsx")
