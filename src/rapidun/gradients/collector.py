"""Per-example gradients of a batch, in one forward and one backward pass, straight into a sketch.

Example ``s`` has the gradient ``grad L(s)`` of its own mean answer-token loss (RapidIn, arXiv 2405.11724, eq. 5),
independent of the rows it shares a batch with. The losses of a batch are summed and differentiated once; hooks
separate the examples at each layer, where ``grad W = sum_t g_t a_t^T`` splits by row.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from rapidun.data.batches import IGNORE_INDEX, Batch, Example, collate
from rapidun.errors import ConfigError, ModelError
from rapidun.gradients.agreement import check_agreement
from rapidun.gradients.backward import answer_errors, borrowed, device_of, differentiable_inputs, loss_scale
from rapidun.gradients.factors import Gradients
from rapidun.gradients.norms import divided, divisors, factor_norms, row_norms
from rapidun.gradients.recording import Receive, Recorder, hand_on_in_pieces
from rapidun.gradients.sketches import DenseSketch, FactorSketch, Sketch
from rapidun.gradients.targets import find_targets
from rapidun.models.losses import answer_logits, answer_token_logits, next_tokens, output_layer
from rapidun.models.passes import Progress, pass_batches
from rapidun.settings.kinds import Normalization

Transform = Callable[[str, Gradients], Gradients]


class SketchedBatch:
    """The growing (batch, k) sketch of one batch: every tensor's gradients normalised, then handed to the sketch.

    For ``"unit"`` each tensor's per-example norms are noted, and the whole is divided at the end.
    """

    def __init__(
        self, sketch: Sketch, sizes: Mapping[str, int], batch: int, device: torch.device, normalize: str
    ) -> None:
        self.receive = self._receiver(sketch)
        self._sizes = sizes
        self._normalize = normalize
        self._total = torch.zeros(batch, sketch.dimension(sizes), device=device)
        self._norms = torch.zeros(batch, len(sizes) if normalize == "unit" else 0, device=device)

    def _receiver(self, sketch: Sketch) -> Receive:
        """Takes one tensor's gradients for a few rows, in the form that the sketch wants."""
        if isinstance(sketch, FactorSketch):
            return partial(self._receive_factors, sketch)
        if isinstance(sketch, DenseSketch):
            return partial(self._receive_formed, sketch)
        raise TypeError(f"{type(sketch).__name__} has neither add nor add_factors")

    def _receive_formed(self, sketch: DenseSketch, name: str, rows: slice, gradients: Gradients) -> None:
        values = gradients.formed().to(self._total.device)
        if self._normalize == "layer":
            values /= divisors(row_norms(values))
        elif self._normalize == "unit":
            self._note_norms(name, rows, row_norms(values))
        sketch.add(self._total[rows], name, values, self._sizes)

    def _receive_factors(self, sketch: FactorSketch, name: str, rows: slice, gradients: Gradients) -> None:
        activations, errors = (values.to(self._total.device) for values in gradients.factors())
        if self._normalize == "layer":
            activations, errors = divided(activations, errors, factor_norms(activations, errors))
        elif self._normalize == "unit":
            self._note_norms(name, rows, factor_norms(activations, errors))
        sketch.add_factors(self._total[rows], name, activations, errors, self._sizes)

    def _note_norms(self, name: str, rows: slice, norms: torch.Tensor) -> None:
        self._norms[rows, list(self._sizes).index(name)] = norms

    def finished(self, scale: float) -> torch.Tensor:
        """The sketch after what is normalised over the whole gradient."""
        if self._normalize == "unit":
            self._total /= divisors(row_norms(self._norms))
        elif self._normalize == "none" and scale != 1:
            self._total /= scale
        if not self._total.sum().isfinite():  # one quick pass; a sum may also overflow
            finite = self._total.isfinite().all(dim=1)
            if rows := (~finite).nonzero().flatten().tolist():
                raise ModelError(
                    f"The gradients of rows {rows} of this batch are not finite. Load the model as bfloat16 or float32."
                )
        return self._total


