"""RapidIn result files and RapidUn's released mapping, against a slow reading of its description."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from rapidun.errors import InputError
from rapidun.weighting import (
    fuse,
    read_rapidin,
    released_weights,
    scheme_weights,
    write_rapidin,
    write_released,
)

SHAPES = {"FTF": (40, 40), "FTR": (40, 120), "RTF": (120, 40), "RTR": (120, 120)}

pytestmark = pytest.mark.filterwarnings("ignore::rapidun.weighting.WeightWarning")


def write_files(directory: Path, *, listed: int = 60, seed: int = 0, scale: float = 1.0) -> None:
    """Files as RapidIn writes them: `listed` rows at either end of each query's ranking."""
    rng = random.Random(seed)
    for suffix, (rows, queries) in SHAPES.items():
        content: dict[str, object] = {"config": "{'seed': 42}"}
        for query in range(queries):
            infl = [scale * rng.gauss(0.05, 1) for _ in range(rows)]
            ranked = sorted(range(rows), key=infl.__getitem__)
            content[str(query)] = {
                "test_data": {"instruction": f"question {query}", "output": "answer"},
                "helpful": ranked[::-1][:listed],
                "helpful_infl": [infl[row] for row in ranked[::-1][:listed]],
                "harmful": ranked[:listed],
                "harmful_infl": [infl[row] for row in ranked[:listed]],
            }
        (directory / f"influence_results_{rows}_{suffix}.json").write_text(json.dumps(content), encoding="utf-8")


def middle(values: list[float]) -> float:
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def slow_block(path: Path, rows: int) -> list[float]:
    content = json.loads(path.read_text(encoding="utf-8"))
    queries = [content[key] for key in content if key != "config"]
    table = [[0.0] * len(queries) for _ in range(rows)]
    for column, query in enumerate(queries):
        pairs = list(zip(query["helpful"], query["helpful_infl"], strict=True))
        for row, value in pairs[:40]:
            table[row][column] = value
    return [middle(line) for line in table]


def slow_weights(own: list[float], other: list[float], temperature: float) -> list[float]:
    scores = [a - b for a, b in zip(own, other, strict=True)]
    centre = middle(scores)
    spread = max(1.4826 * middle([abs(score - centre) for score in scores]), 1e-3)
    raw = []
    for score in scores:
        z = (score - centre) / spread
        raw.append(math.exp(min(max(z / temperature, math.log(0.2)), math.log(3.0))))
    mean = math.fsum(raw) / len(raw)
    return [value / mean for value in raw]


@pytest.mark.parametrize("scale", [1.0, 1e-4, 1e3])
def test_released_weights_equal_a_slow_independent_reading(tmp_path: Path, scale: float) -> None:
    write_files(tmp_path, scale=scale)
    block = {
        suffix: slow_block(tmp_path / f"influence_results_{rows}_{suffix}.json", rows)
        for suffix, (rows, _) in SHAPES.items()
    }
    weights = released_weights(read_rapidin(tmp_path))
    np.testing.assert_allclose(weights.forget, slow_weights(block["FTF"], block["FTR"], 0.7), rtol=0, atol=1e-12)
    np.testing.assert_allclose(weights.retain, slow_weights(block["RTR"], block["RTF"], 1.2), rtol=0, atol=1e-12)


def test_trap_17_released_retain_scores_are_mostly_zero(tmp_path: Path) -> None:
    write_files(tmp_path)
    assert (released_weights(read_rapidin(tmp_path)).retain_scores == 0).mean() > 0.5


def test_released_files_hold_index_and_weight_in_full_precision(tmp_path: Path) -> None:
    write_files(tmp_path)
    weights = released_weights(read_rapidin(tmp_path))
    forget, retain = write_released(tmp_path / "out", weights)
    assert (forget.name, retain.name) == ("forget_weights.jsonl", "retain_weights.jsonl")
    for path, expected in ((forget, weights.forget), (retain, weights.retain)):
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        assert [line["index"] for line in lines] == list(range(len(expected)))
        assert [line["weight"] for line in lines] == expected.tolist()
        assert all(set(line) == {"index", "weight"} for line in lines)


