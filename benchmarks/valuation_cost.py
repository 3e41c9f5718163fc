"""What a thousand rows cost, teacher against student, as the valued model grows; and from which pool on a student pays.

    python benchmarks/valuation_cost.py                     # table (c) of docs/benchmarks/valuation.md
    python benchmarks/valuation_cost.py --sizes 1M 8M       # the small ones

Random Llamas of four sizes on the device that `auto` chooses: what a row costs does not depend on what the weights say.
Each is timed in a process of its own, whose peak memory is told, on three draws of rows after a batch that is not
counted; students likewise, on rows of the same kind. Break-even is the pool size n at which teacher x sample + fit +
student x n is less than teacher x n, for a sample of 1,000 rows. Results are kept in runs/valuation_cost
under their configuration.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import multiprocessing
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from provenance import current_commit
from transformers import LlamaConfig, LlamaForCausalLM
from valuation_common import STORIES, chunks, interval, kept, require, table, write_section

from rapidun.cli.console import quiet_libraries
from rapidun.data import Example, Template, tokenize_rows
from rapidun.gradients import RapidGrad
from rapidun.models import choose_device, load_model
from rapidun.valuation import LinFiK, distil

NAME = "valuation_cost"
SIZES = {  # hidden, layers, rows timed at a time, so that a draw stays below a minute
    "1M": (128, 5, 64),
    "3M": (192, 7, 8),
    "8M": (256, 10, 4),
    "27M": (384, 14, 1),
}
STUDENTS: dict[str, dict[str, Any]] = {"ridge": {}, "kernel": {}, "encoder": {"max_length": 128, "device": "cpu"}}
CHARACTERS, LENGTH, SAMPLE, SCORED, DRAWS = 400, 256, 1000, 1000, 3
FORMS = ("exact", "K = 2^16")


def texts(count: int) -> list[dict[str, str]]:
    return [
        {"id": str(i), "prompt": "", "response": text}
        for i, text in enumerate(islice(chunks("wiki", CHARACTERS), count))
    ]


def examples_of(rows: list[dict[str, str]]) -> list[Example]:
    tokenizer = load_model(STORIES, device="cpu").tokenizer
    return tokenize_rows(rows, tokenizer, Template.resolve("plain", tokenizer), LENGTH)


def teacher_cost(size: str, device: str) -> dict[str, Any]:
    """Seconds a row of every draw, exact and sketched, and peak memory."""
    hidden, layers, rows = SIZES[size]
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=512, hidden_size=hidden, intermediate_size=3 * hidden, num_hidden_layers=layers,
                         num_attention_heads=8, num_key_value_heads=8, max_position_embeddings=512)  # fmt: skip
    model = LlamaForCausalLM(config).to(device).eval()
    examples = examples_of(texts(rows * (DRAWS + 1)))
    draws = [examples[rows * draw : rows * (draw + 1)] for draw in range(DRAWS + 1)]
    found: dict[str, Any] = {"parameters": float(sum(p.numel() for p in model.parameters()))}
    for title, sketch in zip(FORMS, (None, RapidGrad(2**16)), strict=True):
        teacher = LinFiK(model, sketch, max_tokens=2048).fit(draws[0][:1], 0)
        teacher.values(draws[0][:1], 0)
        found[title] = [_timed(partial(teacher.values, draw, 0), device) / rows for draw in draws[1:]]
    return {**found, "memory_mib": peak_memory(device)}


def student_cost(kind: str) -> dict[str, Any]:
    """Seconds to fit on a sample, seconds a row of every draw, and peak memory."""
    torch.set_num_threads(1)
    rows = texts(SAMPLE + SCORED * DRAWS)
    values = np.random.default_rng(0).normal(size=(SAMPLE, 1)).astype(np.float32)
    began = time.process_time()
    learnt = distil(kind, rows[:SAMPLE], values, np.arange(SAMPLE), options=STUDENTS[kind], seed=0,
                    progress=lambda done, of: None)  # fmt: skip
    fit = time.process_time() - began
    learnt.predict(rows[:64])
    draws = [rows[start : start + SCORED] for start in range(SAMPLE, len(rows), SCORED)]
    seconds = [_timed(partial(learnt.predict, draw), "cpu") / SCORED for draw in draws]
    return {"fit": fit, "row": seconds, "memory_mib": peak_memory("cpu")}


def peak_memory(device: str) -> float:
    """MiB: of the GPU, or of this process."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def alone(compute: Callable[..., Any], *arguments: str) -> Any:
    """``compute(*arguments)`` in a fresh process, so that its peak memory is its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(compute, *arguments).result()


def _timed(call: Callable[[], Any], device: str) -> float:
    """Processor seconds on a CPU, seconds on a GPU."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    began = clock()
    call()
    if device != "cpu":
        torch.cuda.synchronize()
    return clock() - began


def line_of(found: dict[str, Any], students: dict[str, dict[str, Any]]) -> list[str]:
    """A model's line of the table."""
    exact = float(np.mean(found["exact"]))
    cells = [f"{found['parameters'] / 1e6:.1f} M"]
    cells += [interval([1000 * second for second in found[form]], 1, (0, np.inf)) for form in FORMS]
    for one in students.values():
        row = float(np.mean(one["row"]))
        even = (exact * SAMPLE + one["fit"]) / (exact - row) if exact > row else float("inf")
        cells += [f"{exact / row:,.0f}x", f"{even:,.0f}"]
    return [*cells, f"{found['memory_mib']:,.0f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    arguments = parser.parse_args()
    quiet_libraries()
    require(STORIES)
    device = str(choose_device("auto"))
    where = torch.cuda.get_device_name() if device != "cpu" else "one CPU thread"
    shared = {"length": LENGTH, "characters": CHARACTERS, "draws": DRAWS}
    students = {
        kind: kept(NAME, {**shared, "student": kind, "options": STUDENTS[kind], "sample": SAMPLE, "scored": SCORED},
                   partial(alone, student_cost, kind))
        for kind in STUDENTS
    }  # fmt: skip
    teachers = [
        kept(NAME, {**shared, "teacher": SIZES[size], "where": where}, partial(alone, teacher_cost, size, device))
        for size in arguments.sizes
    ]
    head = ["model", "teacher, exact: s per 1,000 rows", "teacher, K = 2^16", *(text for kind in students for text in
            (f"exact / {kind}", f"{kind}: break-even, rows")), "teacher's peak memory, MiB"]  # fmt: skip
    text = [
        "## Cost", "",
        f"`python benchmarks/valuation_cost.py`, commit {current_commit()}.",
        f"Teacher: LinFiK of random Llamas on {where},",
        f"rows of about {CHARACTERS} characters (at most {LENGTH} tokens). Seconds are processor seconds; mean and",
        f"95% t interval over {DRAWS} draws of rows; of the larger models a draw has few rows",
        f"({', '.join(f'{SIZES[size][2]} at {size}' for size in arguments.sizes)}). Break-even: the pool from which on",
        f"a teacher sample of {SAMPLE:,} rows, the fit and the student cost less than the teacher alone.", "",
        *table(head, [line_of(found, students) for found in teachers]),
        *table(["student", "s per 1,000 rows", f"s to fit to {SAMPLE:,} rows", "peak memory, MiB"], [
            [kind, interval([1000 * second for second in one["row"]], 3, (0, np.inf)), f"{one['fit']:.1f}",
             f"{one['memory_mib']:,.0f}"] for kind, one in students.items()]),
    ]  # fmt: skip
    write_section("cost", text)


if __name__ == "__main__":
    main()
