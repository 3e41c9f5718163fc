"""Damaged files over all readers: read, or refused in one message of ours, never a traceback?

    python benchmarks/fuzz.py --minutes 20      # until every reader has had its share of 10,000, then the page
    python benchmarks/fuzz.py --only report     # cases whose name holds this text
    python benchmarks/fuzz.py --stored          # the page again

The cases are those of tests/test_fuzzed_readers.py (one kind of file each) and tests/test_fuzzed_directories.py (real
models, indexes and directories of results, one file of each damaged), the damage is that of tests/fuzz.py, all of it
seeded. What stands in benchmarks/results/fuzz.jsonl is not done again; docs/benchmarks/fuzz.md is made from it.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}

import torch  # noqa: E402
from provenance import current_commit, tree  # noqa: E402

import rapidun.data.rendering  # noqa: E402
import test_fuzzed_directories  # noqa: E402
import test_fuzzed_readers  # noqa: E402
from fuzz import Case  # noqa: E402
from rapidun.errors import RapidunError  # noqa: E402
from rapidun.files import atomic_write  # noqa: E402
from rapidun.jsonl import append_log, read_log  # noqa: E402
from test_fuzzed_directories import HEAVY  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "fuzz.jsonl"
PAGE = ROOT / "docs" / "benchmarks" / "fuzz.md"
INPUTS = 10_000
BATCH = 20
FIRST = 100_000
"""Seeds of the tests lie below."""


def cases() -> dict[str, Case]:
    """Name and function."""
    return {**test_fuzzed_readers.CASES, **test_fuzzed_directories.CASES, **HEAVY}


def share(name: str) -> int:
    """Inputs of a case, so that all have `INPUTS`; a heavy one has a tenth of another's."""
    parts = {each: 0.1 if each in HEAVY else 1.0 for each in cases()}
    return -(-int(INPUTS * parts[name] / sum(parts.values()) + 1) // BATCH) * BATCH


def tried(case: Case, seeds: range, place: Path) -> dict[str, Any]:
    """What came of some inputs: read, refused, or a traceback, which is named."""
    found: dict[str, Any] = {"read": 0, "refused": 0, "tracebacks": []}
    for seed in seeds:
        try:
            case(random.Random(f"{case.__name__} {seed}"), place)
            found["read"] += 1
        except RapidunError as error:
            found["refused" if str(error).strip() else "tracebacks"] += 1
        except Exception as error:
            found["tracebacks"].append(f"seed {seed}: {type(error).__name__}: {str(error)[:300]}")
            print(case.__name__, found["tracebacks"][-1], flush=True)
    return found


def compute(only: str, minutes: float) -> None:
    """Batches of seeds, the cases in turn, until the time is over."""
    end, source = time.monotonic() + 60 * minutes, tree("src")
    done = {(line["case"], line["first"]) for line in read_log(RESULTS)}
    wanted = [
        (start, name)
        for name in cases()
        for start in range(FIRST, FIRST + share(name), BATCH)
        if only in name and (name, start) not in done
    ]
    with tempfile.TemporaryDirectory() as folder:
        for start, name in sorted(wanted, key=lambda each: (each[1] in HEAVY, each)):
            if time.monotonic() > end:
                return
            (place := Path(folder) / name / "files").mkdir(parents=True, exist_ok=True)
            began = time.monotonic()
            found = tried(cases()[name], range(start, start + BATCH), place)
            seconds = round(time.monotonic() - began, 1)
            if not found["tracebacks"]:  # else it is mended and tried again
                line = {"case": name, "first": start, "inputs": BATCH, **found, "seconds": seconds, "source": source}
                append_log(RESULTS, [line])


def write_page() -> None:
    """docs/benchmarks/fuzz.md."""
    lines = read_log(RESULTS)
    page = [
        "# Damaged files", "",
        f"{sum(line['inputs'] for line in lines):,} damaged inputs over {len({line['case'] for line in lines})} "
        "readers: each was read, or refused in one message that names the file. What damage is done, and how the files "
        "are then used, is said at the head of the script: `python benchmarks/fuzz.py`; the page was written at commit "
        f"{current_commit()}.", "",
        "| reader | inputs | read | refused | tracebacks |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for name in cases():
        of = [line for line in lines if line["case"] == name]
        counts = [sum(line[key] for line in of) for key in ("inputs", "read", "refused")]
        page.append(f"| {name.replace('_', ' ')} | {' | '.join(map(str, counts))} | 0 |")
    page += ["", "A batch in which there was a traceback is not counted: it was mended, and the batch done again."]
    with atomic_write(PAGE, private=False) as file:
        file.write("\n".join(page) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--only", default="")
    parser.add_argument("--stored", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rapidun.data.rendering.SECONDS = 1.0  # a template that never ends is given up sooner
    if not given.stored:
        compute(given.only, given.minutes)
    write_page()


if __name__ == "__main__":
    main()
