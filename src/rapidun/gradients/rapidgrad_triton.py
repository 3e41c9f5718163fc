"""RapidGrad's sketch as one Triton kernel per tensor, for GPUs; `rapidun.gradients.rapidgrad` says what it computes.

The torch path writes the hash, the buckets and the signed values of every chunk to memory and reads them again. Here a
program hashes its values in registers, once for several rows, and adds them to their buckets: the gradient is read once
and nothing else is written. Hash, buckets and signs are the torch path's, bit for bit; the order in which one bucket's
values are added is the GPU's, here as in torch's ``index_add_``, so sums may differ in their last bits.

This file needs Triton (extra ``gpu``; torch's CUDA wheels for Linux bring it) and is imported only for a tensor on a
GPU. It was checked against the torch path in Triton's interpreter and compiled for sm_80 and sm_90, on a machine
without a GPU: it has not been run or timed on one. `checked_kernel` therefore compares the two on the GPU before the
first use.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache

import torch
import triton
import triton.language as tl

CHUNK = tl.constexpr(2**16)
FIRST, SECOND = tl.constexpr(0x7FEB352D), tl.constexpr(0x045D9F3B)
BLOCK, ROWS = 1024, 8  # values of a program, and rows that share their hash; BLOCK divides CHUNK

AddSketch = Callable[[torch.Tensor, torch.Tensor, list[tuple[int, int, int]]], None]


@triton.jit
def add_kernel(
    total,
    gradients,
    keys,
    batch,
    size,
    k,
    total_stride,
    gradients_stride,
    power_of_two: tl.constexpr,
    block: tl.constexpr,
    rows: tl.constexpr,
):
    """``total[row, bucket(j)] += sign(j) gradients[row, j]`` for one block of j and a few rows."""
    start = tl.program_id(0).to(tl.int64) * block
    places = start + tl.arange(0, block)
    inside = places < size
    key = keys + 3 * (start // CHUNK)
    hashed = (places % CHUNK).to(tl.uint32) ^ tl.load(key).to(tl.uint32)
    hashed = hashed * FIRST
    hashed = hashed ^ (hashed >> 15)
    hashed = (hashed + tl.load(key + 1).to(tl.uint32)) * SECOND
    hashed = hashed ^ (hashed >> 16)
    hashed = (hashed + tl.load(key + 2).to(tl.uint32)) * FIRST
    hashed = hashed ^ (hashed >> 16)
    negative = (hashed >> 31) == 1
    bare = (hashed & 0x7FFFFFFF).to(tl.int32)
    buckets = bare & (k - 1) if power_of_two else bare % k
    first = tl.program_id(1) * rows
    sources = gradients + first.to(tl.int64) * gradients_stride + places
    totals = total + first.to(tl.int64) * total_stride + buckets
    for _ in range(first, min(first + rows, batch)):
        values = tl.load(sources, mask=inside, other=0.0)
        tl.atomic_add(totals, tl.where(negative, -values, values), mask=inside, sem="relaxed")
        sources += gradients_stride
        totals += total_stride


def add_sketch(total: torch.Tensor, gradients: torch.Tensor, keys: list[tuple[int, int, int]]) -> None:
    """Add the sketch of ``gradients`` (batch, size) to ``total`` (batch, k), both float32 on one device, in place.

    Args:
        total: Its rows may lie apart, the values of a row may not.
        gradients: The same; copied where they do.
        keys: Three int32 keys for each chunk of 2^16 values, as `rapidun.gradients.rapidgrad` makes them.
    """
    (batch, size), k = gradients.shape, total.shape[1]
    if batch == 0 or size == 0:
        return
    gradients = gradients if gradients.stride(1) == 1 else gradients.contiguous()
    table = torch.tensor(keys, dtype=torch.int32, device=gradients.device)
    with torch.cuda.device_of(gradients):
        add_kernel[(triton.cdiv(size, BLOCK), triton.cdiv(batch, ROWS))](
            total,
            gradients,
            table,
            batch,
            size,
            k,
            total.stride(0),
            gradients.stride(0),
            power_of_two=k & (k - 1) == 0,
            block=BLOCK,
            rows=ROWS,
        )


@cache
def checked_kernel(device: torch.device, by_torch: AddSketch) -> AddSketch:
    """`add_sketch`, if it gives on ``device`` what ``by_torch`` gives there; else, with a warning, ``by_torch``.

    Triton compiles at the first launch, with a C compiler and a driver that need not be there.
    """
    keys = [(12345, -67890, 13579), (-24680, 11223, -44556)]
    gradients = torch.randn(3, 2**16 + 77, generator=torch.Generator().manual_seed(0)).to(device)
    for k in (64, 1000):
        wanted, found = (torch.zeros(3, k, device=device) for _ in range(2))
        by_torch(wanted, gradients.clone(), keys)  # changes signs in place
        try:
            add_sketch(found, gradients, keys)
            torch.testing.assert_close(found, wanted, atol=1e-3, rtol=1e-5)
        except Exception as error:
            first = str(error).strip().split("\n")[0]
            warnings.warn(f"RapidGrad's Triton kernel is not used: {type(error).__name__}: {first}", stacklevel=2)
            return by_torch
    return add_sketch
