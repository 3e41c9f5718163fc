"""Error tracing: which rows taught a wrong entity, asked of the whole answer and of the wrong words alone.

    python benchmarks/error_tracing.py           # writes docs/benchmarks/error_tracing.md and .json
    python benchmarks/error_tracing.py --stored  # writes the page again from the .json

RapidIn's second task (arXiv 2405.11724, section 4). In the answers of a few Dolly rows (under 0.5% of all) one entity
is replaced by another with p = 0.8; the demo's base model is fine-tuned on all rows; prompts that hold the true
entity are answered by sampling; answers that say the false one are the queries. Relevant are the rows that were
changed; rows where the false entity is right are in the pool too. All three pairs share one fine-tuning a seed.

Average precision at k: ``sum over ranks i <= k of precision(i) * relevant(i) / min(k, relevant rows)``.
Work files go to ``build/error_tracing``; every step of every seed and pair is kept, so a stopped benchmark goes on.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes" / "demo_model"))

from provenance import current_commit

from corpus import dolly_rows, is_short, split_dolly
from finetuning import EPOCHS, WIDTHS, _epoch, _filled
from rapidun.attribution import bm25_scores, hidden_features, random_scores
from rapidun.attribution.fusion import reciprocal_rank_fusion
from rapidun.attribution.similarity import centred_similarity
from rapidun.attribution.words import answer_text, word_mask
from rapidun.data import Example, Template, collate, tokenize_rows
from rapidun.files import atomic_write, write_json
from rapidun.gradients import GradientCollector, RapidGrad, collect_vectors
from rapidun.reading import read_json
from rapidun.stats import RATE, over_units
from training import Schedule, train_stage

Row = dict[str, Any]
SEEDS = (0, 1, 2)
PAIRS = (("Canada", "India"), ("guitar", "piano"), ("basketball", "cricket"))
SHARE, LARGEST_SHARE = 0.8, 0.005
HELD_OUT = 14  # rows of each pair kept for asking; their prompts hold the true entity
QUERIES, FEWEST = 20, 5
SAMPLES, NEW_TOKENS, TEMPERATURE = 16, 64, 0.8
K, MAX_TOKENS = 16_384, 4096
RANKS = (5, 10, 25, 50)
MEASURED = "gradient, mean of before and after"  # the estimator that has the bar
FUSED = "ranks of that and BM25 fused"


@dataclass(frozen=True)
class Plan:
    """Rows to train on, in order, and rows to ask by pair; changed rows have ``pair`` and ``response_true``."""

    train: list[Row]
    ask: dict[str, list[Row]]


def has(word: str, text: str) -> bool:
    """Whether ``text`` holds ``word`` as a whole word."""
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text) is not None


def asked_text(row: Row) -> str:
    """What the model is asked."""
    return f"{row['prompt']} {row['context']}"


def name_of(pair: tuple[str, str]) -> str:
    """A pair as the table and the files call it."""
    return f"{pair[0]}-{pair[1]}"


def make_plan(seed: int, rows: int) -> Plan:
    """Draw the rows, the held-out prompts and the changed answers of one seed."""
    rng = random.Random(f"error/{seed}")
    everything = [dict(row) for row in dolly_rows() if is_short(row)]
    rng.shuffle(everything)
    kept, ask = [], {}
    for true, false in PAIRS:
        holding = [r for r in everything if has(true, r["response"]) and not has(false, asked_text(r) + r["response"])]
        askable = [row for row in holding if has(true, asked_text(row))]
        held = askable[:HELD_OUT]
        both = sum(has(true, row["response"]) for row in everything) - len(holding)
        rest = [row for row in holding if row not in held][: max(1, int(LARGEST_SHARE * rows) - both)]
        for row in rest:
            if rng.random() < SHARE:
                changed = re.sub(rf"(?<!\w){re.escape(true)}(?!\w)", false, row["response"])
                row.update(pair=name_of((true, false)), response_true=row["response"], response=changed)
        kept += rest
        ask[name_of((true, false))] = held
        taken = {id(row) for row in holding}
        everything = [row for row in everything if id(row) not in taken]
    train = kept + everything[: rows - len(kept)]
    rng.shuffle(train)
    return Plan(train, ask)


def fine_tune(plan: Plan, seed: int, start: Path, tokenizer: Any, place: Path, epochs: int) -> None:
    """The demo's recipe of fine-tuning on the plan's rows, resumable."""
    if (place / "model.safetensors").exists():
        return
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32)
    template = Template.resolve("auto", tokenizer)
    examples = tokenize_rows(plan.train, tokenizer, template, max(WIDTHS))
    batches = [batch for epoch in range(epochs) for batch in _epoch(examples, 100 * seed + epoch)]
    held = tokenize_rows(split_dolly()["validation"][:100], tokenizer, template, max(WIDTHS))
    held_out = [collate(held[i : i + 50], tokenizer.pad_token_id) for i in range(0, len(held), 50)]

    def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        width, indices = batches[step]
        return _filled([examples[index] for index in indices], width, WIDTHS[width], tokenizer.pad_token_id)

    schedule = Schedule(steps=len(batches), matrix_lr=6e-4, other_lr=6e-4, warmup=30, save_every=100)
    pairs = [(b.input_ids, b.labels) for b in held_out]
    train_stage(model, batch, schedule, place, place.parent / "training_log.jsonl", pairs)
    model.save_pretrained(place)


def make_queries(plan: Plan, pair: tuple[str, str], model: Any, tokenizer: Any, seed: int) -> list[Row]:
    """Sampled answers that say the false entity, one a prompt: held-out prompts, then prompts of changed rows.

    Each is ``{ids, answer_start, own}``; ``own`` is the training row that has the same prompt, or -1.
    """
    torch.manual_seed(1000 + seed)
    template = Template.resolve("auto", tokenizer)
    changed = [(i, row) for i, row in enumerate(plan.train) if row.get("pair") == name_of(pair)]
    found: list[Row] = []
    for own, row in [*((-1, row) for row in plan.ask[name_of(pair)]), *changed]:
        if len(found) >= QUERIES or (own >= 0 and len(found) >= FEWEST):
            break
        prompt = tokenizer(template.prompt_text(row), add_special_tokens=False).input_ids
        for ids in sample(model, tokenizer, prompt):
            example = Example("", prompt + ids, len(prompt))
            if has(pair[1], answer_text(example, tokenizer)):
                found.append({"ids": prompt + ids, "answer_start": len(prompt), "own": own, "prompt": row["prompt"]})
                break
    return found


@torch.no_grad()
def sample(model: Any, tokenizer: Any, prompt: list[int]) -> list[list[int]]:
    """``SAMPLES`` answers to one prompt, each cut after its end-of-sequence token."""
    ids = torch.tensor([prompt] * SAMPLES)
    out = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=True, temperature=TEMPERATURE, top_p=0.95,
        max_new_tokens=NEW_TOKENS, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    answers = [row[len(prompt) :].tolist() for row in out]
    return [a[: a.index(tokenizer.eos_token_id) + 1] if tokenizer.eos_token_id in a else a for a in answers]


def pool_vectors(name: str, model: Any, pool: list[Example], pad: int, place: Path) -> np.ndarray:
    """Unit sketches of the training rows at one checkpoint, kept as float16."""
    path = place / f"pool-{name}.npy"
    if not path.exists():
        vectors = unit(collect(model, pool, pad)).astype(np.float16)
        with atomic_write(path, "wb") as file:
            np.save(file, vectors)
    return np.load(path, mmap_mode="r")


def collect(model: Any, rows: list[Example], pad: int) -> np.ndarray:
    """Layer-normalised gradients of all linear layers, sketched."""
    collector = GradientCollector(model, "linear", normalize="layer")
    return collect_vectors(collector, RapidGrad(K), rows, pad, max_tokens=MAX_TOKENS)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows of norm 1."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-30)


def products(queries: np.ndarray, pool: np.ndarray, rows: int = 1000) -> np.ndarray:
    """(queries, pool) cosines, a block of the pool at a time."""
    blocks = [unit(queries) @ pool[i : i + rows].astype(np.float32).T for i in range(0, len(pool), rows)]
    return np.concatenate(blocks, axis=1)


def score_pair(
    plan: Plan, pair: tuple[str, str], queries: list[Row], models: dict[str, Any], tokenizer: Any, place: Path
) -> dict[str, np.ndarray]:
    """(queries, pool) scores of every method."""
    pad = tokenizer.pad_token_id
    template = Template.resolve("auto", tokenizer)
    pool = tokenize_rows(plan.train, tokenizer, template, max(WIDTHS))
    whole = [Example(str(n), q["ids"], q["answer_start"]) for n, q in enumerate(queries)]
    levels = {"sentence": whole, "word": [word_mask(e, tokenizer, words=[pair[1]]) for e in whole]}
    documents = [f"{asked_text(row)} {row['response']}" for row in plan.train]
    texts = [f"{q['prompt']} {answer_text(e, tokenizer)}" for q, e in zip(queries, whole, strict=True)]
    scores = {
        "random": random_scores(len(queries), len(pool), 0),
        "BM25 | sentence": bm25_scores(texts, documents),
        "BM25 | word": bm25_scores([pair[1]] * len(texts), documents),
    }
    for level, examples in levels.items():
        states = (hidden_features(models["after"], part, pad).answer_mean for part in (examples, pool))
        scores[f"hidden states | {level}"] = centred_similarity(*states)
        for name, model in models.items():
            found = products(collect(model, examples, pad), pool_vectors(name, model, pool, pad, place))
            scores[f"gradient, {name} | {level}"] = found
        parts = [scores[f"gradient, {name} | {level}"] for name in models]
        scores[f"{MEASURED} | {level}"] = np.mean(parts, axis=0)
        both = [scores[f"{MEASURED} | {level}"], scores[f"BM25 | {level}"]]
        scores[f"{FUSED} | {level}"] = reciprocal_rank_fusion(both)
    return scores


def average_precision(scores: np.ndarray, relevant: np.ndarray, k: int) -> float:
    """Of one query; equal scores in random order, but the same one for every method."""
    order = np.lexsort((np.random.default_rng(0).permutation(len(scores)), -scores))[:k]
    hits = relevant[order]
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return float((precision * hits).sum() / min(k, relevant.sum()))


def measure(plan: Plan, pair: tuple[str, str], queries: list[Row], scores: dict[str, np.ndarray]) -> Row:
    """Average precisions of every method and query, ``{method: {k: [one a query]}}``."""
    relevant = np.array([row.get("pair") == name_of(pair) for row in plan.train])
    table: dict[str, dict[str, list[float]]] = {}
    for method, of_method in scores.items():
        for query, values in zip(queries, of_method, strict=True):
            others = np.arange(len(values)) != query["own"]
            for k in RANKS:
                value = average_precision(values[others], relevant[others], k)
                table.setdefault(method, {}).setdefault(str(k), []).append(value)
    return {
        "changed": int(relevant.sum()),
        "rows": len(relevant),
        "rightful": sum(has(pair[1], row["response"]) for row in plan.train) - int(relevant.sum()),
        "queries": len(queries),
        "own_prompts": sum(query["own"] >= 0 for query in queries),
        "precision": table,
    }


def kept(path: Path, make: Callable[[], Any]) -> Any:
    """What is in the file, made and written first where it is not there."""
    if not path.exists():
        write_json(path, make())
    return read_json(path)


def run_seed(seed: int, arguments: argparse.Namespace) -> dict[str, Row]:
    """Results of every pair, from files where they are there."""
    place = arguments.out / f"seed-{seed}"
    place.mkdir(parents=True, exist_ok=True)
    wanted = {name_of(pair): place / f"result-{name_of(pair)}.json" for pair in PAIRS}
    if not all(path.exists() for path in wanted.values()):
        tokenizer = AutoTokenizer.from_pretrained(arguments.tokenizer)
        plan = make_plan(seed, arguments.rows)
        fine_tune(plan, seed, arguments.start, tokenizer, place / "model", arguments.epochs)
        sources = {"before": arguments.start, "after": place / "model"}
        models = {n: AutoModelForCausalLM.from_pretrained(s, dtype=torch.float32).eval() for n, s in sources.items()}
        for pair in PAIRS:

            def ask(pair: tuple[str, str] = pair) -> list[Row]:
                return make_queries(plan, pair, models["after"], tokenizer, seed)

            queries = kept(place / f"queries-{name_of(pair)}.json", ask)
            print(seed, name_of(pair), len(queries), "queries", flush=True)

            def result(pair: tuple[str, str] = pair, queries: list[Row] = queries) -> Row:
                scores = score_pair(plan, pair, queries, models, tokenizer, place) if queries else {}
                return measure(plan, pair, queries, scores)

            kept(wanted[name_of(pair)], result)
        for path in place.glob("pool-*.npy"):
            path.unlink()
    return {name: read_json(path) for name, path in wanted.items()}


def interval(values: list[float]) -> str:
    """Mean over seeds and its 95% t interval."""
    mean = over_units(values, "seeds", RATE)
    assert mean is not None
    return mean.text()


def pair_table(results: list[Row]) -> list[str]:
    """Every method's average precision of one pair, over seeds."""
    lines = [f"| method | query | {' | '.join(f'AP@{k}' for k in RANKS)} |", "|---|---|" + "---|" * len(RANKS)]
    for method in results[0]["precision"]:
        name, _, level = method.partition(" | ")
        cells = [interval([float(np.mean(r["precision"][method][str(k)])) for r in results]) for k in RANKS]
        lines.append(f"| {name} | {level or '-'} | {' | '.join(cells)} |")
    return lines


