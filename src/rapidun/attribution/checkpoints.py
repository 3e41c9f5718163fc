"""Influence summed over checkpoints of the training: TracIn, RapidIn's eq. 4.

    I(t, s) = sum_c eta_c <grad L(s; theta_c), grad L(t; theta_c)>

One checkpoint at the end of training (eq. 5) is a shortcut that fails once the rows are memorised: the gradients of a
group of rows then sum to about zero, so rows of one group anticorrelate. Earlier checkpoints still tell them apart.
With an adapter, `adapter_start` is a checkpoint that costs no file: the base model's function, with B = 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from rapidun.attribution.similarity import Array, check_similarity, check_vectors, prepared
from rapidun.errors import ConfigError, InputError, ModelError
from rapidun.settings.kinds import Similarity
from rapidun.tensor_files import load_tensors

State = Mapping[str, torch.Tensor]
_Found = TypeVar("_Found")


def checkpoint_influence(
    queries: Sequence[npt.NDArray[np.generic]],
    pools: Sequence[npt.NDArray[np.generic]],
    rates: Sequence[float] | None = None,
    *,
    similarity: Similarity = "cosine",
) -> Array:
    """``sum_c eta_c <q_c, s_c>``, (queries, rows) float32.

    Args:
        queries: One (queries, k) array of gradient vectors a checkpoint.
        pools: One (rows, k) array a checkpoint, in the same order, each of its query's sketch.
        rates: Learning rates eta_c; all 1 by default.
        similarity: ``"dot"`` is the paper's; ``"cosine"`` gives every checkpoint the same say, where gradients
            shrink tenfold in training.

    Raises:
        ConfigError: If the rates do not fit, or ``similarity`` is unknown.
        InputError: If there is no checkpoint, the shapes differ, or a value is not finite.
    """
    check_similarity(similarity)
    if not queries or len(queries) != len(pools):
        raise InputError(
            f"{len(queries)} checkpoints of queries and {len(pools)} of the pool: give the same, at least 1."
        )
    weights = [1.0] * len(queries) if rates is None else list(rates)
    if len(weights) != len(queries) or not all(np.isfinite(weights)):
        raise ConfigError(f"rates={weights} for {len(queries)} checkpoints: give one number for each.")
    total = np.zeros((len(queries[0]), len(pools[0])), dtype=np.float32)
    for number, (asked, pool, rate) in enumerate(zip(queries, pools, weights, strict=True)):
        check_vectors(queries=asked, pool=pool)
        if (len(asked), len(pool)) != total.shape:
            raise InputError(f"checkpoint {number}: {len(asked)} x {len(pool)} rows; the first had {total.shape}.")
        total += np.float32(rate) * (prepared(asked, similarity) @ prepared(pool, similarity).T)
    return total


def over_checkpoints(
    model: nn.Module, checkpoints: Sequence[State | Path | str], collect: Callable[[nn.Module], _Found]
) -> list[_Found]:
    """``collect(model)`` at every checkpoint, in order; the model has its own weights again afterwards.

    Args:
        model: The model; each checkpoint's tensors are written over its own meanwhile.
        checkpoints: Tensors by name, a safetensors file, or a directory with ``adapter_model.safetensors`` or
            ``model.safetensors``.
        collect: For instance a `collect_vectors` of queries and pool.

    Raises:
        ModelError: If a checkpoint cannot be read or does not fit the model.
    """
    found = []
    for checkpoint in checkpoints:
        with at_checkpoint(model, checkpoint):
            found.append(collect(model))
    return found


@contextmanager
def at_checkpoint(model: nn.Module, checkpoint: State | Path | str) -> Iterator[None]:
    """Inside, ``model`` has the checkpoint's weights; tensors that it does not name stay. Restored afterwards.

    Raises:
        ModelError: If it cannot be read, or names or shapes do not fit the model.
    """
    state = checkpoint if isinstance(checkpoint, Mapping) else read_checkpoint(Path(checkpoint))
    own = {name.replace(".default.", "."): tensor for name, tensor in _own_tensors(model)}
    _check_fits(state, own, str(checkpoint) if not isinstance(checkpoint, Mapping) else "checkpoint")
    chosen = {name: own[name.replace(".default.", ".")] for name in state}
    before = {name: tensor.detach().clone() for name, tensor in chosen.items()}
    try:
        with torch.no_grad():
            for name, tensor in chosen.items():
                tensor.copy_(state[name])
        yield
    finally:
        with torch.no_grad():
            for name, tensor in chosen.items():
                tensor.copy_(before[name])


def adapter_start(model: nn.Module) -> dict[str, torch.Tensor]:
    """The checkpoint at which the adapter adds nothing: every LoRA ``B`` is 0, ``A`` as it is.

    With the adapter switched off its factors would have no gradient at all; at ``B = 0`` the model computes what the
    base model does, and the gradient of B is the base layer's own, projected by A.

    Raises:
        ModelError: If the model has no LoRA factors.
    """
    start = {name: torch.zeros_like(tensor) for name, tensor in _own_tensors(model) if ".lora_B." in name}
    if not start:
        raise ModelError("The model has no LoRA adapter, so its start is unknown. Give the base model's checkpoint.")
    return start


def _own_tensors(model: nn.Module) -> list[tuple[str, torch.Tensor]]:
    return list(model.named_parameters(remove_duplicate=False))


def read_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file, or of a directory with one.

    Raises:
        ModelError: If it cannot be read.
    """
    names = ("adapter_model.safetensors", "model.safetensors")
    file = path if path.is_file() else next((path / name for name in names if (path / name).is_file()), None)
    if file is None:
        raise ModelError(f"{path}: no {' or '.join(names)} there. Give a checkpoint directory or a safetensors file.")
    try:
        return load_tensors(file)
    except InputError as error:
        raise ModelError(str(error)) from error


def _check_fits(state: State, own: Mapping[str, torch.Tensor], where: str) -> None:
    if not state:
        raise ModelError(f"{where}: no tensors.")
    for name, tensor in state.items():
        mine = own.get(name.replace(".default.", "."))
        if mine is None:
            raise ModelError(f"{where}: {name} is not a parameter of this model. Is it of another model or adapter?")
        if mine.shape != tensor.shape:
            raise ModelError(f"{where}: {name} has shape {tuple(tensor.shape)}; the model's is {tuple(mine.shape)}.")
