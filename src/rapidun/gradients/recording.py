"""Hooks that catch what a layer's per-example gradient needs, in one forward and one backward pass.

A forward hook keeps the layer's input and counts its calls; a tensor hook on its output receives the output's
gradient. When the last call of a weight tensor has its gradient, both are handed over, and dropped afterwards: the
receiver forms the gradient, or works on its factors. Tensor hooks fire once per graph node, so
activation checkpointing, which runs a layer's forward twice, does not count a layer twice.

Nothing is differentiated before the first tracked layers: where nothing that leads to a layer's output requires a
gradient, the hook makes that output a leaf of the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from rapidun.errors import ModelError
from rapidun.gradients.experts import ExpertProduct
from rapidun.gradients.factors import Gradients, LayerGradients, TrackedTensor
from rapidun.gradients.layers import is_outer_product

Receive = Callable[[str, slice, Gradients], None]
_MAX_VALUES = 2**24  # 64 MiB of float32 at a time
_MAX_VALUES_CPU = 2**22  # 16 MiB: caches hold most of it, and hashes are unpacked once for several rows


class Recorder:
    """Per-example gradients of tracked tensors during one forward and backward pass.

    Args:
        shape: (examples, length) of the pass's token ids.
        receive: Called with ``(tensor name, rows, gradients)``, a few rows at a time.
        formed: Whether the receiver forms the gradients; decides how many rows are a few.
    """

    def __init__(self, shape: tuple[int, int], receive: Receive, formed: bool = True) -> None:
        self._shape = shape
        self._receive = receive
        self._formed = formed
        self._tensors: dict[str, TrackedTensor] = {}
        self._calls: dict[str, int] = {}
        self._caught: dict[str, list[_Caught]] = {}
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
                hook = partial(self._after_forward, tensor)
                for layer in tensor.layers:
                    undo.callback(layer.register_forward_hook(hook, with_kwargs=True).remove)
            yield

    def backward(self, outputs: torch.Tensor, gradient: torch.Tensor | None = None) -> None:
        """Run the backward pass from ``outputs`` and hand over every tracked gradient."""
        self._counting = False  # checkpointed layers run forward again from here on
        outputs.backward(gradient)
        for name in list(self._caught):
            self._hand_over(name)

    def _after_forward(
        self, tensor: TrackedTensor, layer: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any
    ) -> Any:
        if self._counting:
            self._calls[tensor.name] = self._calls.get(tensor.name, 0) + 1
        if not torch.is_grad_enabled():
            self.checkpointed = True  # reentrant: this layer runs again in the backward pass, if its input has one
        elif not output.requires_grad:
            output = output.requires_grad_(True).clone()  # a model may change a clone in place, a leaf not
        if output.requires_grad:
            activations = args[0] if args else next(iter(kwargs.values()))
            routed = args[2:] if isinstance(layer, ExpertProduct) else None
            caught = _Caught(tensor.name, layer, activations.detach(), routed)
            output.register_hook(partial(self._after_backward, caught))
        return output

    def _after_backward(self, caught: _Caught, output_gradients: torch.Tensor) -> None:
        caught.arrived(output_gradients)
        waiting = self._caught.setdefault(caught.name, [])
        waiting.append(caught)
        if len(waiting) == self._calls[caught.name]:
            self._hand_over(caught.name)

    @torch.no_grad()
    def _hand_over(self, name: str) -> None:
        """Hand over one tensor's gradients, summed over its layers' calls, a few examples at a time."""
        calls, tensor = self._caught.pop(name), self._tensors[name]
        self.received.add(name)
        step = self._rows_at_once(tensor, calls)
        for start in range(0, self._shape[0], step):
            rows = slice(start, min(start + step, self._shape[0]))
            parts = [call.gradients(rows, self._shape) for call in calls]
            self._receive(name, rows, tensor.gradients(parts))

    def _rows_at_once(self, tensor: TrackedTensor, calls: Sequence[_Caught]) -> int:
        if not self._formed:
            values = tensor.parts * sum(call.token_values(self._shape) for call in calls)
            return max(1, _MAX_VALUES // max(1, values))
        most = min(_MAX_VALUES, _MAX_VALUES_CPU) if calls[0].device.type == "cpu" else _MAX_VALUES
        return max(1, most // tensor.size)


class _Caught:
    """One call of one layer: its input and, once it arrives, its output's gradient."""

    def __init__(
        self, name: str, layer: nn.Module, activations: torch.Tensor, routed: tuple[Any, ...] | None = None
    ) -> None:
        self.name = name
        self._layer = layer
        self._activations = activations
        self._routed = routed
        self._version = activations._version
        self._output_gradients: torch.Tensor | None = None

    @property
    def device(self) -> torch.device:
        return self._activations.device

    def _backward(self) -> torch.Tensor:
        if self._output_gradients is None:
            raise RuntimeError(f"{self.name}: its backward pass has not run")
        return self._output_gradients

    def arrived(self, output_gradients: torch.Tensor) -> None:
        if self._activations._version != self._version:
            raise ModelError(
                f"{self.name}: the model changes this layer's input in place after the layer has used it, so its "
                "per-example gradient cannot be formed. Choose other targets."
            )
        self._output_gradients = output_gradients.detach()

    def token_values(self, shape: tuple[int, int]) -> int:
        """Values of one example's activations and output gradients together."""
        return (self._activations.numel() + self._backward().numel()) // shape[0]

    def gradients(self, rows: slice, shape: tuple[int, int]) -> LayerGradients:
        """The factors of a few rows; float32 where products in the model's dtype might leave its range (float16)."""
        output_gradients = self._apart(self._backward(), shape)[rows]
        outer = is_outer_product(self._layer)
        first = _first_with_error(output_gradients) if outer else 0
        factors = self._apart(self._activations, shape)[rows, first:], output_gradients[:, first:]
        if not outer or any(values.dtype != torch.bfloat16 for values in factors):
            factors = factors[0].float(), factors[1].float()
        return LayerGradients(self._layer, *factors)

    def _apart(self, values: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
        if self._routed is None:
            return _by_example(values, shape, self.name)
        places, tokens = self._routed
        if tokens != shape[0] * shape[1]:
            raise _inseparable(self.name, (tokens, values.shape[-1]), shape)
        return _routed_by_example(values, places, shape)


def _first_with_error(output_gradients: torch.Tensor) -> int:
    """Before this position no row has an error: in a model's last block, that which predicts the first answer token.

    0 on a GPU, since asking would wait for it.
    """
    if output_gradients.device.type != "cpu" or bool(output_gradients[:, 0].any()):
        return 0
    present = output_gradients.any(dim=2).any(dim=0).nonzero()
    return int(present[0]) if len(present) else output_gradients.shape[1] - 1


def _by_example(values: torch.Tensor, shape: tuple[int, int], name: str) -> torch.Tensor:
    """(examples, positions, features), also for layers that see (examples x length, features).

    Raises:
        ModelError: If the values cannot be told apart by example (the experts of a mixture, for instance).
    """
    examples, length = shape
    if values.ndim >= 3 and values.shape[0] == examples:
        return values.flatten(1, -2)
    if values.ndim == 2 and values.shape[0] == examples * length:
        return values.reshape(examples, length, -1)
    raise _inseparable(name, tuple(values.shape), shape)


def _routed_by_example(values: torch.Tensor, places: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """(examples, most tokens of one example, features): each example's tokens, which are at ``places``, then zeros."""
    example = places // shape[1]
    counts = example.bincount(minlength=shape[0])
    slots = torch.arange(len(places), device=places.device) - (counts.cumsum(0) - counts)[example]
    apart = values.new_zeros(shape[0], int(counts.max()), values.shape[1])
    apart[example, slots] = values
    return apart


def _inseparable(name: str, seen: tuple[int, ...], shape: tuple[int, int]) -> ModelError:
    return ModelError(
        f"{name}: this layer sees values of shape {seen}, which cannot be split into the batch's "
        f"{shape[0]} examples of {shape[1]} tokens. Choose other targets."
    )
