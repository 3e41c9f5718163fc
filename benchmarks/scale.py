"""What a row costs in an index: rows per processor second, bytes, peak memory; the figures behind docs/scale.md.

    python benchmarks/scale.py                    # writes docs/benchmarks/scale.md
    python benchmarks/scale.py --demo 1000 10000  # numbers of rows for the demo model; an hour

One thread. Each line of the table is a build in a process of its own: processor seconds (a loaded machine lengthens
wall time, not these) of reading and checking the rows, of the build, and of 100 queries; peak memory after the build.
All settings are measured with the first number of rows, more rows with all views alone. The rows are the demo's
training rows, numbered so that no two are the same.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from provenance import current_commit

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "src" / "rapidun" / "demo" / "assets"
QUERIES = 100
SETTINGS: dict[str, dict[str, Any]] = {
    "all, k 4096, float16": {"k": 4096},
    "all, k 4096, int8": {"k": 4096, "dtype": "int8"},
    "gradient, k 65536, float16": {"views": ["gradient"], "k": 65_536},
    "gradient, k 4096, float16": {"views": ["gradient"], "k": 4096},
    "gradient, k 4096, int8": {"views": ["gradient"], "k": 4096, "dtype": "int8"},
    "hidden, float16": {"views": ["hidden"]},
    "hidden, int8": {"views": ["hidden"], "dtype": "int8"},
    "lexical": {"views": ["lexical"]},
}


def write_rows(path: Path, count: int) -> None:
    """``count`` rows of the demo's training data, over again with another number in front."""
    from rapidun.data import load_rows

    known = list(load_rows(DEMO / "data" / "train.jsonl.gz", on_bad_row="skip"))
    with path.open("w") as file:
        for place in range(count):
            row = known[place % len(known)]
            content = {"prompt": f"{place}. {row['prompt']}", "response": row["response"]}
            file.write(json.dumps(content) + "\n")


def write_tiny(directory: Path) -> None:
    """A random Llama of hidden size 16 with the demo's tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(DEMO / "poisoned")
    config = AutoConfig.for_model(
        "llama", vocab_size=len(tokenizer), hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=512,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def measure(model: str, rows: str, out: str, settings: dict[str, Any]) -> dict[str, Any]:
    """One build, in this process."""
    import torch

    from rapidun.attribution.store import build_index, open_index
    from rapidun.distributed import IndexJob
    from rapidun.pipeline.reporter import Silent
    from rapidun.settings.attribution import IndexConfig, IndexSettings
    from rapidun.settings.model import ModelSettings, RowSettings

    torch.set_num_threads(1)
    config = IndexConfig(
        model=ModelSettings(source=model, device="cpu"),
        data=RowSettings(max_length=256),
        index=IndexSettings(**settings),
    )
    job = IndexJob(config, Path(rows), Path(out))
    took = {}
    began = time.process_time()
    plan = job.plan(Silent())
    took["plan"] = time.process_time() - began
    began = time.process_time()
    build_index(plan)
    took["build"] = time.process_time() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    index = open_index(job.out)
    return {
        "seconds": took,
        "peak": peak,
        "bytes": bytes_by_part(job.out),
        "tokens": sum(index.column("tokens")),
        "search": search_seconds(index),
    }


def bytes_by_part(directory: Path) -> dict[str, int]:
    """Bytes of all shards by view, of the table of rows, and of what is left."""
    from safetensors import safe_open

    found = {"gradient": 0, "hidden": 0, "lexical": 0, "table": 0}
    for shard in (directory / "shards").iterdir():
        with safe_open(shard, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                tensor = tensors.get_tensor(name)
                part = name.partition(".")[0]
                found[part] = found.get(part, 0) + tensor.numel() * tensor.element_size()
    found["table"] = sum(path.stat().st_size for path in (directory / "rows.parquet").iterdir())
    found["total"] = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
    return found


def search_seconds(index: Any) -> float | None:
    """Processor seconds of `QUERIES` exact queries over the widest matrix."""
    import numpy as np

    if not index.matrices:
        return None
    name = max(index.matrices, key=lambda name: index.matrices[name].width)
    queries = np.random.default_rng(0).normal(size=(QUERIES, index.manifest.matrices[name].width))
    index.features(name).search(queries[:1], 20)
    began = time.process_time()
    index.features(name).search(queries, 20)
    return time.process_time() - began


def in_a_process(*arguments: object) -> dict[str, Any]:
    """`measure` in a process of its own, so that peak memory is that build's."""
    command = [sys.executable, __file__, "--worker", json.dumps([*map(str, arguments[:3]), arguments[3]])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def line(model: str, name: str, count: int, found: dict[str, Any]) -> str:
    """One line of the table."""
    seconds, parts = found["seconds"], found["bytes"]
    each = [f"{parts.get(part, 0) / count:.0f}" for part in ("gradient", "hidden", "lexical", "table", "total")]
    search = "-" if found["search"] is None else f"{found['search'] / QUERIES / count * 1e9:.0f}"
    rates = [f"{count / seconds['plan']:.0f}", f"{count / seconds['build']:.0f}"]
    tokens, peak = f"{found['tokens'] / count:.0f}", f"{found['peak']:.0f}"
    return f"| {' | '.join([model, name, str(count), tokens, *rates, *each, peak, search])} |"


def page(lines: list[str], counts: dict[str, list[int]]) -> str:
    """docs/benchmarks/scale.md."""
    commit = current_commit()
    asked = " ".join(f"--{name} {' '.join(map(str, counts[name]))}" for name in counts)
    head = (
        "| model | views | rows | tokens/row | read and check, rows/s | build, rows/s | gradient B/row | hidden B/row "
        "| lexical B/row | table B/row | all B/row | peak MiB | search, ns/row/query |"
    )
    return "\n".join(
        [
            "# What a row costs",
            "",
            f"`python benchmarks/scale.py {asked}`, commit {commit}. One thread, processor seconds. `tiny` is a random",
            "Llama (hidden 16, 2 layers) with the demo's tokenizer, `demo` the poisoned demo model. `read and check`",
            "includes loading the model; `search` is exact, 100 queries at once, over the widest matrix.",
            "",
            head,
            "|" + "---|" * 13,
            *lines,
            "",
        ]
    )


def main() -> None:
    """All lines."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--worker")
    parser.add_argument("--tiny", type=int, nargs="*", default=[1000, 10_000])
    parser.add_argument("--demo", type=int, nargs="*", default=[1000])
    given = parser.parse_args()
    if given.worker:
        print(json.dumps(measure(*json.loads(given.worker))))
        return
    from rapidun.files import atomic_write

    counts = {"tiny": given.tiny, "demo": given.demo}
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        tiny = Path(folder) / "tiny"
        write_tiny(tiny)
        for model, source in (("tiny", tiny), ("demo", DEMO / "poisoned")):
            for count in counts[model]:
                rows = Path(folder) / f"rows{count}.jsonl"
                write_rows(rows, count)
                for name, settings in SETTINGS.items():
                    if count > counts[model][0] and not name.startswith("all"):
                        continue  # more rows are for the peak memory
                    out = Path(folder) / f"{model}-{count}-{len(lines)}"
                    lines.append(line(model, name, count, in_a_process(source, rows, out, settings)))
                    print(lines[-1], flush=True)
                    with atomic_write(ROOT / "docs" / "benchmarks" / "scale.md") as file:
                        file.write(page(lines, counts))  # after every line: a run that is stopped has its lines


if __name__ == "__main__":
    main()