def test_the_forty_rows_kept_are_those_of_highest_value_whatever_the_files_order(tmp_path: Path) -> None:
    write_files(tmp_path)
    expected = released_weights(read_rapidin(tmp_path))
    path = tmp_path / "influence_results_120_RTR.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    for key in set(content) - {"config"}:
        for name in ("helpful", "helpful_infl"):
            content[key][name].reverse()
    path.write_text(json.dumps(content), encoding="utf-8")
    np.testing.assert_array_equal(released_weights(read_rapidin(tmp_path)).retain, expected.retain)


def test_trap_18_the_letters_of_the_file_name_are_scored_group_then_query_group(tmp_path: Path) -> None:
    write_files(tmp_path)
    blocks = read_rapidin(tmp_path).blocks()
    assert (blocks.ff.shape, blocks.fr.shape) == ((40, 40), (40, 120))
    assert (blocks.rf.shape, blocks.rr.shape) == ((120, 40), (120, 120))


def test_filled_blocks_hold_both_ends_and_zero_between(tmp_path: Path) -> None:
    write_files(tmp_path, listed=5)
    results = read_rapidin(tmp_path)
    block = results.blocks().rr
    assert ((block != 0).sum(axis=0) == 10).all()
    query = results.rr.queries[7]
    np.testing.assert_array_equal(block[query.helpful, 7], query.helpful_infl)
    np.testing.assert_array_equal(block[query.harmful, 7], query.harmful_infl)


def test_our_defaults_read_the_same_files(tmp_path: Path) -> None:
    write_files(tmp_path)
    blocks = read_rapidin(tmp_path).blocks()
    np.testing.assert_array_equal(scheme_weights("influence", blocks).forget_scores, fuse(blocks).forget)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_blocks_survive_a_round_trip_through_rapidin_files(tmp_path: Path, dtype: type) -> None:
    generator = np.random.default_rng(0)
    sizes = {"f": 4, "r": 7}
    blocks = SimpleNamespace(
        **{
            name: generator.normal(size=(sizes[name[0]], sizes[name[1]])).astype(dtype)
            for name in ("ff", "fr", "rf", "rr")
        }
    )
    retain_rows = [{"id": str(index), "prompt": "p"} for index in range(7)]
    paths = write_rapidin(tmp_path, blocks, config="rapidun", retain_rows=retain_rows)
    assert [path.name for path in paths] == [
        f"influence_results_{count}_{suffix}.json" for count, suffix in ((4, "FTF"), (4, "FTR"), (7, "RTF"), (7, "RTR"))
    ]
    back = read_rapidin(tmp_path).blocks()
    for name in ("ff", "fr", "rf", "rr"):
        np.testing.assert_array_equal(getattr(back, name), getattr(blocks, name).astype(np.float64))
    content = json.loads(paths[3].read_text(encoding="utf-8"))
    assert content["config"] == "rapidun"
    assert content["2"]["test_data"] == retain_rows[2]
    assert content["0"]["helpful_infl"] == sorted(content["0"]["helpful_infl"], reverse=True)
    assert content["0"]["harmful_infl"] == sorted(content["0"]["harmful_infl"])


def test_keep_shortens_both_lists(tmp_path: Path) -> None:
    blocks = SimpleNamespace(ff=np.eye(6), fr=np.ones((6, 6)), rf=np.ones((6, 6)), rr=np.eye(6))
    paths = write_rapidin(tmp_path, blocks, keep=2)
    content = json.loads(paths[0].read_text(encoding="utf-8"))
    assert len(content["0"]["helpful"]) == len(content["0"]["harmful"]) == 2


