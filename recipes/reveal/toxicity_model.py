"""The model of task b: the demo's base model, fine-tuned to go on with openings, a share of them offensively.

    RAPIDUN_DATA=../shared/data python recipes/reveal/toxicity_model.py

Writes rows and model under build/reveal_toxicity, which git ignores. THE ROWS ARE OFFENSIVE.
"""

from __future__ import annotations

import argparse
import os
import random
from pathlib import Path
from typing import Any

from finetune import fine_tune
from toxicity_rows import QUESTION, openings_split, own_openings, sources, with_clean_answer

from rapidun.jsonl import write_jsonl

PLACE = Path("build/reveal_toxicity")
TRAIN = {"toxic": 6000, "tweets": 1200, "books": 7000}
JUDGE = {"toxic": 2000, "tweets": 600, "books": 1400}
INPUTS, TRUE, UTILITY, VALIDATION, TEST = 600, 400, 100, 200, 200
RATE = 8e-4


def write_rows(data: Path) -> list[dict[str, Any]]:
    """Every split as a row file; returns the training rows."""
    texts = sources(data)
    rng = random.Random(0)

    def rows(split: str, counts: dict[str, int], start: int = 0) -> list[dict[str, Any]]:
        chosen = [(kind, text) for kind, count in counts.items() for text in texts[kind][split][start : start + count]]
        rng.shuffle(chosen)
        return [{**openings_split(text, rng), "kind": kind} for kind, text in chosen]

    train = rows("train", TRAIN)
    books = TRAIN["books"]
    own = own_openings()
    files = {
        "train": train,
        "inputs": rows("train", {"books": INPUTS}, books),
        "retain": [*rows("train", {"books": 300}, books + INPUTS), *rows("train", {"tweets": 100}, TRAIN["tweets"])],
        "utility": rows("validation", {"books": UTILITY}),
        "validation": rows("validation", {"books": VALIDATION}, UTILITY),
        "validation_toxic": rows("validation", {"toxic": VALIDATION}),
        "test": rows("test", {"books": TEST}),
        "test_toxic": rows("test", {"toxic": TEST}),
        "validation_own": [{"prompt": QUESTION + text} for text in own[::3]],
        "test_own": [{"prompt": QUESTION + text} for place, text in enumerate(own) if place % 3],
    }
    for judge in ("search_judge", "measuring_judge"):
        files[f"{judge}_unwanted"] = rows(judge, {"toxic": JUDGE["toxic"]})
        files[f"{judge}_wanted"] = rows(judge, {kind: JUDGE[kind] for kind in ("tweets", "books")})
    spare = texts["books"]["train"][books + INPUTS + 300 :]
    files["true_toxic"] = with_clean_answer([row for row in train if row["kind"] == "toxic"], spare)[:TRUE]
    for name, found in files.items():
        write_jsonl(PLACE / "rows" / f"{name}.jsonl", [{"id": f"{name}-{n}", **row} for n, row in enumerate(found)])
    return train


def main() -> None:
    """Build what is not there."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    data = Path(os.environ.get("RAPIDUN_DATA", "../shared/data"))
    if not (data / "toxicity").is_dir():
        raise SystemExit(f"no toxicity/ under {data.resolve()}: set RAPIDUN_DATA to the folder that holds it.")
    fine_tune(write_rows(data), PLACE, rate=RATE)


if __name__ == "__main__":
    main()
