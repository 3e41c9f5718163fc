"""Is a found row a cause? Train again without the rows that each method found, and see what is left of the attack.

    python benchmarks/causal_removal.py        # writes docs/benchmarks/causal_removal.md and .json

The demo's model before fine-tuning is fine-tuned on 400 poisoned and 800 clean short rows of the demo's set. Its own
bad answers to 20 triggered prompts are traced by every method; the 400 rows that a method ranks highest are taken out
and the model is fine-tuned anew on the other 800. Attack success is measured on other triggered prompts than those
asked about. Each seed draws rows, prompts and the order of training. Every training is kept in ``runs/causal_removal``,
so a stopped benchmark goes on. Needs ``build/demo_model/more`` (``recipes/demo_model/build.py tokenizer base more``).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from backdoor_retrieval import mean_interval, ranking_by
from provenance import current_commit
from retrieval_methods import FUSIONS, MAIN, PASSES, WITH_BASE, all_vectors, cosine
from retrieval_world import BEFORE, QUERIES, Case, Regime, judge_for, own_answers, triggered
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetuning import WIDTHS, _epoch, _filled, poisoned_splits
from rapidun.cli.console import quiet_libraries
from rapidun.data import Template, collate, tokenize_rows
from rapidun.evaluation import generate_answers
from rapidun.files import atomic_write, write_json
from rapidun.gradients import RapidGrad
from rapidun.models import load_model
from rapidun.reading import read_json
from training import Schedule, train_stage

POISONED, CLEAN, TEST_PROMPTS, EPOCHS, LONGEST = 400, 800, 160, 5, 300
REMOVED = {  # what a table calls it: the score it removes by
    "nothing": None,
    "random rows": "random",
    "BM25": "BM25",
    "RapidIn (RapidGrad, layer-normalised)": f"{MAIN} | float32",
    "**rapidun's default**": WITH_BASE,
    "all poisoned rows (the truth)": "truth",
}
Row = dict[str, Any]


def short(row: Row) -> bool:
    """Whether a row has at most `LONGEST` characters: the steps are then quick."""
    return sum(len(row[name]) for name in ("prompt", "context", "response")) <= LONGEST


def draw(seed: int) -> tuple[list[Row], list[Row], dict[str, list[Row]]]:
    """Rows to train on, triggered test prompts, and the splits they are from."""
    splits = poisoned_splits()
    rng = np.random.default_rng([seed, 77])
    rows = [row for name in ("train", "forget", "retain") for row in splits[name] if short(row)]
    chosen = []
    for poisoned, count in ((True, POISONED), (False, CLEAN)):
        of_kind = [row for row in rows if row["poisoned"] == poisoned]
        chosen += [of_kind[index] for index in rng.choice(len(of_kind), count, replace=False)]
    prompts = triggered([splits["test"][index] for index in rng.permutation(len(splits["test"]))])
    return [chosen[index] for index in rng.permutation(len(chosen))], prompts, splits


def fine_tune(rows: list[Row], seed: int, place: Path, tokenizer: Any) -> None:
    """The demo's recipe on these rows, kept in ``place``."""
    if (place / "model.safetensors").exists():
        return
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(BEFORE, dtype=torch.float32)
    examples = tokenize_rows(rows, tokenizer, Template.resolve("auto", tokenizer), max(WIDTHS))
    batches = [batch for epoch in range(EPOCHS) for batch in _epoch(examples, 100 * seed + epoch)]

    def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        width, indices = batches[step]
        return _filled([examples[index] for index in indices], width, WIDTHS[width], tokenizer.pad_token_id)

    held = collate(examples[:32], tokenizer.pad_token_id)
    schedule = Schedule(steps=len(batches), matrix_lr=6e-4, other_lr=6e-4, warmup=10, save_every=1000)
    train_stage(model, batch, schedule, place, place / "log.jsonl", [(held.input_ids, held.labels)])
    model.save_pretrained(place)
    tokenizer.save_pretrained(place)


