"""The sketch keeps inner products, and depends on nothing but seed, tensor name and gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gradients.cases import examples, lora_model
from rapidun.data.batches import collate
from rapidun.errors import ConfigError
from rapidun.gradients import Exact, GradientCollector, RapidGrad
from rapidun.gradients.rapidgrad import _CHUNK, _hashed_by_numpy, _hashed_by_torch, _keys
from tiny import tiny_model

CPU = torch.device("cpu")
GOLDEN_BUCKETS = [60658, 38394, 51322, 24282, 38175, 56938]
GOLDEN_SIGNS = [1.0, 1.0, 1.0, 1.0, -1.0, -1.0]


def sketched(sketch: RapidGrad, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    sizes = {name: values.shape[1] for name, values in tensors.items()}
    total = torch.zeros(len(next(iter(tensors.values()))), sketch.dimension(sizes))
    for name, values in tensors.items():
        sketch.add(total, name, values.clone(), sizes)
    return total


def real_gradients(count: int = 24) -> dict[str, torch.Tensor]:
    """Normalised gradients of a real model for rows of different lengths."""
    lengths = [(6 + i % 9, 1 + i % 5) for i in range(count)]
    collector = GradientCollector(tiny_model(), "linear", normalize="unit")
    exact = collector(collate(examples(lengths), 0), Exact())
    return dict(zip(collector.tracked, exact.split(list(collector.sizes.values()), dim=1), strict=True))


def cosine_errors(sketch: RapidGrad, tensors: dict[str, torch.Tensor]) -> np.ndarray:
    """Cosine of the sketches minus cosine of the gradients, for every pair of rows."""
    exact = torch.nn.functional.normalize(torch.cat(list(tensors.values()), dim=1).double())
    found = torch.nn.functional.normalize(sketched(sketch, tensors).double())
    upper = torch.triu_indices(len(exact), len(exact), 1)
    return (found @ found.T - exact @ exact.T)[tuple(upper)].numpy()


def test_the_sketch_is_the_sum_of_signed_values_in_hashed_buckets():
    values, sketch = torch.randn(2, 3 * _CHUNK // 2), RapidGrad(64, seed=3)
    wanted = torch.zeros(2, 64)
    for number in range(2):
        chunk = values[:, number * _CHUNK : (number + 1) * _CHUNK]
        buckets, signs = sketch.buckets_and_signs("w", number, chunk.shape[1], CPU)
        for bucket in range(64):
            wanted[:, bucket] += (chunk * signs)[:, buckets == bucket].sum(dim=1)
    torch.testing.assert_close(sketched(sketch, {"w": values}), wanted, atol=1e-3, rtol=1e-4)


def test_inner_products_are_unbiased_over_seeds_with_the_variance_of_a_count_sketch():
    torch.manual_seed(0)
    tensors = {"a": torch.randn(2, 300), "b": torch.randn(2, 50) * 4}
    tensors["a"][1] += tensors["a"][0]
    both = torch.cat(list(tensors.values()), dim=1).double()
    x, y = both
    k, runs = 32, 3000
    found = [sketched(RapidGrad(k, seed), tensors).double() for seed in range(runs)]
    inner = torch.stack([s[0] @ s[1] for s in found])
    variance = (x.dot(x) * y.dot(y) + x.dot(y) ** 2 - 2 * (x**2).dot(y**2)) / k
    assert abs(inner.mean() - x.dot(y)) < 4 * (variance / runs).sqrt()
    assert inner.var().item() == pytest.approx(variance.item(), rel=0.12)


@pytest.mark.parametrize("k", [256, 1024, 1000])
def test_the_error_on_real_gradients_is_at_most_1_05_over_root_k(k):
    tensors = real_gradients()
    errors = np.array([cosine_errors(RapidGrad(k, seed), tensors) for seed in range(20)])
    assert np.sqrt((errors**2).mean()) <= 1.05 / np.sqrt(k)
    assert abs(errors.mean()) < 0.1 / np.sqrt(k)


@pytest.mark.parametrize("period", [1, 16, 64, 4096])
def test_structured_gradients_have_the_same_error(period):
    """All weight in a few columns, or in the first rows, of a matrix: where a sketch by blocks goes wrong."""
    k, size = 512, 8192
    pattern = torch.zeros(size)
    pattern[:: max(1, period)] = 1.0
    if period == 4096:
        pattern[:] = 0
        pattern[:64] = 1.0
    generator = torch.Generator().manual_seed(0)
    tensors = {f"layer.{i}": torch.randn(16, size, generator=generator) * pattern for i in range(3)}
    errors = np.array([cosine_errors(RapidGrad(k, seed), tensors) for seed in range(20)])
    assert np.sqrt((errors**2).mean()) <= 1.05 / np.sqrt(k)


def test_neighbouring_values_share_a_bucket_no_more_often_than_chance():
    k, chunks, length = 1024, 200, 4096
    hashed = [RapidGrad(k).buckets_and_signs(f"layer.{i}", 0, length, CPU) for i in range(chunks)]
    buckets, signs = (torch.stack(parts) for parts in zip(*hashed, strict=True))
    for distance in (1, 2, 3, 16, 64, 1024):
        collide = buckets[:, distance:] == buckets[:, :-distance]
        expected = collide.numel() / k
        agree = signs[:, distance:] * signs[:, :-distance]
        assert abs(collide.sum() - expected) < 4.5 * expected**0.5
        assert abs(agree.sum()) < 4.5 * agree.numel() ** 0.5
        assert abs(agree[collide].sum()) < 4.5 * expected**0.5


def test_trap_12_no_coordinate_is_dead_and_all_are_equally_full():
    k, chunks = 4096, 4
    counts = torch.zeros(k)
    for number in range(chunks):
        counts += torch.bincount(RapidGrad(k).buckets_and_signs("w", number, _CHUNK, CPU)[0], minlength=k)
    mean = chunks * _CHUNK / k
    assert counts.min() > 0
    assert ((counts - mean) ** 2 / mean).mean() == pytest.approx(1, abs=0.15)


def test_trap_13_tensor_order_does_not_matter():
    tensors = {name: torch.randn(3, 500) for name in "abcd"}
    backwards = dict(reversed(tensors.items()))
    torch.testing.assert_close(sketched(RapidGrad(128), tensors), sketched(RapidGrad(128), backwards))


def test_trap_13_another_layer_does_not_change_the_others():
    tensors = {name: torch.randn(3, 500) for name in "ab"}
    more = {"z": torch.randn(3, 70), **tensors}
    difference = sketched(RapidGrad(128), more) - sketched(RapidGrad(128), tensors)
    torch.testing.assert_close(difference, sketched(RapidGrad(128), {"z": more["z"]}), atol=1e-5, rtol=1e-5)


def test_trap_13_a_row_has_the_same_sketch_in_every_batch():
    values = torch.randn(9, 70_000)
    together = sketched(RapidGrad(256), {"w": values})
    alone = torch.cat([sketched(RapidGrad(256), {"w": row[None]}) for row in values])
    assert torch.equal(together, alone)


def test_trap_13_the_hash_is_a_constant_of_the_format():
    """Numbers in stored indexes depend on these: a change here is a new index format version."""
    buckets, signs = RapidGrad(65_536, seed=0).buckets_and_signs("model.layers.0.mlp.up_proj.weight", 1, 6, CPU)
    assert buckets.tolist() == GOLDEN_BUCKETS
    assert signs.tolist() == GOLDEN_SIGNS


def test_trap_13_the_hash_of_a_cpu_is_the_hash_of_every_device():
    for number in range(20):
        keys = _keys(3, "layers.0.mlp", number)
        wanted = _hashed_by_torch(keys, _CHUNK, CPU)
        assert np.array_equal(_hashed_by_numpy(keys, _CHUNK).view(np.int32), wanted.numpy())


def test_a_power_of_two_is_the_same_definition_as_any_other_k():
    hashed, _ = RapidGrad(2**20).buckets_and_signs("w", 0, 1000, CPU)
    assert torch.equal(hashed % 1024, RapidGrad(1024).buckets_and_signs("w", 0, 1000, CPU)[0])


def test_seeds_and_names_give_other_sketches():
    values = torch.randn(1, 2000)
    vectors = [sketched(RapidGrad(256, s), {n: values})[0] for s in (0, 1) for n in ("a", "b")]
    similarity = torch.stack(vectors) @ torch.stack(vectors).T / values.norm() ** 2
    assert (similarity - similarity.diag().diag()).abs().max() < 5 / 16


@pytest.mark.parametrize("k", [0, -1, 2**31])
def test_k_out_of_range_is_an_error(k):
    with pytest.raises(ConfigError, match=f"k={k}"):
        RapidGrad(k)


def test_exact_places_tensors_in_the_models_order_whatever_the_order_of_arrival():
    sizes = {"a": 2, "b": 3}
    total = torch.zeros(1, Exact().dimension(sizes))
    Exact().add(total, "b", torch.full((1, 3), 2.0), sizes)
    Exact().add(total, "a", torch.full((1, 2), 1.0), sizes)
    assert total.tolist() == [[1, 1, 2, 2, 2]]


def test_the_collectors_sketch_is_the_sketch_of_the_exact_gradients():
    model, batch = lora_model(), collate(examples(), 0)
    collector = GradientCollector(model, "lora")
    exact = collector(batch, Exact()).split(list(collector.sizes.values()), dim=1)
    wanted = sketched(RapidGrad(512), dict(zip(collector.tracked, exact, strict=True)))
    torch.testing.assert_close(collector(batch, RapidGrad(512)), wanted, atol=1e-5, rtol=1e-5)
