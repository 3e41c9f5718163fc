"""Cells: one key for one configuration, lines that survive a kill, time left."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench.worlds import clean_rows, tiny_world
from experiments import Cell, CellStore, find_arms, make_cells, time_left
from rapidun.errors import ConfigError, InputError


def cell(seed: int = 0, arm: str = "npo/uniform", **config: object) -> Cell:
    return Cell(arm, "main", seed, {"version": 1, **config})


def test_a_cell_is_found_again_and_another_setting_is_another_cell(tmp_path: Path) -> None:
    store = CellStore(tmp_path / "cells.jsonl")
    store.add(cell(), {"asr_seen": 0.5}, {"wall_seconds": 1.0})
    again = CellStore(tmp_path / "cells.jsonl")
    assert cell() in again
    assert again.get(cell())["result"] == {"asr_seen": 0.5}  # type: ignore[index]
    for other in (cell(1), cell(arm="ga/uniform"), cell(version=2), cell(steps=3)):
        assert other not in again


def test_whatever_a_kill_leaves_of_a_line_costs_that_cell_alone(tmp_path: Path) -> None:
    path = tmp_path / "cells.jsonl"
    store = CellStore(path)
    for seed in range(3):
        store.add(cell(seed), {"asr_seen": 0.1}, {"wall_seconds": 1.0})
    whole = path.read_bytes()
    ends = [position + 1 for position, byte in enumerate(whole) if byte == ord("\n")]
    for cut in (ends[1], ends[1] + 1, ends[1] + 40, len(whole) - 1):
        path.write_bytes(whole[:cut])
        after = CellStore(path)
        assert [cell(seed) in after for seed in range(3)] == [True, True, False]
        after.add(cell(2), {"asr_seen": 0.1}, {"wall_seconds": 1.0})
        assert path.read_bytes() == whole


def test_a_broken_finished_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "cells.jsonl"
    CellStore(path).add(cell(), {}, {"wall_seconds": 1.0})
    path.write_bytes(path.read_bytes() + b'{"arm": 3}\n')
    with pytest.raises(InputError, match=r"cells\.jsonl:2: not a cell"):
        CellStore(path)


def test_time_left_takes_the_arms_own_mean_and_else_the_mean_of_all() -> None:
    lines = [{"arm": arm, "about": {"wall_seconds": s}} for arm, s in (("a", 2.0), ("a", 4.0), ("b", 12.0))]
    assert time_left([cell(arm="a"), cell(arm="b"), cell(arm="c")], lines) == 3.0 + 12.0 + 6.0
    assert time_left([cell()], []) is None
    assert time_left([], []) == 0.0


def test_settings_rows_and_weights_of_the_model_are_in_the_key_and_its_place_is_not(tmp_path: Path) -> None:
    def key(world: object, arm: str = "npo/uniform", prompts: int = 6) -> str:
        return make_cells(world, find_arms([arm]), ["main"], [0], prompts)[-1].key  # type: ignore[arg-type]

    world = tiny_world(tmp_path / "one")
    first = key(world)
    assert key(tiny_world(tmp_path / "two")) == first
    assert key(tiny_world(tmp_path / "one", unlearning={"learning_rate": 2e-3})) != first
    assert key(replace(world, measured=clean_rows("other", 6))) != first
    assert key(replace(world, model=world.reference)) != first
    assert key(replace(world, tuned={"npo": {"beta": 0.3}})) != first
    assert key(replace(world, tuned={"ga": {"learning_rate": 0.3}})) == first
    assert key(world, prompts=5) != first
    assert key(world, "npo/random") != first


def test_an_arm_can_have_settings_of_its_own(tmp_path: Path) -> None:
    name = "rapidun/influence lora.rank=1 weights.negative=drop"
    arm = find_arms([name])[-1]
    assert arm.name == name
    cells = make_cells(tiny_world(tmp_path), find_arms(["rapidun/influence", name]), ["main"], [0], 6)[-2:]
    plain, changed = (cell.config["settings"] for cell in cells)
    assert (plain["lora"]["rank"], plain["weights"]["negative"]) == (2, "auto")
    assert (changed["lora"]["rank"], changed["weights"]["negative"]) == (1, "drop")
    with pytest.raises(ConfigError, match=r"no section\.key=value"):
        find_arms(["npo/uniform rank"])
    with pytest.raises(ConfigError, match=r"of influence, weights, lora, unlearning"):
        find_arms(["npo/uniform model.dtype=float32"])
    with pytest.raises(ConfigError, match="measured as it is"):
        find_arms(["poisoned lora.rank=1"])
    with pytest.raises(ConfigError, match=r"lora\.rnk"):
        make_cells(tiny_world(tmp_path), find_arms(["npo/uniform lora.rnk=1"]), ["main"], [0], 6)


def test_seeds_of_tuning_and_unknown_names_are_refused(tmp_path: Path) -> None:
    world = tiny_world(tmp_path)
    with pytest.raises(ConfigError, match="seed 100"):
        make_cells(world, find_arms(["npo"]), ["main"], [100], 6)
    with pytest.raises(ConfigError, match="unknown scenario"):
        make_cells(world, find_arms(["npo"]), ["mian"], [0], 6)
    with pytest.raises(ConfigError, match="unknown method"):
        find_arms(["nop/uniform"])
    with pytest.raises(ConfigError, match="is unknown"):
        find_arms(["npo/unifrom"])


def test_the_cells_of_stored_tables_keep_their_keys() -> None:
    stored = sorted((Path(__file__).parents[2] / "benchmarks" / "results").glob("unlearning-*.jsonl"))
    lines = [line for path in stored for line in CellStore(path).lines]
    assert len(lines) > 600
    for line in lines:
        assert Cell(line["arm"], line["scenario"], line["seed"], line["config"]).key == line["key"]
