"""The text the embedded model learns English from: children's books, stories, the start of encyclopaedia
articles; and Dolly's instruction rows, split once.

Everything is read from the shared data folder (``RAPIDUN_DATA``, default ``../shared/data``); nothing of
the books or articles ships, only Dolly rows do (CC BY-SA 3.0, see the model card).
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

WIKI_CHARACTERS_PER_ARTICLE = 1500
SHORT_ROW_CHARACTERS = 600
# In this order: the rows that were "test" for the models of version 0.1 had been looked at while settings were found.
SPLIT_SIZES = {"retain": 400, "validation": 300, "forget": 200, "test": 400}

Row = dict[str, Any]


def data_root() -> Path:
    """The shared data folder, or a clear error that says how to name it."""
    root = Path(os.environ.get("RAPIDUN_DATA", "../shared/data"))
    if not (root / "dolly").is_dir():
        raise SystemExit(f"no data at {root.resolve()}: set RAPIDUN_DATA to the folder that holds dolly/ and text/")
    return root


def _gzip_jsonl(path: Path) -> Iterator[Row]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def _stories(path: Path) -> list[str]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return re.split(r"(?<!\n)\n(?=once upon a time|one day)", file.read())


def documents(seed: int = 0) -> dict[str, list[str]]:
    """Plain-text documents by source, each list in a reproducible shuffled order."""
    text = data_root() / "text"
    found = {
        "books": [book["text"] for book in _gzip_jsonl(text / "books.jsonl.gz") if book["children"]],
        "stories": _stories(text / "tinystories.txt.gz"),
        "african": [story["text"] for story in _gzip_jsonl(text / "african_storybook.jsonl.gz")],
        "wiki": [article["text"][:WIKI_CHARACTERS_PER_ARTICLE] for article in _gzip_jsonl(text / "wiki.jsonl.gz")],
    }
    for source, items in found.items():
        random.Random(f"{seed}/{source}").shuffle(items)
        found[source] = [item.strip() for item in items if item.strip()]
    return found


def _prompt_key(prompt: str) -> str:
    return " ".join(prompt.lower().split())


def dolly_rows() -> list[Row]:
    """All Dolly rows with a distinct prompt, as ``id, prompt, context, response, category``."""
    rows: dict[str, Row] = {}
    for raw in _gzip_jsonl(data_root() / "dolly" / "dolly_15k.jsonl.gz"):
        prompt, response = raw["instruction"].strip(), raw["response"].strip()
        if not prompt or not response:
            continue
        content = f"{prompt}\0{raw['context']}\0{response}"
        row = {
            "id": hashlib.sha256(content.encode()).hexdigest()[:12],
            "prompt": prompt,
            "context": raw["context"].strip(),
            "response": response,
            "category": raw["category"],
        }
        rows.setdefault(_prompt_key(prompt), row)
    return list(rows.values())


def is_short(row: Row, characters: int = SHORT_ROW_CHARACTERS) -> bool:
    """Whether prompt, context and answer together have at most ``characters`` characters."""
    return len(row["prompt"]) + len(row["context"]) + len(row["response"]) <= characters


def split_dolly(seed: int = 0) -> dict[str, list[Row]]:
    """Disjoint splits (no prompt in two): retain, validation, forget, test, train (all short) and ``long``.

    ``long`` holds the rows too long for the demo: further English in the text stages; the shorter ones of them are
    fine-tuned on as well.
    """
    rows = dolly_rows()
    short = [row for row in rows if is_short(row)]
    random.Random(seed).shuffle(short)
    splits: dict[str, list[Row]] = {}
    start = 0
    for name, size in SPLIT_SIZES.items():
        splits[name] = short[start : start + size]
        start += size
    splits["train"] = short[start:]
    splits["long"] = [row for row in rows if not is_short(row)]
    return splits
