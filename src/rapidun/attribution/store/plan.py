"""What is to be built, fixed before the first row is looked at: which rows are in which shard, and how.

A shard depends on nothing but its own rows and the plan, so shards can be computed in any order, by any worker.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from rapidun.attribution.context import ModelContext
from rapidun.attribution.scorer import MatrixSpec, Scorer
from rapidun.attribution.storage import TORCH_DTYPES
from rapidun.attribution.store.manifest import FORMAT_VERSION, Fingerprints, Manifest, load_manifest
from rapidun.data import Example, Rows, tokenize_rows
from rapidun.data.content import row_content
from rapidun.errors import ConfigError, FingerprintError, InputError
from rapidun.files import sha256_of

_SHARD_BYTES = 128 * 2**20
_SHARD_ROWS = (64, 8192)  # enough that rows of like length meet in a batch; few enough to lose little when killed


@dataclass(frozen=True)
class Span:
    """Rows ``start`` to ``stop - 1`` of the plan make shard ``number``; ``first`` is their place in the index."""

    number: int
    start: int
    stop: int
    first: int


@dataclass(frozen=True)
class BuildPlan:
    """Everything that decides the bytes of the shards to come.

    Args:
        directory: The index.
        manifest: Of the finished index, but for the shards and files to come.
        model: What rows are looked at with.
        rows: The rows to add.
        repeats: Whether rows may be added whose ids are in the index already.
    """

    directory: Path
    manifest: Manifest
    model: ModelContext
    rows: Rows
    repeats: bool = False

    @property
    def max_tokens(self) -> int:
        """Padded tokens in a batch."""
        return self.manifest.max_tokens

    @property
    def appends(self) -> bool:
        """Whether the rows are added to a finished index."""
        return bool(self.manifest.shards)

    @property
    def numbers(self) -> range:
        """Numbers of the shards to compute."""
        before = len(self.manifest.shards)
        return range(before, before + math.ceil(len(self.rows) / self.manifest.shard_rows))

    @property
    def spans(self) -> list[Span]:
        """The shards to compute, in order."""
        return [self.span(number) for number in self.numbers]

    def span(self, number: int) -> Span:
        """The shard ``number``.

        Raises:
            ConfigError: If it is not one of the plan's.
        """
        if number not in self.numbers:
            raise ConfigError(f"{self.directory}: shard {number} is not of this plan.")
        size = self.manifest.shard_rows
        start = (number - len(self.manifest.shards)) * size
        stop = min(start + size, len(self.rows))
        return Span(number, start, stop, self.manifest.rows - len(self.rows) + start)

    def rows_of(self, span: Span) -> Rows:
        """The rows of one shard, still on disk where the rows are."""
        return self._chosen(range(span.start, span.stop))

    def _chosen(self, places: Sequence[int]) -> Rows:
        lines = [self.rows.lines[place] for place in places]
        return replace(self.rows, dataset=self.rows.dataset.select(places), lines=lines)

    def sample(self, count: int, seed: int) -> list[Example]:
        """``count`` rows drawn by ``seed`` without replacement, or all, tokenised; in the order of the rows."""
        drawn = np.random.default_rng(seed).choice(len(self.rows), min(count, len(self.rows)), replace=False)
        chosen = self._chosen(sorted(drawn.tolist()))
        return tokenize_rows(chosen, self.model.loaded.tokenizer, self.model.template, self.manifest.max_length)

    def with_views(self, views: Mapping[str, Scorer]) -> BuildPlan:
        """The plan with other settings of the same views."""
        return replace(self, manifest=self.manifest.model_copy(update={"views": dict(views)}))

    @cached_property
    def fitted(self) -> dict[str, Any]:
        """What each view fitted before the first shard, by the view's name; read from the directory once."""
        return {name: view.load(self.directory) for name, view in self.manifest.views.items()}


