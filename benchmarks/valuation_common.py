"""What the valuation benchmarks share: results kept under their configuration, intervals, pages, texts to draw from."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rapidun.files import atomic_write, sha256_of, write_json
from rapidun.reading import read_json
from rapidun.stats import over_units

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("RAPIDUN_DATA", ROOT / "../shared/data"))
RUNS = ROOT / "runs"
STORIES = DATA / "models" / "stories260K"
Row = dict[str, Any]


def kept(benchmark: str, configuration: Mapping[str, Any], compute: Callable[[], Any]) -> Any:
    """The result of ``compute()``, read from disk where this very configuration was computed before."""
    key = sha256_of([json.dumps(configuration, sort_keys=True, default=str).encode()])[:16]
    place = RUNS / benchmark / f"{key}.json"
    if not place.exists():
        write_json(place, {"configuration": dict(configuration), "result": compute()})
        print("done", json.dumps(dict(configuration), default=str), flush=True)
    return read_json(place)["result"]


def interval(values: Sequence[float], digits: int = 3, bounds: tuple[float, float] = (-1.0, np.inf)) -> str:
    """Mean over seeds and its 95% t interval, which ends where the measure does."""
    mean = over_units(values, "seeds", bounds)
    assert mean is not None
    return mean.text(digits)


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> list[str]:
    """A markdown table."""
    rows = [f"| {' | '.join(line)} |" for line in lines]
    return [f"| {' | '.join(head)} |", "|" + "---|" * len(head), *rows, ""]


def write_section(name: str, lines: Sequence[str]) -> None:
    """Put a section into docs/benchmarks/valuation.md, in the place of the one it had, or at the end."""
    page = ROOT / "docs" / "benchmarks" / "valuation.md"
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    text = page.read_text(encoding="utf-8") if page.exists() else "# What is a row worth?\n\n"
    section = "\n".join([begin, *lines, end])
    if begin in text:
        before, _, rest = text.partition(begin)
        text = before + section + rest.partition(end)[2]
    else:
        text = text.rstrip("\n") + "\n\n" + section + "\n"
    with atomic_write(page) as file:
        file.write(text)


def require(*paths: Path) -> None:
    """Stop, clearly, where data are absent."""
    for path in paths:
        if not path.exists():
            raise SystemExit(f"{path}: not there, so there is nothing to measure. Set RAPIDUN_DATA.")


def chunks(kind: str, characters: int) -> Iterator[str]:
    """Pieces of about so many characters, whole words: ``wiki``, ``books``, ``stories`` or ``code``."""
    for text in _TEXTS[kind]():
        words, piece = text.split(), ""
        for word in words:
            if len(piece) + len(word) >= characters:
                yield piece
                piece = ""
            piece = f"{piece} {word}".strip()


def shuffled(text: str, generator: np.random.Generator) -> str:
    """The words of a text in random order: all its words, none of its language."""
    return " ".join(generator.permutation(text.split()).tolist())


def _jsonl(path: Path, column: str) -> Iterator[str]:
    require(path)
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)[column]


def _stories() -> Iterator[str]:
    path = DATA / "text" / "tinystories.txt.gz"
    require(path)
    with gzip.open(path, "rt", encoding="utf-8") as file:
        yield from (line for line in file if line.strip())


_TEXTS: dict[str, Callable[[], Iterator[str]]] = {
    "wiki": lambda: _jsonl(DATA / "text" / "wiki.jsonl.gz", "text"),
    "books": lambda: _jsonl(DATA / "text" / "books.jsonl.gz", "text"),
    "stories": _stories,
    "code": lambda: _jsonl(DATA / "code" / "mbpp_release_v1.jsonl", "canonical_solution"),
}
