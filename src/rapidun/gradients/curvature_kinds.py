"""Preconditioners by kind: how each is fitted to per-example gradients, and how its powers are applied.

All three approximate one matrix, the per-example Fisher ``F = mean over examples of grad L grad L^T`` of the mean
answer loss L, tensor by tensor:

* ``adam``: its diagonal, ``v = mean (grad L)^2`` (TrackStar: Chang et al., arXiv 2410.17413, section 3).
* ``kfac``: ``A (x) G`` with ``A = mean over tokens of a a^T`` and ``G = mean over examples of sum_t g_t g_t^T``:
  tokens, activations and output gradients taken as independent (Martens and Grosse, arXiv 1503.05671). Tokens whose
  output gradient is 0, padding among them, are left out.
* ``ekfac``: its diagonal in the eigenbasis of A and G (George et al., arXiv 1806.03884; Grosse et al.,
  arXiv 2308.03296).

Damping is a multiple of the mean eigenvalue: ``F + damping x mean eigenvalue x I``. For ``kfac`` it is split between
the factors, ``A + sqrt(damping) mean(A) I`` and likewise G, so that the inverse is one of factors too. A tensor whose
F is 0 (LoRA A while B = 0) is left as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch

from rapidun.errors import ModelError
from rapidun.gradients.factors import FormedGradients, Gradients
from rapidun.gradients.recording import Receive
from rapidun.registry import Registry
from rapidun.settings import names

Fisher = Literal["sampled", "empirical"]
Statistics = dict[str, dict[str, torch.Tensor]]  # tensor name -> statistic -> float32 values on the CPU
Apply = Callable[[Gradients], Gradients]
Pass = Callable[[Receive], tuple[float, int]]  # visits all examples; gives (gradients too large by, examples)


@dataclass(frozen=True)
class PreconditionerKind:
    """How a kind is fitted and applied.

    Args:
        fit: Visits the examples as often as it needs and returns the statistics of every tensor.
        prepare: ``(statistics of a tensor, damping, power)`` to the function that multiplies that tensor's gradients
            by ``(F + damping)^power``; called once, so what is costly belongs there.
        fisher: Whose labels the gradients are of unless the user says otherwise: the model's (``"sampled"``) or the
            data's (``"empirical"``).
        formed: Whether fitting forms the gradients.
        factors: Whether what it gives still has factors, for sketches that take nothing else.
    """

    fit: Callable[[Pass], Statistics]
    prepare: Callable[[dict[str, torch.Tensor], float, float], Apply]
    fisher: Fisher
    formed: bool = False
    factors: bool = True


KINDS: Registry[PreconditionerKind] = Registry(names.PRECONDITIONERS)


def damped_power(values: torch.Tensor, damping: float, power: float) -> torch.Tensor:
    """``(values + damping x mean value)^power``; all 1 where every value is 0. Rounding below 0 counts as 0."""
    values = values.clamp_min(0)
    mean = values.mean(dtype=torch.float64)
    if float(mean) == 0:
        return torch.ones_like(values)
    return (values.double() + damping * mean).pow(power).to(values.dtype)


def _second_moments(run: Pass, values_of: Callable[[str, Gradients], torch.Tensor]) -> dict[str, torch.Tensor]:
    """Mean square over the examples of each tensor's ``values_of`` (rows, ...), which are overwritten."""
    sums: dict[str, torch.Tensor] = {}

    def receive(name: str, rows: slice, gradients: Gradients) -> None:
        squares = values_of(name, gradients).square_().sum(dim=0)
        sums[name] = sums[name].add_(squares) if name in sums else squares

    scale, examples = run(receive)
    return {name: (total / examples / scale**2).cpu() for name, total in sums.items()}


# adam --------------------------------------------------------------------------------------------------------------


def _fit_adam(run: Pass) -> Statistics:
    moments = _second_moments(run, lambda name, gradients: gradients.formed())
    return {name: {"second_moment": moment} for name, moment in moments.items()}


def _prepare_adam(statistics: dict[str, torch.Tensor], damping: float, power: float) -> Apply:
    factors = damped_power(statistics["second_moment"], damping, power)
    on = cache(factors.to)

    def apply(gradients: Gradients) -> Gradients:
        values = gradients.formed()
        _check("values", len(factors), values.shape[1])
        why = "The preconditioner adam divides every value of a gradient by its own, so the gradient is formed"
        return FormedGradients(values * on(values.device), why)

    return apply


# kfac --------------------------------------------------------------------------------------------------------------


