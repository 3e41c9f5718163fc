"""Preconditioners against dense matrices on a tiny model; what is saved comes back; what does not fit is an error."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from gradients.cases import examples, looped_gradients, lora_model
from rapidun.data.batches import collate
from rapidun.errors import ConfigError, FingerprintError, InputError, ModelError
from rapidun.gradients import (
    Exact,
    FactoredSketch,
    GradientCollector,
    Preconditioner,
    RapidGrad,
    Readout,
    ReadoutCollector,
    fit_preconditioner,
    load_preconditioner,
)
from rapidun.models.losses import mean_answer_loss
from tiny import tiny_model

TARGETS = ["layers.0.self_attn.o_proj", "layers.1.mlp.down_proj"]
DAMPING = 0.2


def fitted(kind, model=None, targets=TARGETS, **settings):
    collector = GradientCollector(model or tiny_model(), targets, normalize="none")
    settings = {"damping": DAMPING, "fisher": "empirical", "max_tokens": 30, **settings}
    return fit_preconditioner(collector, examples(), 0, kind, **settings)


def layer_tokens(model, name):
    """Activations and output gradients of one layer, row by row, by autograd; tokens without a gradient left out."""
    caught = {}
    layer = model.get_submodule(name.removesuffix(".weight"))

    def hook(module, inputs, output):
        caught.update(a=inputs[0].detach(), y=output)
        output.retain_grad()

    handle, found = layer.register_forward_hook(hook), []
    for row in examples():
        ids = torch.tensor([row.input_ids])
        labels = ids.clone()
        labels[:, : row.answer_start] = -100
        mean_answer_loss(model(input_ids=ids).logits, labels).sum().backward()
        used = caught["y"].grad[0].abs().sum(dim=1) > 0
        found.append((caught["a"][0][used].double(), caught["y"].grad[0][used].double()))
    handle.remove()
    return found


def dense_fisher(kind, model, name):
    """The (values x values) matrix that the kind stands for, damped, of gradients flattened as (outputs, inputs)."""
    gradients = looped_gradients(model, examples(), [name])[name].double()
    if kind == "adam":
        fisher = (gradients**2).mean(dim=0).diag()
        return fisher + DAMPING * fisher.diagonal().mean() * torch.eye(len(fisher)).double()
    tokens = layer_tokens(model, name)
    a = sum(x.T @ x for x, _ in tokens) / sum(len(x) for x, _ in tokens)
    g = sum(e.T @ e for _, e in tokens) / len(tokens)
    if kind == "kfac":
        damped = [m + DAMPING**0.5 * m.trace() / len(m) * torch.eye(len(m)).double() for m in (g, a)]
        return torch.kron(*damped)
    basis = torch.kron(torch.linalg.eigh(g).eigenvectors, torch.linalg.eigh(a).eigenvectors)
    values = ((gradients @ basis) ** 2).mean(dim=0)
    return (basis * (values + DAMPING * values.mean())) @ basis.T


def powered(matrix, power):
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values**power) @ vectors.T


@pytest.mark.parametrize("kind", ["adam", "kfac", "ekfac"])
def test_it_is_the_power_of_the_damped_dense_matrix(kind):
    model = tiny_model()
    found = fitted(kind, model)
    for side, role, power in (("both", "train", -0.5), ("both", "query", -0.5), ("query", "query", -1.0)):
        chosen = Preconditioner(kind, DAMPING, side, "empirical", 5, found.statistics)
        collector = GradientCollector(model, TARGETS, normalize="none", transform=chosen.transform(role))
        parts = collector(collate(examples(), 0), Exact()).split(list(collector.sizes.values()), dim=1)
        for name, part in zip(collector.tracked, parts, strict=True):
            raw = looped_gradients(model, examples(), [name])[name].double()
            wanted = raw @ powered(dense_fisher(kind, model, name), power)
            assert (wanted - raw).norm() > wanted.norm() / 2
            torch.testing.assert_close(part.double(), wanted, atol=float(wanted.abs().max()) * 1e-4, rtol=1e-3)


@pytest.mark.parametrize("kind", ["kfac", "ekfac"])
def test_gpt2s_transposed_layers_are_preconditioned_as_linear_ones(kind):
    """The same weights as nn.Linear layers give the same preconditioned gradients, transposed."""
    model, same = tiny_model("gpt2"), tiny_model("gpt2")
    name = "transformer.h.1.mlp.c_fc"
    conv = model.get_submodule(name)
    linear = nn.Linear(*conv.weight.shape)
    linear.weight.data, linear.bias.data = conv.weight.data.T.contiguous(), conv.bias.data
    same.transformer.h[1].mlp.c_fc = linear
    found = []
    for each in (model, same):
        transform = fitted(kind, each, [name]).transform("query")
        collector = GradientCollector(each, [name], normalize="none", transform=transform)
        found.append(collector(collate(examples(), 0), Exact()))
    transposed = found[1].view(5, *linear.weight.shape).transpose(1, 2).flatten(1)
    torch.testing.assert_close(found[0], transposed, atol=float(transposed.abs().max()) * 1e-4, rtol=1e-3)


@pytest.mark.parametrize("kind", ["adam", "kfac", "ekfac"])
def test_both_sides_and_the_query_side_have_the_same_inner_products(kind):
    model, batch = tiny_model(), collate(examples(), 0)
    statistics = fitted(kind, model).statistics

    def vectors(side, role):
        transform = Preconditioner(kind, DAMPING, side, "empirical", 5, statistics).transform(role)
        return GradientCollector(model, TARGETS, normalize="none", transform=transform)(batch, Exact()).double()

    both = vectors("both", "query") @ vectors("both", "train").T
    query = vectors("query", "query") @ vectors("query", "train").T
    torch.testing.assert_close(both, query, rtol=1e-3, atol=float(query.abs().max()) * 1e-4)


def test_the_query_side_leaves_training_rows_and_none_leaves_everything():
    assert fitted("kfac", side="query").transform("train") is None
    nothing = fit_preconditioner(GradientCollector(tiny_model(), TARGETS), [], 0, "none")
    assert nothing.transform("query") is None
    assert nothing.transform("train") is None


@pytest.mark.parametrize("kind", ["kfac", "ekfac"])
def test_factored_sketches_take_preconditioned_factors(kind):
    model, sketch = tiny_model(), FactoredSketch(p=3)
    transform = fitted(kind, model).transform("query")
    collector = GradientCollector(model, TARGETS, transform=transform)
    exact = collector(collate(examples(), 0), Exact()).split(list(collector.sizes.values()), dim=1)
    wanted = []
    for name, part in zip(collector.tracked, exact, strict=True):
        outputs, inputs = model.get_parameter(name).shape
        p_out, p_in = (sketch.projection(name, s, n, part.device) for s, n in (("out", outputs), ("in", inputs)))
        wanted.append((p_out.T @ part.view(-1, outputs, inputs) @ p_in).flatten(1))
    torch.testing.assert_close(collector(collate(examples(), 0), sketch), torch.cat(wanted, 1), atol=1e-4, rtol=1e-3)


def test_adam_forms_the_gradient_and_says_so_to_a_sketch_of_factors():
    transform = fitted("adam").transform("query")
    with pytest.raises(ConfigError, match="adam divides every value"):
        GradientCollector(tiny_model(), TARGETS, transform=transform)(collate(examples(), 0), FactoredSketch(3))


def test_the_readout_is_preconditioned_too():
    model, batch = tiny_model(), collate(examples(), 0)
    plain = ReadoutCollector(model)
    found = fit_preconditioner(plain, examples(), 0, "kfac", fisher="empirical")
    same = fit_preconditioner(GradientCollector(model, ["lm_head"]), examples(), 0, "kfac", fisher="empirical")
    vectors = ReadoutCollector(model, transform=found.transform("train"))(batch, Readout(4096))
    wanted = GradientCollector(model, ["lm_head"], transform=same.transform("train"))(batch, Readout(4096))
    torch.testing.assert_close(vectors, wanted, atol=1e-3, rtol=1e-2)
    assert (vectors - plain(batch, Readout(4096))).norm() > 0.5


@pytest.mark.parametrize("kind", ["adam", "kfac", "ekfac"])
def test_the_statistics_do_not_depend_on_the_batches(kind):
    small, large = fitted(kind, max_tokens=10), fitted(kind, max_tokens=1000)
    batch, found = collate(examples(), 0), []
    for each in (small, large):
        collector = GradientCollector(tiny_model(), TARGETS, transform=each.transform("query"))
        found.append(collector(batch, Exact()))
    torch.testing.assert_close(*found, atol=1e-3, rtol=1e-2)


def test_sampled_labels_follow_from_the_seed_alone():
    first, again = (fitted("kfac", fisher="sampled", seed=3) for _ in range(2))
    assert first.fingerprint == again.fingerprint
    assert first.fingerprint != fitted("kfac", fisher="sampled", seed=4).fingerprint
    assert first.fingerprint != fitted("kfac").fingerprint


def test_float16_statistics_are_not_scaled():
    half = fitted("ekfac", tiny_model(dtype=torch.float16))
    full = fitted("ekfac")
    for name, statistics in full.statistics.items():
        for statistic in ("input_values", "output_values", "values"):
            found = half.statistics[name][statistic].sum()
            torch.testing.assert_close(found, statistics[statistic].sum(), rtol=0.1, atol=0)


def test_a_tensor_without_gradients_is_left_as_it_is():
    model = lora_model(random_b=False)
    transform = fitted("kfac", model, "lora").transform("query")
    found = GradientCollector(model, "lora", transform=transform)(collate(examples(), 0), RapidGrad(256))
    assert found.isfinite().all()
    assert found.abs().sum() > 0


@pytest.mark.parametrize("kind", ["adam", "kfac", "ekfac"])
def test_what_is_saved_comes_back_and_gives_the_same_vectors(kind, tmp_path):
    found = fitted(kind, side="query")
    found.save(tmp_path / "p")
    loaded = load_preconditioner(tmp_path / "p")
    assert loaded.describe() == found.describe()
    vectors = [
        GradientCollector(tiny_model(), TARGETS, transform=each.transform("query"))(collate(examples(), 0), Exact())
        for each in (found, loaded)
    ]
    assert torch.equal(*vectors)
    assert sorted(path.name for path in (tmp_path / "p").iterdir()) == [
        "preconditioner.json",
        "preconditioner.safetensors",
    ]


def test_changed_or_missing_files_are_errors(tmp_path):
    fitted("adam").save(tmp_path)
    settings = json.loads((tmp_path / "preconditioner.json").read_text())
    (tmp_path / "preconditioner.json").write_text(json.dumps({**settings, "damping": 0.3}))
    with pytest.raises(FingerprintError, match=settings["fingerprint"]):
        load_preconditioner(tmp_path)
    (tmp_path / "preconditioner.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"preconditioner\.safetensors: not a whole"):
        load_preconditioner(tmp_path)
    (tmp_path / "preconditioner.json").write_text("{}")
    with pytest.raises(InputError, match="format 1"):
        load_preconditioner(tmp_path)


def test_tensors_that_it_was_not_fitted_to_are_errors():
    transform = fitted("kfac").transform("query")
    with pytest.raises(ModelError, match=r"not fitted to .*q_proj.* 2 other tensors"):
        GradientCollector(tiny_model(), ["q_proj"], transform=transform)(collate(examples(), 0), Exact())
    first, second = (f"model.{target}.weight" for target in TARGETS)
    wrong = Preconditioner("kfac", statistics={second: fitted("kfac").statistics[first]})
    collector = GradientCollector(tiny_model(), [TARGETS[1]], transform=wrong.transform("query"))
    with pytest.raises(ModelError, match="16 inputs; this one has 24"):
        collector(collate(examples(), 0), Exact())


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"kind": "shampoo"}, "'shampoo': use one of none, adam, kfac, ekfac"),
        ({"kind": "kfac", "damping": 0}, "damping=0"),
        ({"kind": "kfac", "side": "left"}, "side='left'"),
        ({"kind": "kfac", "fisher": "true"}, "fisher='true'"),
    ],
)
def test_unknown_settings_are_errors_before_anything_is_run(settings, text):
    with pytest.raises(ConfigError, match=text):
        fitted(**settings)
    with pytest.raises(ConfigError, match="role='row'"):
        Preconditioner("kfac").transform("row")


def test_no_examples_are_an_error():
    with pytest.raises(ConfigError, match="at least one example"):
        fit_preconditioner(GradientCollector(tiny_model(), TARGETS), [], 0, "adam")
