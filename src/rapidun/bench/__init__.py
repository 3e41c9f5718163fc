"""Benchmarks that an installed user can run again: `rapidun bench unlearning`."""

from rapidun.bench.cells import Cell, CellStore, time_left
from rapidun.bench.page import Results, write_page
from rapidun.bench.plan import Arm, find_arms, full_plan, make_cells, quick_plan
from rapidun.bench.scenarios import SCENARIOS, Drawn, Pools, register_scenario
from rapidun.bench.sitting import run_cells
from rapidun.bench.world import World, demo_world

__all__ = [
    "SCENARIOS",
    "Arm",
    "Cell",
    "CellStore",
    "Drawn",
    "Pools",
    "Results",
    "World",
    "demo_world",
    "find_arms",
    "full_plan",
    "make_cells",
    "quick_plan",
    "register_scenario",
    "run_cells",
    "time_left",
    "write_page",
]
