"""`unlearn_only` with the methods and schemes that need more than an objective: refusals, whole models, moved rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.test_run import make_run_config
from rapidun.data import Template, load_rows, tokenize_rows
from rapidun.errors import ConfigError, ModelError
from rapidun.files import write_json
from rapidun.jsonl import read_jsonl
from rapidun.models import load_model
from rapidun.pipeline import run, unlearn_only
from rapidun.pipeline.context import signatures
from rapidun.pipeline.evidence import collect_evidence
from rapidun.pipeline.inputs import RowGroups, open_run_model
from rapidun.pipeline.reporter import Silent
from rapidun.pipeline.train import REFUSALS, refusal_rows, training_rows
from rapidun.weighting import Needs
from tiny import save_tiny, write_rows


def unlearned(directory: Path, **changes: Any) -> dict[str, Any]:
    changes["unlearning"] = {"steps": 2, "retain_budget": 50.0, **changes.get("unlearning", {})}
    config = make_run_config(directory, **changes)
    return unlearn_only(
        config, directory / "out", weights=None, resume=False, overwrite=False, reporter=Silent()
    )  # fmt: skip


@pytest.mark.parametrize("scheme", ["representation", "loss", "trusted_influence", "released"])
def test_schemes_reach_the_weights_file(scheme: str, tmp_path: Path) -> None:
    unlearned(tmp_path, weights={"scheme": scheme}, unlearning={"method": "ga", "steps": 1})
    lines = read_jsonl(tmp_path / "out" / "weights.jsonl")
    for group in ("forget", "retain"):
        assert np.mean([line["weight"] for line in lines if line["group"] == group]) == pytest.approx(1)
    assert len({line["weight"] for line in lines if line["group"] == "forget"}) > 2
    assert (tmp_path / "out" / "blocks.safetensors").exists() == (scheme != "loss")


def test_a_whole_model_is_saved_measured_and_loads(tmp_path: Path) -> None:
    config = make_run_config(
        tmp_path, weights={"scheme": "uniform"}, evaluation={"suite": "perplexity"},
        unlearning={"method": "fisher", "options": {"selection": 1.5}, "retain_budget": 50.0},
    )  # fmt: skip
    result = run(config, tmp_path / "out")
    assert not (tmp_path / "out" / "adapter").exists()
    saved = load_model(str(tmp_path / "out" / "model"))
    template = Template.resolve("plain", saved.tokenizer)
    rows = tokenize_rows(load_rows(tmp_path / "evaluation.jsonl").dataset, saved.tokenizer, template, 96)
    from rapidun.evaluation import clean_perplexity

    assert result.metrics is not None
    after = result.metrics["after"]["clean_perplexity"]["value"]
    assert clean_perplexity(saved, rows).value == pytest.approx(after, rel=1e-5)
    assert after != result.metrics["before"]["clean_perplexity"]["value"]
    assert result.metrics["unlearning"]["saved"] == "model"


def test_idk_wants_refusals_chosen_by_the_rows_ids(tmp_path: Path) -> None:
    rows = [{"id": f"row{i}", "prompt": "p", "response": "bad", "response_clean": "good"} for i in range(40)]
    wanted = [row["response_clean"] for row in refusal_rows(rows)]
    assert set(wanted) <= set(REFUSALS)
    assert len(set(wanted)) > 3
    assert wanted == [row["response_clean"] for row in refusal_rows(rows)]
    outcome = unlearned(tmp_path, weights={"scheme": "uniform"}, unlearning={"method": "idk"})
    assert outcome["adapter_change"] > 0


class _Heard(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.mark.parametrize(
    ("method", "answers", "told"), [("rapidun", False, 1), ("rapidun", True, 0), ("npo", False, 0)]
)
def test_ascent_without_wanted_answers_is_said(method: str, answers: bool, told: int, tmp_path: Path) -> None:
    config = make_run_config(
        tmp_path, weights={"scheme": "uniform"}, unlearning={"method": method, "steps": 1, "retain_budget": 50.0}
    )  # fmt: skip
    rows = [dict(row) for row in load_rows(tmp_path / "forget.jsonl")]
    for row in rows:
        row.pop("response_clean", None)
    if answers:
        rows[0]["response_clean"] = "a better answer"
    write_rows(tmp_path / "forget.jsonl", rows)
    reporter = _Heard()
    unlearn_only(config, tmp_path / "out", weights=None, resume=False, overwrite=False, reporter=reporter)
    assert sum("use --method idk" in note for note in reporter.notes) == told


@pytest.mark.parametrize(("every", "told"), [(2, 1), (1, 0)])
def test_dynamic_weights_that_never_change_are_said(every: int, told: int, tmp_path: Path) -> None:
    config = make_run_config(
        tmp_path, weights={"scheme": "dynamic", "options": {"every": every}},
        unlearning={"method": "ga", "steps": 2, "retain_budget": 50.0},
    )  # fmt: skip
    reporter = _Heard()
    unlearn_only(config, tmp_path / "out", weights=None, resume=False, overwrite=False, reporter=reporter)
    assert sum("Lower weights.options.every" in note for note in reporter.notes) == told


def test_moved_rows_are_trained_on_as_retain_rows(tmp_path: Path) -> None:
    config = make_run_config(tmp_path)
    groups = RowGroups(load_rows(tmp_path / "forget.jsonl"), load_rows(tmp_path / "retain.jsonl"))
    run_model = open_run_model(config.model, config.data, Silent())
    lines = [
        {"id": "x", "group": group, "index": i, "score": 0.0, "weight": 0.0 if group == "forget" and i == 3 else 1.0}
        for group, count in (("forget", 8), ("retain", 12))
        for i in range(count)
    ]
    lines[3]["moved"] = True
    rows = training_rows(run_model, groups, write_rows(tmp_path / "w.jsonl", lines), Silent())
    assert len(rows.retain) == 13
    assert rows.retain[12] == rows.forget[3]
    assert (rows.forget_weights[3], rows.retain_weights[12]) == (0.0, 1.0)


def test_dynamic_weights_are_computed_on_the_adapter_and_change_it(tmp_path: Path) -> None:
    adapters = []
    for every in (1, 99):
        place = tmp_path / str(every)
        place.mkdir()
        unlearned(
            place,
            weights={"scheme": "dynamic", "options": {"every": every}},
            unlearning={"steps": 3, "learning_rate": 0.01},
        )
        adapters.append((place / "out" / "adapter" / "adapter_model.safetensors").read_bytes())
    assert adapters[0] != adapters[1]


def test_influence_is_summed_over_checkpoints(tmp_path: Path) -> None:
    earlier = save_tiny(tmp_path / "earlier", seed=7)
    blocks = {}
    for name, checkpoints in (("now", []), ("both", [str(earlier)])):
        config = make_run_config(tmp_path, influence={"checkpoints": checkpoints})
        run_model = open_run_model(config.model, config.data, Silent())
        groups = RowGroups(load_rows(tmp_path / "forget.jsonl"), load_rows(tmp_path / "retain.jsonl"))
        before = {key: value.clone() for key, value in run_model.loaded.model.state_dict().items()}
        blocks[name] = collect_evidence(run_model, groups, Needs.GRADIENTS, config.influence, 0, Silent()).gradients
        for key, value in run_model.loaded.model.state_dict().items():
            assert torch.equal(value, before[key])
    alone = make_run_config(tmp_path, model={"source": str(earlier)})
    run_model = open_run_model(alone.model, alone.data, Silent())
    theirs = collect_evidence(run_model, groups, Needs.GRADIENTS, alone.influence, 0, Silent()).gradients
    np.testing.assert_allclose(blocks["both"].fr, blocks["now"].fr + theirs.fr, atol=1e-5)


def test_a_checkpoint_of_another_model_is_refused_before_any_work(tmp_path: Path) -> None:
    other = save_tiny(tmp_path / "other", "gpt2")
    with pytest.raises(ModelError, match="not a parameter of this model"):
        unlearned(tmp_path, influence={"checkpoints": [str(other)]})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "weights,message",
    [
        ({"scheme": "luck"}, "choose one of influence"),
        ({"scheme": "uniform", "negative": "drop"}, "have no zero"),
        ({"scheme": "dynamic", "negative": "retain"}, "keeps every row"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(weights: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        make_run_config(tmp_path, weights=weights)


def test_signatures_are_read_from_the_files_of_a_run(tmp_path: Path) -> None:
    config = make_run_config(tmp_path)
    config = config.model_copy(update={"weights": config.weights.model_copy(update={"scheme": "influence"})})
    weights = [
        {"id": "x", "group": g, "index": i, "score": 0.0, "weight": 1.0} for g in ("forget", "retain") for i in (0, 1)
    ]
    write_rows(tmp_path / "weights.jsonl", weights)
    write_rows(tmp_path / "log.jsonl", [{"step": 5, "loss": None}])
    write_json(tmp_path / "unlearning.json", {"stopped": "retain budget: kept 0.1 of it", "share": 0.1})
    found = [signature["name"] for signature in signatures(tmp_path, config)]
    assert found == ["instability", "over-forgetting", "weight collapse"]
    after = {name: {"value": 0.5} for name in ("asr_seen", "asr_floor")}
    metrics = {"after": after, "perplexity_ratio": {"value": 1.0}}
    assert "under-forgetting" not in [signature["name"] for signature in signatures(tmp_path, config, metrics)]
    after["asr_floor"] = {"value": 0.0}
    assert "under-forgetting" in [signature["name"] for signature in signatures(tmp_path, config, metrics)]
