"""Many examples to one array of sketched gradients, in batches of similar length."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from torch import nn

from rapidun.data.batches import Example, collate
from rapidun.gradients.collector import Collector, GradientCollector, Transform
from rapidun.gradients.readout import Readout, ReadoutCollector
from rapidun.gradients.sketches import Sketch
from rapidun.models.passes import Progress, pass_batches
from rapidun.settings.kinds import Normalization


def make_collector(
    model: nn.Module,
    sketch: Sketch,
    targets: str | Sequence[str] = "lora",
    normalize: Normalization = "layer",
    token_normalize: bool = False,
    transform: Transform | None = None,
) -> Collector:
    """The collector that a sketch is made for: forward only for `Readout`, else a `GradientCollector`.

    Args:
        model: A Hugging Face causal LM or a PEFT model around one.
        sketch: Where its vectors will go.
        targets: Tracked tensors; `Readout` is of the output layer whatever they are.
        normalize: See `GradientCollector`.
        token_normalize: See `GradientCollector`.
        transform: See `GradientCollector`.
    """
    if isinstance(sketch, Readout):
        return ReadoutCollector(model, normalize, token_normalize, transform)
    return GradientCollector(model, targets, normalize, token_normalize, transform)


def collect_vectors(
    collector: Collector,
    sketch: Sketch,
    examples: Sequence[Example],
    pad_token_id: int,
    *,
    max_tokens: int,
    progress: Progress | None = None,
) -> npt.NDArray[np.float32]:
    """Sketched gradients of all examples, (n, k) float32, in the order of ``examples``.

    Args:
        collector: Which gradients.
        sketch: To how many values.
        examples: Tokenised rows; batched by length whatever their order.
        pad_token_id: Any token id; padding never carries loss.
        max_tokens: The most padded tokens of a batch; `pass_batches` makes it smaller where memory asks for it.
        progress: Called after each batch with ``(rows done, all rows)``.
    """
    vectors = np.zeros((len(examples), sketch.dimension(collector.sizes)), dtype=np.float32)
    done = 0
    for indices in pass_batches(collector.model, examples, max_tokens):
        batch = collate([examples[index] for index in indices], pad_token_id)
        vectors[indices] = collector(batch, sketch).cpu().numpy()
        done += len(indices)
        if progress is not None:
            progress(done, len(examples))
    return vectors
