"""A build gives what the collector gives, resumes to the same bytes, and is refused where it does not belong."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from index.cases import contents, gradient_scorer, model_context, some_plan, some_rows
from rapidun.attribution.storage import decode, encode
from rapidun.attribution.store import (
    build_index,
    build_shard,
    finish,
    missing_shards,
    open_index,
    plan_append,
    plan_build,
    prepare,
)
from rapidun.attribution.store.shards import read_table
from rapidun.data import tokenize_rows
from rapidun.errors import ConfigError, FingerprintError, InputError, OutputError
from rapidun.gradients import GradientCollector, RapidGrad, collect_vectors


def expected_vectors(model, rows, k=64):
    examples = tokenize_rows(rows, model.loaded.tokenizer, model.template, 96)
    collector = GradientCollector(model.loaded.model, targets="linear")
    return collect_vectors(collector, RapidGrad(k=k), examples, 0, max_tokens=500)


@pytest.mark.parametrize(("dtype", "error"), [("float16", 2**-11), ("bfloat16", 2**-8), ("int8", 0.5 / 127)])
def test_an_index_holds_the_rows_gradients_within_the_precision_of_its_dtype(tmp_path, dtype, error):
    model = model_context()
    plan = some_plan(tmp_path, model=model, views={"gradient": gradient_scorer(dtype=dtype)})
    build_index(plan)
    found = open_index(tmp_path / "index").features("gradient").vectors()
    expected = expected_vectors(model, plan.rows)
    largest = np.abs(expected).max(axis=1, keepdims=True)
    assert np.abs(found - expected).max() > 0
    assert (np.abs(found - expected) <= error * 1.01 * largest).all()


def test_trap_7_gradients_too_small_for_float16_are_kept():
    values = torch.tensor([[1e-12, -3e-12, 0.0], [4e20, 1e20, 3.0], [0.0, 0.0, 0.0], [1e-40, 0.0, 3e-41]])
    for dtype, close in (("float16", 1e-3), ("bfloat16", 1e-2), ("int8", 1e-2)):
        stored, scale = encode(values, dtype)
        found = decode(stored, scale)
        assert ((found - values).abs().amax(dim=1)[:3] <= close * values.abs().amax(dim=1)[:3]).all()
        assert found.isfinite().all()


def test_the_table_says_who_the_rows_are(tmp_path):
    build_index(some_plan(tmp_path, 11))
    index = open_index(tmp_path / "index")
    (row,) = index.rows([9])
    assert row["id"] == "r9"
    assert (row["position"], row["shard"], row["row"]) == (9, 1, 1)
    assert row["prompt"].startswith("tell me of 9")
    assert row["gradient_norm"] > 0
    assert row["tokens"] > row["answer_tokens"] > 0
    assert list(index.column("id")) == [f"r{i}" for i in range(11)]
    assert read_table(tmp_path / "index", 1, 3).num_rows == 3


def test_other_batch_sizes_give_the_same_vectors(tmp_path):
    for name, tokens in (("a", 30), ("b", 4000)):
        build_index(some_plan(tmp_path, out=name, max_tokens=tokens))
    first, second = (open_index(tmp_path / name).features().vectors() for name in "ab")
    np.testing.assert_allclose(first, second, atol=2e-3 * np.abs(first).max())


def test_a_shard_depends_on_its_own_rows_alone_so_any_order_gives_the_same_bytes(tmp_path):
    build_index(some_plan(tmp_path, out="straight"))
    plan = some_plan(tmp_path, out="scattered")
    prepare(plan)
    for number in reversed(list(missing_shards(plan))):
        build_shard(plan, number)
    finish(plan)
    assert contents(tmp_path / "straight") == contents(tmp_path / "scattered")


def test_no_file_says_when_or_where_it_was_built_and_none_is_a_pickle(tmp_path):
    build_index(some_plan(tmp_path))
    found = contents(tmp_path / "index")
    assert {name.rpartition(".")[2] for name in found} == {"json", "safetensors", "parquet"}
    assert not any(str(tmp_path).encode() in content for content in found.values())


def test_trap_9_the_manifest_names_the_tracked_tensors(tmp_path):
    build_index(some_plan(tmp_path))
    view = json.loads((tmp_path / "index" / "manifest.json").read_text())["views"]["gradient"]
    assert len(view["tracked"]) == 14
    assert view["targets"] == "linear"
    assert view["sketch"] == {"kind": "rapidgrad", "k": 64, "seed": 0}


def test_progress_goes_by_what_fits_into_memory_not_by_shards(tmp_path, monkeypatch):
    plan, told = some_plan(tmp_path), []
    monkeypatch.setattr("rapidun.models.passes.PASS_BYTES", 1)  # every row a batch of its own
    build_index(plan, progress=lambda done, total: told.append((done, total)))
    assert told == [(done, len(plan.rows)) for done in range(len(plan.rows) + 1)]


@pytest.mark.parametrize("stopped_after", [0, 1, 3])
def test_a_stopped_build_goes_on_to_the_same_bytes(tmp_path, stopped_after):
    build_index(some_plan(tmp_path, out="whole"))
    plan = some_plan(tmp_path, out="stopped")

    class StopError(Exception):
        pass

    def stop(done, total):
        if done > stopped_after * 8:
            raise StopError

    with pytest.raises(StopError):
        build_index(plan, progress=stop)
    assert len(list(missing_shards(plan))) == 4 - stopped_after
    (tmp_path / "stopped" / "shards").mkdir(exist_ok=True)
    (tmp_path / "stopped" / "shards" / ".00003.safetensors.77.part").write_bytes(b"half")
    with pytest.raises(InputError, match=r"not finished.*--resume"):
        open_index(tmp_path / "stopped")
    with pytest.raises(OutputError, match=r"--resume.*--overwrite"):
        build_index(plan)
    build_index(plan, resume=True)
    assert contents(tmp_path / "whole") == contents(tmp_path / "stopped")
    build_index(plan, resume=True)  # finished: nothing to do
    assert contents(tmp_path / "whole") == contents(tmp_path / "stopped")


def test_a_build_killed_before_its_plan_was_in_place_starts_anew(tmp_path):
    build_index(some_plan(tmp_path, 5, out="whole"))
    (tmp_path / "killed" / ".building").mkdir(parents=True)
    (tmp_path / "killed" / ".building" / ".plan.json.77.part").write_text("{")
    build_index(some_plan(tmp_path, 5, out="killed"), resume=True)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_resume_with_other_settings_is_refused_and_names_both(tmp_path):
    plan = some_plan(tmp_path)
    prepare(plan)
    other = some_plan(tmp_path, views={"gradient": gradient_scorer(seed=5)})
    with pytest.raises(FingerprintError, match=r"views\.gradient\.sketch\.seed was 0 and is now 5"):
        build_index(other, resume=True)
    fewer = some_plan(tmp_path, 24)
    with pytest.raises(FingerprintError, match=r"fingerprints\.data was \w+ and is now \w+"):
        build_index(fewer, resume=True)


def test_what_is_there_is_kept_unless_overwriting_an_index_is_asked_for(tmp_path):
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "thesis.txt").write_text("precious")
    plan = some_plan(tmp_path, 9)
    for overwrite in (False, True):
        with pytest.raises(OutputError):
            build_index(plan, overwrite=overwrite)
    assert (tmp_path / "index" / "thesis.txt").read_text() == "precious"
    (tmp_path / "index" / "thesis.txt").unlink()
    build_index(plan)
    with pytest.raises(OutputError, match="--overwrite"):
        build_index(some_plan(tmp_path, 5))
    build_index(some_plan(tmp_path, 5), overwrite=True)
    assert len(open_index(tmp_path / "index")) == 5
    assert len(list((tmp_path / "index" / "shards").iterdir())) == 1


def test_append_leaves_old_shards_as_they_are_and_chains_the_data(tmp_path):
    model = model_context()
    build_index(some_plan(tmp_path, 11, model=model))
    before = contents(tmp_path / "index")
    plan = plan_append(tmp_path / "index", some_rows(tmp_path, 10, name="more", start=11), model)
    manifest = build_index(plan)
    after = contents(tmp_path / "index")
    kept = [name for name in before if name != "manifest.json"]
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert manifest.fingerprints.data != json.loads(before["manifest.json"])["fingerprints"]["data"]
    index = open_index(tmp_path / "index")
    assert [shard.first for shard in index.manifest.shards] == [0, 8, 11, 19]
    assert list(index.column("position")) == list(range(21))
    rows = some_rows(tmp_path, 21, name="all")
    largest = 5e-3 * np.abs(index.features().vectors()).max()
    np.testing.assert_allclose(index.features().vectors(), expected_vectors(model, rows), atol=largest)


def test_a_stopped_append_leaves_the_old_index_whole_and_goes_on_to_the_same_bytes(tmp_path):
    model = model_context()
    more = some_rows(tmp_path, 20, name="more", start=11)
    for name in ("whole", "stopped"):
        build_index(some_plan(tmp_path, 11, out=name, model=model))
    build_index(plan_append(tmp_path / "whole", more, model))
    plan = plan_append(tmp_path / "stopped", more, model)
    prepare(plan)
    build_shard(plan, 3)
    assert len(open_index(tmp_path / "stopped")) == 11
    with pytest.raises(OutputError, match="half appended"):
        build_index(plan_append(tmp_path / "stopped", more, model))
    build_index(plan_append(tmp_path / "stopped", more, model), resume=True)
    assert contents(tmp_path / "whole") == contents(tmp_path / "stopped")
    build_index(plan_append(tmp_path / "stopped", more, model), resume=True)  # finished: nothing to do
    assert contents(tmp_path / "whole") == contents(tmp_path / "stopped")


def test_append_with_another_model_template_or_adapter_is_refused_and_names_both(tmp_path):
    model = model_context()
    build_index(some_plan(tmp_path, 5, model=model))
    rows = some_rows(tmp_path, 3, name="more", start=5)
    other = model_context(seed=1)
    with pytest.raises(FingerprintError) as caught:
        plan_append(tmp_path / "index", rows, other)
    assert model.loaded.fingerprint[:16] in str(caught.value)
    assert other.loaded.fingerprint[:16] in str(caught.value)
    with pytest.raises(FingerprintError, match=r"adapter none.*adapter abcdef"):
        plan_append(tmp_path / "index", rows, model_context(adapter="abcdef"))


def test_opening_with_another_sketch_tokenizer_or_template_is_refused_and_names_both(tmp_path):
    build_index(some_plan(tmp_path, 5))
    index = open_index(tmp_path / "index", {"sketch": RapidGrad(k=64), **model_context().fingerprints()})
    with pytest.raises(FingerprintError, match=r"k=64, seed=0.*k=64, seed=3"):
        index.check(sketch=RapidGrad(k=64, seed=3))
    for name in ("model", "adapter", "tokenizer", "template", "data"):
        stored = getattr(index.manifest.fingerprints, name)[:16]
        with pytest.raises(FingerprintError, match=rf"{name} {stored}.*{name} deadbeef"):
            index.check(**{name: "deadbeef"})


def test_a_manifest_with_an_unknown_key_or_version_is_refused(tmp_path):
    build_index(some_plan(tmp_path, 5))
    path = tmp_path / "index" / "manifest.json"
    whole = json.loads(path.read_text())
    path.write_text(json.dumps({**whole, "colour": 1}))
    with pytest.raises(InputError, match="colour"):
        open_index(tmp_path / "index")
    path.write_text(json.dumps({**whole, "version": 9}))
    with pytest.raises(InputError, match="format 9"):
        open_index(tmp_path / "index")
    with pytest.raises(InputError, match="no index here"):
        open_index(tmp_path)


def test_bad_settings_are_errors_before_any_work(tmp_path):
    with pytest.raises(ConfigError, match="shard_rows=0"):
        some_plan(tmp_path, shard_rows=0)
    with pytest.raises(ConfigError, match="at least one view"):
        plan_build(tmp_path / "x", some_rows(tmp_path, 2), model_context(), {}, max_length=50)
    assert not (tmp_path / "index").exists()
