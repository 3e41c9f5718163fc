"""Collecting and storing factored gradients, against bergson 2.5 in its own environment: processor seconds, one thread.

    python benchmarks/bergson_speed.py [--bergson /tmp/bergson/bin/python] [--repeats 15] [--only SmolLM2-135M]

writes docs/benchmarks/bergson.json and the last section of docs/benchmarks/gradients.md. Both sides load the same
model (float32; SmolLM2-135M-Instruct of `make smollm2` in bfloat16), take the same rows in batches of 2,048 padded
tokens (rapidun's are smaller where memory asks for it), project every linear layer of the decoder to
16 x 16 values and write them as float32: the same bytes. One process each, started once; the runs alternate.
bergson's seconds are of `collect_gradients` up to its stored gradients; what it then saves beside them (a copy of the
data set) is left out of "collecting" and shown apart. With RapidGrad rapidun keeps 65,536 values a row instead.

bergson's environment: python3 -m venv /tmp/bergson; pip install torch==2.13.0; pip install --no-deps bergson torchopt
accelerate peft bitsandbytes; then numpy scipy pyarrow datasets natsort petname simple-parsing jaxtyping ml_dtypes
transformers psutil optree.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from provenance import current_commit

from rapidun.stats import bootstrap

SECTION = "## Against bergson"
NOTES = (
    "Both collect 16 x 16 values of every linear layer of the decoder; rapidun writes float32, bergson the model's",
    "dtype. bergson's copy of the data set, which it saves afterwards, is not counted (`saving` in `bergson.json`).",
    "The plain pass gives the same layers' summed weight gradients and stores nothing.",
)
ASSETS = Path(__file__).parents[1] / "src/rapidun/demo/assets"
P = 16  # FactoredSketch's default
MAX_TOKENS = 2048


def precision(work: Path) -> torch.dtype:
    """The dtype that both sides load the model in."""
    return getattr(torch, (work / "dtype").read_text())


def load(work: Path) -> tuple[torch.nn.Module, list[object]]:
    """The model and the rows, for rapidun."""
    from transformers import AutoModelForCausalLM

    from rapidun.data import Example

    rows = [json.loads(line) for line in (work / "rows.jsonl").read_text().splitlines()]
    starts = [sum(label == -100 for label in row["labels"]) for row in rows]
    examples = [Example(str(i), rows[i]["input_ids"], start) for i, start in enumerate(starts)]
    return AutoModelForCausalLM.from_pretrained(work / "model", dtype=precision(work)).eval(), examples


def rapidun_worker(work: Path, sketch: str, normalize: str) -> None:
    """One collection a line of input; prints its processor seconds and the bytes stored."""
    from rapidun.gradients import GradientCollector, collect_vectors, sketch_from

    model, examples = load(work)
    collector, made = GradientCollector(model, "linear", normalize=normalize), sketch_from({"kind": sketch})

    def job() -> dict[str, float]:
        began = time.process_time()
        vectors = collect_vectors(collector, made, examples, 0, max_tokens=MAX_TOKENS)
        vectors.tofile(work / f"{sketch}-{normalize}.bin")
        return {"seconds": time.process_time() - began, "bytes": vectors.nbytes}

    answer(job)


def plain_worker(work: Path) -> None:
    """A forward and a backward pass that gives the same layers' summed weight gradients, and stores nothing."""
    from rapidun.data import collate
    from rapidun.gradients import GradientCollector
    from rapidun.models.losses import answer_logits, mean_answer_loss
    from rapidun.models.passes import pass_batches

    model, examples = load(work)
    tracked = set(GradientCollector(model, "linear").tracked)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in tracked)

    def job() -> dict[str, float]:
        began = time.process_time()
        for indices in pass_batches(model, examples, MAX_TOKENS):
            batch = collate([examples[index] for index in indices], 0)
            logits, labels = answer_logits(model, batch.input_ids, batch.attention_mask, batch.labels)
            mean_answer_loss(logits, labels).sum().backward()
            model.zero_grad(set_to_none=True)
        return {"seconds": time.process_time() - began, "bytes": 0}

    answer(job)


