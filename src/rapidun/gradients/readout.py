"""Readout: the output layer's gradient in two count-sketch channels, from one forward pass and nothing else.

For logits ``z_t = W h_t`` the loss's gradient at ``W`` is ``sum_t e_t h_t^T / T``: the error
``e_t = p_t - onehot(y_t)`` of each of the T answer tokens times the last hidden state ``h_t``, all of it known after a
forward pass. The embeddings are not differentiated, so tied ones need no care: what is collected is the output layer's
own part of the shared weight's gradient. Both factors are hashed to k buckets, and their outer product's sketch is the
circular convolution of the two (Pham and Pagh, KDD 2013, TensorSketch): value ``(v, i)`` of the gradient goes, with
sign ``r_e(v) r_h(i)``, to bucket ``h_e(v) + h_h(i) mod k``. It is a count-sketch whose hash is a sum, so a matrix given
by factors never exists; ``E<sketch(x), sketch(y)> = <x, y>``, with an error of the order of 1/sqrt(k).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from rapidun.data.batches import IGNORE_INDEX, Batch
from rapidun.errors import ModelError
from rapidun.gradients.backward import device_of, token_errors
from rapidun.gradients.collector import Collector, GradientCollector, Transform
from rapidun.gradients.factors import LayerGradients, TensorGradients
from rapidun.gradients.layers import weight_size
from rapidun.gradients.rapidgrad import RapidGrad
from rapidun.gradients.recording import Receive
from rapidun.gradients.sketches import SKETCHES, Hashed, Sketch
from rapidun.models.losses import logits_at, next_tokens, output_layer
from rapidun.models.modes import evaluating
from rapidun.settings.kinds import Normalization

_MAX_VALUES = 2**24  # 64 MiB of float32 errors, or of a channel, at a time


@SKETCHES.register("readout")
@dataclass(frozen=True)
class Readout(Hashed):
    """Tensor sketch to ``k`` values of gradients that are sums of outer products; made for the output layer.

    `rapidun.gradients.ReadoutCollector` gives it the output layer's factors without a backward pass. It takes those
    of any layer from a `GradientCollector` too, and is then a sketch of all tracked layers.

    Args:
        k: Number of buckets; a power of two is fastest.
        seed: Another seed is another, independent sketch.

    Raises:
        ConfigError: If ``k`` is not between 1 and 2^31 - 1.
    """

    kind = "readout"

    k: int = 4096

    def add_factors(
        self,
        total: torch.Tensor,
        name: str,
        activations: torch.Tensor,
        errors: torch.Tensor,
        sizes: Mapping[str, int],
    ) -> None:
        """Add ``sum_t sketch(g_t) * sketch(a_t)``, summed over the tokens before the one inverse transform."""
        spectrum = torch.zeros(len(total), self.k // 2 + 1, dtype=torch.complex64, device=total.device)
        step = max(1, _MAX_VALUES // (len(total) * self.k))
        for inputs, outputs in zip(activations.split(step, dim=1), errors.split(step, dim=1), strict=True):
            product = self._channel(f"in:{name}", inputs).mul_(self._channel(f"out:{name}", outputs))
            spectrum += product.sum(dim=1)
        total += torch.fft.irfft(spectrum, n=self.k)

    def _channel(self, name: str, values: torch.Tensor) -> torch.Tensor:
        """Spectrum of each token's count-sketch, (batch, tokens, k/2 + 1) complex64."""
        flat = values.flatten(0, 1).float()
        hashed = torch.zeros(len(flat), self.k, device=values.device)
        RapidGrad(self.k, self.seed).add(hashed, name, flat.clone(), {})  # which changes what it is given
        spectrum: torch.Tensor = torch.fft.rfft(hashed)
        return spectrum.view(*values.shape[:2], -1)


