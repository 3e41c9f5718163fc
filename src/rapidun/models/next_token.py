"""What comes next after many texts that begin alike: the part they share is read once.

Texts of equal length behind that part go together, so that nothing is padded, and a state-space model without a cache
that can be copied reads them whole.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

import torch

from rapidun.models.inference import answering
from rapidun.models.loading import LoadedModel
from rapidun.models.lora import is_adapted
from rapidun.models.losses import output_layer

LOGIT_BYTES = 2**27


@torch.no_grad()
def next_token_logprobs(
    loaded: LoadedModel, texts: Sequence[Sequence[int]], *, progress: Callable[[int], None] | None = None
) -> Iterator[tuple[list[int], torch.Tensor]]:
    """Batches of ``(indices of texts, log p of the next token)``: (batch, vocabulary) float32, in evaluation mode.

    Args:
        loaded: Model and device.
        texts: Token ids, none of them empty. Each is read as it is; no BOS is added.
        progress: Called with the number of texts of each batch.
    """
    head = shared_length(texts)
    with answering(loaded.model):
        read = _read(loaded, [list(texts[0][:head])]) if head else {}
        cache = read.get("cache", read.get("past_key_values"))
        cut = head if _can_be_copied(cache) else 0
        for chosen in _of_one_length([len(text) for text in texts], _at_once(loaded.model)):
            rest = [list(texts[index][cut:]) for index in chosen]
            logits = _read(loaded, rest, _copies(cache, len(rest)) if cut else None).logits[:, -1]
            yield chosen, logits.float().log_softmax(dim=-1)
            if progress is not None:
                progress(len(chosen))


def shared_length(texts: Sequence[Sequence[int]]) -> int:
    """How many first tokens all texts share; at least one token of each is left."""
    first, last = min(map(tuple, texts)), max(map(tuple, texts))  # the two that differ soonest
    most = min(len(text) for text in texts) - 1
    return next((place for place in range(most) if first[place] != last[place]), max(most, 0))


def _of_one_length(lengths: Sequence[int], most: int) -> Iterator[list[int]]:
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    for _, group in groupby(order, key=lengths.__getitem__):
        same = list(group)
        yield from (same[start : start + most] for start in range(0, len(same), most))


def _at_once(model: Any) -> int:
    """Texts whose logits stay within a budget."""
    weight = getattr(output_layer(model), "weight", None)
    return 256 if weight is None else max(1, min(256, LOGIT_BYTES // (4 * int(weight.shape[0]))))


def _can_be_copied(cache: Any) -> bool:
    """Whether it is keys and values throughout."""
    layers = getattr(cache, "layers", ())
    return len(layers) > 0 and all(hasattr(layer, "batch_repeat_interleave") for layer in layers)


def _copies(cache: Any, count: int) -> Any:
    copied = copy.deepcopy(cache)
    copied.batch_repeat_interleave(count)
    return copied


def _read(loaded: LoadedModel, tokens: Sequence[list[int]], cache: Any = None) -> Any:
    inner: Any = loaded.model.get_base_model() if is_adapted(loaded.model) else loaded.model
    takes = inspect.signature(inner.forward).parameters
    given = {"cache" if "cache" in takes else "past_key_values": cache} if cache is not None else {}
    cut = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}
    return loaded.model(input_ids=torch.tensor(tokens, device=loaded.device), use_cache=True, **given, **cut)
