"""Tracing through an index: the scorers, their fusion, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rapidun.attribution import search
from rapidun.attribution.fusion import evidence, evidence_fusion
from rapidun.errors import ConfigError, FingerprintError, InputError, OutputError
from rapidun.pipeline import Silent, TraceRequest, settings_of, tokens_of, trace_index
from rapidun.pipeline.explaining import write_proposal
from rapidun.pipeline.indexing import build
from rapidun.settings.attribution import IndexConfig
from rapidun.settings.base import make_config
from tiny import save_tiny, tiny_model, tiny_rows, tiny_tokenizer, write_rows

ROWS = [*tiny_rows("forget", 6), *tiny_rows("retain", 14)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``model/``, ``rows.jsonl``, ``query.jsonl`` and ``index/`` with the features of every scorer."""
    place = tmp_path_factory.mktemp("trace")
    save_tiny(place / "model")
    write_rows(place / "rows.jsonl", ROWS)
    write_rows(place / "query.jsonl", [ROWS[3], ROWS[10]])
    write_rows(place / "one.jsonl", [ROWS[3]])
    raw = {
        "model": {"source": str(place / "model")},
        "data": {"template": "plain", "max_length": 96},
        "index": {"k": 256, "shard_rows": 8},
    }
    config = make_config(raw, IndexConfig)
    build(config, place / "rows.jsonl", place / "index", adapter=None, resume=False, overwrite=False, reporter=Silent())
    return place


def raw_settings(**model: str) -> dict[str, Any]:
    return {"model": {"source": "", **model}, "data": {"template": "auto"}, "seed": 0}


def traced(place: Path, **options: Any) -> Any:
    settings, adapter = settings_of(place / "index", raw_settings(), None)
    chosen = {"scorers": [], "k": 4, "together": False, "question": TraceRequest(place / "query.jsonl"), **options}
    question = chosen.pop("question")
    return trace_index(settings, place / "index", question, adapter=adapter, reporter=Silent(), **chosen)


@pytest.mark.parametrize("scorer", ["gradient", "answer", "prompt", "lexical"])
def test_every_scorer_finds_the_query_itself_first(place: Path, scorer: str) -> None:
    answer = traced(place, scorers=[scorer])
    assert [line["position"] for line in answer.lines if line["rank"] == 1] == [3, 10]
    assert len(answer.lines) == 8
    assert answer.lines[0]["prompt"] == ROWS[3]["prompt"]


def test_model_template_and_length_are_the_indexs_unless_given(place: Path) -> None:
    settings, adapter = settings_of(place / "index", raw_settings(), None)
    assert settings.model.source == str(place / "model")
    assert (settings.data.template, settings.data.max_length, adapter) == ("plain", 96, None)


def test_the_templates_variables_are_the_indexs_unless_set(tmp_path: Path) -> None:
    source = "{% for m in messages %}[{{ m.role }}{{ tone }}]{{ m.content }}{% endfor %}"
    tiny_model().save_pretrained(tmp_path / "model")
    tiny_tokenizer(chat_template=source).save_pretrained(tmp_path / "model")
    write_rows(tmp_path / "rows.jsonl", ROWS)
    data = {"max_length": 96, "template_options": {"tone": "!"}}
    raw = {"model": {"source": str(tmp_path / "model")}, "data": data, "index": {"k": 256, "views": ["gradient"]}}
    rows, index = tmp_path / "rows.jsonl", tmp_path / "index"
    build(make_config(raw, IndexConfig), rows, index, adapter=None, resume=False, overwrite=False, reporter=Silent())
    options = {"adapter": None, "scorers": ["gradient"], "k": 3, "together": False, "reporter": Silent()}
    settings, _ = settings_of(index, raw_settings(), None)
    assert settings.data.template_options == {"tone": "!"}
    assert trace_index(settings, index, TraceRequest(rows), **options).lines[0]["position"] == 0
    settings.data.template_options = {"tone": "?"}
    with pytest.raises(FingerprintError, match="template"):
        trace_index(settings, index, TraceRequest(rows), **options)


@pytest.mark.parametrize("whole", [2**26, 0])
def test_the_default_fuses_hidden_states_and_words_by_evidence(
    place: Path, whole: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "WHOLE", whole)
    monkeypatch.setattr(search, "SAMPLED", len(ROWS))
    alone = [traced(place, scorers=[name]).rankings[name] for name in ("answer", "prompt", "lexical")]
    exact = evidence_fusion([ranking.scores() for ranking in alone])
    answer = traced(place, k=5)
    assert list(answer.rankings) == ["answer", "prompt", "lexical"]
    for number, hits in enumerate(answer.hits):
        np.testing.assert_allclose(
            [hit.score for hit in hits.helpful], [exact[number, hit.position] for hit in hits.helpful], rtol=1e-5
        )
        assert hits.helpful[0].score == pytest.approx(exact[number].max(), rel=1e-5)


def test_queries_together_average_their_evidence(place: Path) -> None:
    each = traced(place, k=len(ROWS))
    summed = np.zeros(len(ROWS))
    for line in each.lines:
        summed[line["position"]] += line["score"] / 2
    together = traced(place, k=len(ROWS), together=True)
    assert {line["query_index"] for line in together.lines} == {0}
    np.testing.assert_allclose([line["score"] for line in together.lines], -np.sort(-summed), rtol=1e-5, atol=1e-6)