def _fit_kfac(run: Pass) -> Statistics:
    """Eigenvalues (ascending) and eigenvectors (columns) of A (``input_``) and G (``output_``)."""
    second: dict[str, list[torch.Tensor]] = {}
    tokens: dict[str, int] = {}

    def receive(name: str, rows: slice, gradients: Gradients) -> None:
        activations, errors = _float32_factors(gradients)
        present = (errors != 0).any(dim=2)
        found = [values[present].T @ values[present] for values in (activations, errors)]
        second[name] = [a + b for a, b in zip(second[name], found, strict=True)] if name in second else found
        tokens[name] = tokens.get(name, 0) + int(present.sum())

    scale, examples = run(receive)
    statistics: Statistics = {}
    for name, (inputs, outputs) in second.items():
        input_values, input_vectors = _eigen(inputs / max(1, tokens[name]))
        output_values, output_vectors = _eigen(outputs / examples / scale**2)
        statistics[name] = {
            "input_values": input_values,
            "input_vectors": input_vectors,
            "output_values": output_values,
            "output_vectors": output_vectors,
        }
    return statistics


def _eigen(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    values, vectors = torch.linalg.eigh(matrix.double().cpu())
    return values.float(), vectors.float().contiguous()


def _prepare_kfac(statistics: dict[str, torch.Tensor], damping: float, power: float) -> Apply:
    @cache
    def matrix(side: str, device: torch.device) -> torch.Tensor:
        values, vectors = statistics[f"{side}_values"], statistics[f"{side}_vectors"]
        return ((vectors * damped_power(values, damping**0.5, power)) @ vectors.T).to(device)

    def apply(gradients: Gradients) -> Gradients:
        activations, errors = _float32_factors(gradients)
        _check_factors(statistics, activations, errors)
        device = errors.device
        return gradients.with_factors(activations @ matrix("input", device), errors @ matrix("output", device))

    return apply


# ekfac -------------------------------------------------------------------------------------------------------------


def _fit_ekfac(run: Pass) -> Statistics:
    statistics = _fit_kfac(run)
    moments = _second_moments(run, lambda name, gradients: _in_eigenbasis(statistics[name], gradients))
    return {name: {**statistics[name], "values": moments[name]} for name in statistics}


def _in_eigenbasis(statistics: dict[str, torch.Tensor], gradients: Gradients) -> torch.Tensor:
    """``V_G^T (grad W) V_A``, (rows, outputs, inputs)."""
    activations, errors = _float32_factors(gradients)
    _check_factors(statistics, activations, errors)
    errors = errors @ statistics["output_vectors"].to(errors.device)
    return torch.bmm(errors.transpose(1, 2), activations @ statistics["input_vectors"].to(errors.device))


def _prepare_ekfac(statistics: dict[str, torch.Tensor], damping: float, power: float) -> Apply:
    """The result is a matrix; as factors it has one "token" an eigenvector of G."""
    statistics = {**statistics, "scales": damped_power(statistics["values"], damping, power)}

    @cache
    def on(device: torch.device) -> dict[str, torch.Tensor]:
        return {name: values.to(device) for name, values in statistics.items()}

    def apply(gradients: Gradients) -> Gradients:
        found = on(gradients.factors()[1].device)
        scaled = _in_eigenbasis(found, gradients).mul_(found["scales"])
        errors = found["output_vectors"].T.expand(len(scaled), -1, -1)
        return gradients.with_factors(scaled @ found["input_vectors"].T, errors)

    return apply


def _float32_factors(gradients: Gradients) -> tuple[torch.Tensor, torch.Tensor]:
    activations, errors = gradients.factors()
    return activations.float(), errors.float()


def _check_factors(statistics: dict[str, torch.Tensor], activations: torch.Tensor, errors: torch.Tensor) -> None:
    _check("inputs", len(statistics["input_values"]), activations.shape[2])
    _check("outputs", len(statistics["output_values"]), errors.shape[2])


def _check(what: str, fitted: int, given: int) -> None:
    if fitted != given:
        raise ModelError(f"The preconditioner was fitted to a tensor of {fitted} {what}; this one has {given}.")


KINDS["adam"] = PreconditionerKind(_fit_adam, _prepare_adam, "empirical", formed=True, factors=False)
KINDS["kfac"] = PreconditionerKind(_fit_kfac, _prepare_kfac, "sampled")
KINDS["ekfac"] = PreconditionerKind(_fit_ekfac, _prepare_ekfac, "sampled")