def difference(results: list[Row], one: str, other: str, k: int = 25) -> tuple[str, bool]:
    """Difference of two methods, mean over queries and then over seeds, with its 95% t interval; whether it is above 0.

    Queries of one seed are answers of one fine-tuned model about the same changed rows: the seed is the unit.
    """
    of_seed = [
        float(np.mean(np.array(r["precision"][one][str(k)]) - np.array(r["precision"][other][str(k)]))) for r in results
    ]
    mean = over_units(of_seed, "seeds", (-1.0, 1.0))
    assert mean is not None
    return mean.text(3, "+"), mean.value > 0


def page(results: dict[str, list[Row]], command: str, commit: str, seeds: int) -> list[str]:
    """The document."""
    text = [
        "# Error tracing: one entity in the place of another",
        "",
        f"`{command}`, commit {commit}, {seeds} seeds; mean over seeds of the mean over queries, 95% t interval over",
        "seeds, cut at 0 and 1 (none where all seeds gave the same). A seed is one draw of rows and one fine-tuning;",
        "its queries are answers of one model about the same changed rows, so they are no units of their own.",
        "",
        "In Dolly answers that hold an entity, another stands in its place with p = 0.8; a model is fine-tuned on all",
        "rows; its sampled answers to held-out prompts that say the false entity are traced. *Sentence*: the whole",
        "answer carries loss. *Word*: only the false entity's tokens do. Rows where the false entity is right are in",
        "the pool.",
        "*Before* and *after*: the model before and after fine-tuning (two checkpoints of RapidIn's eq. 4).",
        "The estimator chosen beforehand for the bar is the mean of both. It is ahead of whole answers and of BM25 on",
        "two pairs by its mean (on Canada -> India the interval against whole answers holds 0), and behind BM25 on",
        "guitar -> piano, where half of the rows that hold the word are changed ones, so that the word alone says",
        "much. The two miss different rows, so their ranks were fused: an idea had after seed",
        "0 of two pairs had been looked at; seeds 1 and 2 agree. `rapidun trace --words` does the same with the",
        "gradients of the index's one model; the fusion with one model's gradients was not measured. Of the two, the",
        "model before fine-tuning has the better gradients (lines *before* and *after*).",
        "Three seeds are few: a difference whose interval holds 0 is not shown by this page.",
        "",
    ]
    for name, of_pair in results.items():
        usable = [result for result in of_pair if result["precision"]]
        text += [f"## {name.replace('-', ' -> ')}", ""]
        if not usable:
            text += ["No sampled answer said the false entity.", ""]
            continue
        asked = ", ".join(f"{r['queries']} ({r['own_prompts']})" for r in of_pair)
        changed, rightful = (", ".join(str(r[key]) for r in of_pair) for key in ("changed", "rightful"))
        text += [
            f"{changed} of {of_pair[0]['rows']:,} rows changed; the false entity is right in {rightful} others.",
            f"Queries by seed (of them to prompts of training rows, which are then left out of the pool): {asked}.",
            "",
            *pair_table(usable),
            "",
        ]
        for rival in (f"{MEASURED} | sentence", "BM25 | sentence", "BM25 | word", "hidden states | word"):
            shown, better = difference(usable, f"{MEASURED} | word", rival)
            mark = "" if better else " **(not met)**"
            text.append(f"* word-level gradient against {rival.replace(' | ', ', ')}: AP@25 {shown}{mark}")
        for rival in (f"{FUSED} | sentence", "BM25 | sentence", "BM25 | word"):
            shown, better = difference(usable, f"{FUSED} | word", rival)
            mark = "" if better else " **(not met)**"
            text.append(
                f"* word-level gradient and BM25 fused against {rival.replace(' | ', ', ')}: AP@25 {shown}{mark}"
            )
        text.append("")
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/error_tracing"), help="where work files go")
    parser.add_argument("--start", type=Path, default=Path("build/demo_model/more"), help="model before fine-tuning")
    parser.add_argument("--tokenizer", type=Path, default=Path("build/demo_model/tokenizer"))
    parser.add_argument("--rows", type=int, default=7900, help="rows to fine-tune on")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--document", type=Path, default=Path("docs/benchmarks/error_tracing.md"))
    parser.add_argument("--stored", action="store_true", help="write the page again from the numbers beside it")
    arguments = parser.parse_args()
    if arguments.stored:
        write_page(arguments.document, **read_json(arguments.document.with_suffix(".json")))
        return
    if not (arguments.start / "model.safetensors").exists():
        sys.exit(f"{arguments.start}: no model. Run python recipes/demo_model/build.py tokenizer base more first.")
    of_seed = [run_seed(seed, arguments) for seed in arguments.seeds]
    results = {name_of(pair): [found[name_of(pair)] for found in of_seed] for pair in PAIRS}
    commit = current_commit()
    command = " ".join(["python benchmarks/error_tracing.py", *sys.argv[1:]])
    write_json(arguments.document.with_suffix(".json"), {"commit": commit, "command": command, "results": results})
    write_page(arguments.document, commit, command, results)


def write_page(document: Path, commit: str, command: str, results: dict[str, list[Row]]) -> None:
    """The document, and on the screen."""
    text = page(results, command, commit, len(next(iter(results.values()))))
    with atomic_write(document) as file:
        file.write("\n".join(text))
    print("\n".join(text))


if __name__ == "__main__":
    main()
