"""Task b: offensive continuations gone, fluency kept, without one of the texts that taught them.

    RAPIDUN_DATA=../shared/data python recipes/reveal/toxicity_model.py     # the model, once
    python recipes/reveal/toxicity.py --write docs/benchmarks/reveal.md

Measured: the share of sampled continuations that a classifier calls offensive, which the search did not have, and
perplexity on sentences of children's books that nobody was given. What the model says is kept under build/ and --out,
and printed nowhere. Settings were chosen with seed 100 on validation rows (--rows validation).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from common import check_page, table, write_table
from study import BEFORE, ITERATIVE, RANDOM, SEED_ALONE, Study, arguments, carry_out, column, searched
from toxicity_model import PLACE

from rapidun.data import load_rows
from rapidun.evaluation import clean_perplexity, make_judge
from rapidun.files import write_json
from rapidun.jsonl import write_jsonl
from rapidun.pipeline.inputs import RunModel
from rapidun.revealing import Arm, Asker, SoftPrompts
from rapidun.settings.reveal import SoftOptions

ROWS = PLACE / "rows"
SAMPLES = 3  # of each opening
JUDGES = ("measuring_judge", "search_judge")


def judge_of(name: str) -> Any:
    """One of the two classifiers."""
    files = {kind: str(ROWS / f"{name}_{kind}.jsonl") for kind in ("unwanted", "wanted")}
    return make_judge("classifier", files)


def values(run_model: RunModel, place: Path, *, split: str, judges: dict[str, Any]) -> dict[str, float]:
    """Offensive share of sampled continuations of three kinds of openings, and perplexity of clean sentences."""
    files = {"own": f"{split}_own", "tweets": f"{split}_toxic", "books": split}
    openings = {name: list(load_rows(ROWS / f"{file}.jsonl", require_response=False)) for name, file in files.items()}
    clean = openings["books"]
    found = {"perplexity": clean_perplexity(run_model.loaded, run_model.tokenize(clean)).value}
    kept = []
    for name, rows in openings.items():
        asked = [row["prompt"] for row in rows] * SAMPLES
        answers = sampled(run_model, asked)
        found[f"{name}, words"] = sum(len(answer.split()) for answer in answers) / len(answers)
        for judge_name, judge in judges.items():
            found[f"{name}, {judge_name}"] = float(judge(answers).mean())
        kept += [{"openings": name, "prompt": at, "answer": said} for at, said in zip(asked, answers, strict=True)]
    write_jsonl(place / "answers.jsonl", kept)
    return found


def behind(run_model: RunModel, place: Path, *, split: str) -> dict[str, float]:
    """Perplexity of held-out offensive texts themselves: how far the model is from saying them."""
    rows = list(load_rows(ROWS / f"{split}_toxic.jsonl"))
    return {"offensive perplexity": clean_perplexity(run_model.loaded, run_model.tokenize(rows)).value}


def sampled(run_model: RunModel, prompts: list[str]) -> list[str]:
    """A continuation of each at temperature 0.8; the numbers drawn are the same for every model."""
    soft = SoftPrompts(run_model.loaded.model.get_input_embeddings().weight, SoftOptions(), 0)
    asker = Asker(run_model.loaded, run_model.template, soft, max_new_tokens=32, temperature=0.8, batch_size=128)
    arm = Arm("bare", "seed", "{input}")
    return asker.answers([asker.question(arm, prompt) for prompt in prompts], list(range(len(prompts))))


def floor_and_ceiling(split: str, judges: dict[str, Any]) -> dict[str, dict[str, float]]:
    """What each judge calls offensive of the true rows that neither saw: those labelled so, and clean sentences."""
    files = {"offensive rows": f"{split}_toxic", "clean sentences": split}
    answers = {name: [row["response"] for row in load_rows(ROWS / f"{file}.jsonl")] for name, file in files.items()}
    return {
        name: {kind: float(judge(texts).mean()) for kind, texts in answers.items()} for name, judge in judges.items()
    }


def main() -> None:
    """Run the chosen variants and print the tables."""
    parser = arguments(__doc__, "runs/reveal_toxicity")
    parser.add_argument("--rows", choices=("test", "validation"), default="test")
    options = parser.parse_args()
    check_page(options.write, "toxicity", "toxicity-rounds", "toxicity-judges")
    if not ROWS.is_dir():
        raise SystemExit(f"{ROWS} is not there: run recipes/reveal/toxicity_model.py first.")
    judges = {name: judge_of(name) for name in JUDGES}
    study = Study(
        task=Path(__file__).parent / "toxicity.yaml",
        model=PLACE / "model",
        true_rows=ROWS / "true_toxic.jsonl",
        max_length=96,
        measures={
            "values": partial(values, split=options.rows, judges=judges),
            "behind": partial(behind, split=options.rows),
        },
    )
    found = carry_out(study, options.seeds, options.only, options.out)
    before = found[BEFORE][str(options.seeds[0])]
    shares = [f"{name}, measuring_judge" for name in ("own", "tweets", "books")]
    columns: dict[str, Any] = {name.split(",")[0]: partial(column, name) for name in shares}
    columns["words (own)"] = partial(column, "own, words")
    columns["perplexity"] = partial(column, "perplexity")
    columns["over before"] = lambda row: row["perplexity"] / before["perplexity"]
    columns["offensive perplexity"] = partial(column, "offensive perplexity")
    whole = table(found, columns)
    rounds = searched([ITERATIVE, RANDOM, SEED_ALONE], options.seeds, options.out)
    first = next(iter(next(iter(rounds.values())).values())) if rounds else {}
    looked = table(rounds, {name: partial(column, name) for name in first})
    marks = floor_and_ceiling(options.rows, judges)
    write_json(options.out / "judges.json", marks)
    judged = table(
        {name: {"": values} for name, values in marks.items()},
        {kind: partial(column, kind) for kind in next(iter(marks.values()))},
    )
    print(whole, looked, judged, sep="\n\n")
    if options.write is not None:
        write_table(options.write, "toxicity", whole)
        write_table(options.write, "toxicity-rounds", looked)
        write_table(options.write, "toxicity-judges", judged)


if __name__ == "__main__":
    main()
