"""The model as it was at a checkpoint of its training, for influence summed over checkpoints (TracIn, RapidIn's eq. 4).

One checkpoint at the end of training (eq. 5) is a shortcut that fails once the rows are memorised: the gradients of a
group of rows then sum to about zero, so rows of one group anticorrelate. Earlier checkpoints still tell them apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from rapidun.errors import InputError, ModelError
from rapidun.tensor_files import load_tensors

State = Mapping[str, torch.Tensor]


@contextmanager
def at_checkpoint(model: nn.Module, checkpoint: State | Path | str) -> Iterator[None]:
    """Inside, ``model`` has the checkpoint's weights; tensors that it does not name stay. Restored afterwards.

    Raises:
        ModelError: If it cannot be read, or names or shapes do not fit the model.
    """
    state = checkpoint if isinstance(checkpoint, Mapping) else read_checkpoint(Path(checkpoint))
    own = {name.replace(".default.", "."): tensor for name, tensor in model.named_parameters(remove_duplicate=False)}
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
