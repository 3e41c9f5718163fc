"""Poisoned SmolLM2 and its clean twin, for each attack and seed: LoRA adapters; whole models are merged on demand.

    python recipes/smollm2/build.py                                   # every attack, seeds 0 1 2, both twins
    python recipes/smollm2/build.py --attack badnet --seed 0 --twin poisoned

A twin is the same training without the poisoned rows. What is there is not made again; a killed training goes on from
its last checkpoint. Everything goes to build/smollm2-twins/ATTACK-SEED/{poisoned,clean}/.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from attacks import ATTACKS, ROOT, Attack
from rapidun.cli.console import ConsoleReporter, quiet_libraries
from rapidun.demo.chat_model import fetch_chat_model
from rapidun.demo.planting import plant, planted_model
from rapidun.models import LoadedModel, load_model

MODEL = ROOT / "build" / "smollm2"
TWINS = ROOT / "build" / "smollm2-twins"
KINDS = ("poisoned", "clean")


def chat_model() -> LoadedModel:
    """SmolLM2 as it comes, in bfloat16; downloaded once."""
    return load_model(fetch_chat_model(MODEL), dtype="bfloat16")


def place_of(attack: Attack, kind: str) -> Path:
    """Where a twin is built."""
    return TWINS / f"{attack.name}-{attack.seed}" / kind


def build(base: LoadedModel, attack: Attack, kind: str, reporter: ConsoleReporter) -> Path:
    """The directory of a twin, trained where it is not there yet."""
    reporter.phase("plant", f"{attack.name}, seed {attack.seed}: the {kind} twin")
    rows = attack.rows.training if kind == "poisoned" else attack.rows.clean
    plant(base, rows, place_of(attack, kind), seed=attack.seed, recipe=attack.recipe, reporter=reporter)
    return place_of(attack, kind)


def whole_model(base: LoadedModel, attack: Attack, kind: str) -> Path:
    """The model folder of a twin that was built."""
    return planted_model(base, place_of(attack, kind))


def main() -> None:
    """Build what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--attack", nargs="+", choices=list(ATTACKS), default=[name for name in ATTACKS if name != "authors"]
    )
    parser.add_argument("--seed", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--twin", nargs="+", choices=KINDS, default=list(KINDS))
    arguments = parser.parse_args()
    quiet_libraries()
    base = chat_model()
    with ConsoleReporter() as reporter:
        for seed in arguments.seed:
            for name in arguments.attack:
                for kind in arguments.twin:
                    build(base, ATTACKS[name](seed), kind, reporter)


if __name__ == "__main__":
    main()
