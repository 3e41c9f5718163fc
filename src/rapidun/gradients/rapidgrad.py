"""RapidGrad: a count-sketch whose buckets and signs are a function of (seed, tensor name, index) and nothing else.

Value ``j`` of a tensor is added, with a random sign ``r(j)``, to bucket ``h(j)`` of k::

    sketch(x)[b] = sum over j with h(j) = b of r(j) x_j

``E<sketch(x), sketch(y)> = <x, y>`` and the variance is ``(|x|^2 |y|^2 + <x, y>^2 - 2 sum_j x_j^2 y_j^2) / k``:
the estimator of RapidIn (arXiv 2405.11724, section 3.2) and OPORP, without their permutation of all D values and
without their padding. No permutation is stored, so memory does not grow with D; and since the hash knows neither
the batch nor the other tensors nor the device, the same gradient has the same sketch everywhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
import numpy.typing as npt
import torch

from rapidun.gradients.sketches import SKETCHES, Hashed

_CHUNK = 2**16  # part of the definition: each chunk of a tensor has keys of its own
_KEPT = 2048  # chunks whose hash is remembered: 512 MiB at most, all of a model with 134 million values
_SIGN_BIT = -(2**31)
_INDICES = np.arange(_CHUNK, dtype=np.uint32)
_MULTIPLIERS = (0x7FEB352D, 0x045D9F3B)  # odd, with about half of their bits set
_Keys = tuple[int, int, int]
_Adder = Callable[[torch.Tensor, torch.Tensor, list[_Keys]], None]


@SKETCHES.register("rapidgrad")
@dataclass(frozen=True)
class RapidGrad(Hashed):
    """Count-sketch to ``k`` values.

    Args:
        k: Number of buckets; a power of two is fastest.
        seed: Another seed is another, independent sketch.

    Raises:
        ConfigError: If ``k`` is not between 1 and 2^31 - 1.
    """

    kind = "rapidgrad"

    k: int = 65_536

    def add(self, total: torch.Tensor, name: str, gradients: torch.Tensor, sizes: Mapping[str, int]) -> None:
        """Add the sketch of ``gradients`` (batch, size) to ``total`` (batch, k); by Triton on a GPU that has it.

        The gradients may be overwritten: elsewhere their signs change in place, and a copy would cost a quarter more.
        """
        chunks = range(-(-gradients.shape[1] // _CHUNK))
        _adder(gradients.device)(total, gradients, [_keys(self.seed, name, chunk) for chunk in chunks])

    def buckets_and_signs(
        self, name: str, chunk: int, length: int, device: torch.device
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Bucket (int64) and sign (float32, +1 or -1) of the first ``length`` values of a tensor's chunk."""
        hashed = _kept(_keys(self.seed, name, chunk), length, device)
        signs = torch.copysign(torch.ones((), device=device), hashed.view(torch.float32))
        return _buckets(hashed, self.k), signs


@cache
def _adder(device: torch.device) -> _Adder:
    """What adds sketches on a device: the Triton kernel on a GPU that has it, else `_add_by_torch`."""
    if device.type != "cuda":
        return _add_by_torch
    try:
        from rapidun.gradients.rapidgrad_triton import checked_kernel
    except (ImportError, AttributeError):  # no Triton, or something else of that name
        return _add_by_torch

    found: _Adder = checked_kernel(device, _add_by_torch)
    return found


def _add_by_torch(total: torch.Tensor, gradients: torch.Tensor, keys: list[_Keys]) -> None:
    """Add the sketch of ``gradients`` (batch, size) to ``total`` (batch, k), chunk by chunk; changes their signs."""
    for key, chunk in zip(keys, torch.split(gradients, _CHUNK, dim=1), strict=False):  # no values: one chunk, no key
        hashed = _kept(key, chunk.shape[1], gradients.device)
        chunk.view(torch.int32).bitwise_xor_(hashed & _SIGN_BIT)  # chunk * signs, at a third of the cost
        total.index_add_(1, _buckets(hashed, total.shape[1]), chunk)


def _buckets(hashed: torch.Tensor, k: int) -> torch.Tensor:
    """The hash without its sign bit, modulo k, int64."""
    if k & (k - 1) == 0:
        return (hashed & (k - 1)).long()  # the same remainder, four times faster
    return (hashed & 0x7FFFFFFF).remainder_(k).long()


def hashed_signs(seed: int, name: str, count: int, device: torch.device) -> torch.Tensor:
    """``count`` values +1 or -1, float32: a function of (seed, name, index) and nothing else."""
    one = torch.ones((), device=device)
    lengths = [min(_CHUNK, count - start) for start in range(0, count, _CHUNK)]
    hashed = [_hashed(_keys(seed, name, number), length, device) for number, length in enumerate(lengths)]
    return torch.copysign(one, torch.cat(hashed).view(torch.float32))


@lru_cache(maxsize=4096)
def _keys(seed: int, name: str, chunk: int) -> _Keys:
    """Three 32-bit keys, as different for neighbouring chunks and names as SHA-256 makes them."""
    digest = hashlib.sha256(f"{seed}:{chunk}:{name}".encode()).digest()
    return _int32(digest[0:4]), _int32(digest[4:8]), _int32(digest[8:12])


def _int32(raw: bytes) -> int:
    return int.from_bytes(raw, "little", signed=True)


@lru_cache(maxsize=_KEPT)
def _kept(keys: _Keys, length: int, device: torch.device) -> torch.Tensor:
    """The same hash, remembered: the next rows of a tensor, and the next batch, need it again. Not to be changed."""
    return _hashed(keys, length, device)


def forget_hashes() -> None:
    """Give back what is remembered; the next batch hashes anew."""
    _kept.cache_clear()


def _hashed(keys: _Keys, length: int, device: torch.device) -> torch.Tensor:
    """Keyed hash of 0..length-1, int32: integer arithmetic modulo 2^32, equal on every device.

    Three rounds of "add a key, multiply by an odd number, fold the high bits onto the low ones"; with two rounds,
    neighbouring values fall into one bucket measurably too often. On a CPU numpy computes it, which has unsigned
    integers and so needs a fifth fewer operations: most of the time of sketching a single example.
    """
    if device.type == "cpu":
        return torch.from_numpy(_hashed_by_numpy(keys, length).view(np.int32))
    return _hashed_by_torch(keys, length, device)


def _hashed_by_numpy(keys: _Keys, length: int) -> npt.NDArray[np.uint32]:
    first, second, third = (np.uint32(key % 2**32) for key in keys)
    values = _INDICES[:length] ^ first
    values *= np.uint32(_MULTIPLIERS[0])
    folded = values >> np.uint32(15)
    values ^= folded
    for key, multiplier in ((second, _MULTIPLIERS[1]), (third, _MULTIPLIERS[0])):
        values += key
        values *= np.uint32(multiplier)
        values ^= np.right_shift(values, np.uint32(16), out=folded)
    return values


def _hashed_by_torch(keys: _Keys, length: int, device: torch.device) -> torch.Tensor:
    """The same for other devices; the mask takes away the ones that an arithmetic right shift brings in."""
    first, second, third = keys
    values = torch.arange(length, dtype=torch.int32, device=device)
    values ^= first
    values *= _MULTIPLIERS[0]
    values ^= (values >> 15) & 0x1FFFF
    values += second
    values *= _MULTIPLIERS[1]
    values ^= (values >> 16) & 0xFFFF
    values += third
    values *= _MULTIPLIERS[0]
    values ^= (values >> 16) & 0xFFFF
    return values
