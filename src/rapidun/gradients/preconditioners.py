"""Preconditioners: gradients times a power of an approximate inverse Fisher, fitted once and kept with the index.

Influence with curvature is ``q^T F^-1 s``. ``side="both"`` gives queries and training rows ``F^-1/2`` each, so that
their norms and cosines are those of the whitened space (TrackStar); ``side="query"`` gives the queries ``F^-1`` and
leaves the rows of the index as they are. Plain inner products are the same either way. A preconditioner comes before
normalisation and sketch. The kinds are in `rapidun.gradients.curvature_kinds`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors.torch import save

from rapidun.data.batches import IGNORE_INDEX, Batch, Example, collate
from rapidun.errors import ConfigError, FingerprintError, InputError, ModelError
from rapidun.files import atomic_write, sha256_of, write_json
from rapidun.gradients.backward import device_of
from rapidun.gradients.collector import Collector, Transform
from rapidun.gradients.curvature_kinds import KINDS, Apply, Fisher, Statistics
from rapidun.gradients.factors import Gradients
from rapidun.gradients.recording import Receive
from rapidun.models.modes import evaluating
from rapidun.models.passes import pass_batches
from rapidun.reading import read_object
from rapidun.settings.kinds import Side
from rapidun.tensor_files import load_tensors

Role = Literal["query", "train"]
_FORMAT = 1
_FILES = ("preconditioner.json", "preconditioner.safetensors")


@dataclass(frozen=True, eq=False)
class Preconditioner:
    """A fitted preconditioner; ``kind="none"`` changes nothing.

    Args:
        kind: ``"none"``, ``"adam"``, ``"kfac"``, ``"ekfac"`` or a registered one.
        damping: Multiple of the mean eigenvalue, above 0.
        side: Who is multiplied: ``"both"`` by the root of the inverse, or ``"query"`` by the inverse.
        fisher: Whose labels its gradients were of: ``"sampled"`` from the model, or the data's (``"empirical"``).
        examples: How many it was fitted to.
        statistics: What the kind measured, by tensor name; float32 on the CPU.

    Raises:
        ConfigError: If a setting is unknown or out of range.
    """

    kind: str
    damping: float = 0.1
    side: Side = "both"
    fisher: Fisher = "sampled"
    examples: int = 0
    statistics: Statistics = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.kind != "none":
            KINDS[self.kind]
        if not self.damping > 0:
            raise ConfigError(
                f"damping={self.damping}: give a number above 0, for example 0.1 (times the mean eigenvalue)."
            )
        if self.side not in get_args(Side):
            raise ConfigError(f"side={self.side!r}: use 'both' or 'query'.")
        if self.fisher not in get_args(Fisher):
            raise ConfigError(f"fisher={self.fisher!r}: use 'sampled' or 'empirical'.")

    def transform(self, role: Role) -> Transform | None:
        """For a collector's ``transform``: of ``"query"`` gradients or of ``"train"`` ones; None where nothing is done.

        Raises:
            ConfigError: If the role is unknown.
        """
        if role not in get_args(Role):
            raise ConfigError(f"role={role!r}: use 'query' or 'train'.")
        if self.kind == "none" or (self.side, role) == ("query", "train"):
            return None
        return self.power(-0.5 if self.side == "both" else -1.0)

    def power(self, power: float) -> Transform:
        """Multiplication by ``(F + damping)^power``.

        The transform raises ModelError for a tensor that the preconditioner was not fitted to.
        """
        prepare = KINDS[self.kind].prepare
        prepared: dict[str, Apply] = {}

        def transform(name: str, gradients: Gradients) -> Gradients:
            if name not in self.statistics:
                raise ModelError(
                    f"The preconditioner was not fitted to {name}, but to {len(self.statistics)} other tensors. "
                    "Fit one with the same targets."
                )
            if name not in prepared:
                prepared[name] = prepare(self.statistics[name], self.damping, power)
            return prepared[name](gradients)

        return transform

    def describe(self) -> dict[str, Any]:
        """Settings and fingerprint, for a manifest."""
        return {**self._settings(), "fingerprint": self.fingerprint}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the settings and of every statistic."""
        named = sorted(self._flat().items())
        parts = [part for name, values in named for part in (name.encode(), values.numpy().tobytes())]
        return sha256_of([json.dumps(self._settings(), sort_keys=True).encode(), *parts])

    def save(self, directory: Path) -> None:
        """Write ``preconditioner.safetensors`` and ``preconditioner.json``; the second last, so it vouches for both.

        Raises:
            OutputError: If the disk is full or the place cannot be written.
        """
        with atomic_write(directory / _FILES[1], "wb") as file:
            file.write(save(self._flat()))
        write_json(directory / _FILES[0], {"format": _FORMAT, **self.describe()})

    def _settings(self) -> dict[str, Any]:
        names = ("kind", "damping", "side", "fisher", "examples")
        return {name: getattr(self, name) for name in names}

    def _flat(self) -> dict[str, torch.Tensor]:
        return {
            f"{name}/{statistic}": values.contiguous()
            for name, found in self.statistics.items()
            for statistic, values in found.items()
        }


