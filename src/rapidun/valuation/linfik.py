"""LinFiK: what a row is worth for a task before the model is trained on it (Pan et al., arXiv 2503.01052).

    LinFiK(z; T) = <grad L(z; theta), grad L(T; theta)>,    grad L(T) = mean over the task's rows of grad L(t)

is the first-order drop of the task's loss for one step of gradient descent on z, divided by the step size. Positive:
training on z helps. The cosine form divides by both norms, so that rows with large gradients are not simply ahead;
the Adam-aware form divides the row's gradient by the root of the optimiser's second moment first, because that is the
step that Adam takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from rapidun.attribution.checkpoints import State, at_checkpoint
from rapidun.attribution.similarity import check_similarity
from rapidun.data.batches import Batch, Example, collate
from rapidun.errors import ConfigError, InputError
from rapidun.gradients import Exact, Sketch, make_collector
from rapidun.gradients.backward import device_of
from rapidun.gradients.collector import Transform
from rapidun.gradients.norms import divisors, row_norms
from rapidun.models.passes import Progress, pass_batches
from rapidun.settings.kinds import Normalization, Similarity

Values = npt.NDArray[np.float32]
Checkpoint = State | Path | str
_TASK_VALUES = 2**26  # 256 MiB of float32 gradients of task rows at a time


class LinFiK:
    """The teacher: values of rows for one task or several, at one checkpoint or averaged over several.

    ``fit`` it to the task's rows, then ask for ``values``.

    Args:
        model: A Hugging Face causal LM or a PEFT model around one; left as it was found.
        sketch: Where gradients are compared; None is exact.
        targets: Tracked tensors, see `rapidun.gradients.GradientCollector`.
        normalize: Of every row's gradient, task rows included, before anything else: ``"none"`` is the formula's.
        similarity: ``"cosine"`` or ``"dot"``.
        transform: Applied to the candidates' gradients alone, before they are normalised: the Adam-aware form is
            ``preconditioner.power(-0.5)`` of an ``adam`` preconditioner.
        checkpoints: Further checkpoints of the same model; values are averaged over its own weights and these.
        max_tokens: Padded tokens in a batch.

    Raises:
        ConfigError, ModelError: If a setting is unknown or the targets match nothing.
    """

    def __init__(
        self,
        model: nn.Module,
        sketch: Sketch | None = None,
        *,
        targets: str | Sequence[str] = "linear",
        normalize: Normalization = "none",
        similarity: Similarity = "cosine",
        transform: Transform | None = None,
        checkpoints: Sequence[Checkpoint] = (),
        max_tokens: int = 4096,
    ) -> None:
        check_similarity(similarity)
        self._model, self._sketch, self._similarity = model, sketch, similarity
        self._max_tokens = max_tokens
        self._checkpoints: list[Checkpoint | None] = [None, *checkpoints]
        compared = sketch or Exact()
        self._task_collector = make_collector(model, compared, targets, normalize)
        # the cosine of exact gradients: their norms are known only to the collector, which can divide by them
        exact_cosine = sketch is None and similarity == "cosine" and normalize == "none"
        self._collector = make_collector(
            model, compared, targets, "unit" if exact_cosine else normalize, transform=transform
        )
        self._layered = sketch is None and similarity == "cosine" and normalize == "layer"
        self._directions: list[torch.Tensor] = []
        self.tasks: list[str] = []

    @property
    def tracked(self) -> list[str]:
        """Names of the tracked tensors."""
        return self._collector.tracked

    def fit(
        self,
        examples: Sequence[Example],
        pad_token_id: int,
        tasks: Sequence[str] | None = None,
        progress: Progress | None = None,
    ) -> LinFiK:
        """Take the gradient of every task: the mean over its rows.

        Args:
            examples: The task rows, tokenised.
            pad_token_id: Any token id.
            tasks: The task of each row; one task without it.
            progress: Called with ``(rows done, all rows)``, once through for every checkpoint.

        Raises:
            InputError: If there is no row, or the gradients of a task are 0.
        """
        if not examples:
            raise InputError("a value needs a task: give at least one task row.")
        names = list(tasks) if tasks is not None else ["task"] * len(examples)
        self.tasks = list(dict.fromkeys(names))
        groups = torch.tensor([self.tasks.index(name) for name in names])
        self._directions = []
        for checkpoint in self._checkpoints:
            with self._at(checkpoint):
                found = self._mean_gradients(examples, groups, pad_token_id, progress)
            norms = row_norms(found)
            if not bool((norms > 0).all()):
                empty = self.tasks[int((norms > 0).long().argmin())]
                raise InputError(f"task {empty!r}: its gradient is 0, so it can value nothing. Give other task rows.")
            self._directions.append(found / divisors(norms) if self._similarity == "cosine" else found)
        return self

    def values(self, examples: Sequence[Example], pad_token_id: int) -> Values:
        """LinFiK of every row for every task, (rows, tasks) float32; does not depend on the other rows.

        Raises:
            InputError: Before `fit`.
            ModelError: If a gradient is not finite.
        """
        if not self._directions:
            raise InputError("LinFiK has no task yet: call fit with the task's rows first.")
        total = np.zeros((len(examples), len(self.tasks)), dtype=np.float32)
        for checkpoint, directions in zip(self._checkpoints, self._directions, strict=True):
            with self._at(checkpoint):
                measure = self._measure(directions)
                for places in pass_batches(self._model, examples, self._max_tokens):
                    batch = collate([examples[place] for place in places], pad_token_id)
                    total[places] += measure(batch).cpu().numpy()
        total /= len(self._checkpoints)
        return total

    def gradients(self, examples: Sequence[Example], pad_token_id: int) -> tuple[Values, Values]:
        """Sketched gradients of rows at the model's own weights, and how far each goes along the tasks' mean direction.

        Returns:
            (rows, k) float32, as they are compared: of norm 1 where the similarity is the cosine; and (rows,) float32,
            their inner products with the mean of the tasks' directions. ``pick_diverse("matching", ...)`` takes both.

        Raises:
            InputError: Before `fit`.
            ConfigError: If the teacher is exact: whole gradients of many rows do not fit into memory.
        """
        if not self._directions:
            raise InputError("LinFiK has no task yet: call fit with the task's rows first.")
        if self._sketch is None:
            raise ConfigError("gradients of many rows are kept as sketches: give this LinFiK a sketch.")
        found = np.zeros((len(examples), self._directions[0].shape[1]), dtype=np.float32)
        for places in pass_batches(self._model, examples, self._max_tokens):
            batch = collate([examples[place] for place in places], pad_token_id)
            found[places] = self._vectors(batch, self._sketch).cpu().numpy()
        return found, found @ self._directions[0].mean(dim=0).cpu().numpy()

    def _vectors(self, batch: Batch, sketch: Sketch) -> torch.Tensor:
        """(rows, k) sketches of a batch, as they are compared."""
        vectors = self._collector(batch, sketch)
        return vectors / divisors(row_norms(vectors)) if self._similarity == "cosine" else vectors

    def _mean_gradients(
        self, examples: Sequence[Example], groups: torch.Tensor, pad_token_id: int, progress: Progress | None
    ) -> torch.Tensor:
        """(tasks, dimension) float32, on the model's device."""
        collector, sketch = self._task_collector, self._sketch or Exact()
        width = sketch.dimension(collector.sizes)
        total = torch.zeros(len(self.tasks), width, device=device_of(self._model))
        done = 0
        for places in _small_batches(self._model, examples, self._max_tokens, max(1, _TASK_VALUES // width)):
            vectors = collector(collate([examples[place] for place in places], pad_token_id), sketch)
            total.index_add_(0, groups[places].to(total.device), vectors)
            done += len(places)
            if progress is not None:
                progress(done, len(examples))
        counts = torch.bincount(groups, minlength=len(self.tasks)).to(total)
        return total / counts.unsqueeze(1)

    def _measure(self, directions: torch.Tensor) -> Callable[[Batch], torch.Tensor]:
        """A batch's (rows, tasks) inner products or cosines with the directions."""
        if (sketch := self._sketch) is not None:
            return lambda batch: self._vectors(batch, sketch) @ directions.T  # b k, t k -> b t
        projection = Projection(directions, self._collector.sizes, squares=self._layered)
        return lambda batch: self._projected(self._collector(batch, projection))

    def _projected(self, found: torch.Tensor) -> torch.Tensor:
        return found[:, :-1] / divisors(found[:, -1].sqrt()) if self._layered else found

    def _at(self, checkpoint: Checkpoint | None) -> AbstractContextManager[None]:
        return nullcontext() if checkpoint is None else at_checkpoint(self._model, checkpoint)


class Projection:
    """A dense sketch whose k values are a gradient's inner products with k given directions.

    Tensor by tensor, so that no row's whole gradient ever exists.

    Args:
        directions: (k, parameters) float32, in the order of `rapidun.gradients.Exact`.
        sizes: Number of values of each tracked tensor, in the model's order.
        squares: Add a column with the squared norm of what is projected.
    """

    def __init__(self, directions: torch.Tensor, sizes: Mapping[str, int], *, squares: bool = False) -> None:
        parts = torch.split(directions, list(sizes.values()), dim=1)
        self._parts = {name: part.T for name, part in zip(sizes, parts, strict=True)}
        self._squares = squares
        self._k = len(directions)

    @property
    def k(self) -> int:
        """One for each direction, and one for the squares."""
        return self._k + self._squares

    def dimension(self, sizes: Mapping[str, int]) -> int:
        """``k``, whatever is tracked."""
        return self.k

    def describe(self) -> dict[str, int | str]:
        """Kind, for the record; directions are not described."""
        return {"kind": "projection", "k": self.k}

    def add(self, total: torch.Tensor, name: str, gradients: torch.Tensor, sizes: Mapping[str, int]) -> None:
        """Add the tensor's share of every inner product."""
        # b p, p k -> b k
        total[:, : self._k] += gradients @ self._parts[name]
        if self._squares:
            total[:, self._k] += torch.einsum("bp,bp->b", gradients, gradients)


def _small_batches(
    model: nn.Module, examples: Sequence[Example], max_tokens: int, max_rows: int
) -> Iterator[list[int]]:
    """Length-sorted batches of at most ``max_tokens`` padded tokens and ``max_rows`` rows."""
    for places in pass_batches(model, examples, max_tokens):
        for start in range(0, len(places), max_rows):
            yield places[start : start + max_rows]