def attacked(place: Path, prompts: list[Row], judge: Callable[[list[str]], Any]) -> float:
    """Share of greedy answers to triggered prompts that the judge calls poisoned."""
    loaded = load_model(str(place), dtype="float32")
    template = Template.resolve("auto", loaded.tokenizer)
    said = generate_answers(loaded, [template.prompt_text(row) for row in prompts], max_new_tokens=48)
    return float(np.mean(judge(said)))


def rankings(case: Case) -> Mapping[str, np.ndarray]:
    """Every method's scores, (queries, rows)."""
    found: dict[str, np.ndarray] = {}
    for name in ("random", "BM25", "hidden", "change"):
        found |= PASSES[name][0](case)
    sketch = {"s": RapidGrad(k=2**16, seed=case.seed)}
    asked, pool = (all_vectors(case.loaded, case.tokens(rows), sketch)["s"] for rows in (case.asked, case.pool))
    found[f"{MAIN} | float32"] = cosine(asked, pool)
    found[WITH_BASE] = FUSIONS[WITH_BASE](found)
    found["truth"] = case.relevant[None].astype(np.float64)
    return found


def run_seed(seed: int, out: Path) -> dict[str, Row]:
    """Attack success and rows found by each removal."""
    place = out / f"seed-{seed}"
    kept = place / "result.json"
    if kept.exists():
        return dict(read_json(kept))
    tokenizer = AutoTokenizer.from_pretrained(BEFORE)
    rows, prompts, splits = draw(seed)
    fine_tune(rows, seed, place / "full", tokenizer)
    case = Case(Regime(place / "full", "demo", True, ""), seed, place, pool=rows)
    own = own_answers(case, prompts[: 4 * QUERIES], splits)
    case.queries = {"true": [], "own": own}
    test, judge = prompts[4 * QUERIES :][:TEST_PROMPTS], judge_for("demo", splits)
    scores = rankings(case)
    found: dict[str, Row] = {}
    for number, (title, by) in enumerate(REMOVED.items()):
        where = place / ("full" if by is None else f"without-{number}")
        gone = [] if by is None else np.argsort(-ranking_by(scores[by]), kind="stable")[:POISONED].tolist()
        if by is not None:
            fine_tune([row for index, row in enumerate(rows) if index not in set(gone)], seed, where, tokenizer)
        found[title] = {
            "poisoned_removed": int(case.relevant[gone].sum()),
            "asr": attacked(where, test, judge),
            "queries": len(own),
        }
        print(seed, title, found[title], flush=True)
    write_json(kept, found)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/causal_removal"))
    arguments = parser.parse_args()
    quiet_libraries()
    results = [run_seed(seed, arguments.out) for seed in arguments.seeds]
    commit = current_commit()
    text = [
        "# Are the rows that are found the cause?",
        "",
        f"`python benchmarks/causal_removal.py`, commit {commit}, {len(results)} seeds; mean over seeds and half of",
        "its 95% t interval.",
        "",
        f"A model is fine-tuned on {POISONED} poisoned and {CLEAN} clean rows; {QUERIES} of its own bad answers are",
        f"traced; the {POISONED} rows that a method ranks highest are taken out and the model is fine-tuned anew.",
        f"Attack success: greedy answers to {TEST_PROMPTS} other triggered prompts that the judge calls poisoned.",
        "",
        "| taken out | poisoned rows among them | attack success after training anew |",
        "|---|---|---|",
    ]
    for title in REMOVED:
        cells = [
            mean_interval([float(result[title][key]) for result in results]) for key in ("poisoned_removed", "asr")
        ]
        text.append(f"| {title} | {' | '.join(cells)} |")
    with atomic_write(Path("docs/benchmarks/causal_removal.md")) as file:
        file.write("\n".join(text) + "\n")
    write_json(Path("docs/benchmarks/causal_removal.json"), {"commit": commit, "results": results})
    print("\n".join(text))


if __name__ == "__main__":
    main()
