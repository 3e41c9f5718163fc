"""A pool of any size through the ridge student: seconds and peak memory as the pool grows to a million rows.

    python benchmarks/valuation_stream.py                          # 10,000, 100,000 and 1,000,000 rows
    python benchmarks/valuation_stream.py --rows 10000 50000

Rows are generated. Each size runs `rapidun value --student DIRECTORY` in a process of its own, whose highest resident
memory is read every 20 ms. Results are kept in runs/valuation_stream; a stopped benchmark goes on.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
from provenance import current_commit
from valuation_common import kept, table, write_section

from rapidun.valuation import distil, save_student

NAME = "valuation_stream"
WORDS = [f"{a}{b}" for a in ("ba", "ke", "lo", "mi", "nu", "pra", "sto", "vel") for b in ("n", "rd", "ll", "m", "x")]
SOURCES = ("north", "south", "east", "west")


def row(number: int, generator: np.random.Generator) -> dict[str, str]:
    """A short row; about 130 bytes."""
    words = [WORDS[i] for i in generator.integers(0, len(WORDS), 12)]
    return {"id": f"r{number}", "prompt": " ".join(words[:5]), "response": " ".join(words[5:]),
            "provider": SOURCES[number % 4]}  # fmt: skip


def write_pool(path: Path, count: int) -> None:
    generator = np.random.default_rng(0)
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            file.write(json.dumps(row(number, generator)) + "\n")


def make_student(directory: Path) -> Path:
    """A ridge student of values that a few words decide."""
    generator = np.random.default_rng(1)
    rows = [row(number, generator) for number in range(2000)]
    values = np.array([[sum(word[0] in "bk" for word in each["response"].split()) / 7 - 0.3] for each in rows])
    found = distil("ridge", rows, values.astype(np.float32), np.arange(len(rows)), options={}, seed=0,
                   progress=lambda done, of: None)  # fmt: skip
    return save_student(directory, found, "ridge", ["words"], {"measures": found.held_out.measures()})


def measure(count: int) -> dict[str, float]:
    """One pool through the command line."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        write_pool(place / "pool.jsonl", count)
        student = make_student(place / "student")
        command = [sys.executable, "-m", "rapidun", "value", "--student", str(student), "--candidates",
                   str(place / "pool.jsonl"), "--out", str(place / "out"), "--format", "parquet", "--select",
                   "top:1%", "--by", "provider", "--json"]  # fmt: skip
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        peaks = [0]
        watcher = threading.Thread(target=_watch, args=(process.pid, peaks))
        watcher.start()
        said, _ = process.communicate()
        watcher.join()
        if process.returncode:
            raise SystemExit(f"{count} rows: exit code {process.returncode}")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        found = json.loads(said)
        assert (found["rows"], found["selection"]["rows"]) == (count, count // 100)
        seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return {"cpu_seconds": seconds, "wall_seconds": time.monotonic() - began, "peak_mib": peaks[0] / 2**20,
                "pool_mib": (place / "pool.jsonl").stat().st_size / 2**20}  # fmt: skip


def _watch(pid: int, peaks: list[int]) -> None:
    try:
        process = psutil.Process(pid)
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            peaks[0] = max(peaks[0], process.memory_info().rss)
            time.sleep(0.02)
    except psutil.Error:
        return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    counts = parser.parse_args().rows
    found = {count: kept(NAME, {"rows": count, "student": "ridge"}, lambda n=count: measure(n)) for count in counts}
    lines = [
        [f"{count:,}", f"{one['pool_mib']:.0f}", f"{one['cpu_seconds']:.0f}", f"{1e6 * one['cpu_seconds'] / count:.0f}",
         f"{one['peak_mib']:.0f}"]
        for count, one in found.items()
    ]  # fmt: skip
    text = [
        "## A million rows", "",
        f"`python benchmarks/valuation_stream.py --rows {' '.join(map(str, counts))}`, commit {current_commit()}.",
        "Generated rows through a saved ridge student:",
        "`rapidun value --student S --candidates C --select top:1% --by provider",
        "--format parquet`, everything included: start of the process, three passes over the file, report. Most of the",
        "memory is Python, torch and the other libraries; what grows is a few numbers a row.", "",
        *table(["rows", "pool, MiB", "processor s", "processor µs a row", "peak memory, MiB"], lines),
    ]  # fmt: skip
    write_section("a million rows", text)


if __name__ == "__main__":
    main()
