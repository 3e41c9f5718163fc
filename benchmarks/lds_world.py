"""A small world for the LDS: a tiny Llama, a fixed start, 256 rows to train on, and what training without some does.

Rows are TOFU's invented authors (MIT): 20 questions about each, so a held-out question has rows that matter to it
and rows that do not, and nobody had to build the groups. The start is trained on other authors than those attributed.
Retrainings are kept as they finish, so a stopped benchmark goes on.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from rapidun.data import Example, Template, collate, load_rows, token_budget_batches, tokenize_rows
from rapidun.models import mean_answer_loss

BUILD = Path("build/lds")
DATA = Path(os.environ.get("RAPIDUN_DATA", "../shared/data")) / "tofu" / "official" / "full.json"
PER_AUTHOR, AUTHORS, TRAINED = 20, 16, 16  # of each attributed author 16 rows are trained on, 2 are queries
QUERIES = 2
VOCABULARY, LENGTH = 1024, 96
START_EPOCHS, EPOCHS, BATCH, RATE = 12, 6, 16, 2e-3
CHECKPOINT_EPOCHS = (0, 2, 4, 6)
SUBSETS, TUNING_SUBSETS, SEEDS = 64, 20, 2


@dataclass(frozen=True)
class World:
    """Tokenised rows and where the models are kept."""

    tokenizer: Any
    others: list[Example]
    train: list[Example]
    queries: list[Example]
    train_rows: list[dict[str, Any]]
    query_rows: list[dict[str, Any]]

    @classmethod
    def open(cls) -> World:
        """Read the rows and make, or load, the tokenizer.

        Raises:
            SystemExit: If the data are not there.
        """
        if not DATA.exists():
            raise SystemExit(f"{DATA}: not there, so there is nothing to measure. Set RAPIDUN_DATA.")
        rows = [dict(row) for row in load_rows(DATA)]
        cut = len(rows) - AUTHORS * PER_AUTHOR
        others, authors = rows[:cut], [rows[cut + i : cut + i + PER_AUTHOR] for i in range(0, len(rows) - cut, 20)]
        tokenizer = make_tokenizer(f"{row['prompt']}\n{row['response']}" for row in others)
        template = Template.resolve("plain", tokenizer)
        train = [row for author in authors for row in author[:TRAINED]]
        queries = [row for author in authors for row in author[TRAINED : TRAINED + QUERIES]]
        tokenised = [tokenize_rows(part, tokenizer, template, LENGTH) for part in (others, train, queries)]
        return cls(tokenizer, *tokenised, train, queries)

    @cached_property
    def start(self) -> dict[str, torch.Tensor]:
        """Weights of the fixed start, trained once on the other authors' rows."""
        place = BUILD / "start.pt"
        if not place.exists():
            model = new_model()
            print("training the start", flush=True)
            fit(model, self.others, np.arange(len(self.others)), seed=0, epochs=START_EPOCHS)
            place.parent.mkdir(parents=True, exist_ok=True)
            torch.save(model.state_dict(), place)
        state: dict[str, torch.Tensor] = torch.load(place, weights_only=True)
        return state

    def model_at(self, state: dict[str, torch.Tensor]) -> Any:
        """A model with these weights, in evaluation mode."""
        model = new_model()
        model.load_state_dict(state)
        return model.eval()

    def trained(self) -> list[dict[str, torch.Tensor]]:
        """Weights after `CHECKPOINT_EPOCHS` of training on all rows; the last is the model that is attributed."""
        place = BUILD / "checkpoints.pt"
        if not place.exists():
            model = self.model_at(self.start)
            states = fit(model, self.train, np.arange(len(self.train)), seed=0, keep=CHECKPOINT_EPOCHS)
            torch.save(states, place)
        found: list[dict[str, torch.Tensor]] = torch.load(place, weights_only=True)
        return found

    def subset(self, number: int) -> np.ndarray:
        """Half of the training rows, (rows,) bool; a function of the number alone."""
        chosen = np.random.default_rng([7, number]).permutation(len(self.train))[: len(self.train) // 2]
        return np.isin(np.arange(len(self.train)), chosen)

    def losses(self, number: int) -> np.ndarray:
        """Query losses after retraining on subset ``number``, mean over `SEEDS` orders, (queries,)."""
        return np.mean([self._losses(number, seed) for seed in range(SEEDS)], axis=0)

    def _losses(self, number: int, seed: int) -> np.ndarray:
        place = BUILD / "losses" / f"{number}-{seed}.npy"
        if not place.exists():
            model = self.model_at(self.start)
            fit(model, self.train, np.flatnonzero(self.subset(number)), seed=seed)
            place.parent.mkdir(parents=True, exist_ok=True)
            beside = place.with_suffix(".part.npy")
            np.save(beside, query_losses(model, self.queries))
            beside.replace(place)
        found: np.ndarray = np.load(place)
        return found


def new_model() -> Any:
    """The tiny Llama, random weights that are always the same."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "llama",
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=128,
        tie_word_embeddings=False,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return AutoModelForCausalLM.from_config(config)


def make_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of `VOCABULARY` entries, always the same."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=["<pad>", "<s>", "</s>"],
            initial_alphabet=alphabet,
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", model_max_length=128
    )


def fit(
    model: Any,
    examples: Sequence[Example],
    rows: np.ndarray,
    *,
    seed: int,
    epochs: int = EPOCHS,
    keep: Sequence[int] = (),
) -> list[dict[str, torch.Tensor]]:
    """AdamW on the mean answer loss, linear decay to 0; weights after each epoch of ``keep`` (0 = before)."""
    order, model = np.random.default_rng([11, seed]), model.train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0)
    steps = epochs * -(-len(rows) // BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / steps)
    kept = [_copy(model)] if 0 in keep else []
    for epoch in range(1, epochs + 1):
        shuffled = order.permutation(rows)
        for start in range(0, len(shuffled), BATCH):
            batch = collate([examples[row] for row in shuffled[start : start + BATCH]], 0)
            logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False).logits
            mean_answer_loss(logits, batch.labels).mean().backward()
            optimiser.step()
            optimiser.zero_grad()
            schedule.step()
        if epoch in keep:
            kept.append(_copy(model))
    model.eval()
    return kept


def _copy(model: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


@torch.no_grad()
def query_losses(model: Any, queries: Sequence[Example]) -> np.ndarray:
    """Mean answer loss of each row, (rows,) float64."""
    losses = np.zeros(len(queries))
    model.eval()
    for indices in token_budget_batches(queries, 4096):
        batch = collate([queries[index] for index in indices], 0)
        logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False).logits
        losses[indices] = mean_answer_loss(logits, batch.labels).double().numpy()
    return losses


def retrain_all(world: World) -> None:
    """Every subset's retrainings, in order; those that are there are not done again."""
    for number in range(SUBSETS + TUNING_SUBSETS):
        world.losses(number)
        if number % 8 == 7:
            print(f"retrained {number + 1}/{SUBSETS + TUNING_SUBSETS} subsets x {SEEDS} orders", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    retrain_all(World.open())
