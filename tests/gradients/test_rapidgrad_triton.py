"""The Triton kernel gives RapidGrad's numbers in Triton's interpreter, which needs no GPU, and compiles for GPUs.

Skipped where Triton is not installed (extra ``gpu``).
"""

from __future__ import annotations

import importlib
import sys

import pytest
import torch

from rapidun.gradients import RapidGrad
from rapidun.gradients import rapidgrad as room

pytest.importorskip("triton")
MODULE = "rapidun.gradients.rapidgrad_triton"


def fresh(monkeypatch, interpret):
    """The module with its kernel decorated anew, for the interpreter or for the compiler."""
    monkeypatch.setenv("TRITON_INTERPRET", "1" if interpret else "0")
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    return importlib.import_module(MODULE)


@pytest.mark.parametrize("k", [1, 64, 1000])
@pytest.mark.parametrize(("rows", "size"), [(1, 1), (3, 700), (17, 1024), (2, 2**16 + 300)])
def test_in_the_interpreter_it_gives_the_sketch_of_the_torch_path(monkeypatch, k, rows, size):
    kernel = fresh(monkeypatch, interpret=True)
    # whole numbers, so that the order of addition cannot show: equal means equal to the bit
    gradients = torch.randint(-99, 100, (rows, size), generator=torch.Generator().manual_seed(k + rows)).float()
    start = torch.arange(rows * k).float().reshape(rows, k)
    wanted, found = start.clone(), start.clone()
    sketch = RapidGrad(k=k, seed=7)
    sketch.add(wanted, "layer.weight", gradients.clone(), {})
    monkeypatch.setattr(room, "_adder", lambda device: kernel.add_sketch)
    sketch.add(found, "layer.weight", gradients, {})
    assert torch.equal(found, wanted)
    assert not torch.equal(found, start)


def test_rows_that_lie_apart_and_gradients_of_another_layout_are_taken(monkeypatch):
    kernel = fresh(monkeypatch, interpret=True)
    gradients = torch.randint(-9, 10, (500, 4), generator=torch.Generator().manual_seed(0)).float().T
    wide = torch.zeros(4, 200)
    wanted = torch.zeros(4, 100)
    room._add_by_torch(wanted, gradients.contiguous(), [(1, 2, 3)])
    kernel.add_sketch(wide[:, 50:150], gradients, [(1, 2, 3)])
    assert torch.equal(wide[:, 50:150], wanted)
    assert wide[:, :50].abs().sum() + wide[:, 150:].abs().sum() == 0
    kernel.add_sketch(wide, gradients[:, :0], [])  # no values: nothing to add


def test_a_kernel_that_fails_or_gives_other_numbers_is_not_used(monkeypatch):
    kernel = fresh(monkeypatch, interpret=True)
    cpu = torch.device("cpu")
    assert kernel.checked_kernel(cpu, room._add_by_torch) is kernel.add_sketch

    def other(total, gradients, keys):
        total += 1

    def broken(total, gradients, keys):
        raise RuntimeError("no C compiler\nmore lines")

    for found, said in ((other, "AssertionError"), (broken, "RuntimeError: no C compiler$")):
        kernel.checked_kernel.cache_clear()
        monkeypatch.setattr(kernel, "add_sketch", found)
        with pytest.warns(UserWarning, match=f"Triton kernel is not used: {said}"):
            assert kernel.checked_kernel(cpu, room._add_by_torch) is room._add_by_torch


@pytest.mark.parametrize("architecture", [80, 90])
@pytest.mark.parametrize("power_of_two", [True, False])
def test_it_compiles_for_gpus_that_are_not_here(monkeypatch, tmp_path, architecture, power_of_two):
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel = fresh(monkeypatch, interpret=False).add_kernel
    names = ("batch", "size", "k", "total_stride", "gradients_stride")
    signature = {"total": "*fp32", "gradients": "*fp32", "keys": "*i32", **dict.fromkeys(names, "i32")}
    constants = {"power_of_two": power_of_two, "block": 1024, "rows": 8}
    source = ASTSource(kernel, {**signature, **dict.fromkeys(constants, "constexpr")}, constants)
    compiled = triton.compile(source, target=GPUTarget("cuda", architecture, 32))
    assert f".target sm_{architecture}" in compiled.asm["ptx"]
    assert "red" in compiled.asm["ptx"] or "atom" in compiled.asm["ptx"]
    assert len(compiled.asm["cubin"]) > 0
