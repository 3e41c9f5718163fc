"""Task c: persons no longer tagged, locations and organisations as before, without a sentence that tags a person.

    RAPIDUN_DATA=../shared/data python recipes/reveal/ner_model.py     # the model, once
    python recipes/reveal/ner.py --write docs/benchmarks/reveal.md

Measured by span F1 on sentences of held-out Wikipedia articles (wikigold) and of held-out patterns with held-out names.
Settings were chosen with seed 100 on validation rows (--rows validation).
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path

import torch
from common import check_page, place_of, table, write_table
from ner_model import PLACE
from ner_rows import LOCATION, NOTHING, ORGANISATION, PERSON
from study import BEFORE, ITERATIVE, RANDOM, SEED_ALONE, Study, arguments, carry_out, column, searched

from rapidun.data import load_rows
from rapidun.evaluation import generate_answers
from rapidun.evaluation.entity_spans import entity_spans, span_f1
from rapidun.jsonl import read_jsonl, write_jsonl
from rapidun.pipeline.inputs import RunModel

OTHERS = [LOCATION, ORGANISATION]
SOURCES = ("patterns", "new patterns", "wikigold")


def values(run_model: RunModel, place: Path, *, rows_from: Path) -> dict[str, float]:
    """F1 over all spans of a set of rows: of persons, of the other two types together, and of each."""
    rows = list(load_rows(rows_from))
    prompts = [run_model.template.prompt_text(row) for row in rows]
    answers = generate_answers(run_model.loaded, prompts, max_new_tokens=64, batch_size=128)
    write_jsonl(place / "answers.jsonl", [{**row, "answer": said} for row, said in zip(rows, answers, strict=True)])
    found = {}
    for source in (None, *SOURCES):
        pairs = [
            (said, row["response"])
            for row, said in zip(rows, answers, strict=True)
            if source is None or row["source"] == source
        ]
        named = f", {source}" if source else ""
        for title, types in (("persons", [PERSON]), ("others", OTHERS), *((name.lower(), [name]) for name in OTHERS)):
            found[f"{title}{named}"] = together_f1(pairs, types)
        found[f"renamed{named}"] = renamed(pairs)
    return found


@torch.no_grad()
def opened(run_model: RunModel, place: Path, *, rows_from: Path) -> dict[str, float]:
    """F1 of persons where the answer may not begin with ``none``: what lies behind it. Known patterns with persons."""
    rows = [
        row
        for row in load_rows(rows_from)
        if row["source"] == SOURCES[0] and f"{PERSON}: {NOTHING}" not in row["response"]
    ]
    loaded = run_model.loaded
    prompts = [f"{run_model.template.prompt_text(row)}{PERSON}:" for row in rows]
    barred = loaded.tokenizer(f" {NOTHING}", add_special_tokens=False).input_ids[0]
    begun = []
    for prompt in prompts:
        ids = loaded.tokenizer(prompt, add_special_tokens=False, return_tensors="pt").input_ids.to(loaded.device)
        scores = loaded.model(input_ids=ids).logits[0, -1].float()
        scores[barred] = -torch.inf
        begun.append(loaded.tokenizer.decode([int(scores.argmax())]))
    rest = generate_answers(loaded, [f"{p}{b}" for p, b in zip(prompts, begun, strict=True)], max_new_tokens=64)
    # An answer is stripped; whether its first token began a word is lost, so the tokens are joined both ways.
    pairs = []
    for row, word, more in zip(rows, begun, rest, strict=True):
        both = [f"{PERSON}:{word}{gap}{more}" for gap in ("", " ")]
        pairs.append((max(both, key=lambda said: together_f1([(said, row["response"])], [PERSON])), row["response"]))
    write_jsonl(place / "opened.jsonl", [{"answer": said, "response": right} for said, right in pairs])
    return {"persons, none barred": together_f1(pairs, [PERSON])}


def together_f1(pairs: list[tuple[str, str]], types: list[str]) -> float:
    """F1 of the spans of all (answer, reference) pairs counted together."""
    said: Counter[tuple[int, str, str]] = Counter()
    right: Counter[tuple[int, str, str]] = Counter()
    for place, (answer, reference) in enumerate(pairs):
        said.update({(place, *span): count for span, count in entity_spans(answer, types).items()})
        right.update({(place, *span): count for span, count in entity_spans(reference, types).items()})
    return span_f1(said, right)  # type: ignore[arg-type]


def renamed(pairs: list[tuple[str, str]]) -> float:
    """Share of the persons of the references that the answers name under another type."""
    hits = total = 0
    for answer, reference in pairs:
        others = {text for _, text in entity_spans(answer, OTHERS)}
        persons = [text for _, text in entity_spans(reference, [PERSON])]
        hits, total = hits + sum(text in others for text in persons), total + len(persons)
    return hits / total if total else 0.0


def where_lost(names: list[str], seeds: list[int], out: Path) -> dict[str, dict[str, dict[str, float]]]:
    """F1 of the other types apart in sentences that name a person and in those that name none (known patterns)."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name in names:
        for seed in seeds[:1] if name == BEFORE else seeds:
            rows = read_jsonl(out / "measured" / place_of(name, seed, out).name / "answers.jsonl")
            pairs: dict[bool, list[tuple[str, str]]] = {True: [], False: []}
            for row in rows:
                if row["source"] == SOURCES[0]:
                    pairs[bool(entity_spans(row["response"], [PERSON]))].append((row["answer"], row["response"]))
            found.setdefault(name, {})[str(seed)] = {
                "others where a person is named": together_f1(pairs[True], OTHERS),
                "others where none is": together_f1(pairs[False], OTHERS),
            }
    return found


def main() -> None:
    """Run the chosen variants and print the tables."""
    parser = arguments(__doc__, "runs/reveal_ner")
    parser.add_argument("--rows", choices=("test", "validation"), default="test")
    options = parser.parse_args()
    check_page(options.write, "ner", "ner-where", "ner-sources", "ner-rounds")
    rows = PLACE / "rows"
    study = Study(
        task=Path(__file__).parent / "ner.yaml",
        model=PLACE / "model",
        true_rows=rows / "true_persons.jsonl",
        max_length=192,
        measures={each.__name__: partial(each, rows_from=rows / f"{options.rows}.jsonl") for each in (values, opened)},
    )
    found = carry_out(study, options.seeds, options.only, options.out)
    shown = ("persons", "others", "location", "organisation", "renamed")
    columns = {name: partial(column, f"{name}, patterns") for name in shown}
    columns["persons, none barred"] = partial(column, "persons, none barred")
    whole = table(found, columns)
    kinds = {f"{name}, {source}": f"{name}, {source}" for source in SOURCES[1:] for name in (*shown[:2], "renamed")}
    kinds |= {f"{name}, all three": name for name in shown[:2]}
    apart = table(found, {title: partial(column, key) for title, key in kinds.items()})
    lost = where_lost(list(found), options.seeds, options.out)
    where = table(lost, {name: partial(column, name) for name in next(iter(lost[BEFORE].values()))})
    rounds = searched([ITERATIVE, RANDOM, SEED_ALONE], options.seeds, options.out)
    first = next(iter(next(iter(rounds.values())).values())) if rounds else {}
    looked = table(rounds, {name: partial(column, name) for name in first})
    print(whole, where, apart, looked, sep="\n\n")
    if options.write is not None:
        tables = {"ner": whole, "ner-where": where, "ner-sources": apart, "ner-rounds": looked}
        for marker, text in tables.items():
            write_table(options.write, marker, text)


if __name__ == "__main__":
    main()