class Collector(ABC):
    """What the collectors of gradients have in common; ``sizes`` are the values of each tracked tensor, in order.

    Raises:
        ConfigError: If ``normalize`` is unknown.
    """

    sizes: dict[str, int]

    def __init__(
        self, model: nn.Module, normalize: Normalization, token_normalize: bool, transform: Transform | None
    ) -> None:
        if normalize not in get_args(Normalization):
            raise ConfigError(f"normalize={normalize!r}: use one of {', '.join(get_args(Normalization))}.")
        self.model, self._transform = model, transform
        self._normalize, self._token_normalize = normalize, token_normalize

    @property
    def tracked(self) -> list[str]:
        """Names of the tracked parameters, in the model's order."""
        return list(self.sizes)

    def __call__(self, batch: Batch, sketch: Sketch) -> torch.Tensor:
        """Sketched gradients of the rows of ``batch``, (batch, k) float32, on the model's device.

        Raises:
            ModelError: If no tracked layer takes part in the loss, or a gradient is not finite.
            ConfigError: If the sketch takes factors and a tracked tensor's gradient has none.
        """
        with torch.inference_mode(False):
            total = SketchedBatch(sketch, self.sizes, len(batch), device_of(self.model), self._normalize)
            return total.finished(self.visit(batch, total.receive, formed=not isinstance(sketch, FactorSketch)))

    @abstractmethod
    def check(self, batch: Batch) -> None:
        """Check on a row of ``batch``, once, that what is tracked is collected."""

    @abstractmethod
    def visit(self, batch: Batch, receive: Receive, *, formed: bool = True) -> float:
        """Hand every tensor's gradients over; returns the factor that they are too large by."""

    def _prepared(self, receive: Receive) -> Receive:
        """``receive`` behind the transform."""
        transform = self._transform
        if transform is None:
            return receive
        return lambda name, rows, gradients: receive(name, rows, transform(name, gradients))


