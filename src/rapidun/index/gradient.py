"""The gradient view: a sketch of every row's own gradient (RapidIn, arXiv 2405.11724, section 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import Field

from rapidun.data import Batch
from rapidun.gradients import Collector, RapidGrad, Sketch, make_collector, sketch_from
from rapidun.gradients.collector import Normalization
from rapidun.index.storage import MatrixBuffer, StoreDtype, row_norms
from rapidun.index.views import NO_ADAPTER, IndexModel, MatrixSpec, Recorder, View, register_view


@register_view("gradient")
class GradientView(View):
    """Sketched per-example gradients."""

    sketch: dict[str, Any] = Field(
        default_factory=lambda: dict(RapidGrad().describe()), description="Kind and settings of the sketch."
    )
    normalize: Normalization = Field("layer", description="Scale of each row's gradient.")
    targets: Literal["auto", "linear", "lora"] | list[str] = Field(
        "auto", description="Tracked layers; auto is lora where there is an adapter, else linear."
    )
    token_normalize: bool = Field(False, description="Give every answer token's output error norm 1.")
    dtype: StoreDtype = Field("float16", description="How the vectors are stored.")
    tracked: list[str] = Field(default_factory=list, description="Names of the tracked tensors; filled in.")

    def resolved(self, model: IndexModel) -> GradientView:
        """With targets settled, the tracked tensors named, and every setting of the sketch written out."""
        targets = self.targets
        if targets == "auto":
            targets = "linear" if model.adapter == NO_ADAPTER else "lora"
        settled = self.model_copy(update={"targets": targets, "sketch": self.make_sketch().describe(), "tracked": []})
        return settled.model_copy(update={"tracked": settled.collector(model).tracked})

    def make_sketch(self) -> Sketch:
        """The sketch that the settings describe.

        Raises:
            ConfigError: If its kind or a setting is unknown.
        """
        return sketch_from(self.sketch)

    def collector(self, model: IndexModel) -> Collector:
        """The collector of these settings; the same for rows and for queries."""
        return make_collector(
            model.loaded.model, self.make_sketch(), self.targets, self.normalize, self.token_normalize
        )

    def matrices(self, model: IndexModel) -> dict[str, MatrixSpec]:
        """One matrix, ``gradient``."""
        width = self.make_sketch().dimension(self.collector(model).sizes)
        return {"gradient": MatrixSpec(width=width, dtype=self.dtype)}

    def recorder(self, model: IndexModel, rows: Sequence[Mapping[str, Any]]) -> Recorder:
        """Runs the collector on every batch."""
        return _GradientRecorder(self, model, len(rows))


class _GradientRecorder(Recorder):
    measures = True

    def __init__(self, view: GradientView, model: IndexModel, rows: int) -> None:
        self._collector = view.collector(model)
        self._sketch = view.make_sketch()
        width = self._sketch.dimension(self._collector.sizes)
        self._buffer = MatrixBuffer("gradient", rows, width, view.dtype)
        self._norms = torch.zeros(rows)

    def measure(self, batch: Batch, places: list[int]) -> None:
        vectors = self._collector(batch, self._sketch)
        self._norms[places] = row_norms(vectors).cpu()
        self._buffer.put(places, vectors)

    def tensors(self) -> dict[str, torch.Tensor]:
        return self._buffer.tensors()

    def columns(self) -> dict[str, list[Any]]:
        return {"gradient_norm": self._norms.tolist()}
