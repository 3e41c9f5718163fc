"""Rows through the model, once, into the features of every scorer: what an index, rows in memory and queries share.

`MemoryStore` keeps them here; an index keeps them on disk (`rapidun.attribution.store`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from rapidun.attribution.context import ModelContext
from rapidun.attribution.matrix import Shard
from rapidun.attribution.scorer import FeatureStore, MatrixSpec, Recorder, Role, Row, Scorer
from rapidun.attribution.tensors import MemoryTensor
from rapidun.data import Batch, Example, collate
from rapidun.errors import ConfigError
from rapidun.gradients.backward import device_of
from rapidun.models.losses import run_decoder
from rapidun.models.modes import evaluating
from rapidun.models.passes import pass_batches

Tick = Callable[[int], None]


def features_of(
    model: ModelContext,
    scorers: Mapping[str, Scorer],
    fitted: Mapping[str, Any],
    rows: Sequence[Row],
    examples: Sequence[Example],
    *,
    max_tokens: int,
    role: Role = "train",
    tick: Tick | None = None,
) -> tuple[dict[str, torch.Tensor], dict[str, list[Any]]]:
    """The tensors and the table's columns of all scorers, from one pass in batches of similar length.

    Args:
        model: What rows are looked at with.
        scorers: By name, resolved.
        fitted: What each fitted, by the same name.
        rows: The rows.
        examples: Their tokens.
        max_tokens: Most padded tokens in a batch.
        role: Whether the rows are trained on or asked about.
        tick: Called after each batch with the number of rows done.

    Raises:
        ModelError: If gradients or hidden states are not finite.
        ConfigError: If a scorer's tensors are not what its ``matrices`` announce.
    """
    recorders = [scorer.recorder(model, rows, fitted.get(name), role) for name, scorer in scorers.items()]
    run_pass(model.loaded.model, model.loaded.pad_token_id, examples, recorders, max_tokens=max_tokens, tick=tick)
    tensors = {name: values for recorder in recorders for name, values in recorder.tensors().items()}
    for name, scorer in scorers.items():
        _check_announced(name, scorer.matrices(model), tensors, len(rows))
    return tensors, {name: values for recorder in recorders for name, values in recorder.columns().items()}


def _check_announced(
    scorer: str, specs: Mapping[str, MatrixSpec], tensors: Mapping[str, torch.Tensor], rows: int
) -> None:
    for name, spec in specs.items():
        if name.partition(".")[0] != scorer:
            raise ConfigError(f"scorer {scorer!r}: its matrix {name!r} must be called {scorer!r} or '{scorer}.NAME'.")
        shape = tuple(tensors[name].shape) if name in tensors else None
        if shape != (rows, spec.width):
            given = "no tensor" if shape is None else f"one of shape {shape}"
            raise ConfigError(
                f"scorer {scorer!r}: matrices() announces {name!r} of {rows} rows and width {spec.width}, and "
                f"tensors() of its recorder gives {given}."
            )


def run_pass(
    network: nn.Module,
    pad_token_id: int,
    examples: Sequence[Example],
    recorders: Sequence[Recorder],
    *,
    max_tokens: int,
    tick: Tick | None = None,
) -> None:
    """One pass of the model for each batch, unless no recorder needs it: forward alone if none measures gradients."""
    if not any(recorder.measures or recorder.watches for recorder in recorders):
        return
    done = 0
    measuring = [recorder for recorder in recorders if recorder.measures]
    for places in pass_batches(network, examples, max_tokens, backward=bool(measuring)):
        batch = collate([examples[place] for place in places], pad_token_id)
        for recorder in recorders:
            recorder.prepare(batch)
        with ExitStack() as stack:
            for recorder in recorders:
                stack.enter_context(recorder.during(batch, places))
            for recorder in measuring:
                recorder.measure(batch, places)
            if not measuring:
                forward(network, batch)
        done += len(places)
        if tick is not None:
            tick(done)


@torch.no_grad()
def forward(network: nn.Module, batch: Batch) -> None:
    """One pass in evaluation mode, for those who watch."""
    moved = batch.to(device_of(network))
    with evaluating(network):
        run_decoder(network, moved.input_ids, moved.attention_mask)


class MemoryStore(FeatureStore):
    """What an index holds, made and searched by the same code, not kept; as float32: 256 KiB for 65,536 values.

    Args:
        model: What rows are looked at with.
        scorers: By name; defaults are settled for this model. None may have to be fitted: what is fitted is kept in an
            index.
        rows: With ``id``, ``prompt``, ``response``.
        examples: Their tokens.
        max_tokens: Most padded tokens in a batch.
        tick: Called after each batch with the number of rows done.

    Raises:
        ConfigError, ModelError: If a scorer does not fit the model.
    """

    name = "the rows in memory"

    def __init__(
        self,
        model: ModelContext,
        scorers: Mapping[str, Scorer],
        rows: Sequence[Row],
        examples: Sequence[Example],
        *,
        max_tokens: int,
        tick: Tick | None = None,
    ) -> None:
        self.scorers = {name: scorer.exact().resolved(model) for name, scorer in scorers.items()}
        self._rows, self.max_tokens = rows, max_tokens
        specs = (scorer.matrices(model) for scorer in self.scorers.values())
        self.matrices = {name: spec for matrices in specs for name, spec in matrices.items()}
        tensors, _ = features_of(model, self.scorers, {}, rows, examples, max_tokens=max_tokens, tick=tick)
        self._shard = Shard(0, len(rows), {name: MemoryTensor(values) for name, values in tensors.items()})

    def __len__(self) -> int:
        return len(self._rows)

    def shards(self) -> list[Shard]:
        """One."""
        return [self._shard]

    def rows(self, positions: Sequence[int]) -> list[dict[str, Any]]:
        """Whole rows."""
        return [dict(self._rows[position]) for position in positions]
