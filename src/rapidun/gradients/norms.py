"""Norms of rows, formed or given as factors, that neither overflow nor flush to zero, and dividing by them."""

from __future__ import annotations

import math

import torch

_SAFE_NORMS = (1e-10, 1e15)  # sums of squares of norms within this range lost nothing that matters to float32
_SAFE_SQUARES = (1e-18, 1e18)  # of activations and of errors: the product of two such, and 2^20 sums, stay in float32
_MAX_VALUES = 2**24  # 64 MiB of float32 at a time


def row_norms(values: torch.Tensor) -> torch.Tensor:
    """Euclidean norm of each row, (rows,) float32.

    A row whose squares might leave float32's range (that of 1e-23 is 0) is divided by its largest value
    first. On a CPU that slower way is taken only where a row needs it, and for that row alone.
    """
    if values.device.type != "cpu":
        return scaled_norms(values)
    norms: torch.Tensor = torch.linalg.vector_norm(values, dim=1)
    smallest, largest = _SAFE_NORMS
    if all(smallest < norm < largest for norm in norms.tolist()):
        return norms
    return torch.where((norms > smallest) & (norms < largest), norms, scaled_norms(values))


def scaled_norms(values: torch.Tensor) -> torch.Tensor:
    """As `row_norms`, every row divided by its largest value first; the same bits whatever rows stand beside it."""
    largest: torch.Tensor = torch.linalg.vector_norm(values, ord=math.inf, dim=1)
    scaled: torch.Tensor = torch.linalg.vector_norm(values / divisors(largest), dim=1)
    return largest * scaled


def divisors(norms: torch.Tensor) -> torch.Tensor:
    """(rows, 1): the norms, and 1 where a norm is 0, so that zero rows stay zero."""
    return torch.where(norms > 0, norms, 1.0).unsqueeze(1)


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