def bergson_worker(work: Path) -> None:
    """The same by bergson's own calls: what its `build` does after loading."""
    from bergson.collection import collect_gradients
    from bergson.collector.gradient_collectors import GradientCollector
    from bergson.config.config import DataConfig, IndexConfig
    from bergson.data import allocate_batches
    from bergson.utils.worker_utils import create_processor, setup_model_and_peft
    from datasets import Dataset

    cfg = IndexConfig(
        run_path=str(work / "bergson"),
        model=str(work / "model"),
        precision="bf16" if precision(work) == torch.bfloat16 else "fp32",
        loss_reduction="mean",
        token_batch_size=MAX_TOKENS,
        data=DataConfig(dataset=str(work / "rows.jsonl")),
        projection_dim=P,
        overwrite=True,
    )
    rows = [json.loads(line) for line in (work / "rows.jsonl").read_text().splitlines()]
    data = Dataset.from_list([{**row, "length": len(row["input_ids"])} for row in rows])
    model, targets = setup_model_and_peft(cfg)
    saving = {"seconds": 0.0}
    teardown = GradientCollector.teardown

    def timed_teardown(self: GradientCollector) -> None:
        began = time.process_time()
        teardown(self)
        saving["seconds"] = time.process_time() - began

    GradientCollector.teardown = timed_teardown

    def job() -> dict[str, float]:
        shutil.rmtree(cfg.partial_run_path, ignore_errors=True)
        cfg.partial_run_path.mkdir(parents=True)
        processor = create_processor(model, cfg, targets)
        batches = allocate_batches(data["length"][:], cfg.token_batch_size)
        began = time.process_time()
        collect_gradients(model, data, processor, cfg, batches=batches, target_modules=targets)
        seconds = time.process_time() - began
        size = sum(path.stat().st_size for path in cfg.partial_run_path.glob("*gradients*.bin"))
        return {"seconds": seconds - saving["seconds"], "bytes": size, "saving": saving["seconds"]}

    answer(job)


WORKERS = {
    "plain": plain_worker,
    "rapidun": partial(rapidun_worker, sketch="factored", normalize="none"),
    "rapidun-layer": partial(rapidun_worker, sketch="factored", normalize="layer"),
    "rapidgrad-layer": partial(rapidun_worker, sketch="rapidgrad", normalize="layer"),
    "bergson": bergson_worker,
}


def answer(job: Callable[[], dict[str, float]]) -> None:
    """Run the job once to warm up, then once for every line that is read."""
    torch.set_num_threads(1)
    job()
    print("ready", flush=True)
    for _ in sys.stdin:
        print(json.dumps(job()), flush=True)