class GradientCollector(Collector):
    """Collects sketched per-example gradients; leaves the model as it found it.

    The model is in evaluation mode while gradients are collected, no parameter requires a gradient, no
    ``.grad`` is written, and modes, flags and hooks are as before afterwards, also after an exception.

    Args:
        model: A Hugging Face causal LM or a PEFT model around one.
        targets: ``"lora"``, ``"linear"`` or layer names; see `rapidun.gradients.targets.find_targets`. Weights
            only: biases are not tracked.
        normalize: ``"layer"`` gives every tracked tensor's gradient norm 1 (RapidIn, section 3.1), ``"unit"``
            the whole gradient, ``"none"`` leaves it. Zero gradients stay zero.
        token_normalize: Give every answer token's output error norm 1 before the backward pass
            (RapidUn, arXiv 2512.04457, eq. 1).
        transform: Applied to every tensor's gradients before they are normalised: a preconditioner
            (`rapidun.gradients.preconditioners`).

    Raises:
        ConfigError: If ``normalize`` or ``targets`` is unknown.
        ModelError: If ``targets`` match nothing that can be tracked.

    Examples:
        >>> import rapidun
        >>> from rapidun.data import Template, collate, tokenize_rows
        >>> from rapidun.gradients import RapidGrad
        >>> loaded, rows = rapidun.load_model("model"), rapidun.load_rows("train.jsonl")
        >>> template = Template.resolve("auto", loaded.tokenizer)
        >>> examples = tokenize_rows(rows, loaded.tokenizer, template, max_length=128)
        >>> collector = rapidun.GradientCollector(loaded.model, targets="linear")
        >>> collector(collate(examples, loaded.pad_token_id), RapidGrad(k=256)).shape
        torch.Size([12, 256])
    """

    def __init__(
        self,
        model: nn.Module,
        targets: str | Sequence[str] = "lora",
        normalize: Normalization = "layer",
        token_normalize: bool = False,
        transform: Transform | None = None,
    ) -> None:
        super().__init__(model, normalize, token_normalize, transform)
        self._tensors = find_targets(model, targets)
        within_output_layer = set(() if (head := output_layer(model)) is None else head.modules())
        self._tracks_output_layer = any(not within_output_layer.isdisjoint(tensor.layers) for tensor in self._tensors)
        self.sizes = {tensor.name: tensor.size for tensor in self._tensors}
        self._agrees = False

    def visit(self, batch: Batch, receive: Receive, *, formed: bool = True) -> float:
        """One forward and one backward pass; ``receive`` gets every tensor's gradients, preconditioned, unnormalised.

        The first batch is checked before (`check`).

        Args:
            batch: Rows to differentiate.
            receive: Called with ``(tensor name, rows, gradients)``, for a few rows of one tensor at a time.
            formed: Whether ``receive`` forms the gradients; decides how many rows are a few.

        Returns:
            The factor that every gradient is too large by: 1 unless the model is float16.

        Raises:
            ModelError: If no tracked layer takes part in the loss, or a tensor's gradient is not its layer's.
        """
        batch = batch.to(device_of(self.model))
        self.check(batch)
        scale, received = self._record(batch, self._prepared(receive), formed)
        self._check_received(received)
        return scale

    def _check_received(self, names: set[str]) -> None:
        if not names:
            raise ModelError(
                f"None of the {len(self._tensors)} tracked layers took part in the loss. "
                "Is the adapter merged or switched off?"
            )

    def check(self, batch: Batch) -> None:
        """Compare one row's gradients with autograd's (`check_agreement`), once; every first pass does so itself.

        Raises:
            ModelError: If a tracked tensor's gradient is not its layer's.
        """
        if not self._agrees:
            batch = batch.to(device_of(self.model))
            check_agreement(self.model, self.tracked, batch, self._record, unit=self._token_normalize)
            self._agrees = True

    def _record(self, batch: Batch, receive: Receive, formed: bool = True) -> tuple[float, set[str]]:
        """The factor that gradients are too large by, and the names of the tensors that took part."""
        recorder = Recorder((len(batch), batch.input_ids.shape[1]), partial(hand_on_in_pieces, receive, formed))
        with borrowed(self.model), recorder.attached(self._tensors):
            logits, target = self._logits(batch)
            if recorder.checkpointed:
                recorder.forget()
                with differentiable_inputs(self.model):
                    logits, target = self._logits(batch)
            scale = loss_scale(logits.dtype)
            errors = answer_errors(logits.detach(), target, unit=self._token_normalize)
            if logits.requires_grad:  # else no tracked layer took part
                recorder.backward(logits, errors.mul_(scale).to(logits.dtype))
        return scale, recorder.received

    def _logits(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits and targets of the answer tokens; an output layer that is tracked itself sees every position."""
        inputs = batch.input_ids, batch.attention_mask, batch.labels
        if not self._tracks_output_layer:
            return answer_token_logits(self.model, *inputs)
        logits, labels = answer_logits(self.model, *inputs)
        target = next_tokens(labels).to(logits.device)
        return logits[target != IGNORE_INDEX], target


def collect_vectors(
    collector: Collector,
    sketch: Sketch,
    examples: Sequence[Example],
    pad_token_id: int,
    *,
    max_tokens: int,
    progress: Progress | None = None,
) -> npt.NDArray[np.float32]:
    """Sketched gradients of all examples, (n, k) float32, in the order of ``examples``.

    Args:
        collector: Which gradients.
        sketch: To how many values.
        examples: Tokenised rows; batched by length whatever their order.
        pad_token_id: Any token id; padding never carries loss.
        max_tokens: The most padded tokens of a batch; `pass_batches` makes it smaller where memory asks for it.
        progress: Called after each batch with ``(rows done, all rows)``.
    """
    vectors = np.zeros((len(examples), sketch.dimension(collector.sizes)), dtype=np.float32)
    done = 0
    for indices in pass_batches(collector.model, examples, max_tokens):
        batch = collate([examples[index] for index in indices], pad_token_id)
        vectors[indices] = collector(batch, sketch).cpu().numpy()
        done += len(indices)
        if progress is not None:
            progress(done, len(examples))
    return vectors