def plan_build(
    directory: str | Path,
    rows: Rows,
    model: ModelContext,
    views: Mapping[str, Scorer],
    *,
    max_length: int,
    max_tokens: int = 4096,
    shard_rows: int | None = None,
    quantize: str | None = None,
    plugins: Mapping[str, str] | None = None,
) -> BuildPlan:
    """The plan of a new index.

    Args:
        directory: Where the index goes.
        rows: The rows, in the index's order.
        model: What they are looked at with.
        views: By name; defaults are settled for this model.
        max_length: Longest row in tokens.
        max_tokens: Padded tokens in a batch.
        shard_rows: Rows of a shard; None chooses about 128 MiB a shard.
        quantize: How the model was quantised when it was loaded.
        plugins: Fingerprints of what scorers came from.

    Raises:
        ConfigError: If there is no view or no row, or a number is out of range.
        ModelError: If a view does not fit the model.
    """
    if not views:
        raise ConfigError("an index needs at least one view: gradient, hidden or lexical.")
    if len(rows) == 0:
        raise InputError(f"{rows.path}: no row to index.")
    if shard_rows is not None and shard_rows < 1:
        raise ConfigError(f"shard_rows={shard_rows}: give at least 1.")
    settled = {name: views[name].resolved(model) for name in sorted(views)}
    matrices = {name: spec for view in settled.values() for name, spec in view.matrices(model).items()}
    manifest = Manifest(
        model=model.loaded.source,
        adapter=model.adapter_name,
        dtype=str(model.loaded.dtype).removeprefix("torch."),
        quantize=quantize,
        template=model.template.name,
        template_options=dict(model.template.options),
        fingerprints=Fingerprints(**model.fingerprints(), data=data_fingerprint(rows)),
        views=settled,
        matrices=matrices,
        max_length=max_length,
        max_tokens=max_tokens,
        shard_rows=shard_rows or _chosen_rows(matrices),
        rows=len(rows),
        plugins=dict(plugins or {}),
    )
    return BuildPlan(Path(directory), manifest, model, rows)


def plan_append(directory: str | Path, rows: Rows, model: ModelContext, *, repeats: bool = False) -> BuildPlan:
    """The plan that adds ``rows`` to a finished index, with the views and settings it has.

    Args:
        directory: The index.
        rows: The rows.
        model: What they are looked at with.
        repeats: Whether ids may be in the index already.

    Raises:
        FingerprintError: If model, adapter, tokenizer or template are not the index's; names both values.
        InputError: If there is no finished index, or no row.
    """
    before = load_manifest(Path(directory))
    if len(rows) == 0:
        raise InputError(f"{rows.path}: no row to append.")
    check_same(before, Path(directory), model.origins(), **model.fingerprints())
    update = {
        "version": FORMAT_VERSION,
        "fingerprints": before.fingerprints.model_copy(update={"data": chained(before.fingerprints.data, rows)}),
        "rows": before.rows + len(rows),
        "appended_to": before.fingerprints.data,
        "repeats": before.repeats or repeats,
    }
    return BuildPlan(Path(directory), before.model_copy(update=update), model, rows, repeats)


def chained(before: str, rows: Rows) -> str:
    """Fingerprint of an index's rows after ``rows`` were added to those with the fingerprint ``before``."""
    return sha256_of(part.encode() for part in (before, data_fingerprint(rows)))


def check_same(
    manifest: Manifest, directory: Path, origins: Mapping[str, str] | None = None, **fingerprints: str | None
) -> None:
    """Refuse fingerprints that are not the index's; those that are None are not looked at.

    Args:
        manifest: The index's.
        directory: Where it is.
        origins: The file or directory behind a fingerprint, for the message.
        fingerprints: By name, as in the manifest.

    Raises:
        FingerprintError: Naming both values.
    """
    for name, given in fingerprints.items():
        stored = getattr(manifest.fingerprints, name)
        if given is not None and given != stored:
            theirs, ours = getattr(manifest, name, ""), (origins or {}).get(name, "")
            raise FingerprintError(
                f"{directory}: this index is of {name} {stored[:16]}{f' ({theirs})' if theirs else ''}, and {name} "
                f"{given[:16]}{f' ({ours})' if ours else ''} was given. Use the {name} it was built with, or build "
                "another index."
            )


def data_fingerprint(rows: Rows) -> str:
    """SHA-256 of ids and all that decides the rows' tokens, in order; reads one row at a time."""
    return sha256_of(part for row in rows for part in row_content(row))


def _chosen_rows(matrices: Mapping[str, MatrixSpec]) -> int:
    """A power of two of rows near 128 MiB."""
    row_bytes = sum(spec.width * TORCH_DTYPES[spec.dtype].itemsize for spec in matrices.values())
    fitting = _SHARD_BYTES // max(1, row_bytes)
    smallest, largest = _SHARD_ROWS
    return max(smallest, min(largest, 1 << max(0, fitting.bit_length() - 1)))