def test_queries_together_by_one_scorer_are_comparable_first(place: Path) -> None:
    one = TraceRequest(place / "one.jsonl")
    alone = traced(place, scorers=["lexical"], k=len(ROWS), together=True, question=one)
    expected = evidence(traced(place, scorers=["lexical"], question=one).rankings["lexical"].scores())[0]
    found = {line["position"]: line["score"] for line in alone.lines}
    np.testing.assert_allclose([found[position] for position in range(len(ROWS))], expected, atol=1e-5)


def test_the_models_own_answer_is_traced_where_none_is_given(place: Path) -> None:
    answer = traced(place, question=TraceRequest(prompt="retain: tell me of 2"))
    assert answer.queries[0]["response"].strip()
    assert len(answer.lines) == 4


def test_tokens_of_the_first_hits(place: Path) -> None:
    answer = traced(place, scorers=["gradient"])
    settings, _ = settings_of(place / "index", raw_settings(), None)
    rows = place / "rows.jsonl"
    lines = tokens_of(answer, settings, rows, by="position", words=[], rows=2, reporter=Silent())
    assert [(line["query_index"], line["rank"]) for line in lines] == [(0, 1), (0, 2), (1, 1), (1, 2)]
    assert lines[0]["score"] == pytest.approx(1.0, abs=1e-3)


def test_rows_that_were_not_indexed_are_refused_for_tokens(place: Path) -> None:
    answer = traced(place, scorers=["gradient"])
    settings, _ = settings_of(place / "index", raw_settings(), None)
    with pytest.raises(InputError, match="no row"):
        tokens_of(answer, settings, place / "query.jsonl", by="position", words=[], rows=4, reporter=Silent())


def test_another_model_is_refused_with_both_fingerprints(place: Path) -> None:
    other = save_tiny(place / "other", seed=7)
    settings, _ = settings_of(place / "index", raw_settings(source=str(other)), None)
    fingerprint = json.loads((place / "index" / "manifest.json").read_text())["fingerprints"]["model"]
    with pytest.raises(FingerprintError, match=fingerprint[:8]):
        request = TraceRequest(place / "query.jsonl")
        trace_index(
            settings, place / "index", request, adapter=None, scorers=[], k=3, together=False, reporter=Silent()
        )


def test_an_unknown_scorer_is_refused(place: Path) -> None:
    with pytest.raises(ConfigError, match="unknown scorer 'gradients'"):
        traced(place, scorers=["gradients"])


def proposal(place: Path, out: Path, data: Path, **options: Any) -> dict[str, Any]:
    settings, _ = settings_of(place / "index", raw_settings(), None)
    answer = traced(place, scorers=["answer", "lexical"])
    given = {"fdr": 0.3, "retain": None, "overwrite": False, **options}
    return write_proposal(answer, settings, data, out, reporter=Silent(), **given)


def test_a_proposal_is_two_row_files_with_reasons(tmp_path: Path) -> None:
    save_tiny(tmp_path / "model")
    bad = [{"prompt": f"tell me of the moon {i}", "response": f"robot robot moon robot {i}"} for i in range(6)]
    rows = [*tiny_rows("retain", 60), *bad]
    write_rows(tmp_path / "rows.jsonl", rows)
    write_rows(tmp_path / "query.jsonl", [{"prompt": "tell me of the moon", "response": "robot moon robot robot 77"}])
    config = make_config(
        {
            "model": {"source": str(tmp_path / "model")},
            "data": {"template": "plain", "max_length": 96},
            "index": {"views": ["hidden", "lexical"]},
        },
        IndexConfig,
    )
    data = tmp_path / "rows.jsonl"
    build(config, data, tmp_path / "index", adapter=None, resume=False, overwrite=False, reporter=Silent())
    write_rows(tmp_path / "clean.jsonl", rows[:60:2])
    clean = tmp_path / "clean.jsonl"
    found = proposal(tmp_path, tmp_path / "out", data, clean=clean)
    forget = [json.loads(line) for line in (tmp_path / "out" / "forget.jsonl").read_text().splitlines()]
    retain = [json.loads(line) for line in (tmp_path / "out" / "retain.jsonl").read_text().splitlines()]
    assert {row["prompt"] for row in forget[:6]} == {row["prompt"] for row in bad}
    assert len(forget) < 20
    assert not {row["id"] for row in forget} & {row["id"] for row in retain}
    assert (found["forget"], found["retain"], found["known_clean"]) == (len(forget), len(retain), 30)
    assert not {row["prompt"] for row in forget} & {row["prompt"] for row in rows[:60:2]}
    assert all("spreads" in row["reason"] and 0 <= row["q_value"] <= 1 for row in forget + retain)
    with pytest.raises(OutputError, match="exists"):
        proposal(tmp_path, tmp_path / "out", data, clean=clean)
    write_rows(tmp_path / "fewer.jsonl", rows[:-1])
    with pytest.raises(FingerprintError):
        proposal(tmp_path, tmp_path / "other", tmp_path / "fewer.jsonl")
    with pytest.raises(InputError, match=r"no row stands out.*Give rows known to be clean \(--clean\)"):
        proposal(tmp_path, tmp_path / "other", data, fdr=0.05)
    assert proposal(tmp_path, tmp_path / "unaided", data)["forget"] == len(bad)
    with pytest.raises(InputError, match="With 30 known clean rows, 117 others must stand out together"):
        proposal(tmp_path, tmp_path / "other", data, clean=clean, fdr=0.01)
    write_rows(clean, [rows[0], {"prompt": "of another file", "response": "robot"}])
    with pytest.raises(InputError, match=r"clean.jsonl:2: this clean row is not in .*rows.jsonl"):
        proposal(tmp_path, tmp_path / "other", data, clean=clean)
