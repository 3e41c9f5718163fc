"""Tables that fill over several sittings: worlds, scenarios, cells under the hash of their settings, pages."""

from experiments.cells import Cell, CellStore, time_left
from experiments.page import Results, write_page
from experiments.plan import Arm, find_arms, full_plan, make_cells, quick_plan
from experiments.scenarios import SCENARIOS, Drawn, Pools, register_scenario
from experiments.session import run_cells
from experiments.world import World, demo_world

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
