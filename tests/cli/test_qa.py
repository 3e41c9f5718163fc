"""``evaluate --suite qa`` at the terminal: what is printed, and what is said of options that do not fit together."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq

from cli.conftest import Rapidun
from tiny import write_rows

QA = "evaluate --model model --suite qa --forget f.jsonl --retain r.jsonl --data h.jsonl --template plain --out o"


def test_the_tables_fit_a_terminal_and_say_what_each_number_means(rapidun: Rapidun, house: Path) -> None:
    for kind, name in {"forget": "f", "retain": "r", "evaluation": "h"}.items():
        rows = [
            {"prompt": f"{kind} {i}?", "response": f"the cat {i}", "response_wrong": ["a dog", f"the mat {i}"]}
            for i in range(5)
        ]
        write_rows(house / f"{name}.jsonl", rows)
    done = rapidun(*QA.split(), cwd=house, environment={"COLUMNS": "80"})
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
    for said in (
        "forget, n=5", "held-out, n=5", "compared with: look-alikes, not a retained model",
        "extraction strength: how much of the answer's end comes by itself", "0.5: not at all",
        "truth score: 1: only the right answer is likely", "forget quality", "0: nothing left, 1: all",
    ):  # fmt: skip
        assert said in done.stdout, said
    assert "reworded" not in done.stdout  # no row has a question in other words
    assert pq.read_table(house / "o" / "rows.parquet").num_rows == 15
    again = rapidun(*QA.split(), "--retained-model", "model", "--overwrite", "--json", cwd=house)
    found = json.loads(again.stdout)
    assert found["yardstick"] == "retained model"
    assert found["values"]["forget_quality"]["value"] == 1.0  # the model is its own retained one


def test_options_that_do_not_fit_together_are_said_before_anything_is_read(rapidun: Rapidun, tmp_path: Path) -> None:
    given = ["evaluate", "--model", "m", "--data", "d", "--forget", "f", "--out", "o"]
    done = rapidun(*given, "--suite", "qa", cwd=tmp_path)
    assert done.returncode == 2
    assert "suite qa needs --retain rows, beside the held-out rows of --data" in " ".join(done.stderr.split())
    done = rapidun(*given, "--suite", "perplexity", cwd=tmp_path)
    assert done.returncode == 2
    assert "suite perplexity does not read --forget (read by: qa, tofu); choose by --suite" in " ".join(
        done.stderr.split()
    )
