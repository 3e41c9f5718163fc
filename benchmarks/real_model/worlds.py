"""SmolLM2 under an attack as a world of `experiments`: a model of its own for every attack and seed.

The settings are the defaults of `rapidun run`, but for what belongs to the attack (triggers and judge) and to the
machine (bfloat16, short answers). Seeds from 100 on have tuning rows and tuning prompts.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "recipes" / "smollm2"), str(ROOT / "benchmarks")]
from attacks import ATTACKS, DATA, TUNING_SEED, Attack  # noqa: E402
from build import MODEL, build, chat_model, place_of, whole_model  # noqa: E402
from experiments import Pools, World  # noqa: E402
from experiments.scenarios import Drawn, proposed, register_scenario  # noqa: E402
from experiments.world import tuned_values  # noqa: E402
from rapidun.errors import InputError  # noqa: E402
from rapidun.models import LoadedModel  # noqa: E402
from rapidun.pipeline import Reporter, Silent  # noqa: E402

NAME = "smollm2"
MAX_LENGTH, MAX_NEW_TOKENS = 256, 32
MAIN, LABEL_FREE = "main", "label_free"
SYMPTOMS = 5


@register_scenario(LABEL_FREE, f"forget and 120 retain rows proposed by a trace of {SYMPTOMS} bad answers; no labels")
def label_free(pools: Pools, generator: np.random.Generator) -> Drawn:
    """All that the model was trained on is searched; the bad answers are the model's own, to rows it never saw.

    Raises:
        InputError: If there is no model to trace.
    """
    if pools.propose is None or pools.symptoms is None:
        raise InputError(f"the scenario {LABEL_FREE} needs a model to trace.")
    trained = [{**row, "poisoned": bad} for rows, bad in ((pools.poisoned, True), (pools.clean, False)) for row in rows]
    pool = [trained[place] for place in generator.permutation(len(trained)).tolist()]
    seen = pools.symptoms()
    asked = [seen[place] for place in generator.permutation(len(seen))[:SYMPTOMS].tolist()]
    return proposed(pools.propose, asked, pool)


def open_attack(name: str, seed: int) -> Attack:
    """An attack under a seed.

    Raises:
        SystemExit: If its rows are not on this machine.
    """
    if name != "nonsense" and not (DATA / "backdoorllm").is_dir():
        raise SystemExit(f"no BackdoorLLM rows at {DATA}: set RAPIDUN_DATA")
    return ATTACKS[name](seed)


def chat_world(base: LoadedModel, attack: Attack, *, twin: bool = True, reporter: Reporter | None = None) -> World:
    """The world of an attack; its models are trained and merged where they are not there yet."""
    reporter = reporter or Silent()
    for kind in ("poisoned", *(["clean"] if twin else [])):
        build(base, attack, kind, reporter)
    rows = attack.rows
    return World(
        name=f"{NAME}-{attack.name}",
        model=str(whole_model(base, attack, "poisoned")),
        reference=str(whole_model(base, attack, "clean")) if twin else "",
        base=str(MODEL),
        settings={
            "model": {"dtype": "bfloat16"},
            "data": {"max_length": MAX_LENGTH},
            "evaluation": {**attack.evaluation, "suite": "backdoor", "max_new_tokens": MAX_NEW_TOKENS},
        },
        pools=Pools(rows.poisoned, rows.clean, ()),
        measured=rows.evaluation,
        budget=rows.validation,
        judge_poisoned=rows.judge_poisoned,
        tuned=tuned_values(NAME),
    )


__all__ = [
    "LABEL_FREE", "MAIN", "NAME", "ROOT", "TUNING_SEED", "Attack", "chat_model", "chat_world", "open_attack", "place_of"
]  # fmt: skip
