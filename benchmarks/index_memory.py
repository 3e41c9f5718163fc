"""Peak memory of `rapidun index build` as the rows grow: it should not.

    python benchmarks/index_memory.py                       # 1,000, 10,000 and 100,000 rows; writes docs/benchmarks
    python benchmarks/index_memory.py --rows 1000 --out /tmp/page

Each build is a process of its own: the command line's build (reading and checking rows, every view, the manifest) of
rows of about 17 tokens with a random Llama of hidden size 16. Two peaks are taken: the process's resident memory
(VmHWM, which counts pages of mapped files that the system may drop at any time), and, sampled every 50 ms, its own
memory without such pages (RssAnon). Times are processor seconds of one thread.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from provenance import current_commit

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "src" / "rapidun" / "demo" / "assets"
ROWS = (1_000, 10_000, 100_000)
K, SHARD_ROWS, MAX_TOKENS = 256, 1024, 1024


def write_rows(path: Path, count: int) -> None:
    """``count`` short rows, no two the same."""
    with path.open("w") as file:
        for place in range(count):
            row = {"prompt": f"what is {place}?", "response": f"it is {place * 7 % 9973}"}
            file.write(json.dumps(row) + "\n")


def write_tiny(directory: Path) -> None:
    """A random Llama of hidden size 16 with the demo's tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(DEMO / "poisoned")
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "llama",
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=128,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def status(name: str) -> float:
    """A line of this process's status, in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    raise KeyError(name)


class OwnMemory:
    """The highest RssAnon seen while the block runs, in MiB."""

    def __enter__(self) -> OwnMemory:
        self.peak, self._done = status("RssAnon"), threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.05):
            self.peak = max(self.peak, status("RssAnon"))

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


def measure(house: Path, rows: int) -> dict[str, Any]:
    """One build, in this process."""
    from rapidun.attribution.store import open_index
    from rapidun.pipeline import indexing
    from rapidun.pipeline.reporter import Silent
    from rapidun.settings.attribution import IndexConfig, IndexSettings
    from rapidun.settings.model import ModelSettings, RowSettings

    config = IndexConfig(
        model=ModelSettings(source=str(house / "model"), device="cpu", dtype="float32"),
        data=RowSettings(template="plain", max_length=128),
        index=IndexSettings(k=K, shard_rows=SHARD_ROWS, max_tokens=MAX_TOKENS),
    )
    out = house / f"index-{rows}"
    before = status("RssAnon")
    started = time.process_time()
    with OwnMemory() as own:
        indexing.build(
            config,
            house / f"{rows}.jsonl",
            out,
            adapter=None,
            resume=False,
            overwrite=False,
            reporter=Silent(),
        )
    seconds = time.process_time() - started
    index = open_index(out)
    return {
        "rows": len(index),
        "tokens_per_row": sum(index.column("tokens")) / len(index),
        "row_file_mib": (house / f"{rows}.jsonl").stat().st_size / 2**20,
        "index_mib": sum(file.bytes for file in index.manifest.every_file()) / 2**20,
        "before_mib": before,
        "own_peak_mib": own.peak,
        "resident_peak_mib": status("VmHWM"),
        "cpu_seconds": seconds,
    }


def run(counts: list[int]) -> list[dict[str, Any]]:
    """One process for each number of rows."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        house = Path(folder)
        write_tiny(house / "model")
        for rows in counts:
            write_rows(house / f"{rows}.jsonl", rows)
            command = [sys.executable, __file__, "--measure", str(house), "--rows", str(rows)]
            environment = {**os.environ, "HF_DATASETS_CACHE": str(house / "cache")}
            done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
            found.append(json.loads(done.stdout.splitlines()[-1]))
            print(found[-1], flush=True)
    return found


def page(found: list[dict[str, Any]], commit: str) -> str:
    """The Markdown of the results."""
    header = [
        "rows",
        "tokens/row",
        "row file MiB",
        "index MiB",
        "own memory before, MiB",
        "own memory, peak MiB",
        "resident, peak MiB",
        "CPU s",
    ]
    lines = [
        "# Peak memory of a build",
        "",
        f"`python benchmarks/index_memory.py` at commit {commit}. All three views, gradient sketch k = {K}, shards of "
        f"{SHARD_ROWS} rows, batches of {MAX_TOKENS} tokens, a random Llama of hidden size 16 with the demo's "
        "tokenizer, one thread, each build in a process of its own. *Own memory* is RssAnon, sampled every 50 ms; "
        "*resident* is VmHWM and counts libraries and mapped files too. Rows are held in memory up to 32 MiB, so a row "
        "file smaller than that still adds its own size.",
        "",
        "| " + " | ".join(header) + " |",
        "|" + "---|" * len(header),
    ]
    for row in found:
        values = [f"{row['rows']:,}", f"{row['tokens_per_row']:.1f}"]
        values += [f"{row[key]:.1f}" for key in ("row_file_mib", "index_mib")]
        values += [f"{row[key]:.0f}" for key in ("before_mib", "own_peak_mib", "resident_peak_mib", "cpu_seconds")]
        lines.append("| " + " | ".join(values) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=list(ROWS))
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks" / "index_memory")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure is not None:
        print(json.dumps(measure(given.measure, given.rows[0])))
        return
    found = run(given.rows)
    commit = current_commit()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.with_suffix(".json").write_text(json.dumps(found, indent=2) + "\n")
    given.out.with_suffix(".md").write_text(page(found, commit))


if __name__ == "__main__":
    main()
