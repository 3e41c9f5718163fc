"""The example with one's own rows, as its README tells it, on a real pretrained model."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from command_line import rapidun
from rapidun.reading import read_json

ROOT = Path(__file__).parents[2]
MODEL = Path(os.environ.get("RAPIDUN_DATA", ROOT.parent / "shared" / "data")) / "models" / "stories260K"
EXAMPLE = ROOT / "examples" / "own_data"
needs_model = pytest.mark.skipif(not MODEL.is_dir(), reason=f"no model at {MODEL}: set RAPIDUN_DATA")


@needs_model
def test_the_example_run_passes_its_gate_and_writes_a_report(tmp_path: Path) -> None:
    override = ("--set", f"model.source={MODEL.resolve()}")
    done = rapidun("run", EXAMPLE / "run.yaml", "--out", tmp_path / "run", *override)
    assert done.returncode == 0, done.stdout + done.stderr
    metrics = read_json(tmp_path / "run" / "metrics.json")
    assert metrics["verdict"] == "PASS"
    assert metrics["after"]["forget_perplexity"]["value"] > 1.3 * metrics["before"]["forget_perplexity"]["value"]
    assert (tmp_path / "run" / "report.html").stat().st_size > 1e6


@needs_model
def test_the_steps_of_the_readme_work_one_by_one(tmp_path: Path) -> None:
    options = ["--map", "prompt=opening", "--map", "response=story", "--template", "plain"]
    rows = ["--forget", EXAMPLE / "forget.jsonl", "--retain", EXAMPLE / "retain.jsonl"]
    traced = rapidun(
        "trace", "--model", MODEL, "--data", EXAMPLE / "retain.jsonl", "--query", EXAMPLE / "evaluation.jsonl",
        "--k", 3, "--json", *options,
    )  # fmt: skip
    assert traced.returncode == 0, traced.stderr
    assert len(traced.stdout.splitlines()) == 30 * 3
    weighed = rapidun("weigh", "--model", MODEL, *rows, "--out", tmp_path / "w", *options)
    assert weighed.returncode == 0, weighed.stderr
    weights = ["--weights", tmp_path / "w" / "weights.jsonl", "--steps", 10, "--learning-rate", 0.003]
    trained = rapidun("unlearn", "--model", MODEL, *rows, "--out", tmp_path / "u", *weights, *options)
    assert trained.returncode == 0, trained.stderr
    measured = rapidun(
        "evaluate", "--model", MODEL, "--adapter", tmp_path / "u" / "adapter", "--data", EXAMPLE / "evaluation.jsonl",
        "--suite", "perplexity", "--out", tmp_path / "e", *options,
    )  # fmt: skip
    assert measured.returncode == 0, measured.stderr
    assert "clean perplexity" in measured.stdout


def test_the_examples_configuration_names_files_that_exist() -> None:
    data = yaml.safe_load((EXAMPLE / "run.yaml").read_text())["data"]
    for name in ("forget", "retain", "validation", "evaluation"):
        assert (EXAMPLE / data[name]).is_file()
