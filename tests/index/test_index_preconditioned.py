"""A preconditioner is fitted once, kept in the index, and multiplies rows and queries alike."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

from gradients.cases import looped_gradients
from index.cases import contents, gradient_scorer, model_context, some_plan, some_rows
from rapidun.attribution import GradientScorer, TraceQuery
from rapidun.attribution.scorers import gradient as gradient_file
from rapidun.attribution.scorers.gradient import Precondition
from rapidun.attribution.search import query_features
from rapidun.attribution.store import build_index, open_index, plan_append
from rapidun.attribution.store.verify import verify
from rapidun.data import tokenize_rows
from rapidun.errors import ConfigError, FingerprintError, InputError
from rapidun.gradients import Exact, FactoredSketch, Readout, fit_preconditioner, load_preconditioner

TARGETS = ["layers.0.self_attn.o_proj", "layers.1.mlp.down_proj"]
DAMPING = 0.2


def view_of(kind="kfac", sketch=None, targets=TARGETS, **settings):
    precondition = Precondition(kind=kind, **{"damping": DAMPING, "rows": 9, "seed": 3, **settings})
    return GradientScorer(
        sketch=(sketch or Exact()).describe(), targets=targets, normalize="none", precondition=precondition
    )


def plan_of(folder, out="index", *, model=None, count=20, **settings):
    views = {"gradient": view_of(**settings)}
    return some_plan(folder, count, out=out, model=model or model_context(), views=views)


def tokenised(model, rows):
    return tokenize_rows(rows, model.loaded.tokenizer, model.template, 96)


def power_of_the_damped_fisher(kind, statistics, power):
    """The dense matrix, from the statistics alone."""
    found = {name: values.double() for name, values in statistics.items()}
    if kind == "adam":
        second = found["second_moment"]
        return torch.diag((second + DAMPING * second.mean()) ** power)
    vectors = torch.kron(found["output_vectors"], found["input_vectors"])
    if kind == "ekfac":
        values = found["values"].flatten()
        values = values + DAMPING * values.mean()
    else:
        sides = [found["output_values"].clamp_min(0), found["input_values"].clamp_min(0)]
        values = torch.kron(*(side + DAMPING**0.5 * side.mean() for side in sides))
    return (vectors * values**power) @ vectors.T


def by_hand(kind, model, rows, saved, power):
    network = model.loaded.model
    names = list(saved.statistics)
    gradients = looped_gradients(network, tokenised(model, rows), names)
    parts = [
        gradients[name].double() @ power_of_the_damped_fisher(kind, saved.statistics[name], power) for name in names
    ]
    return torch.cat(parts, dim=1).numpy()


@pytest.mark.parametrize(
    ("kind", "side", "powers"),
    [
        ("adam", "both", (-0.5, -0.5)),
        ("kfac", "both", (-0.5, -0.5)),
        ("ekfac", "both", (-0.5, -0.5)),
        ("ekfac", "query", (0, -1)),
    ],
)
def test_search_gives_the_scores_of_gradients_preconditioned_by_hand(tmp_path, kind, side, powers):
    model = model_context()
    plan = plan_of(tmp_path, model=model, kind=kind, side=side)
    build_index(plan)
    index = open_index(tmp_path / "index")
    saved = load_preconditioner(tmp_path / "index" / "preconditioner")
    asked = some_rows(tmp_path, 4, name="asked", start=50)
    query = TraceQuery(list(asked), tokenised(model, asked))
    queries = query_features(index, model, query, ["gradient"])["gradient"].numpy()
    train = by_hand(kind, model, plan.rows, saved, powers[0])
    wanted = by_hand(kind, model, asked, saved, powers[1])
    np.testing.assert_allclose(queries, wanted, atol=1e-4 * np.abs(wanted).max())
    train, wanted = (values / np.linalg.norm(values, axis=1, keepdims=True) for values in (train, wanted))
    scores = wanted @ train.T
    np.testing.assert_allclose(index.features().scores(queries), scores, atol=2e-3)
    plain = by_hand(kind, model, plan.rows, saved, 0), by_hand(kind, model, asked, saved, 0)
    plain = [values / np.linalg.norm(values, axis=1, keepdims=True) for values in plain]
    assert np.abs(scores - plain[1] @ plain[0].T).max() > 0.05
    for row, hits in zip(index.features().scores(queries), index.features().search(queries, 3), strict=True):
        assert [hit.position for hit in hits.helpful] == np.argsort(-row, kind="stable")[:3].tolist()


def test_it_is_fitted_to_a_seeded_sample_of_the_rows_and_named_in_the_manifest(tmp_path):
    model = model_context()
    plan = plan_of(tmp_path, model=model)
    build_index(plan)
    found = json.loads((tmp_path / "index" / "manifest.json").read_text())["views"]["gradient"]["precondition"]
    saved = load_preconditioner(tmp_path / "index" / "preconditioner")
    assert found["fitted"] == saved.describe()
    assert (saved.kind, saved.damping, saved.examples, saved.fisher) == ("kfac", DAMPING, 9, "sampled")
    examples = plan.sample(9, 3)
    assert len({example.id for example in examples}) == 9
    assert [example.id for example in examples] != [example.id for example in plan.sample(9, 4)]
    collector = view_of(kind="none").resolved(model)._collector(model)
    again = fit_preconditioner(collector, examples, 0, "kfac", damping=DAMPING, seed=3, max_tokens=200)
    assert again.fingerprint == saved.fingerprint


def stopped(plan, after):
    """Build until ``after`` rows are done."""

    class StopError(Exception):
        pass

    def stop(done, total):
        if total == len(plan.rows) and done > after:
            raise StopError

    with pytest.raises(StopError):
        build_index(plan, progress=stop)


def test_a_resumed_build_uses_what_was_fitted_and_ends_with_the_same_bytes(tmp_path, monkeypatch):
    build_index(plan_of(tmp_path, "whole"))
    plan = plan_of(tmp_path, "stopped")
    stopped(plan, 8)
    monkeypatch.setattr(gradient_file, "fit_preconditioner", None)
    build_index(plan, resume=True)
    assert contents(tmp_path / "whole") == contents(tmp_path / "stopped")
    build_index(plan, resume=True)  # finished: nothing to do
    assert contents(tmp_path / "whole") == contents(tmp_path / "stopped")


def test_a_build_killed_while_it_fits_starts_the_fit_again(tmp_path, monkeypatch):
    build_index(plan_of(tmp_path, "whole"))
    plan = plan_of(tmp_path, "killed")

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(gradient_file, "fit_preconditioner", killed)
        build_index(plan)
    (tmp_path / "killed" / "preconditioner").mkdir()
    (tmp_path / "killed" / "preconditioner" / ".preconditioner.json.7.part").write_bytes(b"half")
    build_index(plan, resume=True)
    assert contents(tmp_path / "whole") == contents(tmp_path / "killed")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"damping": 0.3}, r"views\.gradient\.precondition\.damping was 0\.2 and is now 0\.3"),
        ({"kind": "ekfac"}, r"views\.gradient\.precondition\.kind was kfac and is now ekfac"),
        ({"kind": "none"}, r"views\.gradient\.precondition was \{.*\} and is now None"),
        ({"rows": 10}, r"views\.gradient\.precondition\.rows was 9 and is now 10"),
    ],
)
def test_other_settings_do_not_resume(tmp_path, other, message):
    stopped(plan_of(tmp_path), 8)
    with pytest.raises(FingerprintError, match=message):
        build_index(plan_of(tmp_path, **other), resume=True)


def test_appended_rows_are_multiplied_by_what_was_fitted_first(tmp_path, monkeypatch):
    model = model_context()
    build_index(plan_of(tmp_path, model=model))
    before = contents(tmp_path / "index")
    monkeypatch.setattr(gradient_file, "fit_preconditioner", None)
    more = some_rows(tmp_path, 5, name="more", start=70)
    build_index(plan_append(tmp_path / "index", more, model))
    after = contents(tmp_path / "index")
    assert {name: after[name] for name in before if name != "manifest.json"} == {
        name: content for name, content in before.items() if name != "manifest.json"
    }
    saved = load_preconditioner(tmp_path / "index" / "preconditioner")
    wanted = by_hand("kfac", model, more, saved, -0.5)
    found = open_index(tmp_path / "index").features().vectors(list(range(20, 25)))
    np.testing.assert_allclose(found, wanted, atol=2e-3 * np.abs(wanted).max())


def test_another_preconditioner_in_its_place_is_refused_with_both_fingerprints(tmp_path):
    model = model_context()
    for out, seed in (("index", 3), ("other", 4)):
        build_index(plan_of(tmp_path, out, model=model, seed=seed))
    own, other = (load_preconditioner(tmp_path / out / "preconditioner").fingerprint for out in ("index", "other"))
    shutil.rmtree(tmp_path / "index" / "preconditioner")
    index = open_index(tmp_path / "index")
    with pytest.raises(InputError, match=r"preconditioner\.json: no such file"):
        index.fitted("gradient")
    shutil.copytree(tmp_path / "other" / "preconditioner", tmp_path / "index" / "preconditioner")
    message = rf"fingerprint {other[:16]}, and the index was built with {own[:16]}"
    with pytest.raises(FingerprintError, match=message):
        index.fitted("gradient")
    with pytest.raises(FingerprintError, match=message):
        build_index(plan_append(tmp_path / "index", some_rows(tmp_path, 3, name="more", start=70), model))
    assert {damage.file.partition("/")[0] for damage in verify(tmp_path / "index")} == {"preconditioner"}


def test_verify_checks_its_bytes(tmp_path):
    build_index(plan_of(tmp_path, count=9))
    assert verify(tmp_path / "index") == []
    path = tmp_path / "index" / "preconditioner" / "preconditioner.safetensors"
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(bytes(content))
    assert [str(damage) for damage in verify(tmp_path / "index")] == [
        "preconditioner/preconditioner.safetensors: bytes were changed"
    ]


def test_none_is_the_index_without_one(tmp_path):
    for out, precondition in (("a", None), ("b", Precondition(kind="none"))):
        build_index(some_plan(tmp_path, 9, out=out, views={"gradient": gradient_scorer(precondition=precondition)}))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "adamw"}, "preconditioner 'adamw': use one of none, adam"),
        ({"damping": 0.0}, "damping=0.0: give a number above 0"),
        ({"kind": "adam", "sketch": FactoredSketch()}, "'adam' forms the gradient, and the sketch 'factored'"),
        ({"kind": "adam", "sketch": Readout(k=32)}, "'adam' forms the gradient, and the sketch 'readout'"),
    ],
)
def test_what_no_build_could_use_is_refused_before_it_starts(tmp_path, settings, message):
    with pytest.raises(ConfigError, match=message):
        plan_of(tmp_path, **settings)
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize("kind", ["kfac", "ekfac"])
@pytest.mark.parametrize("sketch", [FactoredSketch(), Readout(k=32)], ids=["factored", "readout"])
def test_sketches_of_factors_are_preconditioned_too(tmp_path, kind, sketch):
    model = model_context()
    found = []
    for out, chosen in (("with", kind), ("without", "none")):
        build_index(plan_of(tmp_path, out, model=model, kind=chosen, sketch=sketch, count=9))
        found.append(open_index(tmp_path / out).features().vectors())
    similar = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in found]
    assert np.abs(similar[0] - similar[1]).max() > 0.05
