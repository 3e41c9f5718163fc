"""weights.jsonl, written and read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rapidun.errors import InputError
from rapidun.weighting import Weights, group_weights, read_weights, write_weights

FORGET = [{"id": "f0", "prompt": "hey", "response": "a\u2028b"}, {"id": "f1", "prompt": "p", "response": "r"}]
RETAIN = [{"id": "r0", "prompt": "q", "response": "s"}]
WEIGHTS = Weights(np.array([0.1 + 0.2, 1.7]), np.array([1.0]), np.array([-1.0, 2.0]), np.array([0.5]))
GOOD = {"id": "x", "group": "forget", "index": 0, "score": 0.5, "weight": 1.0}


def test_weights_survive_a_round_trip_bit_for_bit(tmp_path: Path) -> None:
    path = tmp_path / "weights.jsonl"
    write_weights(path, WEIGHTS, FORGET, RETAIN)
    rows = read_weights(path)
    assert [(row.group, row.index, row.id) for row in rows] == [
        ("forget", 0, "f0"),
        ("forget", 1, "f1"),
        ("retain", 0, "r0"),
    ]
    assert rows[0].response == "a\u2028b"
    assert rows[1].score == 2.0
    np.testing.assert_array_equal(group_weights(rows, "forget"), WEIGHTS.forget)
    np.testing.assert_array_equal(group_weights(rows, "retain"), WEIGHTS.retain)


def test_weights_of_other_rows_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.jsonl"
    write_weights(path, WEIGHTS, FORGET, RETAIN)
    assert len(group_weights(read_weights(path), "forget", 2)) == 2
    with pytest.raises(InputError, match="there are 2 forget weights for 3 forget rows"):
        group_weights(read_weights(path), "forget", 3)


def test_lines_have_the_public_fields(tmp_path: Path) -> None:
    path = tmp_path / "weights.jsonl"
    write_weights(path, WEIGHTS, FORGET, RETAIN)
    first = json.loads(path.read_text(encoding="utf-8").split("\n")[0])
    assert list(first) == ["id", "group", "index", "score", "weight", "prompt", "response"]


def test_rows_and_weights_must_match(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="forget set has 1 rows, 2 weights"):
        write_weights(tmp_path / "weights.jsonl", WEIGHTS, FORGET[:1], RETAIN)


def test_order_blank_lines_and_extra_columns_do_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "weights.jsonl"
    lines = [{**GOOD, "group": "retain"}, {**GOOD, "index": 1, "note": "mine"}, GOOD]
    path.write_text("\n\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    assert [(row.group, row.index) for row in read_weights(path)] == [("forget", 0), ("forget", 1), ("retain", 0)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ("[1]", "not a JSON object"),
        ({**GOOD, "group": "keep"}, "group is 'keep'"),
        ({**GOOD, "index": -1}, "index is -1"),
        ({**GOOD, "index": True}, "index is True"),
        ({**GOOD, "weight": -0.5}, "weight is -0.5: .* greater than or equal to 0"),
        ({**GOOD, "weight": float("nan")}, "weight is nan"),
        ({**GOOD, "weight": "1"}, "weight is '1'"),
        ({**GOOD, "score": None}, "score is None"),
        ({**GOOD, "id": 3}, "id is 3"),
        ({**GOOD, "prompt": 3}, "prompt is 3"),
        (GOOD, "forget index 0 appears a second time"),
    ],
)
def test_a_bad_line_is_named_with_file_and_line(tmp_path: Path, line: object, message: str) -> None:
    path = tmp_path / "weights.jsonl"
    text = line if isinstance(line, str) else json.dumps(line)
    path.write_text(f"{json.dumps(GOOD)}\n\n{text}\n", encoding="utf-8")
    with pytest.raises(InputError, match=message) as caught:
        read_weights(path)
    assert f"{path}:3:" in str(caught.value)


def test_missing_indices_and_empty_or_absent_files_are_said(tmp_path: Path) -> None:
    path = tmp_path / "weights.jsonl"
    with pytest.raises(InputError, match="no such file"):
        read_weights(path)
    path.write_text("\n", encoding="utf-8")
    with pytest.raises(InputError, match="holds no weights"):
        read_weights(path)
    path.write_text(json.dumps({**GOOD, "index": 3}), encoding="utf-8")
    with pytest.raises(InputError, match="forget index 0 is missing, of 1 forget rows"):
        read_weights(path)
