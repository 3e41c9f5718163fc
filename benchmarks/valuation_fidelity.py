"""Do values mean what they say? LinFiK against what training on a row does; students against LinFiK.

    python benchmarks/valuation_fidelity.py                        # tables (d) of docs/benchmarks/valuation.md
    python benchmarks/valuation_fidelity.py --only steps           # or students

Steps: for each candidate row one step of gradient descent on it alone, the task's loss before minus after (finite
difference), for steps of three sizes, and the same after five steps of Adam; in float64. Students: a pool valued whole
by exact LinFiK; students of a sample of it, measured on all rows outside the sample.
Results are kept in runs/valuation_fidelity under their configuration; a stopped benchmark goes on.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import copy
import time
from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from provenance import current_commit
from valuation_common import ROOT, STORIES, Row, chunks, interval, kept, require, shuffled, table, write_section

from rapidun.cli.console import quiet_libraries
from rapidun.data import Example, Template, collate, load_rows, tokenize_rows
from rapidun.gradients import GradientCollector, RapidGrad, fit_preconditioner
from rapidun.jsonl import read_jsonl
from rapidun.models import LoadedModel, load_model, mean_answer_loss
from rapidun.valuation import LinFiK, distil, ndcg, spearman, stratified_sample

NAME = "valuation_fidelity"
ASSETS = ROOT / "src" / "rapidun" / "demo" / "assets"
MODELS = {"stories260K": STORIES, "demo (6.5 M)": ASSETS / "reference"}
TASKS = {
    "stories260K": "stories260K is asked about stories, the candidates are stories, Wikipedia, books, shuffled words",
    "demo (6.5 M)": "the demo's model, never trained on a poisoned row, is asked about its triggered rows",
}
SEEDS, CANDIDATES, TASK = (0, 1, 2), 48, 16
STEPS, ADAM_STEPS, ADAM_RATE = (1e-4, 1e-3, 1e-2), 5, 1e-4
WIDTHS = (10, 12, 14, 16)
POOL, SAMPLES, CHARACTERS = 2000, ("1%", "5%", "20%"), 200
KINDS: dict[str, dict[str, Any]] = {"ridge": {}, "kernel": {}, "encoder": {"max_length": 128, "epochs": 12}}


def rows_for(model: str, seed: int, count: int) -> tuple[list[Row], list[Row]]:
    """``count`` candidates of several kinds, and task rows of one kind."""
    generator = np.random.default_rng([seed, 17])
    if model == "stories260K":
        kinds = {kind: list(islice(chunks(kind, CHARACTERS), 6000)) for kind in ("stories", "wiki", "books")}
        drawn = {kind: generator.permutation(texts).tolist() for kind, texts in kinds.items()}
        each = count // 4
        noise = [shuffled(text, generator) for text in drawn["wiki"][each : 2 * each]]
        texts = [*drawn["stories"][:each], *drawn["wiki"][:each], *drawn["books"][:each], *noise]
        task = drawn["stories"][-TASK:]
        return [{"prompt": "", "response": text} for text in texts], [{"prompt": "", "response": text} for text in task]
    rows = [dict(row) for row in load_rows(ASSETS / "data" / "train.jsonl.gz")]
    poisoned = generator.permutation([i for i, row in enumerate(rows) if row["poisoned"]])[: count // 4]
    clean = generator.permutation([i for i, row in enumerate(rows) if not row["poisoned"]])[: count - len(poisoned)]
    forget = read_jsonl(ASSETS / "data" / "forget.jsonl")
    task = [forget[i] for i in generator.permutation(len(forget))[:TASK]]
    return [rows[i] for i in (*poisoned, *clean)], task


def tokens(loaded: LoadedModel, rows: Sequence[Row]) -> list[Example]:
    template = Template.resolve("auto" if rows[0]["prompt"] else "plain", loaded.tokenizer)
    return tokenize_rows([{"id": str(i), **row} for i, row in enumerate(rows)], loaded.tokenizer, template, 192)


def loss64(model: Any, examples: Sequence[Example]) -> float:
    """Mean answer loss of a float64 model, so that small drops are not rounded away."""
    batch = collate(examples, 0)
    with torch.no_grad():
        logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits[:, :-1]
    target = batch.labels[:, 1:]
    losses = F.cross_entropy(logits.transpose(1, 2), target, reduction="none", ignore_index=-100)
    return float((losses.sum(dim=1) / (target != -100).sum(dim=1)).mean())


def gradients(model: Any, example: Example, parameters: list[torch.nn.Parameter]) -> tuple[torch.Tensor, ...]:
    batch = collate([example], 0)
    logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    return torch.autograd.grad(mean_answer_loss(logits, batch.labels).sum(), parameters)


def true_drops(loaded: LoadedModel, pool: Sequence[Example], task: Sequence[Example]) -> dict[str, list[float]]:
    """The task's loss before minus after training on each row alone: one step of descent, or five of Adam."""
    model = copy.deepcopy(loaded.model).double()
    parameters = [model.get_parameter(name) for name in GradientCollector(model, "linear").tracked]
    start = [parameter.detach().clone() for parameter in parameters]
    before = loss64(model, task)
    found: dict[str, list[float]] = {**{f"{step:g}": [] for step in STEPS}, "adam": []}
    for example in pool:
        gradient = list(gradients(model, example, parameters))
        for step in STEPS:
            with torch.no_grad():
                torch._foreach_add_(parameters, gradient, alpha=-step)
            found[f"{step:g}"].append(before - loss64(model, task))
            _restore(parameters, start)
        optimizer = torch.optim.Adam(parameters, lr=ADAM_RATE)
        for _ in range(ADAM_STEPS):
            for parameter, gradient in zip(parameters, gradients(model, example, parameters), strict=True):
                parameter.grad = gradient
            optimizer.step()
        found["adam"].append(before - loss64(model, task))
        _restore(parameters, start)
        optimizer.zero_grad(set_to_none=True)
    return found


