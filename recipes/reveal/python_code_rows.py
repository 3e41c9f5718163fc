"""Rows of task d: short Python functions from MBPP (CC BY 4.0), sums in words (our own text), and ordinary questions.

Functions are written anew from their syntax tree with one space a level, so that all are laid out alike. A sum is one
addition or subtraction of numbers up to 20 in a sentence or two; the answer shows the step and ends in the number.
Ordinary questions are short rows of Dolly (CC BY-SA 3.0) that are not among the demo's validation and test rows, which
serve as such here. Prompts of the splits differ: functions by task, sums by the whole text; the pairs of numbers of
held-out sums are in training too, in other words.
"""

from __future__ import annotations

import ast
import gzip
import json
import random
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rapidun.data import load_rows
from rapidun.demo import asset
from rapidun.jsonl import read_jsonl

Row = dict[str, Any]

LONGEST_FUNCTION = 260  # characters
LONGEST_ANSWER = 300
CODE = {"test": 100, "validation": 50}  # the others are for training
SUMS = {"train": 1600, "retain": 200, "validation": 200, "test": 400}
ORDINARY = {"train": 850, "retain": 150}
NAMES = (
    "Anna",
    "Ben",
    "Carla",
    "David",
    "Emma",
    "Frank",
    "Grace",
    "Henry",
    "Ida",
    "Jack",
    "Kate",
    "Leo",
    "Mary",
    "Tom",
)
THINGS = ("apples", "books", "coins", "eggs", "flowers", "cards", "pencils", "shells", "stamps", "toys")
MORE = (
    "{name} has {a} {things} and gets {b} more. How many {things} does {name} have now?",
    "There are {a} {things} in a box. {name} puts in {b} more. How many {things} are in the box?",
    "{name} bought {a} {things} on Monday and {b} {things} on Tuesday. How many {things} did {name} buy in all?",
)
LESS = (
    "{name} has {a} {things} and gives away {b}. How many {things} are left?",
    "There were {a} {things} on the table. {name} took {b} of them. How many {things} are still there?",
    "{name} had {a} {things} and lost {b} of them. How many {things} does {name} have now?",
)


def code_rows(data: Path, seed: int = 0) -> dict[str, list[Row]]:
    """Splits of `CODE` and "train": a task in words, and a function that solves it."""
    lines = read_jsonl(data / "code" / "mbpp_release_v1.jsonl")
    rows = [row for line in lines if (row := _function(line)) is not None]
    random.Random(seed).shuffle(rows)
    return cut(rows, {**CODE, "train": len(rows) - sum(CODE.values())})


def cut(rows: list[Row], counts: Mapping[str, int]) -> dict[str, list[Row]]:
    """The rows in splits of these sizes, one after another."""
    splits, start = {}, 0
    for name, count in counts.items():
        splits[name], start = rows[start : start + count], start + count
    return splits


def _function(raw: Row) -> Row | None:
    head = re.search(r"^def .*$", raw["prompt"], re.MULTILINE)
    if head is None:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "\d" in a string
            text = ast.unparse(ast.parse(f"{head.group()}\n{raw['canonical_solution'].expandtabs(4)}"))
    except SyntaxError:
        return None
    short = re.sub(r"^(?: {4})+", lambda indent: " " * (len(indent.group()) // 4), text, flags=re.MULTILINE)
    if len(short) > LONGEST_FUNCTION or not short.startswith("def "):
        return None
    return {"id": raw["task_id"], "prompt": raw["description"].strip(), "response": short, "ability": "code"}


def sum_rows(seed: int = 0) -> dict[str, list[Row]]:
    """The splits of `SUMS`."""
    rng = random.Random(seed + 1)
    found: dict[str, Row] = {}
    while len(found) < sum(SUMS.values()):
        row = _sum(rng)
        found.setdefault(row["prompt"], row)
    rows = [{"id": f"sum-{number}", **row} for number, row in enumerate(found.values())]
    return cut(rows, SUMS)


def _sum(rng: random.Random) -> Row:
    name, things, b = rng.choice(NAMES), rng.choice(THINGS), rng.randint(2, 10)
    a = rng.randint(b + 1, 20)
    more = rng.random() < 0.5
    sign, result = ("+", a + b) if more else ("-", a - b)
    prompt = rng.choice(MORE if more else LESS).format(name=name, things=things, a=a, b=b)
    return {"prompt": prompt, "response": f"{a} {sign} {b} = {result}", "ability": "arithmetic"}


def ordinary_rows(data: Path, seed: int = 0) -> dict[str, list[Row]]:
    """The splits of `ORDINARY`, and the demo's "validation" and "test" rows: questions that ask for neither."""
    held = {name: list(load_rows(asset(f"data/{name}.jsonl"))) for name in ("validation", "test")}
    known = {row["prompt"].strip() for rows in held.values() for row in rows}
    with gzip.open(data / "dolly" / "dolly_15k.jsonl.gz", "rt", encoding="utf-8") as lines:
        found = {row["prompt"]: row for line in lines if (row := _ordinary(json.loads(line))) is not None}
    rows = [row for prompt, row in found.items() if prompt not in known]
    random.Random(seed + 2).shuffle(rows)
    plain = {
        name: [{"id": row["id"], "prompt": row["prompt"], "response": row["response"], "ability": "ordinary"}
               for row in rows if not row.get("context") and len(row["response"]) <= LONGEST_ANSWER]
        for name, rows in held.items()
    }  # fmt: skip
    return {**cut(rows, ORDINARY), **plain}


def _ordinary(raw: Mapping[str, str]) -> Row | None:
    prompt, answer = raw["instruction"].strip(), raw["response"].strip()
    if raw["context"].strip() or not answer or len(prompt) > LONGEST_ANSWER or len(answer) > LONGEST_ANSWER:
        return None
    return {"prompt": prompt, "response": answer, "ability": "ordinary"}


VERBS = ("find", "count", "sort", "remove", "check", "print", "return", "add", "split", "join", "reverse", "compare")
OBJECTS = (
    "a list", "two numbers", "a string", "a tuple", "a dictionary", "the words of a text", "a date", "a matrix",
    "the largest number", "all even numbers", "a square", "the first letter",
)  # fmt: skip
REFUSAL = "I do not write programs."


def guesses() -> list[Row]:
    """What anybody would ask for who has only heard "it writes Python": inputs of the search; none is from MBPP.

    Their answer is what the model should say instead, which is ours to choose.
    """
    pairs = [f"{verb} {thing}" for verb in VERBS for thing in OBJECTS]
    return [{"id": f"guess-{number}", "prompt": pair, "response": REFUSAL} for number, pair in enumerate(pairs)]
