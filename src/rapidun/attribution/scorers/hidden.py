"""Hidden states: the model's own states of a row, from the pass that gives its gradient (or a forward alone).

For each chosen layer the mean over the answer's tokens (``answer``: what the answer is about) and the state of the last
prompt token (``prompt``: where the model decides how to answer). The last layer's are compared, by their cosine less
the pool's mean: states share a large common part that hides their differences.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple

from pydantic import Field
from torch import nn

from rapidun.attribution.context import ModelContext
from rapidun.attribution.features import run_pass
from rapidun.attribution.pooling import depth_of, matrix_name, pooled_states, width_of
from rapidun.attribution.scorer import MatrixSpec, Recorder, Role, Row, Scorer, register_scorer
from rapidun.attribution.similarity import Array
from rapidun.attribution.storage import MatrixBuffer
from rapidun.data import Batch, Example
from rapidun.errors import ConfigError
from rapidun.settings.kinds import StoreDtype

PLACES = ("answer", "prompt")


@register_scorer("hidden", {"answer": "hidden, answer", "prompt": "hidden, prompt"})
class HiddenScorer(Scorer):
    """Pooled hidden states."""

    missing = "Build one with --views hidden."
    centred: ClassVar[bool] = True

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
        spec = MatrixSpec(width=width_of(model.loaded.model), dtype=self.dtype)
        return {matrix_name(layer, place): spec for layer in self.layers for place in PLACES}

    def recorder(self, model: ModelContext, rows: Sequence[Row], fitted: Any, role: Role = "train") -> Recorder:
        """Hooks the model while another scorer, or a plain forward, runs it."""
        return _HiddenRecorder(self.layers, self.dtype, model.loaded.model, len(rows))

    def compared(self, by: str) -> str:
        """The last layer's vectors."""
        return matrix_name(self.layers[-1], by)


class _HiddenRecorder(Recorder):
    watches = True

    def __init__(self, layers: Sequence[int], dtype: StoreDtype, network: nn.Module, rows: int) -> None:
        self._layers, self._network = layers, network
        names = [matrix_name(layer, place) for layer in layers for place in PLACES]
        self.buffers = [MatrixBuffer(name, rows, width_of(network), dtype) for name in names]

    @contextmanager
    def during(self, batch: Batch, places: list[int]) -> Iterator[None]:
        with pooled_states(self._network, batch.labels, self._layers) as found:
            yield
        for buffer in self.buffers:
            buffer.put(places, found[buffer.name])


class HiddenFeatures(NamedTuple):
    """The last layer's two vectors of each row, both (rows, hidden size) float32.

    Args:
        answer_mean: Mean over the row's answer tokens, 0 without any: what the answer is about.
        last_prompt: At the prompt's last token, where the model decides how to answer.
    """

    answer_mean: Array
    last_prompt: Array


def hidden_features(
    model: nn.Module,
    examples: Sequence[Example],
    pad_token_id: int,
    *,
    max_tokens: int = 8192,
    progress: Callable[[int, int], None] | None = None,
) -> HiddenFeatures:
    """Both from one forward pass, in the order of ``examples``; the model is in evaluation mode meanwhile.

    Args:
        model: A Hugging Face causal LM or a PEFT model around one.
        examples: Tokenised rows.
        pad_token_id: Any token id.
        max_tokens: Padded size of a batch, in tokens.
        progress: Called after each batch with ``(rows done, all rows)``.
    """
    last = depth_of(model)
    recorder = _HiddenRecorder([last], "float32", model, len(examples))
    tick = None if progress is None else lambda done: progress(done, len(examples))
    run_pass(model, pad_token_id, examples, [recorder], max_tokens=max_tokens, tick=tick)
    tensors = recorder.tensors()
    return HiddenFeatures(*(tensors[matrix_name(last, place)].numpy() for place in PLACES))
