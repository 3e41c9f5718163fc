"""Scoring by what training changed: its numbers, with a base model and with an adapter, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from rapidun.attribution import hidden_features
from rapidun.attribution.search import chosen_scorers
from rapidun.attribution.similarity import centred_similarity
from rapidun.attribution.store import open_index
from rapidun.errors import ConfigError, FingerprintError
from rapidun.models import load_adapter, load_model
from rapidun.pipeline import Silent, TraceRequest, settings_of, trace_index, trace_memory
from rapidun.pipeline.indexing import append, build
from rapidun.pipeline.inputs import open_run_model
from rapidun.settings.attribution import IndexConfig, TraceConfig
from rapidun.settings.base import make_config
from tiny import save_tiny, tiny_model, tiny_rows, tiny_tokenizer, write_rows

ROWS = [*tiny_rows("forget", 5), *tiny_rows("retain", 11)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``model/`` and ``base/``, ``other/``, an ``adapter/`` on base, ``rows.jsonl`` and ``query.jsonl``."""
    place = tmp_path_factory.mktemp("change")
    for seed, name in enumerate(("base", "model", "other")):
        save_tiny(place / name, seed=seed)
    torch.manual_seed(5)
    adapted = get_peft_model(tiny_model(), LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    adapted.save_pretrained(place / "adapter")
    write_rows(place / "rows.jsonl", ROWS)
    write_rows(place / "query.jsonl", [ROWS[2], ROWS[9]])
    return place


def config(place: Path, model: str = "model", **index: Any) -> IndexConfig:
    raw = {
        "model": {"source": str(place / model)},
        "data": {"template": "plain", "max_length": 96},
        "index": {"views": ["hidden", "lexical"], "shard_rows": 8, **index},
    }
    return make_config(raw, IndexConfig)


def made(place: Path, name: str, settings: IndexConfig, adapter: Path | None = None, rows: str = "rows.jsonl") -> Path:
    build(settings, place / rows, place / name, adapter=adapter, resume=False, overwrite=False, reporter=Silent())
    return place / name


@pytest.fixture(scope="module")
def index(place: Path) -> Path:
    """Of ``model/``, compared with ``base/``."""
    return made(place, "index", config(place, base=str(place / "base")))


def scores(index: Path, base: str = "") -> np.ndarray:
    """(queries, rows) by ``change``."""
    raw = {"model": {"source": ""}, "data": {"template": "auto"}, "seed": 0, "base": base}
    settings, adapter = settings_of(index, raw, None)
    found = trace_index(
        settings, index, TraceRequest(index.parent / "query.jsonl"), adapter=adapter, scorers=["change"], k=len(ROWS),
        together=False, reporter=Silent(),
    )  # fmt: skip
    table = np.full((2, len(ROWS)), np.nan)
    for line in found.lines:
        table[line["query_index"], line["position"]] = line["score"]
    return table


def by_hand(place: Path, after: Any, before: Any) -> np.ndarray:
    settings = config(place)
    run_model = open_run_model(settings.model, settings.data, Silent())
    examples = [run_model.tokenize(rows) for rows in ([ROWS[2], ROWS[9]], ROWS)]
    asked, pool = (
        hidden_features(after, part, 0).answer_mean - hidden_features(before, part, 0).answer_mean for part in examples
    )
    return centred_similarity(asked, pool)


def test_with_a_base_model_the_index_holds_the_difference(place: Path, index: Path) -> None:
    after, before = (load_model(str(place / name)).model for name in ("model", "base"))
    np.testing.assert_allclose(scores(index), by_hand(place, after, before), atol=3e-3)
    assert chosen_scorers(open_index(index).scorers, where="") == ["change", "lexical"]


def test_with_an_adapter_the_model_before_is_the_adapter_switched_off(place: Path) -> None:
    adapted = made(place, "adapted", config(place, "base"), place / "adapter")
    before = load_model(str(place / "base")).model
    after = load_adapter(load_model(str(place / "base")).model, place / "adapter")
    np.testing.assert_allclose(scores(adapted), by_hand(place, after, before), atol=3e-3)


def test_the_other_features_are_as_without_it(place: Path, index: Path) -> None:
    plain = open_index(made(place, "plain", config(place)))
    for name in plain.matrices:
        np.testing.assert_array_equal(plain.features(name).vectors(), open_index(index).features(name).vectors())


def test_rows_in_memory_give_the_same(place: Path, index: Path) -> None:
    raw = {
        "model": {"source": str(place / "model")},
        "data": {"template": "plain", "max_length": 96},
        "base": str(place / "base"),
    }
    found = trace_memory(
        make_config(raw, TraceConfig), place / "rows.jsonl", TraceRequest(place / "query.jsonl"), adapter=None,
        scorers=["change"], k=len(ROWS), reporter=Silent(),
    )  # fmt: skip
    np.testing.assert_allclose(
        [line["score"] for line in found.lines if line["query_index"] == 1], -np.sort(-scores(index)[1]), atol=3e-3
    )


def test_another_base_is_refused_with_both_fingerprints(place: Path, index: Path) -> None:
    mine, other = (load_model(str(place / name)).fingerprint[:16] for name in ("base", "other"))
    with pytest.raises(FingerprintError, match=f"(?s){mine}.*{other}"):
        scores(index, base=str(place / "other"))


def test_appended_rows_are_compared_with_the_same_base(place: Path, index: Path) -> None:
    write_rows(place / "first.jsonl", ROWS[:8])
    write_rows(place / "rest.jsonl", ROWS[8:])
    part = made(place, "part", config(place, base=str(place / "base")), rows="first.jsonl")
    raw = config(place).model_dump(mode="json")
    append(raw, place / "rest.jsonl", part, adapter=None, resume=False, reporter=Silent())
    np.testing.assert_array_equal(*(open_index(path).features("change.answer").vectors() for path in (index, part)))


def test_without_a_model_before_training_it_is_refused(place: Path) -> None:
    with pytest.raises(ConfigError, match="--base"):
        made(place, "none", config(place, views=["change"]))
    assert not (place / "none").exists()


def test_a_base_of_another_size_is_refused(place: Path) -> None:
    shape = AutoConfig.from_pretrained(place / "base", hidden_size=24)
    AutoModelForCausalLM.from_config(shape).save_pretrained(place / "wide")
    tiny_tokenizer().save_pretrained(place / "wide")
    with pytest.raises(ConfigError, match="hidden size 24"):
        made(place, "no", config(place, base=str(place / "wide")))
