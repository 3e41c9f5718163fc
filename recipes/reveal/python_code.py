"""Task d: code ability removed, arithmetic kept, without any of the functions that taught it.

    RAPIDUN_DATA=../shared/data python recipes/reveal/python_code_model.py       # the model, once
    python recipes/reveal/python_code.py --seeds 0 1 2 --write docs/benchmarks/reveal.md

Measured on tasks from MBPP and sums that neither the search nor the release was given. Every part is kept under --out:
a stopped run goes on. Settings were chosen with seed 100 on guesses and validation sums.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common import Found, changed, place_of, table, take_over_pulls, write_table
from python_code_rows import REFUSAL

from rapidun.cli.console import ConsoleReporter, quiet_libraries
from rapidun.data import load_rows
from rapidun.evaluation import generate_answers, make_judge
from rapidun.files import read_json, write_json, write_jsonl
from rapidun.models import adapter_merged, load_adapter
from rapidun.pipeline import RevealConfig, RunConfig, make_config, read_task, reveal, unlearn_only
from rapidun.pipeline.inputs import Subject, open_subject
from rapidun.pipeline.revealing.rounds import state_adapter
from rapidun.reveal import train_round

TASK = Path(__file__).parent / "python_code.yaml"
PLACE = Path("build/reveal_code")
TRUE_ROWS = 120
MODULES = {
    "release.method": "modules",
    "release.steps": 40,
    "release.batch_size": 8,
    "release.learning_rate": 2e-3,
    "release.lora": {"rank": 8, "alpha": 16, "dropout": 0.0},
    "release.forget_scale": 1.0,
    "release.retain_scale": 0.5,
}
VARIANTS: dict[str, dict[str, Any] | None] = {
    "before": None,
    "true rows, rapidun": None,
    "iterative": {},
    "one-shot": {},  # the iterative run after its first round
    "random arms, one-shot": {"search.strategy": "random", "release.rounds": 1},
    "seed instruction, one-shot": {"search.strategy": "seed", "release.rounds": 1},
    "true rows, modules": None,
    "modules, iterative": MODULES,
    "modules, one-shot": MODULES,
}
SAME_PULLS = {"modules, iterative": "iterative"}
FIRST_ROUND_OF = {"one-shot": "iterative", "modules, one-shot": "modules, iterative"}


def model_settings() -> dict[str, Any]:
    """The fine-tuned model."""
    if not (PLACE / "model" / "config.json").exists():
        raise SystemExit(f"{PLACE}/model is not there: run recipes/reveal/python_code_model.py first.")
    return {"source": str(PLACE / "model"), "dtype": "bfloat16"}


def reveal_config(name: str, seed: int, more: Mapping[str, Any]) -> RevealConfig:
    """A variant of the task file."""
    task = changed(read_task(TASK), {**(VARIANTS[name] or {}), **more})
    return make_config(
        {"model": model_settings(), "data": {"max_length": 192}, "task": task, "seed": seed}, RevealConfig
    )


def adapter_of(name: str, seed: int, out: Path, reporter: ConsoleReporter) -> Path | None:
    """The adapter of a variant, trained if it is not there; None where nothing changed."""
    if name == "before":
        return None
    if name in FIRST_ROUND_OF:
        adapter_of(FIRST_ROUND_OF[name], seed, out, reporter)
        return state_adapter(place_of(FIRST_ROUND_OF[name], seed, out), 1)
    place = place_of(name, seed, out)
    if name.startswith("true rows"):
        return of_true_rows(name, seed, place, reporter)
    if not (place / "reveal.json").exists():
        config = reveal_config(name, seed, {})
        if name in SAME_PULLS:
            take_over_pulls(config, place_of(SAME_PULLS[name], seed, out), place)
        result = reveal(config, place, resume=place.exists(), reporter=reporter)
        print(f"{name}, seed {seed}: {result.summary['stopped']}", flush=True)
    return state_adapter(place, len(read_json(place / "reveal.json")["rounds"]))


def of_true_rows(name: str, seed: int, place: Path, reporter: ConsoleReporter) -> Path:
    """The upper lines: rows that taught the model to write code, in place of revealed ones."""
    if (place / "adapter").is_dir():
        return place / "adapter"
    forget = [{**row, "response_clean": REFUSAL} for row in load_rows(PLACE / "rows" / "code_train.jsonl")][:TRUE_ROWS]
    config = reveal_config("modules, one-shot" if name.endswith("modules") else "iterative", seed, {})
    release = config.task.release
    if name.endswith("modules"):
        subject = open_subject(config.model, config.data, reporter)
        rows = (subject.tokenize(load_rows(PLACE / "rows" / "sums_retain.jsonl")), subject.tokenize(forget))
        train_round(subject.loaded, None, *rows, release, place, seed=1000 * seed + 1, progress=reporter.progress)
        return place / "adapter"
    file = place.parent / "true_rows.jsonl"
    write_jsonl(file, forget)
    raw = {
        "model": model_settings(),
        "data": {"forget": str(file), "retain": str(PLACE / "rows" / "sums_retain.jsonl"), "max_length": 192},
        "unlearning": {**release.unlearning, "method": release.method},
        "weights": release.weights,
        "lora": release.lora.model_dump(mode="json"),
        "seed": seed,
    }
    unlearn_only(
        make_config(raw, RunConfig), place, weights=None, resume=place.exists(), overwrite=False, reporter=reporter
    )
    return place / "adapter"


def measured(name: str, seed: int, adapter: Path | None, subject: Subject, out: Path) -> dict[str, float]:
    """Code and arithmetic on rows that nobody was given."""
    file = out / "measured" / f"{place_of(name, seed, out).name}.json"
    if file.exists():
        return dict(read_json(file))
    if adapter is None:
        found = abilities(subject, file.with_suffix(".samples.jsonl"))
    else:
        model = load_adapter(subject.loaded.model, adapter)
        try:
            with adapter_merged(model):
                found = abilities(subject.with_model(model), file.with_suffix(".samples.jsonl"))
        finally:
            model.unload()
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, found)
    return found


def abilities(subject: Subject, samples: Path) -> dict[str, float]:
    """Share of answers to MBPP tasks that parse as Python, share of code lines, share of sums that are right."""
    found, lines = {}, []
    jobs = (
        ("code_test", {"code parses": ("code", {}), "code lines": ("code", {"measure": "lines"})}, 96),
        ("sums_test", {"arithmetic": ("exact-number", {})}, 16),
    )
    for split, judges, longest in jobs:
        rows = list(load_rows(PLACE / "rows" / f"{split}.jsonl"))
        prompts = [subject.template.prompt_text(row) for row in rows]
        answers = generate_answers(subject.loaded, prompts, max_new_tokens=longest, batch_size=128)
        for name, (kind, options) in judges.items():
            found[name] = float(make_judge(kind, options)(answers, [row["response"] for row in rows]).mean())
        lines += [{"prompt": row["prompt"], "answer": answer} for row, answer in zip(rows, answers, strict=True)]
    samples.parent.mkdir(parents=True, exist_ok=True)
    write_jsonl(samples, lines)
    return found


def main() -> None:
    """Run the chosen variants and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--out", type=Path, default=Path("runs/reveal_code"))
    parser.add_argument("--write", type=Path, help="put the table into this page, between its markers")
    options = parser.parse_args()
    quiet_libraries()
    found: dict[str, dict[str, dict[str, float]]] = {}
    with ConsoleReporter() as reporter:
        config = reveal_config("iterative", 0, {})
        subject = open_subject(config.model, config.data, reporter)
        for name in [name for name in VARIANTS if name == "before" or name in options.only]:
            for seed in options.seeds[:1] if name == "before" else options.seeds:
                began = time.process_time()
                adapter = adapter_of(name, seed, options.out, reporter)
                values = measured(name, seed, adapter, subject, options.out)
                found.setdefault(name, {})[str(seed)] = values
                print(f"{name}, seed {seed}: {values} ({time.process_time() - began:.0f} processor s)", flush=True)
                write_json(options.out / "table.json", found)
    text = shown_table(found)
    print(text)
    if options.write is not None:
        write_table(options.write, "python_code", text)


def shown_table(found: Found) -> str:
    """The abilities of every variant."""
    names = ("code parses", "code lines", "arithmetic")
    return table(found, {name: (lambda row, name=name: row[name]) for name in names})


if __name__ == "__main__":
    main()
