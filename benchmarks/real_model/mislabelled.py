"""Do weights tell mislabelled forget rows from true ones, on SmolLM2?

    python benchmarks/real_model/mislabelled.py                      # attacks x seeds x scenarios, then the page
    python benchmarks/real_model/mislabelled.py --attack badnet --seed 0 --minutes 20

A draw has 40 forget rows of which 12 or 20 are clean ones, and 120 retain rows (`experiments` scenarios
contaminated_30 and contaminated_50). Each scheme weighs them; the number is the AUC of the weights between true and
mislabelled rows, .5 for chance. Nothing is trained. Finished draws are kept in
benchmarks/results/real-model-mislabelled.jsonl. Writes docs/benchmarks/real-model-mislabelled.md.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from provenance import current_commit
from worlds import ROOT, TUNING_SEED, chat_model, chat_world, open_attack

from experiments import Cell, CellStore, find_arms
from experiments.plan import cell_config
from experiments.session import Sitting, Table, label_auc
from rapidun.cli.console import ConsoleReporter, quiet_libraries
from rapidun.files import atomic_write
from rapidun.pipeline import Silent
from rapidun.pipeline.evidence import collect_evidence, weights_from
from rapidun.stats import RATE, over_units
from rapidun.weighting import Needs

RESULTS = ROOT / "benchmarks" / "results" / "real-model-mislabelled.jsonl"
PAGE = ROOT / "docs" / "benchmarks" / "real-model-mislabelled.md"
ATTACKS, SEEDS = ("nonsense", "badnet", "vpi", "mtba"), (0, 1, 2)
SCENARIOS = ("contaminated_30", "contaminated_50")
SCHEMES = (
    "influence", "influence weights.options.aggregate=mean", "released", "consistency", "consistency_hidden",
    "trusted_influence", "representation", "loss", "uniform", "random", "shuffled",
)  # fmt: skip
EVERYTHING = Needs.GRADIENTS | Needs.HIDDEN | Needs.LOSSES


def compute(attacks: Sequence[str], seeds: Sequence[int], minutes: float) -> None:
    """The draws that are missing."""
    base, until, store = chat_model(), time.monotonic() + 60 * minutes, CellStore(RESULTS)
    arm = find_arms(["rapidun/influence"])[-1]
    for seed in seeds:
        for name in attacks:
            world = chat_world(base, open_attack(name, seed), twin=False, reporter=ConsoleReporter())
            with TemporaryDirectory() as place:
                sitting = Sitting(world, Path(place))
                for scenario in SCENARIOS:
                    cell = Cell(arm.name, scenario, seed, cell_config(world, arm, seed, 1))
                    if cell in store:
                        continue
                    if time.monotonic() > until:
                        return
                    began = time.monotonic()
                    found = aucs(sitting.table(cell), cell)
                    store.add(cell, {"auc": found}, {"wall_seconds": time.monotonic() - began,
                                                     "commit": current_commit()})  # fmt: skip
                    print(name, seed, scenario, {title: round(value, 2) for title, value in found.items()}, flush=True)


def aucs(table: Table, cell: Cell) -> dict[str, float]:
    """``{scheme: AUC}`` on a draw."""
    found = {}
    config = table.config(cell)
    subject = table.sitting.subject
    evidence = collect_evidence(subject, table.groups, EVERYTHING, config.influence, cell.seed, Silent())
    for title in SCHEMES:
        name, *changes = title.split()
        options = dict(change.removeprefix("weights.options.").split("=") for change in changes)
        settings = config.weights.model_copy(update={"scheme": name, "options": options})
        auc = label_auc(weights_from(evidence, settings, cell.seed, Silent()), table.drawn.mislabelled)
        assert auc is not None
        found[title] = auc
    return found


def write_page(store: CellStore) -> None:
    """A table for each scenario: schemes down, attacks across."""
    commits = sorted({line["about"]["commit"] for line in store.lines})
    text = [
        "# Do weights tell mislabelled forget rows from true ones, on a real chat model?", "",
        f"`python benchmarks/real_model/mislabelled.py`, commit {', '.join(commits)}. SmolLM2-135M-Instruct poisoned",
        "by `recipes/smollm2`; AUC of the weights between true and mislabelled forget rows: mean over seeds (each a",
        "model and a draw of its own) with half of the 95% t interval. .5 is chance.",
    ]  # fmt: skip
    for scenario in SCENARIOS:
        mislabelled = scenario.removeprefix("contaminated_")
        head = ["| scheme | " + " | ".join(ATTACKS) + " |", "|---" * (1 + len(ATTACKS)) + "|"]
        text += ["", f"## {mislabelled}% of the forget rows are clean ones", "", *head]
        text += [f"| {title} | {' | '.join(_cell(store, scenario, name, title) for name in ATTACKS)} |"
                 for title in SCHEMES]  # fmt: skip
    with atomic_write(PAGE) as file:
        file.write("\n".join(text) + "\n")


def _cell(store: CellStore, scenario: str, attack: str, title: str) -> str:
    def belongs(line: Mapping[str, Any]) -> bool:
        return bool(line["scenario"] == scenario and line["config"]["world"].endswith(f"-{attack}"))

    mean = over_units([line["result"]["auc"][title] for line in store.lines if belongs(line)], "draws", RATE)
    return "–" if mean is None else f"{mean.text(2)} (n={mean.n})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--attack", nargs="+", choices=ATTACKS, default=list(ATTACKS))
    parser.add_argument("--seed", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no draw after so many")
    arguments = parser.parse_args()
    if max(arguments.seed) >= TUNING_SEED:
        raise SystemExit(f"seeds from {TUNING_SEED} on are for choosing settings")
    quiet_libraries()
    compute(arguments.attack, arguments.seed, arguments.minutes)
    write_page(CellStore(RESULTS))


if __name__ == "__main__":
    main()
