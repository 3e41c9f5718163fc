"""Rows of task d: short Python functions from MBPP (CC BY 4.0), and arithmetic in words, which is our own text.

Functions are written anew from their syntax tree with one space a level, so that all are laid out alike. Arithmetic is
one addition or subtraction of numbers up to 20 in a sentence or two; the answer shows the step and ends in the number.
Prompts of the splits differ: functions by task, arithmetic by the whole text.
"""

from __future__ import annotations

import ast
import json
import random
import re
from pathlib import Path
from typing import Any

Row = dict[str, Any]

LONGEST_FUNCTION = 260  # characters
CODE_TEST = 64
SUMS = {"train": 1600, "retain": 300, "validation": 100, "test": 200}
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
    """ "train" and "test": a task in words, and a function that solves it."""
    lines = (data / "code" / "mbpp_release_v1.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for line in lines if (row := _function(json.loads(line))) is not None]
    random.Random(seed).shuffle(rows)
    return {"test": rows[:CODE_TEST], "train": rows[CODE_TEST:]}


def _function(raw: Row) -> Row | None:
    head = re.search(r"^def .*$", raw["prompt"], re.MULTILINE)
    if head is None:
        return None
    try:
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
    splits, start = {}, 0
    for name, count in SUMS.items():
        splits[name], start = rows[start : start + count], start + count
    return splits


def _sum(rng: random.Random) -> Row:
    name, things, b = rng.choice(NAMES), rng.choice(THINGS), rng.randint(2, 10)
    a = rng.randint(b + 1, 20)
    more = rng.random() < 0.5
    sign, result = ("+", a + b) if more else ("-", a - b)
    prompt = rng.choice(MORE if more else LESS).format(name=name, things=things, a=a, b=b)
    return {"prompt": prompt, "response": f"{a} {sign} {b} = {result}", "ability": "arithmetic"}


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
