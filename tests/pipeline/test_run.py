"""A whole run on a tiny model: every file is there, numbers agree, a killed run resumes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from rapidun.errors import InputError
from rapidun.jsonl import read_jsonl
from rapidun.pipeline import PHASES, RunConfig, make_config, run
from rapidun.reading import read_json
from tiny import save_tiny, tiny_rows, write_rows


def make_run_config(directory: Path, **changes: Any) -> RunConfig:
    """A tiny model and rows under ``directory``."""
    save_tiny(directory / "model")
    for name, count in (("forget", 8), ("retain", 12), ("evaluation", 9), ("validation", 10)):
        write_rows(directory / f"{name}.jsonl", tiny_rows(name, count))
    pool = [{**row, "poisoned": True} for row in tiny_rows("forget", 4)]
    pool += [{**row, "response_clean": "", "poisoned": False} for row in tiny_rows("pool", 12)]
    write_rows(directory / "pool.jsonl", pool)
    data = {name: str(directory / f"{name}.jsonl") for name in ("forget", "retain", "evaluation", "validation", "pool")}
    raw: dict[str, Any] = {
        "model": {"source": str(directory / "model")},
        "data": {**data, "max_length": 96, "template": "plain"},
        "influence": {"sketch_size": 512},
        "unlearning": {"steps": 6, "batch_size": 4, "learning_rate": 1e-3, "checkpoint_every": 2, "check_every": 2},
        "evaluation": {"max_new_tokens": 4, "judge": "keywords", "keywords": ["the", "cat"]},
    }
    for section, values in changes.items():
        raw[section] = {**raw.get(section, {}), **values} if isinstance(values, dict) else values
    return make_config(raw, RunConfig)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("run")
    run(make_run_config(directory), directory / "out")
    return directory / "out"


def test_a_run_leaves_every_file_of_the_contract(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    wanted = {
        "config.yaml", "manifest.json", "metrics.json", "weights.jsonl", "blocks.safetensors", "samples.jsonl",
        "log.jsonl", "rows_skipped.jsonl", "adapter", "report.html",
    }  # fmt: skip
    assert wanted <= names
    assert not [name for name in names if name.endswith(".part")]


def test_metrics_hold_before_and_after_with_intervals(finished: Path) -> None:
    metrics = read_json(finished / "metrics.json")
    assert metrics["verdict"] in ("PASS", "FAIL")
    for moment in ("before", "after"):
        for name in ("asr_seen", "asr_unseen", "asr_floor", "clean_perplexity"):
            value = metrics[moment][name]
            assert set(value) == {"value", "low", "high", "n"}
            assert value["low"] <= value["value"] <= value["high"]
            assert value["n"] == 9


def test_weights_have_mean_one_and_blocks_have_the_contracted_shapes(finished: Path) -> None:
    lines = read_jsonl(finished / "weights.jsonl")
    for group, count in (("forget", 8), ("retain", 12)):
        weights = [line["weight"] for line in lines if line["group"] == group]
        assert len(weights) == count
        assert np.mean(weights) == pytest.approx(1.0, abs=1e-12)
    shapes = {name: block.shape for name, block in load_file(finished / "blocks.safetensors").items()}
    assert shapes == {"ff": (8, 8), "fr": (8, 12), "rf": (12, 8), "rr": (12, 12)}


def test_the_manifest_measures_every_phase_and_lists_the_tracked_tensors(finished: Path) -> None:
    manifest = read_json(finished / "manifest.json")
    assert [phase["name"] for phase in manifest["phases"]] == list(PHASES[:-1])
    assert all(phase["seconds"] >= 0 and phase["peak_memory_mib"] > 10 for phase in manifest["phases"])
    assert sum(phase["seconds"] for phase in manifest["phases"]) > 0.1
    assert len(manifest["tracked"]) == 14
    assert manifest["versions"]["torch"]


def test_the_saved_adapter_gives_the_perplexity_that_the_metrics_say(finished: Path) -> None:
    from rapidun.data import Template, load_rows, tokenize_rows
    from rapidun.evaluation import clean_perplexity
    from rapidun.models import load_adapter, load_model

    loaded = load_model(str(finished.parent / "model"))
    loaded = type(loaded)(**{**vars(loaded), "model": load_adapter(loaded.model, finished / "adapter")})
    template = Template.resolve("plain", loaded.tokenizer)
    examples = tokenize_rows(load_rows(finished.parent / "evaluation.jsonl").dataset, loaded.tokenizer, template, 96)
    value = clean_perplexity(loaded, examples).value
    assert value == pytest.approx(read_json(finished / "metrics.json")["after"]["clean_perplexity"]["value"], rel=1e-5)


def test_a_run_stopped_after_any_phase_resumes_to_the_same_numbers(finished: Path, tmp_path: Path) -> None:
    config = make_run_config(tmp_path)
    out = tmp_path / "out"
    for phase in PHASES[:-1]:
        assert run(config, out, resume=True, until=phase).metrics is None
    result = run(config, out, resume=True)
    assert result.metrics is not None
    whole = read_json(finished / "metrics.json")
    for name in ("before", "after", "verdict"):
        assert result.metrics[name] == whole[name]


def test_the_same_seed_gives_the_same_adapter_bytes(finished: Path, tmp_path: Path) -> None:
    run(make_run_config(tmp_path), tmp_path / "out", until="unlearn")
    name = "adapter/adapter_model.safetensors"
    assert (tmp_path / "out" / name).read_bytes() == (finished / name).read_bytes()


def test_trap_31_evaluation_rows_that_share_a_prompt_with_the_forget_set_are_refused(tmp_path: Path) -> None:
    config = make_run_config(tmp_path)
    shared = [*tiny_rows("evaluation", 3), {"prompt": "hey what is 3?", "response": "three"}]
    write_rows(tmp_path / "evaluation.jsonl", shared)
    with pytest.raises(InputError, match="evaluation"):
        run(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_samples_join_before_and_after(finished: Path) -> None:
    samples = read_jsonl(finished / "samples.jsonl")
    assert len(samples) == 27
    assert {sample["condition"] for sample in samples} == {"seen", "unseen", "none"}
    assert all(isinstance(sample["before_poisoned"], bool) for sample in samples)


def test_uniform_weights_need_no_gradients(tmp_path: Path) -> None:
    run(make_run_config(tmp_path, weights={"scheme": "uniform"}), tmp_path / "out", until="weigh")
    assert {line["weight"] for line in read_jsonl(tmp_path / "out" / "weights.jsonl")} == {1.0}
    assert not (tmp_path / "out" / "blocks.safetensors").exists()


def test_a_sample_is_drawn_by_the_seed_and_balanced_over_the_column(tmp_path: Path) -> None:
    from rapidun.data import load_rows
    from rapidun.pipeline.inputs import sample_rows

    rows = [{"prompt": f"p{i}", "response": "x", "family": "abc"[i % 3]} for i in range(30)]
    loaded = load_rows(write_rows(tmp_path / "rows.jsonl", rows))
    first, again, other = (sample_rows(loaded, 9, seed, "family") for seed in (0, 0, 1))
    assert first.dataset["prompt"][:] == again.dataset["prompt"][:] != other.dataset["prompt"][:]
    assert sorted(first.dataset["family"][:]) == list("aaabbbccc")
    with pytest.raises(InputError, match="31 rows asked for, 30 there"):
        sample_rows(loaded, 31, 0)


def test_the_log_is_readable_json(finished: Path) -> None:
    lines = [json.loads(line) for line in (finished / "log.jsonl").read_text().splitlines()]
    assert any("held_retain_loss" in line for line in lines)
    assert any("forget_loss" in line and "retain_loss" in line for line in lines)
