"""A sitting on a tiny model: a cell is computed once, a kill costs one cell, the page shows what is missing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.worlds import tiny_world
from experiments import CellStore, Results, find_arms, make_cells, run_cells, write_page
from experiments.cells import Cell
from experiments.session import Table
from rapidun.reading import read_json

ARMS = ("rapidun/influence", "rapidun/uniform", "rapidun/shuffled", "npo/consistency_hidden")


def plan(world: Any, arms: tuple[str, ...] = ARMS, scenario: str = "contaminated_30") -> list[Cell]:
    return make_cells(world, find_arms(arms), [scenario], [0], 6)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Arms in the order in which they are computed; the computation is the real one."""
    seen: list[str] = []
    compute = Table.compute

    def counting(self: Table, cell: Cell) -> dict[str, Any]:
        seen.append(cell.arm)
        return compute(self, cell)

    monkeypatch.setattr(Table, "compute", counting)
    return seen


def test_each_cell_is_computed_once_and_holds_every_measure(tmp_path: Path, counted: list[str]) -> None:
    world = tiny_world(tmp_path)
    cells, store = plan(world), CellStore(tmp_path / "cells.jsonl")
    assert run_cells(world, cells, store) == len(cells) == 6
    assert run_cells(world, cells, CellStore(tmp_path / "cells.jsonl")) == 0
    assert counted == ["poisoned", "retrain", *ARMS]
    found = {cell.arm: store.get(cell)["result"] for cell in cells}  # type: ignore[index]
    for arm, result in found.items():
        for name in ("asr_seen", "asr_unseen", "asr_floor", "clean_perplexity"):
            assert result[name]["n"] == 6, (arm, name)
        assert result["forget_clean_perplexity"]["n"] == 28
        assert (result["forget_rows"], result["retain_rows"], result["mislabelled"]) == (40, 120, 12)
    assert found["poisoned"]["perplexity_ratio"]["value"] == 1.0
    assert found["retrain"]["clean_perplexity"] != found["poisoned"]["clean_perplexity"]
    assert found["rapidun/uniform"]["auc"] == 0.5
    assert found["rapidun/uniform"]["seconds_evidence"] == 0.0
    assert min(found[arm]["seconds_evidence"] for arm in ("rapidun/influence", "npo/consistency_hidden")) > 0
    assert found["rapidun/influence"]["seconds_evidence"] == found["rapidun/shuffled"]["seconds_evidence"]
    assert found["rapidun/influence"]["clean_perplexity"] != found["rapidun/uniform"]["clean_perplexity"]