def load_preconditioner(directory: Path) -> Preconditioner:
    """What `Preconditioner.save` wrote.

    Raises:
        InputError: If a file is missing, unreadable or of another format.
        FingerprintError: If the statistics are not those that the settings were written with.
    """
    settings = read_object(directory / _FILES[0])
    if settings.pop("format", None) != _FORMAT:
        raise InputError(f"{directory / _FILES[0]}: not a preconditioner of format {_FORMAT}. Fit it again.")
    wanted = settings.pop("fingerprint", None)
    statistics: Statistics = {}
    for key, values in load_tensors(directory / _FILES[1], "Fit the preconditioner again.").items():
        name, _, statistic = key.rpartition("/")
        statistics.setdefault(name, {})[statistic] = values
    try:
        found = Preconditioner(**settings, statistics=statistics)
    except (TypeError, ValueError) as error:
        raise InputError(f"{directory / _FILES[0]}: not as rapidun wrote it ({error}). Fit it again.") from error
    if found.fingerprint != wanted:
        raise FingerprintError(
            f"{directory}: the preconditioner's statistics have fingerprint {found.fingerprint}, but its settings were "
            f"written with {wanted}. Fit it again."
        )
    return found


def fit_preconditioner(
    collector: Collector,
    examples: Sequence[Example],
    pad_token_id: int,
    kind: str,
    *,
    damping: float = 0.1,
    side: Side = "both",
    fisher: Fisher | None = None,
    seed: int = 0,
    max_tokens: int = 8192,
    progress: Callable[[int, int], None] | None = None,
) -> Preconditioner:
    """Fit a preconditioner to the gradients of a sample of examples; some hundreds do.

    Args:
        collector: Which tensors; without a ``transform``. Its normalisation is not applied.
        examples: Tokenised rows.
        pad_token_id: Any token id.
        kind: ``"none"``, ``"adam"``, ``"kfac"`` or ``"ekfac"``.
        damping: Multiple of the mean eigenvalue, above 0.
        side: See `Preconditioner`.
        fisher: ``"sampled"``: answer tokens drawn from the model's own predictions, the Fisher proper, which does
            not vanish on memorised rows; ``"empirical"``: the data's. Default: the kind's (empirical for ``adam``).
        seed: Of the drawn labels.
        max_tokens: Padded size of a batch, in tokens.
        progress: Called after each batch with ``(rows done, all rows)``, once through for every pass.

    Raises:
        ConfigError: If a setting is unknown or out of range, or there are no examples.
    """
    fisher = fisher or (KINDS[kind].fisher if kind in KINDS else "sampled")
    unfitted = Preconditioner(kind, damping, side, fisher)
    if kind == "none":
        return unfitted
    if not examples:
        raise ConfigError(f"preconditioner {kind!r}: give at least one example to fit it to.")

    def run(receive: Receive) -> tuple[float, int]:
        generator, scale, done = torch.Generator().manual_seed(seed), 1.0, 0
        for indices in pass_batches(collector.model, examples, max_tokens):
            batch = collate([examples[index] for index in indices], pad_token_id)
            batch = sampled_labels(collector, batch, generator) if fisher == "sampled" else batch
            scale = collector.visit(batch, receive, formed=KINDS[kind].formed)
            done += len(indices)
            if progress is not None:
                progress(done, len(examples))
        return scale, len(examples)

    return replace(unfitted, examples=len(examples), statistics=KINDS[kind].fit(run))


@torch.no_grad()
def sampled_labels(collector: Collector, batch: Batch, generator: torch.Generator) -> Batch:
    """The batch with every answer token's label drawn from the model's prediction; the inputs stay the data's."""
    model = collector.model
    batch = batch.to(device_of(model))
    with evaluating(model):
        logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False).logits
    answers = batch.labels[:, 1:] != IGNORE_INDEX
    predicted = logits[:, :-1][answers.to(logits.device)].float().softmax(dim=1).cpu()
    labels = batch.labels.clone()
    if len(predicted):
        drawn = torch.multinomial(predicted, 1, generator=generator).flatten()
        labels[:, 1:][answers] = drawn.to(labels.device)
    return Batch(batch.input_ids, batch.attention_mask, labels)
