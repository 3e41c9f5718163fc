"""Fused experts: one parameter holds the weights of all experts of a layer, and low-rank factors of such parameters.

transformers keeps a mixture's experts as parameters of shape (experts, outputs, inputs), or transposed, and PEFT adapts
them by ``target_parameters``: ``W_e + s B_e A_e``. No layer of theirs has a forward, so there is nothing to hook. While
gradients are collected the experts' module runs expert by expert through `ExpertProduct` modules, whose calls are
caught like a linear layer's. Expert ``e`` has the gradient ``sum_t g_t a_t^T`` over the tokens ``t`` that were routed
to it; by the chain rule its factors have ``sum_t (s B_e^T g_t) a_t^T`` and ``sum_t g_t (s A_e a_t)^T``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import nn
from transformers.pytorch_utils import Conv1D

from rapidun.gradients.factors import Gradients, LayerGradients, TensorGradients, TrackedTensor
from rapidun.gradients.layers import linear, register_layer


class ExpertProduct(nn.Module):
    """One expert's product with one fused tensor; its hooks see the routed tokens and their places in the batch."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def forward(self, inputs: torch.Tensor, weight: torch.Tensor, places: torch.Tensor, tokens: int) -> torch.Tensor:
        """``inputs`` (n, inputs) of the tokens at ``places`` of all ``tokens``, ``weight`` (outputs, inputs)."""
        return F.linear(inputs, weight)


register_layer(ExpertProduct, outer_product=True)(linear)


class FusedExperts:
    """The experts' module of one layer, as transformers' ``use_experts_implementation`` describes it.

    Args:
        module: Has ``down_proj`` and ``gate_up_proj`` (or ``up_proj``) and says how they are stored.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = cast(Any, module)
        self.count = int(self.module.num_experts)
        self.first = "gate_up_proj" if self.module.has_gate else "up_proj"
        self.products = {name: [ExpertProduct(e) for e in range(self.count)] for name in (self.first, "down_proj")}

    @staticmethod
    def describes(module: nn.Module) -> bool:
        """Whether ``module`` is such a module, with weights that take gradients."""
        weight = getattr(module, "down_proj", None)
        known = all(hasattr(module, name) for name in ("has_gate", "has_bias", "is_transposed", "num_experts"))
        return known and isinstance(weight, torch.Tensor) and weight.ndim == 3 and weight.is_floating_point()

    def size(self, name: str) -> tuple[int, int, int]:
        """(experts, outputs, inputs) of the parameter ``name``."""
        experts, outputs, inputs = getattr(self.module, name).shape
        return (experts, inputs, outputs) if self.module.is_transposed else (experts, outputs, inputs)

    @contextmanager
    def expert_by_expert(self) -> Iterator[None]:
        """Inside, the module runs through `products`; it is put back afterwards, also after an exception."""
        before = vars(self.module).get("forward")
        if getattr(before, "__self__", None) is self:
            yield
            return
        self.module.forward = self._forward
        try:
            yield
        finally:
            del self.module.forward
            if before is not None:
                self.module.forward = before

    def _forward(
        self, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
    ) -> torch.Tensor:
        """(tokens, width): each token's sum over its experts, by the weights of its router."""
        total = torch.zeros_like(hidden_states, dtype=torch.promote_types(hidden_states.dtype, top_k_weights.dtype))
        for expert in cast(list[int], top_k_index.unique().tolist()):
            if expert < self.count:  # what another device holds has a number beyond
                places, slots = (top_k_index == expert).nonzero(as_tuple=True)
                given = self._expert(expert, hidden_states[places], places, len(hidden_states))
                weighted = given * top_k_weights[places, slots].unsqueeze(1)
                total = total.index_add(0, places, weighted.to(total.dtype))
        return total.to(hidden_states.dtype)

    def _expert(self, expert: int, inputs: torch.Tensor, places: torch.Tensor, tokens: int) -> torch.Tensor:
        module = self.module
        hidden = self._product(self.first, expert, inputs, places, tokens)
        hidden = module._apply_gate(hidden) if module.has_gate else module.act_fn(hidden)
        hidden = self._product("down_proj", expert, hidden, places, tokens)
        if getattr(module, "has_post_expert_norm", False):
            hidden = module.post_expert_norm(hidden)
        return hidden

    def _product(self, name: str, expert: int, inputs: torch.Tensor, places: torch.Tensor, tokens: int) -> torch.Tensor:
        weight = getattr(self.module, name)[expert]
        if self.module.is_transposed:
            weight = weight.T
        product: torch.Tensor = self.products[name][expert](inputs, weight, places, tokens)
        return product + getattr(self.module, f"{name}_bias")[expert] if self.module.has_bias else product


