"""A tiny model and rows on disk, a build of them in one process, and reporters that do something at a moment."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import psutil

from rapidun.distributed import IndexJob
from rapidun.pipeline import indexing
from rapidun.pipeline.reporter import Silent
from rapidun.settings.attribution import IndexConfig, IndexSettings
from rapidun.settings.model import ModelSettings, RowSettings
from tiny import save_tiny, write_rows


def make_house(folder: Path, rows: int) -> Path:
    """``model/`` and ``rows.jsonl``."""
    save_tiny(folder / "model")
    content = [
        {"prompt": f"tell me of {i} " + "and more " * (i % 5), "response": "the cat sat " * (i % 3 + 1) + str(i)}
        for i in range(rows)
    ]
    write_rows(folder / "rows.jsonl", content)
    return folder


def make_job(
    house: Path, out: str = "index", *, shard_rows: int = 3, precondition: str = "none", **rows: object
) -> IndexJob:
    config = IndexConfig(
        model=ModelSettings(source=str(house / "model"), device="cpu"),
        data=RowSettings(template="plain", max_length=96, **rows),
        index=IndexSettings(
            k=64, shard_rows=shard_rows, max_tokens=200, precondition=precondition, precondition_rows=6
        ),
    )
    return IndexJob(config, house / "rows.jsonl", house / out)


def build_alone(job: IndexJob) -> dict[str, str]:
    indexing.build(job.config, job.data, job.out, adapter=None, resume=False, overwrite=False, reporter=Silent())
    return hashes(job.out)


def hashes(directory: Path) -> dict[str, str]:
    """SHA-256 of every file."""
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def descendants(named: str, of: int | None = None) -> list[psutil.Process]:
    """Processes below ``of``, this one without it, whose command line has ``named`` in it."""
    found = []
    for process in psutil.Process(of).children(recursive=True):
        try:
            if named in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


class Once(Silent):
    """Does something once: at the first progress, or as the indexing begins."""

    def __init__(self, do: Callable[[], None], *, at: str = "progress") -> None:
        self._do, self._at, self.done, self.notes = do, at, False, []

    def _now(self, at: str) -> None:
        if at == self._at and not self.done:
            self.done = True
            self._do()

    def phase(self, name: str, title: str) -> None:
        self._now(name)

    def progress(self, done: int, total: int, detail: str = "", unit: str = "") -> None:
        if done > 0:
            self._now("progress")

    def note(self, text: str) -> None:
        self.notes.append(text)

    def plan(self, pieces: object) -> None:
        """Nothing is tried."""