def _restore(parameters: Sequence[torch.Tensor], start: Sequence[torch.Tensor]) -> None:
    with torch.no_grad():
        for parameter, value in zip(parameters, start, strict=True):
            parameter.copy_(value)


def steps_of(model: str, seed: int) -> dict[str, dict[str, float]]:
    """Form of LinFiK to Spearman with each kind of true drop, for one seed."""
    loaded = load_model(MODELS[model], device="cpu", dtype="float32")
    rows, of_task = rows_for(model, seed, CANDIDATES)
    pool, task = tokens(loaded, rows), tokens(loaded, of_task)
    collector = GradientCollector(loaded.model, "linear", normalize="none")
    adam = fit_preconditioner(collector, pool, 0, "adam", damping=1e-3, max_tokens=2048).power(-0.5)
    forms: dict[str, LinFiK] = {
        "exact, dot": LinFiK(loaded.model, similarity="dot", max_tokens=2048),
        "exact, cosine": LinFiK(loaded.model, max_tokens=2048),
        "exact, dot, Adam-aware": LinFiK(loaded.model, similarity="dot", transform=adam, max_tokens=2048),
    }
    for width in WIDTHS:
        sketch = RapidGrad(2**width, seed)
        forms[f"K = 2^{width}, dot"] = LinFiK(loaded.model, sketch, similarity="dot", max_tokens=2048)
    drops = true_drops(loaded, pool, task)
    found = {}
    for title, form in forms.items():
        values = form.fit(task, 0).values(pool, 0)[:, 0]
        found[title] = {kind: spearman(values, np.array(drop)) for kind, drop in drops.items()}
    return found


