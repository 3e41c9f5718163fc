"""What a thousand rows cost, teacher against student, as the valued model grows; and from which pool on a student pays.

    python benchmarks/valuation_cost.py                     # table (c) of docs/benchmarks/valuation.md
    python benchmarks/valuation_cost.py --sizes 1M 8M       # the small ones

Random Llamas of four sizes on the device that `auto` chooses. Each is timed in this process after one batch that is not
counted; students are timed on rows of the same kind. Break-even is the pool size n at which teacher x sample + fit +
student x n is less than teacher x n, for a sample of 1,000 rows. Results are kept in runs/valuation_cost
under their configuration.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import time
from itertools import islice
from typing import Any

import numpy as np
import psutil
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from valuation_common import STORIES, chunks, commit, kept, require, table, write_section

from rapidun.cli.console import quiet_libraries
from rapidun.data import Example, Template, tokenize_rows
from rapidun.gradients import RapidGrad
from rapidun.models import choose_device, load_model
from rapidun.valuation import LinFiK, distil

NAME = "valuation_cost"
SIZES = {  # hidden, layers: parameters grow about sixfold
    "1M": (128, 5),
    "8M": (256, 10),
    "50M": (512, 16),
    "300M": (1024, 24),
}
ROWS, CHARACTERS, LENGTH, SAMPLE = 64, 400, 256, 1000
REPEATS = 3


def texts(count: int) -> list[dict[str, str]]:
    return [
        {"id": str(i), "prompt": "", "response": text}
        for i, text in enumerate(islice(chunks("wiki", CHARACTERS), count))
    ]


def examples_of(rows: list[dict[str, str]]) -> list[Example]:
    tokenizer = load_model(STORIES, device="cpu").tokenizer
    return tokenize_rows(rows, tokenizer, Template.resolve("plain", tokenizer), LENGTH)


def teacher_cost(size: str, device: str) -> dict[str, float]:
    """Seconds a row, exact and sketched, and memory."""
    hidden, layers = SIZES[size]
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=512, hidden_size=hidden, intermediate_size=3 * hidden, num_hidden_layers=layers,
                         num_attention_heads=8, num_key_value_heads=8, max_position_embeddings=512)  # fmt: skip
    model = LlamaForCausalLM(config).to(device).eval()
    examples = examples_of(texts(ROWS))
    found: dict[str, float] = {"parameters": float(sum(p.numel() for p in model.parameters()))}
    for title, sketch in (("exact", None), ("K = 2^16", RapidGrad(2**16))):
        teacher = LinFiK(model, sketch, max_tokens=2048).fit(examples[:8], 0)
        teacher.values(examples[:8], 0)
        found[title] = _timed(lambda t=teacher: t.values(examples, 0), device) / len(examples)
    found["memory_mib"] = (
        torch.cuda.max_memory_allocated() if device != "cpu" else psutil.Process().memory_info().rss
    ) / 2**20
    return found


def student_cost(kind: str) -> dict[str, float]:
    """Seconds to fit on a sample, and a row."""
    rows = texts(SAMPLE + ROWS)
    values = np.random.default_rng(0).normal(size=(SAMPLE, 1)).astype(np.float32)
    began = time.process_time()
    options: dict[str, Any] = {"max_length": 128, "device": "cpu"} if kind == "encoder" else {}
    learnt = distil(kind, rows[:SAMPLE], values, np.arange(SAMPLE), options=options, seed=0, progress=lambda d, o: None)
    fit = time.process_time() - began
    learnt.predict(rows[:ROWS])
    return {"fit": fit, "row": _timed(lambda: learnt.predict(rows), "cpu") / len(rows)}


def _timed(call: Any, device: str) -> float:
    """The least of a few: processor seconds on a CPU, seconds on a GPU."""
    found = []
    for _ in range(REPEATS):
        clock = time.process_time if device == "cpu" else time.perf_counter
        began = clock()
        call()
        if device != "cpu":
            torch.cuda.synchronize()
        found.append(clock() - began)
    return min(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    quiet_libraries()
    require(STORIES)
    device = str(choose_device("auto"))
    where = torch.cuda.get_device_name() if device != "cpu" else "one CPU thread"
    students = {kind: kept(NAME, {"student": kind, "sample": SAMPLE}, lambda k=kind: student_cost(k)) for kind in
                ("ridge", "encoder")}  # fmt: skip
    lines = []
    for size in arguments.sizes:
        configuration = {"teacher": size, "where": where, "rows": ROWS, "length": LENGTH}
        found = kept(NAME, configuration, lambda s=size: teacher_cost(s, device))
        cells = [f"{found['parameters'] / 1e6:.1f} M", *(f"{1000 * found[form]:.2f}" for form in ("exact", "K = 2^16"))]
        for one in students.values():
            saved = found["exact"] - one["row"]
            even = (found["exact"] * SAMPLE + one["fit"]) / saved if saved > 0 else float("inf")
            cells += [f"{found['exact'] / one['row']:,.0f}x", f"{even:,.0f}"]
        lines.append([*cells, f"{found['memory_mib']:,.0f}"])
    head = ["model", "teacher, exact: s per 1,000 rows", "teacher, sketched", *(text for kind in students for text in
            (f"exact / {kind}", f"{kind}: break-even, rows")), "memory, MiB"]  # fmt: skip
    rates = ", ".join(f"{kind} {1000 * one['row']:.3f} s per 1,000 rows, fitted in {one['fit']:.1f} s" for kind, one in
                      students.items())  # fmt: skip
    text = [
        "## Cost", "",
        f"`python benchmarks/valuation_cost.py --sizes {' '.join(arguments.sizes)}`, commit {commit()}.",
        f"Teacher on {where}; rows of about {CHARACTERS} characters. Students on one CPU thread: {rates}.", "",
        *table(head, lines),
    ]  # fmt: skip
    write_section("cost", text)


if __name__ == "__main__":
    main()
