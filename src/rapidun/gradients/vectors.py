"""Many examples to one array of sketched gradients, in batches of similar length."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from rapidun.data.batches import Example, collate, token_budget_batches
from rapidun.gradients.collector import GradientCollector
from rapidun.gradients.sketches import Sketch


def collect_vectors(
    collector: GradientCollector,
    sketch: Sketch,
    examples: Sequence[Example],
    pad_token_id: int,
    *,
    max_tokens: int,
    progress: Callable[[int, int], None] | None = None,
) -> npt.NDArray[np.float32]:
    """Sketched gradients of all examples, (n, k) float32, in the order of ``examples``.

    Args:
        collector: Which gradients.
        sketch: To how many values.
        examples: Tokenised rows; batched by length whatever their order.
        pad_token_id: Any token id; padding never carries loss.
        max_tokens: Padded size of a batch, in tokens.
        progress: Called after each batch with ``(rows done, all rows)``.
    """
    vectors = np.zeros((len(examples), sketch.dimension(collector.sizes)), dtype=np.float32)
    done = 0
    for indices in token_budget_batches(examples, max_tokens):
        batch = collate([examples[index] for index in indices], pad_token_id)
        vectors[indices] = collector(batch, sketch).cpu().numpy()
        done += len(indices)
        if progress is not None:
            progress(done, len(examples))
    return vectors