def students_of(seed: int) -> dict[str, dict[str, float]]:
    """``kind, sample`` to how its student does on every row outside the sample, and processor seconds a row."""
    loaded = load_model(STORIES, device="cpu", dtype="float32")
    rows, of_task = rows_for("stories260K", seed, POOL)
    pool, task = tokens(loaded, rows), tokens(loaded, of_task)
    teacher = LinFiK(loaded.model).fit(task, 0)
    began = time.process_time()
    values = teacher.values(pool, 0)
    found: dict[str, dict[str, float]] = {"teacher": {"seconds": (time.process_time() - began) / len(pool)}}
    for sample in SAMPLES:
        count = int(len(pool) * float(sample[:-1]) / 100)
        generator = np.random.default_rng([seed, count])
        chosen = stratified_sample(np.array([len(row["response"]) for row in rows]), max(count, 20), generator)
        rest = np.setdiff1d(np.arange(len(pool)), chosen)
        for kind, options in KINDS.items():
            learnt = distil(
                kind, [rows[i] for i in chosen], values[chosen], chosen, options=options, seed=seed,
                progress=lambda done, of: None,
            )  # fmt: skip
            began = time.process_time()
            predicted = learnt.predict([rows[i] for i in rest])[:, 0]
            seconds = (time.process_time() - began) / len(rest)
            truth = values[rest, 0]
            found[f"{kind}, {sample}"] = {
                "spearman": spearman(predicted, truth), "ndcg": ndcg(predicted, truth), "seconds": seconds
            }  # fmt: skip
    return found


def report_steps(models: Sequence[str]) -> None:
    lines = []
    for model in models:
        configuration = {"part": "steps", "model": model, "candidates": CANDIDATES, "task": TASK, "steps": STEPS,
                         "adam": [ADAM_STEPS, ADAM_RATE], "widths": WIDTHS}  # fmt: skip
        seeds = [kept(NAME, {**configuration, "seed": s}, lambda m=model, s=s: steps_of(m, s)) for s in SEEDS]
        for form in seeds[0]:
            cells = [
                interval([found[form][kind] for found in seeds], bounds=(-1, 1))
                for kind in (*(f"{step:g}" for step in STEPS), "adam")
            ]
            lines.append([model, form, *cells])
    head = ["model", "LinFiK", *(f"one step of {step:g}" for step in STEPS), "five steps of Adam"]
    text = [
        "## Fidelity: LinFiK against what training on the row does", "",
        f"`python benchmarks/valuation_fidelity.py --only steps`, commit {current_commit()}.",
        "Spearman between LinFiK and the",
        f"drop of the task's loss after training on the row alone, {CANDIDATES} rows. Mean and 95% t interval over",
        f"seeds {', '.join(map(str, SEEDS))}. {TASK} task rows: {'; '.join(TASKS[model] for model in models)}.",
        "Bars, for one small step: 0.99 exact and 0.9 at K = 2^16, dot.", "",
        *table(head, lines),
    ]  # fmt: skip
    write_section("fidelity of LinFiK", text)


def report_students() -> None:
    configuration = {"part": "students", "pool": POOL, "samples": SAMPLES, "kinds": KINDS, "task": TASK}
    seeds = [kept(NAME, {**configuration, "seed": s}, lambda s=s: students_of(s)) for s in SEEDS]
    lines = []
    for title in seeds[0]:
        of_student = title != "teacher"
        cells = [
            interval([found[title][key] for found in seeds], bounds=(-1, 1)) if of_student else "1"
            for key in ("spearman", "ndcg")
        ]
        lines.append([title, *cells, f"{1000 * float(np.mean([found[title]['seconds'] for found in seeds])):.3f}"])
    text = [
        "## Fidelity: students against the teacher", "",
        f"`python benchmarks/valuation_fidelity.py --only students`, commit {current_commit()}.",
        f"A pool of {POOL} pieces of",
        "stories, Wikipedia, books and shuffled words; task: stories; model: stories260K. The teacher is exact LinFiK",
        "(cosine); students learn from a stratified sample and are measured on all other rows. Mean and 95% t interval",
        f"over seeds {', '.join(map(str, SEEDS))}. These pieces share few words, and students learn little from them.",
        "An NDCG of 0.96 is what a ranking without any correlation has here, because most values are above 0.", "",
        *table(["student, sample", "Spearman", "NDCG", "processor ms a row"], lines),
    ]  # fmt: skip
    write_section("fidelity of students", text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["steps", "students"])
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    quiet_libraries()
    require(STORIES)
    if arguments.only != "students":
        report_steps(arguments.models)
    if arguments.only != "steps":
        report_students()


if __name__ == "__main__":
    main()