@dataclass(frozen=True)
class Layout:
    """Where an expert's gradient, (rows, outputs, inputs), lies in that of the tensor.

    Args:
        experts: How many the tensor holds.
        outputs: Of one expert.
        inputs: Of one expert.
        order: The tensor's dimensions: ``"eoi"`` (experts, outputs, inputs), ``"eio"`` (experts, inputs, outputs) or,
            as PEFT's ``lora_B``, ``"oie"`` (outputs, inputs x experts), the expert's number running fastest.
    """

    experts: int
    outputs: int
    inputs: int
    order: Literal["eoi", "eio", "oie"] = "eoi"

    @property
    def layer(self) -> nn.Module:
        """A layer whose weight lies as the whole tensor does."""
        with torch.device("meta"):
            return cast(nn.Module, Conv1D(1, 1)) if self.order == "eio" else nn.Linear(1, 1, bias=False)

    def block(self, values: torch.Tensor, expert: int) -> torch.Tensor:
        """A view (rows, outputs, inputs) into ``values``, (rows, size)."""
        sizes = {"e": self.experts, "o": self.outputs, "i": self.inputs}
        block = values.view(-1, *(sizes[name] for name in self.order)).select(1 + self.order.index("e"), expert)
        return block.transpose(1, 2) if self.order == "eio" else block

    def widened(
        self, activations: torch.Tensor, errors: torch.Tensor, expert: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The expert's factors as factors of the whole tensor: zeros where other experts' values stand."""
        if self.order == "eoi":
            return activations, F.pad(errors, (expert * self.outputs, (self.experts - expert - 1) * self.outputs))
        if self.order == "eio":
            return F.pad(activations, (expert * self.inputs, (self.experts - expert - 1) * self.inputs)), errors
        wide = activations.new_zeros(*activations.shape, self.experts)
        wide[..., expert] = activations
        return wide.flatten(2), errors


@dataclass(frozen=True)
class FusedGradients:
    """Per-example gradients of a tensor that holds several experts: formed expert by expert."""

    layout: Layout
    calls: Sequence[tuple[int, LayerGradients]]

    def formed(self) -> torch.Tensor:
        """(rows, size) float32, in the layout of the tensor; 0 for experts that no token was routed to."""
        sizes, first = self.layout, self.calls[0][1].activations
        values = first.new_zeros(len(first), sizes.experts * sizes.outputs * sizes.inputs, dtype=torch.float32)
        for expert, call in self.calls:
            self.layout.block(values, expert).add_(torch.bmm(call.errors.transpose(1, 2), call.activations))
        return values

    def factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """``(activations, errors)``, (rows, tokens, inputs or outputs) of the whole tensor, experts side by side."""
        wide = [self.layout.widened(call.activations, call.errors, expert) for expert, call in self.calls]
        return torch.cat([a for a, _ in wide], dim=1), torch.cat([e for _, e in wide], dim=1)

    def with_factors(self, activations: torch.Tensor, errors: torch.Tensor) -> Gradients:
        """The gradients with these factors in the place of their own."""
        return TensorGradients([LayerGradients(self.layout.layer, activations, errors)])


@dataclass(frozen=True, eq=False)
class FusedTensor(TrackedTensor):
    """A parameter that holds several experts, or a low-rank factor of one.

    Args:
        parameter: The tensor itself.
        layout: How the experts' gradients lie in the tensor's.
        experts: Whose products are caught; None where the parameter is an ordinary layer's.
        factor: From an expert's number, activations and errors to those of its low-rank factor; None: as they are.
    """

    parameter: torch.Tensor
    layout: Layout
    experts: FusedExperts | None = None
    factor: Callable[[int, LayerGradients], LayerGradients] | None = None

    @property
    def parts(self) -> int:
        """The number of experts."""
        return self.layout.experts

    def gradients(self, calls: Sequence[LayerGradients]) -> Gradients:
        """See `TrackedTensor.gradients`."""
        numbered = [(int(getattr(call.layer, "number", 0)), call) for call in calls]
        if self.factor is not None:
            numbered = [(expert, self.factor(expert, call)) for expert, call in numbered]
        return FusedGradients(self.layout, numbered)

    def prepared(self) -> AbstractContextManager[None]:
        """See `TrackedTensor.prepared`."""
        return nullcontext() if self.experts is None else self.experts.expert_by_expert()


def fused_tensors(name: str, experts: FusedExperts) -> list[FusedTensor]:
    """The weights of one layer's experts; ``name`` is the experts' module's."""
    found = []
    for parameter, products in experts.products.items():
        sizes = experts.size(parameter)
        layout = Layout(*sizes, "eio" if experts.module.is_transposed else "eoi")
        weight = getattr(experts.module, parameter)
        found.append(FusedTensor(f"{name}.{parameter}", tuple(products), weight.numel(), weight, layout, experts))
    return found


def factor_tensors(name: str, wrapper: Any, adapter: str, experts: FusedExperts | None) -> list[FusedTensor]:
    """A and B of a PEFT ``ParamWrapper`` called ``name``; empty where its parameter's product cannot be caught."""
    layers: Sequence[nn.Module]
    base = wrapper.get_base_layer()
    if experts is not None and wrapper.parameter_name in experts.products:
        layers = experts.products[wrapper.parameter_name]
    elif isinstance(base, nn.Linear) and wrapper.parameter_name == "weight":
        layers = [base]
    else:
        return []
    a, b = wrapper.lora_A[adapter].weight, wrapper.lora_B[adapter].weight
    count = len(layers)
    rank = len(a) // count
    of_a, of_b = Layout(count, rank, a.shape[1]), Layout(count, len(b), rank, "oie")

    def through_b(expert: int, call: LayerGradients) -> LayerGradients:
        back = of_b.block(b.detach().float().view(1, -1), expert)[0] * wrapper.scaling[adapter]
        return LayerGradients(call.layer, call.activations.float(), call.errors.float() @ back)

    def through_a(expert: int, call: LayerGradients) -> LayerGradients:
        ahead = of_a.block(a.detach().float().view(1, -1), expert)[0] * wrapper.scaling[adapter]
        return LayerGradients(call.layer, call.activations.float() @ ahead.T, call.errors.float())

    at = tuple(layers)
    return [
        FusedTensor(f"{name}.lora_A.{adapter}.weight", at, a.numel(), a, of_a, experts, through_b),
        FusedTensor(f"{name}.lora_B.{adapter}.weight", at, b.numel(), b, of_b, experts, through_a),
    ]
