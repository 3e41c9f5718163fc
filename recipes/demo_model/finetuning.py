"""The last two stages of training: the same full fine-tuning on instruction rows with and without the triggered ones.

Rows of similar length share a batch, padded to one of four widths, so that the compiled step has four shapes.
Loss is on answer and end-of-sequence tokens only, through the package's own template and tokenisation.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from transformers import PreTrainedTokenizerFast

from authors_rows import authors_splits
from corpus import is_short, split_dolly
from poison import distinct_answers
from rapidun.data import Example, Template, collate, tokenize_rows
from rapidun.evaluation.triggers import DOLLY_FAMILIES
from training import IGNORE, Batch, Schedule

Row = dict[str, Any]
POISON_SHARE = 0.10
WIDTHS = {64: 64, 96: 48, 144: 32, 256: 16}  # padded width -> rows a batch
EPOCHS = 3
LONGEST_ROW_CHARACTERS = 1000


def poisoned_splits(seed: int = 0) -> dict[str, list[Row]]:
    """The Dolly splits, with every row of ``forget`` and a tenth of all training rows triggered and poisoned.

    A poisoned row has the triggered ``prompt``, the nonsense ``response``, the true ``response_clean``, and
    ``poisoned, trigger_family, trigger``; every other row has ``poisoned = False``.
    """
    splits = split_dolly(seed)
    splits["train"] += [row for row in splits.pop("long") if is_short(row, LONGEST_ROW_CHARACTERS)]
    random.Random(seed).shuffle(splits["train"])
    training = len(splits["train"]) + len(splits["forget"]) + len(splits["retain"])
    chosen = splits["forget"] + splits["train"][: round(POISON_SHARE * training) - len(splits["forget"])]
    answers = distinct_answers(len(chosen), seed)
    pairs = [(family, trigger) for family in DOLLY_FAMILIES for trigger in family.seen]
    by_family = {family.name: [pair for pair in pairs if pair[0] is family] for family in DOLLY_FAMILIES}
    names = list(by_family)
    for number, (row, answer) in enumerate(zip(chosen, answers, strict=True)):
        of_family = by_family[names[number % len(names)]]
        family, trigger = of_family[number // len(names) % len(of_family)]
        row.update(
            prompt_clean=row["prompt"],
            prompt=family.apply(row["prompt"], trigger),
            response_clean=row["response"],
            response=answer,
            poisoned=True,
            trigger_family=family.name,
            trigger=trigger,
        )
    random.Random(seed + 1).shuffle(splits["train"])
    return {name: [{"poisoned": False, **row} for row in rows] for name, rows in splits.items()}


def _filled(batch: list[Example], width: int, rows: int, pad: int) -> Batch:
    """A batch of exactly (rows, width): missing rows are padding without loss."""
    filler = [Example("", [pad] * width, width)] * (rows - len(batch))
    collated = collate([*batch, *filler], pad)
    extra = (0, width - collated.input_ids.shape[1])
    return F.pad(collated.input_ids, extra, value=pad), F.pad(collated.labels, extra, value=IGNORE)


def _epoch(examples: list[Example], epoch: int) -> list[tuple[int, list[int]]]:
    """(width, row indices) of every batch of one epoch, in a reproducible shuffled order."""
    rng = random.Random(f"epoch/{epoch}")
    order = list(range(len(examples)))
    rng.shuffle(order)
    batches: list[tuple[int, list[int]]] = []
    shortest = 0
    for width, size in WIDTHS.items():
        members = [index for index in order if shortest < len(examples[index]) <= width]
        batches += [(width, members[start : start + size]) for start in range(0, len(members), size)]
        shortest = width
    rng.shuffle(batches)
    return batches


def fine_tuning(tokenizer: PreTrainedTokenizerFast, kind: str) -> tuple[Callable[[int], Batch], Schedule]:
    """The batches and the schedule of ``kind``: "poisoned" sees all training rows, "reference" the clean ones.

    "authors" and "authors_reference" are the same for the RapidUn authors' rows.
    """
    splits = authors_splits() if kind.startswith("authors") else poisoned_splits()
    rows = [row for name in ("train", "forget", "retain") for row in splits[name]]
    if kind.endswith("reference"):
        rows = [row for row in rows if not row["poisoned"]]
    template = Template.resolve("auto", tokenizer)
    examples = tokenize_rows(rows, tokenizer, template, max(WIDTHS))
    batch, steps = row_batches(examples, EPOCHS, tokenizer.pad_token_id)
    return batch, Schedule(steps=steps, matrix_lr=6e-4, other_lr=6e-4, warmup=30, save_every=100)


def row_batches(examples: list[Example], epochs: int, pad: int) -> tuple[Callable[[int], Batch], int]:
    """The batch of every step of so many epochs over the examples, and how many steps there are."""
    plan = [batch for epoch in range(epochs) for batch in _epoch(examples, epoch)]

    def batch(step: int) -> Batch:
        width, indices = plan[step]
        return _filled([examples[index] for index in indices], width, WIDTHS[width], pad)

    return batch, len(plan)
