"""A changed byte is found, and the row it belongs to is named."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest

from index.cases import gradient_scorer, model_context, some_plan, some_rows
from rapidun.attribution import HiddenScorer, LexicalScorer
from rapidun.attribution.store import build_index, open_index, plan_append
from rapidun.attribution.store.export import export_numpy, export_rapidin
from rapidun.attribution.store.verify import verify
from rapidun.attribution.tensors import stored_tensors
from rapidun.errors import ConfigError, InputError


@pytest.fixture
def index(tmp_path):
    views = {"gradient": gradient_scorer(), "hidden": HiddenScorer(), "lexical": LexicalScorer()}
    build_index(some_plan(tmp_path, 20, model=model_context(), views=views))
    return tmp_path / "index"


def flip(path, offset):
    content = bytearray(path.read_bytes())
    content[offset] ^= 0x10
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("tensor", ["gradient", "gradient.scale", "hidden.1.prompt", "gradient.norm"])
def test_a_flipped_byte_names_its_shard_and_its_row(index, tensor):
    assert verify(index) == []
    stored = stored_tensors(index / "shards" / "00001.safetensors")[tensor]
    flip(stored.path, stored.offset + 5 * stored.row_bytes + 1)
    (damage,) = verify(index)
    assert (damage.file, damage.rows) == ("shards/00001.safetensors", (13,))
    assert str(damage) == "shards/00001.safetensors: bytes were changed in row 13"


def test_every_file_is_checked(index):
    files = sorted(path for path in index.rglob("*") if path.is_file() and path.name != "manifest.json")
    for path in files:
        whole = path.read_bytes()
        flip(path, len(whole) // 2)
        assert [damage.file for damage in verify(index)] == [str(path.relative_to(index))]
        path.write_bytes(whole[:-1])
        (damage,) = verify(index)
        assert f"{len(whole) - 1} bytes where {len(whole)} were written" in damage.reason
        path.unlink()
        (damage,) = verify(index)
        assert damage.reason == "the file is missing"
        path.write_bytes(whole)
    assert len(files) == 7
    assert verify(index) == []


def test_exported_as_numpy_it_is_a_plain_array_with_ids(index, tmp_path):
    vectors, ids = export_numpy(open_index(index), tmp_path / "out")
    found = np.load(vectors, mmap_mode="r")
    np.testing.assert_array_equal(found, open_index(index).features().vectors())
    assert [json.loads(line) for line in ids.read_text().splitlines()] == [f"r{i}" for i in range(20)]


def test_exported_as_rapidin_it_lists_both_ends(index, tmp_path):
    opened = open_index(index)
    ranking = opened.features().ranking(opened.features().vectors([4, 11]))
    rows = [{"id": "a", "prompt": "p", "response": "r", "extra": 1}, {"id": "b", "prompt": "p", "response": "r"}]
    path = export_rapidin(opened, tmp_path, ranking, rows, keep=6)
    content = json.loads(path.read_text())
    assert path.name == "influence_results_20.json"
    assert content["0"]["test_data"] == {"id": "a", "prompt": "p", "response": "r"}
    assert content["0"]["helpful"][0] == 4
    assert content["1"]["helpful"][0] == 11
    scores = ranking.scores()[1]
    assert content["1"]["harmful"][0] == scores.argmin()
    assert len(content["1"]["harmful"]) == len(content["1"]["harmful_infl"]) == 6
    assert content["1"]["harmful_infl"] == sorted(content["1"]["harmful_infl"])
    with pytest.raises(ConfigError, match="1 query rows for 2"):
        export_rapidin(opened, tmp_path, ranking, rows[:1])


def test_every_changed_byte_of_a_manifest_is_found_and_none_crashes(index):
    path = index / "manifest.json"
    whole, generator = path.read_bytes(), random.Random(0)
    for place in generator.sample(range(len(whole)), 150):
        for other in (whole[place] ^ (1 << generator.randrange(8)), generator.randrange(256)):
            if other == whole[place]:
                continue
            path.write_bytes(whole[:place] + bytes([other]) + whole[place + 1 :])
            (damage,) = verify(index)
            assert damage.file == "manifest.json"
            with pytest.raises(InputError, match=r"manifest\.json"):
                open_index(index)
    for cut in (0, 1, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        assert [damage.file for damage in verify(index)] == ["manifest.json"]
    path.write_bytes(whole)
    assert verify(index) == []


def test_an_index_of_format_1_is_read_and_the_next_append_gives_its_manifest_a_checksum(index, tmp_path):
    path = index / "manifest.json"
    raw = json.loads(path.read_text())
    for name in ("sha256", "appended_to", "repeats"):
        del raw[name]
    path.write_text(json.dumps({**raw, "version": 1}, indent=2) + "\n")
    assert verify(index) == []
    assert open_index(index).manifest.version == 1
    build_index(plan_append(index, some_rows(tmp_path, 3, name="more", start=20), model_context()))
    assert json.loads(path.read_text())["version"] == 2
    assert "sha256" in json.loads(path.read_text())
    assert verify(index) == []


def test_a_manifest_of_format_2_without_its_checksum_is_refused(index):
    path = index / "manifest.json"
    raw = json.loads(path.read_text())
    del raw["sha256"]
    path.write_text(json.dumps(raw, indent=2) + "\n")
    assert "changed" in verify(index)[0].reason