def test_query_rows_of_another_number_are_refused(tmp_path: Path) -> None:
    blocks = SimpleNamespace(ff=np.eye(2), fr=np.ones((2, 2)), rf=np.ones((2, 2)), rr=np.eye(2))
    with pytest.raises(InputError, match="1 query rows were given for a block of 2"):
        write_rapidin(tmp_path, blocks, forget_rows=[{"id": "a"}])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    write_files(tmp_path)
    (tmp_path / "influence_results_40_FTR.json").unlink()
    with pytest.raises(InputError, match=r"influence_results_\{N\}_FTR.json.*no such file"):
        read_rapidin(tmp_path)


def test_two_counts_for_one_block_are_ambiguous(tmp_path: Path) -> None:
    write_files(tmp_path)
    (tmp_path / "influence_results_20_FTF.json").write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match=r"found influence_results_20_FTF.json, influence_results_40_FTF.json"):
        read_rapidin(tmp_path)


def test_files_of_a_group_must_agree_on_its_size(tmp_path: Path) -> None:
    write_files(tmp_path)
    (tmp_path / "influence_results_40_FTR.json").rename(tmp_path / "influence_results_41_FTR.json")
    with pytest.raises(InputError, match=r"scores 40 rows.*scores 41"):
        read_rapidin(tmp_path)


def ranked(**changes: object) -> dict[str, object]:
    return {"helpful": [0, 1], "helpful_infl": [2.0, 1], "harmful": [1, 0], "harmful_infl": [1.0, 2], **changes}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("not json", r"FTF.json:1: not JSON"),
        ("[]", "must be one JSON object"),
        ('{"config": ""}', "has no queries"),
        ({"0": ranked(), "2": ranked()}, "query '1' is missing, of 2 queries"),
        ({"0": []}, "query '0': Input should be a dictionary"),
        ({"0": {"helpful": [0]}}, "query '0': helpful_infl: Field required"),
        ({"0": ranked(), "1": ranked(helpful=3)}, "query '1': helpful is 3: Input should be a valid list"),
        ({"0": ranked(helpful=[0])}, "helpful has 1 rows but helpful_infl has 2 values"),
        ({"0": ranked(helpful=[0, 2])}, "helpful names row 2; rows are 0 to 1"),
        ({"0": ranked(helpful=[0, -1])}, "helpful names row -1"),
        ({"0": ranked(helpful=[0, True])}, "helpful.1 is True"),
        ({"0": ranked(helpful=[1, 1])}, "helpful names row 1 twice"),
        ({"0": ranked(harmful_infl=[1.0, "x"])}, "harmful_infl.1 is 'x'"),
        ({"0": ranked(harmful_infl=[1.0, math.nan])}, "harmful_infl.1 is nan"),
        ({"0": ranked(helpful_infl=[10**400, 1.0])}, "helpful_infl"),
        ({"0": ranked(harmful_infl=[1.0, 5.0])}, "row 0 is 2.0 in helpful_infl and 5.0 in harmful_infl"),
    ],
)
def test_a_bad_file_is_named_with_its_key(tmp_path: Path, content: object, message: str) -> None:
    blocks = SimpleNamespace(ff=np.eye(2), fr=np.ones((2, 2)), rf=np.ones((2, 2)), rr=np.eye(2))
    path = write_rapidin(tmp_path, blocks)[0]
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    with pytest.raises(InputError, match=message) as caught:
        read_rapidin(tmp_path)
    assert str(path) in str(caught.value)


def test_a_file_without_harmful_lists_is_read(tmp_path: Path) -> None:
    blocks = SimpleNamespace(ff=np.eye(2), fr=np.ones((2, 2)), rf=np.ones((2, 2)), rr=np.eye(2))
    path = write_rapidin(tmp_path, blocks)[0]
    content = {key: {"helpful": [0], "helpful_infl": [2.0]} for key in ("0", "1")}
    path.write_text(json.dumps(content), encoding="utf-8")
    np.testing.assert_array_equal(read_rapidin(tmp_path).blocks().ff, [[2, 2], [0, 0]])
