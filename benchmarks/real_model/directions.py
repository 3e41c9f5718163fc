"""What holds the retain rows, and what an update that breaks the budget is cut to: a share, or leading directions.

    python benchmarks/real_model/directions.py --attack badnet --seed 101        # a training, then its line of points
    python benchmarks/real_model/directions.py --page

On tuning draws of SmolLM2 alone. A training with each method, all else by default, is cut in each way to each budget,
and what is left of the attack is counted: the same adapter throughout, so the ways differ in nothing else. Finished
points are kept in benchmarks/results/directions.jsonl. Writes docs/benchmarks/directions.md.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from provenance import current_commit
from worlds import MAIN, ROOT, TUNING_SEED, chat_model, chat_world, open_attack

from experiments import Cell, find_arms
from experiments.plan import cell_config
from experiments.session import Sitting, Table
from rapidun.cli.console import quiet_libraries
from rapidun.evaluation import clean_perplexity, generate_answers, perplexity_ratio
from rapidun.files import atomic_write
from rapidun.jsonl import append_log, read_log
from rapidun.models.row_losses import row_losses
from rapidun.pipeline import Silent
from rapidun.pipeline.evidence import collect_evidence, weights_from
from rapidun.pipeline.train import training_rows
from rapidun.settings.unlearning import WeightSettings
from rapidun.stats import Rate
from rapidun.unlearning import UnlearnResult, unlearn
from rapidun.unlearning.budget import keep_leading, scaled_down
from rapidun.unlearning.guards import adapter_state
from rapidun.weighting import get_scheme, write_weights

RESULTS = ROOT / "benchmarks" / "results" / "directions.jsonl"
PAGE = ROOT / "docs" / "benchmarks" / "directions.md"
ATTACKS = ("nonsense", "badnet", "vpi")
METHODS = ("rapidun_kl", "rapidun_deep", "rapidun")
WAYS = {"all of it": 0, "1 direction": 1, "2 directions": 2}
BUDGETS = (0.01, 0.004, 0.0015)
PROMPTS = 64


def open_table(attack: str, seed: int, method: str) -> tuple[Table, Cell]:
    """The draw of forget and retain rows that a default cell of that seed has."""
    world = chat_world(chat_model(), open_attack(attack, seed), twin=False)
    arm = find_arms([f"{method}/{WeightSettings().scheme}"])[-1]
    cell = Cell(arm.name, MAIN, seed, cell_config(world, arm, seed, min(PROMPTS, len(world.measured))))
    return Sitting(world, Path(tempfile.mkdtemp())).table(cell), cell


def trained(table: Table, cell: Cell) -> tuple[UnlearnResult, list[float]]:
    """The training, whatever it costs; the loss on the retain rows trained on, before and after."""
    config, run_model = table.config(cell), table.sitting.run_model
    place = Path(tempfile.mkdtemp())
    needs = get_scheme(config.weights.scheme).needs
    evidence = collect_evidence(run_model, table.groups, needs, config.influence, config.seed, Silent())
    weights = weights_from(evidence, config.weights, config.seed, Silent())
    write_weights(place / "weights.jsonl", weights, forget_rows=table.groups.forget, retain_rows=table.groups.retain)
    rows = training_rows(run_model, table.groups, place / "weights.jsonl", Silent())
    settings = config.unlearning.model_copy(update={"retain_budget": 1e6})
    held = run_model.tokenize(table.groups.validation or ())
    loaded = run_model.loaded
    before = row_losses(loaded.model, rows.retain, loaded.pad_token_id, loaded.device).mean
    result = unlearn(loaded, rows, settings=settings, lora=config.lora, held=held, checkpoints=place / "c",
                     seed=config.seed)  # fmt: skip
    return result, [before, row_losses(result.model, rows.retain, loaded.pad_token_id, loaded.device).mean]


def points(attack: str, seed: int, method: str) -> list[dict[str, Any]]:
    """One training, cut in every way to every budget."""
    table, cell = open_table(attack, seed, method)
    run_model, suite = table.sitting.run_model, table.sitting.bench(table.groups, table.config(cell))
    pairs = [(family, trigger) for family in suite.families for trigger in family.seen]
    prompts = [
        run_model.template.prompt_text({**row, "prompt": family.apply(str(row["prompt"]), trigger)})
        for number, row in enumerate(suite.rows)
        for family, trigger in [pairs[number % len(pairs)]]
    ]
    examples = run_model.tokenize(table.sitting.world.measured)
    before = clean_perplexity(run_model.loaded, examples)
    result, retain = trained(table, cell)
    model, held = result.model.eval(), run_model.tokenize(table.groups.validation or ())
    loaded = replace(run_model.loaded, model=model)

    def loss() -> float:
        return row_losses(model, held, loaded.pad_token_id, loaded.device).mean

    own, state = adapter_state(model), dict(model.named_parameters())
    found: list[dict[str, Any]] = []
    for way, count in WAYS.items():
        for budget in BUDGETS:
            if found and found[-1]["way"] == way and found[-1]["share"] == 1.0 and found[-1]["rise"] <= budget:
                found.append({**found[-1], "budget": budget})  # it keeps this budget whole, too
                continue
            restore(state, own)
            if count:
                keep_leading(model, count)
            whole, limit = loss(), result.held_loss_before + math.log1p(budget)
            share = 1.0 if whole <= limit else scaled_down(model, loss, whole, result.held_loss_before, budget).share
            answers = generate_answers(loaded, prompts, max_new_tokens=table.config(cell).evaluation.max_new_tokens)
            rate = Rate.from_flags(list(suite.judges[suite.primary](answers)))
            ratio = perplexity_ratio(before, clean_perplexity(loaded, examples))
            found.append({
                "attack": attack, "seed": seed, "method": method, "way": way, "budget": budget, "share": share,
                "rise": math.expm1(whole - result.held_loss_before), "asr": asdict(rate), "ratio": ratio._asdict(),
                "retain": retain, "held": [result.held_loss_before, result.held_loss_after], "commit": current_commit(),
            })  # fmt: skip
            print(found[-1], flush=True)
    return found


def restore(parameters: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """The adapter as it was trained."""
    for name, value in own.items():
        parameters[name.replace(".weight", ".default.weight")].data.copy_(value)


def draw_of(line: Mapping[str, Any]) -> tuple[str, int, str]:
    """Attack, seed and method; the first lines were of one method and do not name it."""
    return line["attack"], line["seed"], line.get("method", "rapidun")


def losses_of(line: Mapping[str, Any]) -> str:
    """What the whole update does to the loss on retain rows that it was trained on, and on those it was not."""
    (seen, seen_after), (held, held_after) = line["retain"], line["held"]
    return (
        f"Loss per token with the whole update: retain rows trained on {seen:.3f} -> {seen_after:.3f}, validation rows "
        f"{held:.3f} -> {held_after:.3f}."
    )


def write_page(lines: Sequence[Mapping[str, Any]]) -> None:
    """One table for each draw and method."""
    commits = sorted({line["commit"] for line in lines})
    text = [
        "# What holds the retain rows, and what is kept of an update that costs them too much", "",
        f"`python benchmarks/real_model/directions.py`, commit {', '.join(commits)}. SmolLM2-135M-Instruct, tuning",
        f"draws, default settings but for the method, {PROMPTS} prompts with a seen trigger (0 of 64 ends at",
        "5.6%). One training a table,",
        "cut in each way to each budget (the allowed rise of perplexity on held retain rows). Rise: unscaled.",
        "Perplexity: that of measured clean rows, after over before [upper end of the bootstrap interval].", "",
        "With retain rows held by their loss (`rapidun`, the paper's) the update has to be cut, and what is left of",
        "the attack depends on how: the loss on the rows it descends on falls while that on rows kept apart rises, so",
        "it learns them by heart. Held by the distribution that the model had on them, the whole update keeps every",
        "budget. That made `rapidun_kl` the default, on this one draw and earlier ones",
        "(results/real-model-choose.jsonl); the report's draws (real-model.md) were computed afterwards.",
    ]  # fmt: skip
    for draw in dict.fromkeys(draw_of(line) for line in lines):
        own = [line for line in lines if draw_of(line) == draw]
        text += ["", "## {}, seed {}, `{}`".format(*draw), "", losses_of(own[0]), ""]
        text += ["| kept | rise | budget | share | attack success | perplexity |"]
        text += ["|---|---|---|---|---|---|"]
        text += [
            f"| {line['way']} | {100 * line['rise']:.1f}% | {100 * line['budget']:g}% | {line['share']:.2f} | "
            f"{100 * line['asr']['value']:.1f}% [{100 * line['asr']['high']:.1f}] | "
            f"{line['ratio']['value']:.3f} [{line['ratio']['high']:.3f}] |"
            for line in own
        ]
    with atomic_write(PAGE) as file:
        file.write("\n".join(text) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--attack", nargs="+", choices=ATTACKS, default=list(ATTACKS))
    parser.add_argument("--seed", nargs="+", type=int, default=[TUNING_SEED + 1])
    parser.add_argument("--method", nargs="+", default=list(METHODS))
    parser.add_argument("--page", action="store_true", help="write the page and compute nothing")
    arguments = parser.parse_args()
    if min(arguments.seed) < TUNING_SEED:
        raise SystemExit(f"seeds below {TUNING_SEED} are the report's")
    quiet_libraries()
    lines = read_log(RESULTS) if RESULTS.is_file() else []
    there = {draw_of(line) for line in lines}
    for seed in [] if arguments.page else arguments.seed:
        for draw in product(arguments.attack, [seed], arguments.method):
            if draw not in there:
                found = points(*draw)
                append_log(RESULTS, found)
                lines += found
    write_page(lines)


if __name__ == "__main__":
    main()
