"""The hidden view: the model's own states of a row, from the pass that gives its gradient (or a forward alone).

For each chosen layer the mean over the answer's tokens and the state of the last prompt token, where the model decides
how to answer. Layers count as in ``output_hidden_states``: 0 is the embeddings, n the last layer after the final norm.
``hidden_stats.safetensors`` holds each matrix's sum and second moment over all rows, in float64, from which follow the
pool's mean, its covariance and the map that whitens it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from safetensors.torch import load_file, save
from torch import nn

from rapidun.attribution.inverse_root import inverse_root
from rapidun.attribution.matrix import Affine
from rapidun.attribution.scorer import MatrixSpec, ModelContext, Recorder, Scorer, register_scorer
from rapidun.attribution.store.finishing import register_finisher
from rapidun.attribution.store.manifest import FileEntry, Manifest, ShardFiles
from rapidun.attribution.store.names import HIDDEN_STATS, shard_file
from rapidun.attribution.store.storage import MatrixBuffer, StoreDtype, decode
from rapidun.attribution.store.tensors import stored_tensors
from rapidun.data import IGNORE_INDEX, Batch
from rapidun.errors import ConfigError, InputError, ModelError
from rapidun.files import atomic_write

PLACES = ("answer", "prompt")
_BLOCK_ROWS = 1024
_OF_STATES = ("hidden.", "change.")  # matrices whose moments are kept


@register_scorer("hidden")
class HiddenScorer(Scorer):
    """Pooled hidden states."""

    layers: list[int] = Field(
        default_factory=list, description="Layers, 0 to n; negative from the end; empty is the middle and the last."
    )
    dtype: StoreDtype = Field("float16", description="How the vectors are stored.")

    def resolved(self, model: ModelContext) -> HiddenScorer:
        """With layers as sorted numbers from 0.

        Raises:
            ConfigError: If the model has no such layer.
        """
        depth = depth_of(model.loaded.model)
        for layer in self.layers:
            if not -depth - 1 <= layer <= depth:
                raise ConfigError(f"hidden layer {layer}: this model has 0 (embeddings) to {depth}.")
        chosen = {layer % (depth + 1) for layer in self.layers} or {depth // 2, depth}
        return self.model_copy(update={"layers": sorted(chosen)})

    def matrices(self, model: ModelContext) -> dict[str, MatrixSpec]:
        """``hidden.LAYER.answer`` and ``hidden.LAYER.prompt``."""
        width = int(model.loaded.model.config.get_text_config().hidden_size)
        spec = MatrixSpec(width=width, dtype=self.dtype)
        return {matrix_name(layer, place): spec for layer in self.layers for place in PLACES}

    def recorder(self, model: ModelContext, rows: Sequence[Mapping[str, Any]], fitted: Any) -> Recorder:
        """Hooks the model while another view, or a plain forward, runs it."""
        return _HiddenRecorder(self, model, len(rows))


class _HiddenRecorder(Recorder):
    watches = True

    def __init__(self, view: HiddenScorer, model: ModelContext, rows: int) -> None:
        self._layers, self._network = view.layers, model.loaded.model
        self._buffers = {
            name: MatrixBuffer(name, rows, spec.width, spec.dtype) for name, spec in view.matrices(model).items()
        }

    @contextmanager
    def during(self, batch: Batch, places: list[int]) -> Iterator[None]:
        with pooled_states(self._network, batch.labels, self._layers) as found:
            yield
        for name, values in found.items():
            self._buffers[name].put(places, values)

    def tensors(self) -> dict[str, torch.Tensor]:
        return {name: values for buffer in self._buffers.values() for name, values in buffer.tensors().items()}


@contextmanager
def pooled_states(model: nn.Module, labels: torch.Tensor, layers: Sequence[int]) -> Iterator[dict[str, torch.Tensor]]:
    """Hooks that pool the hidden states of the forward pass run inside; nothing but the pooled vectors is kept.

    Args:
        model: A Hugging Face causal LM or a PEFT model around one.
        labels: (batch, length), -100 on prompt and padding.
        layers: Numbers as in ``output_hidden_states``.

    Yields:
        Filled by the pass: matrix name to (batch, width) float32.
    """
    decoder, blocks = decoder_of(model)
    found: dict[str, torch.Tensor] = {}
    handles = []
    try:
        for layer in layers:
            if layer == len(blocks):  # the decoder's own output is the last layer's after the final norm
                handles.append(decoder.register_forward_hook(partial(_after, layer, labels, found)))
            else:
                before = partial(_before, layer, labels, found)
                handles.append(blocks[layer].register_forward_pre_hook(before, with_kwargs=True))
        yield found
    finally:
        for handle in handles:
            handle.remove()


def decoder_of(model: nn.Module) -> tuple[nn.Module, nn.ModuleList]:
    """The module that ends with the final norm, and its layers; inside a PEFT wrapper too.

    Raises:
        ModelError: If no list of layers is found.
    """
    depth = depth_of(model)
    for module in model.modules():
        for child in module.children():
            if isinstance(child, nn.ModuleList) and len(child) == depth:
                return module, child
    raise ModelError(f"{type(model).__name__}: no list of {depth} layers was found, so hidden states cannot be taken.")


def matrix_name(layer: int, place: str) -> str:
    """Name of one matrix of the view."""
    return f"hidden.{layer}.{place}"


def depth_of(model: Any) -> int:
    """Number of the last layer."""
    return int(model.config.get_text_config().num_hidden_layers)


def _before(
    layer: int,
    labels: torch.Tensor,
    found: dict[str, torch.Tensor],
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> None:
    _pool(layer, args[0] if args else kwargs["hidden_states"], labels, found)


def _after(
    layer: int, labels: torch.Tensor, found: dict[str, torch.Tensor], module: nn.Module, args: Any, output: Any
) -> None:
    _pool(layer, output[0], labels, found)


@torch.no_grad()
def _pool(layer: int, states: torch.Tensor, labels: torch.Tensor, found: dict[str, torch.Tensor]) -> None:
    states = states.detach()
    if states.shape[:2] != labels.shape or states.ndim != 3:
        raise ModelError(
            f"hidden states of layer {layer} are of shape {tuple(states.shape)}, not (rows, tokens, width). Leave the "
            "view hidden out: --views gradient,lexical."
        )
    answers = (labels != IGNORE_INDEX).to(states.device)
    sums = torch.einsum("bth,bt->bh", states.float(), answers.float())
    found[matrix_name(layer, "answer")] = sums / answers.sum(dim=1, keepdim=True).clamp_min(1)
    last = (answers.int().argmax(dim=1) - 1).clamp_min(0)
    found[matrix_name(layer, "prompt")] = states[torch.arange(len(states), device=states.device), last].float()


@register_finisher
def write_hidden_stats(directory: Path, manifest: Manifest) -> list[FileEntry]:
    """Write ``hidden_stats.safetensors``: ``NAME.sum`` (width,), ``NAME.second`` (width, width), float64, and ``rows``.

    Summed shard by shard in order of number, from the stored vectors: nothing has to be kept for a resume, and shards
    made by other workers give the same bytes. Shards that the file already covers are not read again.
    """
    names = [name for name in manifest.matrices if name.startswith(_OF_STATES)]
    if not names:
        return []
    sums = _started(directory, manifest, names)
    for shard in manifest.shards:
        if shard.first >= int(sums["rows"]):
            for name in names:
                _add_moments(directory, shard, name, sums)
            sums["rows"] += shard.rows
    content = save(sums)
    with atomic_write(directory / HIDDEN_STATS, "wb") as file:
        file.write(content)
    return [FileEntry(name=HIDDEN_STATS, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())]


def _started(directory: Path, manifest: Manifest, names: Sequence[str]) -> dict[str, torch.Tensor]:
    """The sums of the shards before these, or zeros."""
    if manifest.files and (directory / HIDDEN_STATS).is_file():
        before = load_file(directory / HIDDEN_STATS)
        if int(before["rows"]) < manifest.rows:
            return before
    sums = {"rows": torch.zeros((), dtype=torch.int64)}
    for name in names:
        width = manifest.matrices[name].width
        sums[f"{name}.sum"] = torch.zeros(width, dtype=torch.float64)
        sums[f"{name}.second"] = torch.zeros(width, width, dtype=torch.float64)
    return sums


def _add_moments(directory: Path, shard: ShardFiles, name: str, sums: dict[str, torch.Tensor]) -> None:
    tensors = stored_tensors(directory / shard_file(shard.number))
    for start in range(0, shard.rows, _BLOCK_ROWS):
        part = slice(start, min(start + _BLOCK_ROWS, shard.rows))
        stored, scale = (tensors[key].read(part.start, part.stop) for key in (name, f"{name}.scale"))
        values = decode(stored, scale).double()
        sums[f"{name}.sum"] += values.sum(dim=0)
        sums[f"{name}.second"] += values.T @ values


def pool_moments(directory: Path, name: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The pool's mean (width,) and covariance (width, width) of one hidden matrix, float64.

    Raises:
        InputError: If the index has no such statistics.
    """
    stats = load_file(directory / HIDDEN_STATS) if (directory / HIDDEN_STATS).is_file() else {}
    if f"{name}.sum" not in stats:
        raise InputError(f"{directory}: no statistics of {name!r}. Build the index with --views hidden.")
    rows = max(1, int(stats["rows"]))
    mean = stats[f"{name}.sum"].numpy() / rows
    return mean, stats[f"{name}.second"].numpy() / rows - np.outer(mean, mean)


def whitening(directory: Path, name: str, ridge: float = 1.0) -> Affine:
    """The map ``x -> (C / m + ridge)^(-1/2) (x - mean)``, with the pool's covariance ``C`` and its mean eigenvalue m.

    With it, ``search(..., affine=...)`` compares directions that the pool does not share; an infinite ridge only
    takes the mean away. Raises as `pool_moments`.
    """
    mean, covariance = pool_moments(directory, name)
    if not np.isfinite(ridge):
        return Affine(mean.astype(np.float32))
    return Affine(mean.astype(np.float32), inverse_root(covariance, ridge).astype(np.float32))