class ReadoutCollector(Collector):
    """Sketched gradients of the output layer, one forward pass a batch; called like a `GradientCollector`.

    The output layer runs on the answer tokens alone, and the model's own code computes the logits, with whatever
    it does to them afterwards (scaling, soft caps). The model is left as it was found.

    Args:
        model: A Hugging Face causal LM or a PEFT model around one.
        normalize: ``"layer"`` and ``"unit"`` give each row's gradient norm 1; ``"none"`` leaves it.
        token_normalize: Give every answer token's output error norm 1 (RapidUn, arXiv 2512.04457, eq. 1).
        transform: Applied to the gradients before they are normalised: a preconditioner.

    Raises:
        ConfigError: If ``normalize`` is unknown.
        ModelError: If the model does not say which its output layer is.
    """

    def __init__(
        self,
        model: nn.Module,
        normalize: Normalization = "layer",
        token_normalize: bool = False,
        transform: Transform | None = None,
    ) -> None:
        super().__init__(model, normalize, token_normalize, transform)
        head = output_layer(model)
        if head is None:
            raise ModelError(
                f"{type(model).__name__}.get_output_embeddings() names no layer. Give a Hugging Face causal LM."
            )
        self._head, self._layer = head, getattr(head, "base_layer", head)
        self._name = next(name for name, module in model.named_modules() if module is self._layer) + ".weight"
        self.sizes = {self._name: weight_size(self._layer)}

    def check(self, batch: Batch) -> None:
        """Nothing to compare: every pass checks that the logits come from the output layer's values."""

    def visit(self, batch: Batch, receive: Receive, *, formed: bool = True) -> float:
        """One forward pass; ``receive`` gets ``(tensor name, rows, gradients)``, preconditioned, unnormalised."""
        batch = batch.to(device_of(self.model))
        prepared = self._prepared(receive)
        target = next_tokens(batch.labels)
        counts = (target != IGNORE_INDEX).sum(dim=1).tolist()
        if sum(counts) == 0:
            return 1.0
        with torch.inference_mode(False), torch.no_grad(), evaluating(self.model):
            places = (target != IGNORE_INDEX).flatten().nonzero().flatten()
            tokens = _AnswerTokens(self.model, self._head, batch, places)
            wanted = target.flatten()[places]
            for rows, of_rows in _pieces(counts, tokens.logits.shape[1]):
                prepared(self._name, rows, self._gradients(tokens, wanted, counts[rows], of_rows))
        return 1.0

    def _gradients(
        self, tokens: _AnswerTokens, wanted: torch.Tensor, counts: list[int], places: slice
    ) -> TensorGradients:
        """The factors of a few rows, padded to the longest answer among them with errors of 0."""
        errors = token_errors(tokens.logits[places], wanted.to(tokens.logits.device)[places])
        if self._token_normalize:
            errors = F.normalize(errors, dim=1, eps=torch.finfo(torch.float32).tiny)
        errors = tokens.at_output_layer(errors, places)
        lengths = torch.tensor(counts, device=errors.device)
        present = torch.arange(max(1, *counts), device=errors.device) < lengths.unsqueeze(1)
        each = (1 / lengths.clamp_min(1)).repeat_interleave(lengths).unsqueeze(1)
        padded = [errors.new_zeros(*present.shape, values.shape[1]) for values in (tokens.hidden, errors)]
        padded[0][present] = tokens.hidden[places].float()
        padded[1][present] = errors * each
        return TensorGradients([LayerGradients(self._layer, padded[0], padded[1])])


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


class _AnswerTokens:
    """The output layer's last pass: what it was given, what it gave, and the model's logits, of N answer tokens.

    Args:
        model: The causal LM.
        head: Its output layer.
        batch: On the model's device.
        places: (N,) int64: the positions that predict answer tokens, row times length plus position.

    Raises:
        ModelError: If the output layer did not run once, on these tokens.
    """

    hidden: torch.Tensor  # (N, hidden size)
    logits: torch.Tensor  # (N, vocabulary), after whatever the model does to the output layer's values

    def __init__(self, model: nn.Module, head: nn.Module, batch: Batch, places: torch.Tensor) -> None:
        self._values: list[torch.Tensor] = []
        with torch.no_grad(), head.register_forward_hook(self._catch):  # and gradients as before at its end
            _, output = logits_at(model, batch.input_ids, batch.attention_mask, places)
        self._logits = output.logits
        shape = self._logits.shape[:2]
        if len(self._values) != 1 or shape != (1, len(places)) or len(self.hidden) != len(places):
            raise ModelError(
                "This model does not compute its logits from its decoder's last hidden state, so there is no readout. "
                "Use another sketch: rapidgrad or factored."
            )
        self.logits = self._logits.detach()[0]

    def _catch(self, head: nn.Module, inputs: tuple[torch.Tensor, ...], values: torch.Tensor) -> torch.Tensor:
        self.hidden = inputs[0].detach()[0]
        torch.set_grad_enabled(True)  # until the pass ends: scaling and soft caps have slopes
        self._values.append(values.detach().requires_grad_(True))
        return self._values[-1]

    def at_output_layer(self, errors: torch.Tensor, places: slice) -> torch.Tensor:
        """Errors of the logits, (n, vocabulary), as errors of the output layer's own values; equal where it is last."""
        if self._logits.grad_fn is None:
            return errors
        signal = torch.zeros_like(self._logits)
        signal[0, places] = errors.to(signal.dtype)
        (found,) = torch.autograd.grad(self._logits, self._values[0], signal, retain_graph=True)
        return found[0, places].float()


def _pieces(counts: list[int], vocabulary: int) -> Iterator[tuple[slice, slice]]:
    """Rows, and the places of their answer tokens, a few rows at a time: padded errors within the bound."""
    start = place = 0
    while start < len(counts):
        end, longest = start + 1, max(1, counts[start])
        while end < len(counts) and (end + 1 - start) * max(longest, counts[end]) * vocabulary <= _MAX_VALUES:
            longest = max(longest, counts[end])
            end += 1
        tokens = sum(counts[start:end])
        yield slice(start, end), slice(place, place + tokens)
        start, place = end, place + tokens