def start(python: str, worker: str, work: Path) -> subprocess.Popen[str]:
    with (work / f"{worker}.log").open("w") as log:
        process = subprocess.Popen(
            [python, str(Path(__file__).resolve()), "--worker", worker, "--work", str(work)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    while (line := process.stdout.readline()) != "ready\n":
        if not line:
            raise SystemExit(f"{worker} did not start:\n{(work / f'{worker}.log').read_text()[-3000:]}")
    return process


def ask(process: subprocess.Popen[str]) -> dict[str, float]:
    process.stdin.write("go\n")
    process.stdin.flush()
    while not (line := process.stdout.readline()).startswith("{"):
        if not line:
            raise SystemExit("a worker ended early")
    return json.loads(line)


def compare(work: Path, bergson: str, repeats: int) -> dict[str, list[dict[str, float]]]:
    """Alternating runs of every worker."""
    pythons = {name: bergson if name == "bergson" else sys.executable for name in WORKERS}
    workers = {name: start(python, name, work) for name, python in pythons.items()}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in workers}
    try:
        for _ in range(repeats):
            for name, process in workers.items():
                found[name].append(ask(process))
    finally:
        for process in workers.values():
            process.stdin.close()
            process.wait()
    return found


def tiny_llama(work: Path) -> int:
    """2 layers, hidden 64, vocabulary 512; 256 random rows of 32 tokens, all of them predicted."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "llama",
        vocab_size=512,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(work / "model")
    (work / "dtype").write_text("float32")
    rows = torch.randint(3, 512, (256, 32), generator=torch.Generator().manual_seed(1)).tolist()
    return write_rows(work, [{"input_ids": row, "labels": [-100, *row[1:]]} for row in rows])


def demo_model(work: Path) -> int:
    """The demo's poisoned model and the 128 first of its retain rows."""
    return own_rows(work, ASSETS / "poisoned", "float32", 128)


def chat_model(work: Path) -> int:
    """SmolLM2-135M-Instruct in bfloat16 and 32 of the demo's retain rows by its own template."""
    return own_rows(work, Path(os.environ.get("SMOL", "build/smollm2")), "bfloat16", 32)


def own_rows(work: Path, source: Path, dtype: str, count: int) -> int:
    from rapidun.data import Template, load_rows, tokenize_rows
    from rapidun.models import load_model

    loaded = load_model(source, device="cpu", dtype=dtype)
    template = Template.resolve("auto", loaded.tokenizer)
    examples = tokenize_rows(load_rows(ASSETS / "data" / "retain.jsonl"), loaded.tokenizer, template, 256)[:count]
    loaded.model.save_pretrained(work / "model")
    (work / "dtype").write_text(dtype)
    rows = [
        {"input_ids": e.input_ids, "labels": [-100] * e.answer_start + e.input_ids[e.answer_start :]} for e in examples
    ]
    return write_rows(work, rows)


def write_rows(work: Path, rows: list[dict[str, list[int]]]) -> int:
    (work / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return sum(len(row["input_ids"]) for row in rows)


def interval(values: np.ndarray) -> tuple[float, float]:
    """95% bootstrap interval of the median over repetitions."""
    found = bootstrap(np.median, values, unit="repetitions")
    return found.low, found.high


def lines(setting: str, tokens: int, found: dict[str, list[dict[str, float]]]) -> list[str]:
    names = {
        "plain": "plain forward+backward, weight gradients",
        "bergson": "bergson 2.5, collecting",
        "rapidun": "rapidun, `normalize=none` (as bergson)",
        "rapidun-layer": "rapidun, `normalize=layer`",
        "rapidgrad-layer": "rapidun, RapidGrad(65,536), `normalize=layer`",
    }
    seconds = {name: np.array([run["seconds"] for run in runs]) for name, runs in found.items()}
    rows = []
    for name, text in names.items():
        if name not in seconds:  # a setting measured before this sketch was
            continue
        low, high = interval(seconds[name])
        ratio = seconds["bergson"] / seconds[name]
        low_ratio, high_ratio = interval(ratio)
        over_plain = np.median(seconds[name] / seconds["plain"])
        size = int(found[name][0]["bytes"])
        rows.append(
            f"| {setting} | {text} | {np.median(seconds[name]):.3f} ({low:.3f} to {high:.3f}) | "
            f"{tokens / np.median(seconds[name]):,.0f} | {size:,} | {over_plain:.2f} | "
            f"{np.median(ratio):.2f} ({low_ratio:.2f} to {high_ratio:.2f}) |"
        )
    return rows


def write_section(results: dict[str, dict[str, object]]) -> None:
    """Replace the last section of the page on gradients."""
    page = Path("docs/benchmarks/gradients.md")
    before = page.read_text(encoding="utf-8").partition(SECTION)[0].rstrip()
    made = {name: f"{name}: commit {run['commit']}, {run['repeats']} repeats" for name, run in results.items()}
    text = [
        f"{SECTION} 2.5 (bar 1.2)",
        "",
        "`python benchmarks/bergson_speed.py`; one thread, processor seconds, the runs in turn.",
        f"{'; '.join(made.values())}.",
        "",
        "| setting | who | processor s, median (95%) | tokens/s | bytes stored | against plain | bergson / this |",
        "|---|---|---|---|---|---|---|",
        *[line for name, run in results.items() for line in lines(name, run["tokens"], run["runs"])],
        "",
        *NOTES,
    ]
    page.write_text("\n".join([before, "", *text]) + "\n", encoding="utf-8")
    print("\n".join(text))


SETTINGS = {"tiny Llama, 256 x 32": tiny_llama, "demo model, 128 rows": demo_model, "SmolLM2-135M": chat_model}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bergson", default="/tmp/bergson/bin/python")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--only", action="append", choices=SETTINGS, help="one setting; the others' results are kept")
    parser.add_argument("--worker")
    parser.add_argument("--work", type=Path)
    options = parser.parse_args()
    if options.worker:
        WORKERS[options.worker](options.work)
        return
    if not Path(options.bergson).exists():
        raise SystemExit(f"{options.bergson}: no such Python. Install bergson as this file's docstring says.")
    commit = current_commit()
    page = Path("docs/benchmarks/bergson.json")
    results = json.loads(page.read_text()) if page.exists() else {}
    for setting in options.only or SETTINGS:
        with tempfile.TemporaryDirectory() as directory:
            tokens = SETTINGS[setting](Path(directory))
            found = compare(Path(directory), options.bergson, options.repeats)
        results[setting] = {"commit": commit, "repeats": options.repeats, "tokens": tokens, "runs": found}
        page.write_text(json.dumps(results, indent=1) + "\n")
        write_section(results)


if __name__ == "__main__":
    main()