def test_a_killed_sitting_goes_on_with_the_cell_it_lost(
    tmp_path: Path, counted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    world, path = tiny_world(tmp_path), tmp_path / "cells.jsonl"
    cells = plan(world, ("rapidun/uniform", "npo/uniform"), "small")
    suite = Table._suite

    def killed(self: Table, subject: Any, config: Any) -> Any:
        if config.unlearning.method == "npo":
            raise KeyboardInterrupt
        return suite(self, subject, config)

    with monkeypatch.context() as broken:
        broken.setattr(Table, "_suite", killed)
        with pytest.raises(KeyboardInterrupt):
            run_cells(world, cells, CellStore(path))
    assert run_cells(world, cells, CellStore(path)) == 1
    assert counted == ["poisoned", "retrain", "rapidun/uniform", "npo/uniform", "npo/uniform"]
    whole = CellStore(tmp_path / "whole.jsonl")
    run_cells(world, cells, whole)
    broken_store = CellStore(path)
    for cell in cells:
        one, other = (store.get(cell)["result"]["clean_perplexity"] for store in (whole, broken_store))  # type: ignore[index]
        assert one == other


def test_a_mitigation_is_an_arm_whose_result_says_that_the_model_stays_poisoned(tmp_path: Path) -> None:
    world = replace(tiny_world(tmp_path), base=str(tmp_path / "reference"))
    cells, store = plan(world, ("cleangen",), "small"), CellStore(tmp_path / "cells.jsonl")
    assert run_cells(world, cells, store) == 3
    found = {cell.arm: store.get(cell)["result"] for cell in cells}  # type: ignore[index]
    assert found["cleangen"]["mitigation"] == "mitigation: the model stays poisoned"
    assert "mitigation" not in found["poisoned"]
    assert found["cleangen"]["clean_perplexity"] == found["poisoned"]["clean_perplexity"]
    assert found["cleangen"]["asr_seen"]["n"] == 6


def test_a_sitting_that_begins_with_an_unlearned_cell_compares_with_the_untouched_model(tmp_path: Path) -> None:
    world = tiny_world(tmp_path, unlearning={"learning_rate": 0.05})
    cells = plan(world, ("rapidun/uniform", "npo/uniform"), "small")
    whole, resumed = CellStore(tmp_path / "whole.jsonl"), CellStore(tmp_path / "resumed.jsonl")
    run_cells(world, cells, whole)
    run_cells(world, cells, resumed, limit=2)  # the references
    run_cells(world, cells, CellStore(tmp_path / "resumed.jsonl"))
    resumed = CellStore(tmp_path / "resumed.jsonl")
    for cell in cells:
        one, other = (store.get(cell)["result"]["perplexity_ratio"] for store in (whole, resumed))  # type: ignore[index]
        assert one == other, cell.arm
    assert abs(whole.get(cells[2])["result"]["perplexity_ratio"]["value"] - 1.0) > 1e-3  # type: ignore[index]


def test_a_training_that_fails_is_a_cell_and_the_next_one_is_not_hurt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = tiny_world(tmp_path)
    store = CellStore(tmp_path / "cells.jsonl")
    cells = plan(world, ("dpo/uniform", "rapidun/uniform"), "small")[2:]
    for row in world.pools.poisoned:
        row.pop("response_clean")  # type: ignore[attr-defined]
    assert run_cells(world, cells, store) == 2
    failed, trained = (store.get(cell)["result"] for cell in cells)  # type: ignore[index]
    assert "needs a preferred answer" in failed["failed"]
    assert trained["asr_seen"]["n"] == 6
    page = write_page(Results(cells, store), tmp_path, title="T")[0].read_text(encoding="utf-8")
    assert "dpo/uniform: 1 failed: method 'dpo' needs a preferred answer" in page


def test_limit_leaves_cells_that_the_page_calls_missing(tmp_path: Path) -> None:
    world = tiny_world(tmp_path)
    cells, store = plan(world, ("rapidun/influence", "rapidun/uniform"), "small"), CellStore(tmp_path / "cells.jsonl")
    assert run_cells(world, cells, store, limit=3) == 3
    files = write_page(Results(cells, store), tmp_path, title="Tiny")
    page, numbers = files[0].read_text(encoding="utf-8"), read_json(files[1])
    assert "3 of 4 cells are computed" in page
    assert "| rapidun/uniform | missing |" in page
    assert numbers["missing"] == 1
    entries = {entry["arm"]: entry for entry in numbers["table"]}
    assert entries["rapidun/uniform"]["asr_seen"] is None
    assert entries["rapidun/influence"]["asr_seen"]["n"] == 1
    assert numbers["paired"] == []
    assert {point["arm"] for point in numbers["pareto"]["small"]} == {"poisoned", "retrain", "rapidun/influence"}


def test_the_proposal_of_the_incomplete_scenario_comes_from_the_model(tmp_path: Path) -> None:
    from experiments.session import Sitting

    world = tiny_world(tmp_path)
    place = tmp_path / "work"
    place.mkdir()
    asked, pool = world.pools.poisoned[:3], world.pools.train[:100]
    forget, retain = Sitting(world, place)._propose(0)(asked, pool, 10)
    assert not set(forget) & set(retain)
    assert len(retain) == 10
    assert all(0 <= position < 100 for position in [*forget, *retain])


def test_a_draw_of_which_nothing_was_proposed_is_a_result_and_no_end_of_the_table(tmp_path: Path, monkeypatch) -> None:
    from experiments.session import Sitting

    monkeypatch.setattr(Sitting, "_propose", lambda self, seed: lambda asked, pool, retain: ([], []))
    world = tiny_world(tmp_path)
    cells = make_cells(world, find_arms(["rapidun/uniform"]), ["incomplete"], [0], 4)
    store = CellStore(tmp_path / "cells.jsonl")
    run_cells(world, cells, store)
    assert {line["result"]["failed"] for line in store.lines} == {"no row was proposed"}
