"""Hooks that catch what a layer's per-example gradient needs, in one forward and one backward pass.

A forward hook keeps the layer's input and counts its calls; a tensor hook on its output receives the output's
gradient. When the last call of a weight tensor has its gradient, its calls are handed over, and dropped afterwards: the
receiver forms the gradient, or works on its factors. Tensor hooks fire once per graph node, so
activation checkpointing, which runs a layer's forward twice, does not count a layer twice.

Nothing is differentiated before the first tracked layers: where nothing that leads to a layer's output requires a
gradient, the hook makes that output a leaf of the graph.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from rapidun.errors import ModelError
from rapidun.gradients.experts import ExpertProduct
from rapidun.gradients.factors import Gradients, LayerGradients, TrackedTensor
from rapidun.gradients.layers import layer_kind

Receive = Callable[[str, slice, Gradients], None]
"""Takes ``(tensor name, rows, gradients)``, a few rows of one tensor at a time."""
_Routed = tuple[torch.Tensor, int] | None  # of an expert's product: the places of its tokens, and the number of all
_MAX_VALUES = 2**24  # 64 MiB of float32 at a time
_MAX_VALUES_CPU = 2**22  # 16 MiB: caches hold most of it, and hashes are unpacked once for several rows


class Recorder:
    """What tracked tensors need for their per-example gradients, during one forward and backward pass.

    Args:
        shape: (examples, length) of the pass's token ids.
        receive: Called with a tensor and its calls, when the last of them has its gradient. A call is of all examples,
            in the model's dtype.
    """

    def __init__(self, shape: tuple[int, int], receive: Callable[[TrackedTensor, list[LayerGradients]], None]) -> None:
        self._shape = shape
        self._receive = receive
        self._calls: Counter[str] = Counter()
        self._caught: dict[str, list[tuple[LayerGradients, _Routed]]] = {}
        self._counting = True
        self.received: set[str] = set()
        self.checkpointed = False  # whether a tracked layer ran with gradients switched off

    def forget(self) -> None:
        """Begin again with another forward pass."""
        self._calls.clear()

    @contextmanager
    def attached(self, tensors: Sequence[TrackedTensor]) -> Iterator[None]:
        """Hooks on every layer of ``tensors``; removed at the end, also after an exception."""
        self._tensors = {tensor.name: tensor for tensor in tensors}
        with ExitStack() as undo:
            for tensor in tensors:
                undo.enter_context(tensor.prepared())
                hook = partial(self._after_forward, tensor.name)
                for layer in tensor.layers:
                    undo.enter_context(layer.register_forward_hook(hook, with_kwargs=True))
            yield

    def backward(self, outputs: torch.Tensor, gradient: torch.Tensor | None = None) -> None:
        """Run the backward pass from ``outputs`` and hand over every tracked gradient."""
        self._counting = False  # checkpointed layers run forward again from here on
        outputs.backward(gradient)
        for name in list(self._caught):
            self._hand_over(name)

    def _after_forward(
        self, name: str, layer: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any
    ) -> Any:
        if self._counting:
            self._calls[name] += 1
        if not torch.is_grad_enabled():
            self.checkpointed = True  # reentrant: this layer runs again in the backward pass, if its input has one
        elif not output.requires_grad:
            output = output.requires_grad_(True).clone()  # a model may change a clone in place, a leaf not
        if output.requires_grad:
            activations = (args[0] if args else next(iter(kwargs.values()))).detach()
            routed = args[2:] if isinstance(layer, ExpertProduct) else None
            output.register_hook(partial(self._after_backward, name, layer, activations, activations._version, routed))
        return output

    def _after_backward(
        self,
        name: str,
        layer: nn.Module,
        activations: torch.Tensor,
        version: int,
        routed: _Routed,
        errors: torch.Tensor,
    ) -> None:
        if activations._version != version:
            raise ModelError(
                f"{name}: the model changes this layer's input in place after the layer has used it, so its "
                "per-example gradient cannot be formed. Choose other targets."
            )
        waiting = self._caught.setdefault(name, [])
        waiting.append((LayerGradients(layer, activations, errors.detach()), routed))
        if len(waiting) == self._calls[name]:
            self._hand_over(name)

    @torch.no_grad()
    def _hand_over(self, name: str) -> None:
        self.received.add(name)
        calls = []
        for call, routed in self._caught.pop(name):
            apart = (_by_example(values, routed, self._shape, name) for values in (call.activations, call.errors))
            calls.append(LayerGradients(call.layer, *apart))
        self._receive(self._tensors[name], calls)


def hand_on_in_pieces(receive: Receive, formed: bool, tensor: TrackedTensor, calls: Sequence[LayerGradients]) -> None:
    """Hand one tensor's gradients, summed over its calls, to ``receive``, a few examples at a time.

    Args:
        receive: What takes them.
        formed: Whether it forms the gradients; decides how many rows are a few.
        tensor: The tensor.
        calls: As a `Recorder` hands them over.
    """
    examples, device = len(calls[0].errors), calls[0].errors.device
    if formed:
        most = min(_MAX_VALUES, _MAX_VALUES_CPU) if device.type == "cpu" else _MAX_VALUES
        step = most // tensor.size
    else:
        values = sum(call.activations.numel() + call.errors.numel() for call in calls)
        step = _MAX_VALUES // max(1, tensor.parts * values // examples)
    for start in range(0, examples, max(1, step)):
        rows = slice(start, min(start + max(1, step), examples))
        receive(tensor.name, rows, tensor.gradients([_some(call, rows) for call in calls]))


def _some(call: LayerGradients, rows: slice) -> LayerGradients:
    """A few rows' factors; float32 where products in the model's dtype might leave its range (float16)."""
    errors = call.errors[rows]
    outer = layer_kind(call.layer).outer_product
    first = _first_with_error(errors) if outer else 0
    factors = call.activations[rows, first:], errors[:, first:]
    if not outer or any(values.dtype != torch.bfloat16 for values in factors):
        factors = factors[0].float(), factors[1].float()
    return LayerGradients(call.layer, *factors)


def _first_with_error(errors: torch.Tensor) -> int:
    """Before this position no row has an error: in a model's last block, that which predicts the first answer token.

    0 on a GPU, since asking would wait for it.
    """
    if errors.device.type != "cpu" or bool(errors[:, 0].any()):
        return 0
    present = errors.any(dim=2).any(dim=0).nonzero()
    return int(present[0]) if len(present) else errors.shape[1] - 1


def _by_example(values: torch.Tensor, routed: _Routed, shape: tuple[int, int], name: str) -> torch.Tensor:
    """(examples, positions, features), also for layers that see (examples x length, features).

    Of an expert's product each example has its own tokens, as many as the most of one example, the rest zeros.

    Args:
        values: What a layer saw or the gradient of what it gave.
        routed: For an expert's product, the places of its tokens among all of the pass's, and their number.
        shape: (examples, length) of the pass.
        name: The tensor.

    Raises:
        ModelError: If the values cannot be told apart by example (the experts of a mixture, for instance).
    """
    examples, length = shape
    if routed is not None and routed[1] == examples * length:
        example = routed[0] // length
        counts = example.bincount(minlength=examples)
        slots = torch.arange(len(example), device=example.device) - (counts.cumsum(0) - counts)[example]
        apart = values.new_zeros(examples, int(counts.max()), values.shape[1])
        apart[example, slots] = values
        return apart
    if routed is None and values.ndim >= 3 and values.shape[0] == examples:
        return values.flatten(1, -2)
    if routed is None and values.ndim == 2 and values.shape[0] == examples * length:
        return values.reshape(examples, length, -1)
    seen = tuple(values.shape) if routed is None else (routed[1], values.shape[-1])
    raise ModelError(
        f"{name}: this layer sees values of shape {seen}, which cannot be split into the batch's "
        f"{examples} examples of {length} tokens. Choose other targets."
    )
