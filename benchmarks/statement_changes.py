"""Is any change of one byte in a statement, or in a file that it is about, left unnoticed?

    rapidun attest RUN --request x --basis x --approved-by x --new-key k.pem
    python benchmarks/statement_changes.py RUN --key k.pem.pub        # docs/benchmarks/statement.md

Works on a copy. The files of the run and of its statement are changed in turn, one byte each time, at a place and to a
value drawn by the seed, half of the time to one that the file has elsewhere. `verify` is asked after each, and the file
is put back.
"""

from __future__ import annotations

import argparse
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rapidun.errors import RapidunError
from rapidun.statement.keys import read_public
from rapidun.statement.verify import verify

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks" / "statement.md"


def noticed(statement: Path, run: Path, key: Any) -> str | None:
    """The first check that fails, or "cannot be read"; None where nothing speaks against the statement."""
    try:
        return next((check.name for check in verify(statement, run=run, key=key) if not check.holds), None)
    except RapidunError:
        return "cannot be read"


def changes(run: Path, count: int, seed: int) -> Iterator[tuple[Path, int, int]]:
    """``(file, place, new byte)``: files in turn, so that small ones are changed as often as large ones.

    Half of the new bytes are any, half are among those that the file has: a digit becomes another digit.
    """
    draw = random.Random(seed)
    files = [path for path in sorted(run.rglob("*")) if path.is_file() and path.stat().st_size]
    for number in range(count):
        path = files[number % len(files)]
        place = draw.randrange(path.stat().st_size)
        content = path.read_bytes()
        alphabet = range(256) if draw.random() < 0.5 else sorted(set(content))
        yield path, place, draw.choice([byte for byte in alphabet if byte != content[place]])


def try_changes(
    run: Path, public: Path, scratch: Path, count: int, seed: int, said: Callable[[int], None] = lambda _: None
) -> dict[str, Counter[str]]:
    """``{file: {how it was noticed: times}}``; "unnoticed" is what should not be there."""
    shutil.copytree(run, scratch)
    key, statement = read_public(public), scratch / "statement" / "statement.json"
    assert noticed(statement, scratch, key) is None
    found: dict[str, Counter[str]] = {}
    for number, (path, place, byte) in enumerate(changes(scratch, count, seed), 1):
        content = path.read_bytes()
        path.write_bytes(content[:place] + bytes([byte]) + content[place + 1 :])
        how = noticed(statement, scratch, key) or "unnoticed"
        found.setdefault(str(path.relative_to(scratch)), Counter())[how] += 1
        path.write_bytes(content)
        said(number)
    assert noticed(statement, scratch, key) is None
    return found


def page(found: dict[str, Counter[str]], commit: str, command: str, seconds: float) -> str:
    """The table."""
    count = sum(sum(each.values()) for each in found.values())
    missed = sum(each["unnoticed"] for each in found.values())
    lines = [
        "# One byte changed in a statement or its files",
        "",
        f"`{command}`, commit {commit}, {seconds:.0f} s. Of {count:,} changes of one byte, {missed} were not noticed. "
        "Half of the new bytes are among those that the file has elsewhere, so that a digit becomes another digit. "
        "The files are those of a run on a tiny model (`tests/statement`) and of its statement; the last column says "
        "by what `rapidun verify` noticed them, how often. [What is checked](../guide/statement.md).",
        "",
        "| file | changes | unnoticed | noticed by |",
        "|---|---|---|---|",
    ]
    for name, how in sorted(found.items()):
        by = ", ".join(f"{check} {times}" for check, times in how.most_common() if check != "unnoticed")
        lines.append(f"| {name} | {sum(how.values())} | {how['unnoticed']} | {by} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the page."""
    from provenance import current_commit

    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--key", type=Path, required=True)
    parser.add_argument("--changes", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    wanted = parser.parse_args()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        found = try_changes(
            wanted.run,
            wanted.key,
            Path(scratch) / "run",
            wanted.changes,
            wanted.seed,
            lambda number: print(number, flush=True) if number % 500 == 0 else None,
        )
    command = f"python benchmarks/statement_changes.py RUN --key KEY --changes {wanted.changes} --seed {wanted.seed}"
    PAGE.write_text(page(found, current_commit(), command, time.perf_counter() - began), encoding="utf-8")


if __name__ == "__main__":
    main()
