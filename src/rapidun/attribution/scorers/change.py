"""Change: what training did to the model's states of an answer.

The last layer's hidden states, averaged over the answer's tokens, of the trained model minus those of the model before
training: the adapter switched off, or a model of its own. Rows that training used alike moved alike, whatever they are
about, and a row's topic, which both models share, is mostly gone. It costs a second forward pass a row. Ours; measured
in ``docs/benchmarks/backdoor_retrieval.md``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import nn

from rapidun.attribution.context import ModelContext
from rapidun.attribution.features import forward
from rapidun.attribution.pooling import depth_of, matrix_name, pooled_states, width_of
from rapidun.attribution.scorer import MatrixSpec, Recorder, Role, Row, Scorer, register_scorer
from rapidun.attribution.storage import MatrixBuffer
from rapidun.data import Batch
from rapidun.errors import ConfigError, FingerprintError
from rapidun.gradients.backward import device_of
from rapidun.models import LoadedModel, tokenizer_fingerprint
from rapidun.settings.kinds import StoreDtype

CHANGE = "change.answer"
ADAPTER_OFF = "adapter off"


@register_scorer("change", {"change": "hidden, change of the answer"})
class ChangeScorer(Scorer):
    """Change of the answer's mean state."""

    missing = (
        "Build one with --base MODEL (the model before training) or with --adapter, or choose another scorer with --by."
    )
    centred: ClassVar[bool] = True

    base: str = Field("", description="The model before training as the user named it; or the adapter switched off.")
    base_fingerprint: str = Field("", description="Of that model; of the trained one where its adapter is off.")
    dtype: StoreDtype = Field("float16", description="How the vectors are stored.")

    @classmethod
    def fits(cls, model: ModelContext) -> bool:
        """Where the model before training is at hand."""
        return model.has_before

    def resolved(self, model: ModelContext) -> ChangeScorer:
        """With the model before training named.

        Raises:
            ConfigError: If there is none, or it is of another shape or tokenizer.
        """
        before = model.before
        if not model.has_before:
            raise ConfigError("the scorer change compares with the model before training: give it by --base.")
        if before is None:
            found = {"base": ADAPTER_OFF, "base_fingerprint": model.loaded.fingerprint}
            return self.model_copy(update=found)
        _check_alike(model.loaded, before)
        return self.model_copy(update={"base": before.source, "base_fingerprint": before.fingerprint})

    def matrices(self, model: ModelContext) -> dict[str, MatrixSpec]:
        """``change.answer``."""
        return {CHANGE: MatrixSpec(width=width_of(model.loaded.model), dtype=self.dtype)}

    def recorder(self, model: ModelContext, rows: Sequence[Row], fitted: Any, role: Role = "train") -> Recorder:
        """Runs the model before training, and watches while the trained one is run."""
        return _ChangeRecorder(self, model, len(rows))

    def compared(self, by: str) -> str:
        """``change.answer``."""
        return CHANGE

    def check(self, model: ModelContext) -> None:
        """Refuse queries that compare with another model.

        Raises:
            FingerprintError: Naming both fingerprints.
        """
        given = model.loaded if model.before is None else model.before
        if given.fingerprint != self.base_fingerprint:
            raise FingerprintError(
                f"this index compares with the model {self.base_fingerprint[:16]} ({self.base}), and "
                f"{given.fingerprint[:16]} ({given.source}) was given as --base. Use the one it was built with."
            )


class _ChangeRecorder(Recorder):
    watches = True

    def __init__(self, scorer: ChangeScorer, model: ModelContext, rows: int) -> None:
        self._network, self._before = model.loaded.model, model.before
        self.buffers = [MatrixBuffer(CHANGE, rows, width_of(self._network), scorer.dtype)]

    @contextmanager
    def during(self, batch: Batch, places: list[int]) -> Iterator[None]:
        if self._before is not None:
            before = _answer_states(self._before.model, batch)
        else:
            with self._network.disable_adapter():
                before = _answer_states(self._network, batch)
        last = depth_of(self._network)
        with pooled_states(self._network, batch.labels, [last]) as found:
            yield
        self.buffers[0].put(places, found[matrix_name(last, "answer")] - before)


def _answer_states(network: nn.Module, batch: Batch) -> torch.Tensor:
    """The last layer's states averaged over each row's answer, (batch, width) float32; one forward pass."""
    moved, last = batch.to(device_of(network)), depth_of(network)
    with pooled_states(network, moved.labels, [last]) as found:
        forward(network, moved)
    return found[matrix_name(last, "answer")]


def _check_alike(trained: LoadedModel, before: LoadedModel) -> None:
    widths = width_of(trained.model), width_of(before.model)
    if widths[0] != widths[1]:
        raise ConfigError(
            f"--base {before.source}: hidden size {widths[1]}, but the model's is {widths[0]}. Give the model that "
            "training began from."
        )
    marks = [tokenizer_fingerprint(part.tokenizer) for part in (trained, before)]
    if marks[0] != marks[1]:
        raise ConfigError(
            f"--base {before.source}: its tokenizer is {marks[1][:16]}, but the model's is {marks[0][:16]}. Give the "
            "model that training began from."
        )
