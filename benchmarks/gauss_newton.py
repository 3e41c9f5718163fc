"""Products with the generalised Gauss-Newton matrix of the answer loss: curvature without second derivatives.

For rows s with T answer tokens, logits z and probabilities p,

    G = mean_s sum_t (1/T) J_t^T (diag(p_t) - p_t p_t^T) J_t,      J_t = dz_t / dtheta

the Fisher matrix of the model's own predictions (Martens, arXiv 1412.1193, section 8). ``G v`` is a forward-mode
product ``J v``, the softmax's own Hessian, and a reverse-mode product; ``G`` itself never exists. Unlike the Hessian
it has no negative eigenvalue, so ``G + damping`` can be inverted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from rapidun.data.batches import IGNORE_INDEX, Batch, Example, collate, token_budget_batches
from rapidun.errors import ConfigError, InputError, ModelError
from rapidun.gradients.backward import device_of, frozen
from rapidun.gradients.targets import find_targets
from rapidun.models.modes import evaluating

_MAX_VALUES = 2**25  # values of J v held at a time, 128 MiB of float32


class GaussNewton:
    """The Gauss-Newton matrix of some rows with respect to some weights, as something to multiply by.

    Vectors are laid out as `rapidun.gradients.Exact` lays out the same targets' gradients.

    Args:
        model: A Hugging Face causal LM or a PEFT model around one, in float32 or float64; left as it is.
        examples: Tokenised rows; every row counts the same.
        pad_token_id: Any token id.
        targets: As for `rapidun.gradients.GradientCollector`.
        max_tokens: Padded size of a batch, in tokens.

    Raises:
        InputError: If there are no rows.
        ModelError: If the targets match nothing, or are in half precision or quantised.
    """

    def __init__(
        self,
        model: nn.Module,
        examples: Sequence[Example],
        pad_token_id: int,
        *,
        targets: str | Sequence[str] = "lora",
        max_tokens: int = 2048,
    ) -> None:
        if not examples:
            raise InputError("A Gauss-Newton matrix of no rows: give the training rows.")
        self._model = model
        self._examples = examples
        self._pad = pad_token_id
        self._max_tokens = max_tokens
        parameters = dict(model.named_parameters(remove_duplicate=False))
        self._weights = {tensor.name: parameters[tensor.name].detach() for tensor in find_targets(model, targets)}
        for name, weight in self._weights.items():
            if weight.dtype not in (torch.float32, torch.float64):
                raise ModelError(f"{name} is {weight.dtype}: curvature needs float32. Load the model with it.")

    @property
    def dimension(self) -> int:
        """Number of tracked values."""
        return sum(weight.numel() for weight in self._weights.values())

    @property
    def rows(self) -> int:
        """Number of rows that the matrix is a mean over."""
        return len(self._examples)

    def product(self, vectors: torch.Tensor, rows: Sequence[int] | None = None) -> torch.Tensor:
        """``G v`` of each of ``vectors``, (n, dimension), over ``rows`` (all of them by default).

        Raises:
            InputError: If the vectors are of another length.
        """
        if vectors.ndim != 2 or vectors.shape[1] != self.dimension:
            raise InputError(f"Vectors of shape {tuple(vectors.shape)}; expected (n, {self.dimension}).")
        chosen = self._examples if rows is None else [self._examples[row] for row in rows]
        total = torch.zeros_like(vectors)
        # the other attention kernels have no forward mode
        with evaluating(self._model), frozen(self._model), sdpa_kernel(SDPBackend.MATH):
            for indices in token_budget_batches(chosen, self._max_tokens):
                batch = collate([chosen[index] for index in indices], self._pad).to(device_of(self._model))
                total += self._batch_product(batch, vectors)
        return total / len(chosen)

    def mean_eigenvalue(self, probes: int = 16, seed: int = 0) -> float:
        """Trace over dimension, estimated with random signs (Hutchinson): the unit that damping is given in.

        Raises:
            ConfigError: If ``probes`` is below 1.
        """
        if probes < 1:
            raise ConfigError(f"probes={probes}: at least one is needed.")
        generator = torch.Generator().manual_seed(seed)
        signs = torch.randint(0, 2, (probes, self.dimension), generator=generator) * 2 - 1
        vectors = signs.to(self._like())
        return float((vectors * self.product(vectors)).sum(dim=1).mean()) / self.dimension

    def largest_eigenvalue(self, iterations: int = 20, seed: int = 0) -> float:
        """By power iteration; a little below the true one when stopped early."""
        generator = torch.Generator().manual_seed(seed)
        vector = torch.randn(1, self.dimension, generator=generator).to(self._like())
        norm = vector.norm()
        for _ in range(iterations):
            if not norm > 0:
                return 0.0
            vector = self.product(vector / norm)
            norm = vector.norm()
        return float(norm)

    def _like(self) -> torch.Tensor:
        return next(iter(self._weights.values()))

    def _batch_product(self, batch: Batch, vectors: torch.Tensor) -> torch.Tensor:
        """Sum over the batch's rows of their ``G v``."""
        target = batch.labels[:, 1:] != IGNORE_INDEX
        per_token = (1 / target.sum(dim=1, keepdim=True).clamp_min(1)).expand_as(target)[target].unsqueeze(1)
        answer_logits = self._answer_logits(batch, target)
        linearised: Any = torch.func.vjp(answer_logits, self._weights)
        logits, pull_back = linearised
        weighted = logits.softmax(dim=1)
        step = max(1, _MAX_VALUES // max(1, logits.numel()))

        def one(vector: torch.Tensor) -> torch.Tensor:
            moved = torch.func.jvp(answer_logits, (self._weights,), (self._unflatten(vector),))[1]
            moved = weighted * (moved - (weighted * moved).sum(dim=1, keepdim=True)) * per_token
            return self._flatten(pull_back(moved.to(logits.dtype))[0])

        return torch.vmap(one, chunk_size=step)(vectors)

    def _answer_logits(self, batch: Batch, target: torch.Tensor) -> Callable[[dict[str, torch.Tensor]], torch.Tensor]:
        """Tracked weights to the logits of all answer tokens, (tokens, vocabulary)."""
        rows, positions = target.nonzero(as_tuple=True)
        inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "use_cache": False}

        def logits(weights: dict[str, torch.Tensor]) -> torch.Tensor:
            outputs: Any = torch.func.functional_call(self._model, weights, kwargs=inputs)
            found: torch.Tensor = outputs.logits[rows, positions]
            return found

        return logits

    def _unflatten(self, vector: torch.Tensor) -> dict[str, torch.Tensor]:
        parts = vector.split([weight.numel() for weight in self._weights.values()])
        return {name: part.view(w.shape) for (name, w), part in zip(self._weights.items(), parts, strict=True)}

    def _flatten(self, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.cat([tensors[name].flatten() for name in self._weights])
