"""One weight tensor's per-example gradients before they are formed: activations and output errors, token by token.

For ``y_t = W a_t`` the gradient is ``sum_t g_t a_t^T``. Whoever needs its values asks for them (`formed`); who can
work on the factors takes those (`factors`), and the gradient of a big layer never exists.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from rapidun.errors import ConfigError
from rapidun.gradients.layers import layer_kind, require_outer_product
from rapidun.gradients.norms import divisors, row_norms

_MAX_VALUES = 2**24  # 64 MiB of float32 at a time
_SAFE_SQUARES = (1e-18, 1e18)  # of activations and of errors: the product of two such, and 2^20 sums, stay in float32


class Gradients(Protocol):
    """One tensor's per-example gradients, in whichever form the one who takes them wants."""

    def formed(self) -> torch.Tensor:
        """(rows, size) float32, in the layout of the weight; may be overwritten."""

    def factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """``(activations, errors)``, (rows, tokens, inputs or outputs): the gradient is ``sum_t g_t a_t^T``.

        float32, or bfloat16 where the pass was in bfloat16.
        """

    def with_factors(self, activations: torch.Tensor, errors: torch.Tensor) -> Gradients:
        """Gradients of the same tensor with these factors."""


@dataclass(frozen=True)
class LayerGradients:
    """One call of one layer: ``activations`` (rows, tokens, inputs), ``errors`` (rows, tokens, outputs).

    float32, or bfloat16 where the pass was in bfloat16.
    """

    layer: nn.Module
    activations: torch.Tensor
    errors: torch.Tensor

    def formed(self) -> torch.Tensor:
        """(rows, size) float32 in the layout of the layer's weight.

        The product of bfloat16 factors is a bfloat16 value summed in float32, as autograd's is: five times faster
        than the same product of float32 copies, and float32's range.
        """
        return layer_kind(self.layer).gradient(self.layer, self.activations, self.errors).flatten(1).float()


@dataclass(frozen=True)
class TensorGradients:
    """The calls whose gradients add up to one tensor's: one, or several where layers share a weight."""

    calls: Sequence[LayerGradients]

    def formed(self) -> torch.Tensor:
        """(rows, size) float32: the gradient's values, in the layout of the weight. The caller may overwrite it."""
        gradients = self.calls[0].formed()
        for call in self.calls[1:]:
            gradients += call.formed()
        return gradients

    def factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """``(activations, errors)``, (rows, tokens, inputs or outputs); the tokens of several calls side by side.

        float32, or bfloat16 where the pass was in bfloat16.

        Raises:
            ModelError: If the gradient of such a layer is not a sum of outer products.
        """
        for call in self.calls:
            require_outer_product(call.layer)
        if len(self.calls) == 1:
            return self.calls[0].activations, self.calls[0].errors
        activations = torch.cat([call.activations for call in self.calls], dim=1)
        return activations, torch.cat([call.errors for call in self.calls], dim=1)

    def with_factors(self, activations: torch.Tensor, errors: torch.Tensor) -> TensorGradients:
        """The gradients with these factors in the place of their own."""
        return TensorGradients([LayerGradients(self.calls[0].layer, activations, errors)])


@dataclass(frozen=True)
class FormedGradients:
    """Gradients whose values exist and whose factors do not; ``why`` begins the error of who asks for factors."""

    values: torch.Tensor
    why: str

    def formed(self) -> torch.Tensor:
        """(rows, size) float32."""
        return self.values

    def factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """There are none.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(f"{self.why}, and this sketch takes only factors. Use RapidGrad or Exact.")

    def with_factors(self, activations: torch.Tensor, errors: torch.Tensor) -> Gradients:
        """Not without a layer: as `factors`.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(f"{self.why}: it cannot be replaced by factors. Use one preconditioner, not two.")


def divided(activations: torch.Tensor, errors: torch.Tensor, norms: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Factors of the rows' gradients divided by ``norms`` (zero: left as they are): the narrower factor changes."""
    by = divisors(norms).unsqueeze(2)
    if activations.shape[2] < errors.shape[2]:
        return (activations / by).to(activations.dtype), errors
    return activations, (errors / by).to(errors.dtype)


def factor_norms(activations: torch.Tensor, errors: torch.Tensor) -> torch.Tensor:
    """``|sum_t g_t a_t^T|`` of each row, exact, (rows,) float32; the gradients of big layers are not formed for it.

    The squared norm is the sum of ``(a_t . a_s)(g_t . g_s)`` over all pairs of tokens. Forming the gradient takes
    ``T x in x out`` multiplications, the pairs ``T^2 (in + out)``: the cheaper is taken, a few rows at a time.
    """
    (_, tokens, inputs), outputs = activations.shape, errors.shape[2]
    formed = inputs * outputs <= tokens * (inputs + outputs)
    step = max(1, _MAX_VALUES // (inputs * outputs if formed else tokens * tokens))
    norm = _formed_norms if formed else _pair_norms
    if step >= len(errors):
        return norm(activations, errors)
    parts = zip(activations.split(step), errors.split(step), strict=True)
    return torch.cat([norm(activation, error) for activation, error in parts])


def _formed_norms(activations: torch.Tensor, errors: torch.Tensor) -> torch.Tensor:
    return row_norms(torch.bmm(errors.transpose(1, 2), activations).flatten(1).float())


def _pair_norms(activations: torch.Tensor, errors: torch.Tensor) -> torch.Tensor:
    within, between = (torch.bmm(values, values.transpose(1, 2)).float() for values in (activations, errors))
    if not (_safe(within) and _safe(between)):
        return _scaled_pair_norms(activations.float(), errors.float())
    return _root_of_sum(within, between)


def _scaled_pair_norms(activations: torch.Tensor, errors: torch.Tensor) -> torch.Tensor:
    """The same of factors whose largest value is made 1 first: the square of 1e-23 is 0 in float32."""
    largest = [values.flatten(1).abs().amax(dim=1) for values in (activations, errors)]
    scaled = [values / divisors(most).unsqueeze(2) for values, most in zip((activations, errors), largest, strict=True)]
    return _root_of_sum(*(torch.bmm(part, part.transpose(1, 2)) for part in scaled)) * largest[0] * largest[1]


def _root_of_sum(within: torch.Tensor, between: torch.Tensor) -> torch.Tensor:
    # b t s, b t s -> b
    return (within * between).sum(dim=(1, 2)).clamp_min(0).sqrt()


def _safe(pairs: torch.Tensor) -> bool:
    """Whether each row's largest square is far from both ends of float32; never asked of a GPU, which would wait."""
    if pairs.device.type != "cpu":
        return False
    largest = pairs.diagonal(dim1=1, dim2=2).amax(dim=1)
    smallest, most = _SAFE_SQUARES
    return bool(((largest > smallest) & (largest < most)).all())


@dataclass(frozen=True)
class TrackedTensor:
    """One weight tensor, the layers that use it, and its number of values."""

    name: str
    layers: tuple[nn.Module, ...]
    size: int

    @property
    def parts(self) -> int:
        """By how much the factors of all calls together are wider than those of one call."""
        return 1

    def gradients(self, calls: Sequence[LayerGradients]) -> Gradients:
        """The tensor's per-example gradients, from every call of its layers."""
        return TensorGradients(calls)

    @contextmanager
    def prepared(self) -> Iterator[None]:
        """Inside, the model runs so that hooks on `layers` see every product with this tensor."""
        yield
