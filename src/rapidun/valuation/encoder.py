"""The encoder student: a small Hugging Face model, its states averaged over the row's tokens, and a linear head.

It minimises, on standardised values y and predictions s, the squared error plus a pairwise ranking loss (RankNet:
Burges et al., ICML 2005), each pair weighted by how far its values are apart::

    mean (s - y)^2  +  ranking * sum over pairs y_i > y_j of (y_i - y_j) log(1 + exp(s_j - s_i)) / sum of (y_i - y_j)

and stops where Spearman on the validation rows no longer rises. Without a model to start from, a tiny one is trained
from scratch, with a vocabulary of the training rows.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from safetensors.torch import save
from torch import nn

from rapidun.errors import InputError, ModelError
from rapidun.files import atomic_write
from rapidun.models.modes import evaluating
from rapidun.models.passes import Progress
from rapidun.models.placement import choose_device
from rapidun.models.quiet import quiet
from rapidun.models.sources import check_directory
from rapidun.settings.base import Section, make_options
from rapidun.tensor_files import load_tensors
from rapidun.valuation.features import Row, texts_of
from rapidun.valuation.students import Labelled, Scores, mean_spearman, register_student

_FOLDER, _HEAD = "encoder", "head.safetensors"
_WARM_UP = 0.1
_CLIP = 1.0


class EncoderOptions(Section):
    """Of the student ``encoder``."""

    source: str = Field("", description="Directory of any Hugging Face model to start from; none trains a tiny one.")
    epochs: int = Field(20, ge=1, description="At most.")
    learning_rate: float = Field(0.0, ge=0, description="0 chooses: 1e-3 from scratch, 5e-5 otherwise.")
    batch_rows: int = Field(32, ge=2, description="Rows in a batch, whose pairs are ranked.")
    max_length: int = Field(
        256, ge=8, description="Tokens of a row; half at most are the prompt's, where the answer needs the other half."
    )
    ranking: float = Field(1.0, ge=0, description="Weight of the ranking loss.")
    patience: int = Field(3, ge=1, description="Epochs without a better Spearman before it stops.")
    hidden: int = Field(64, ge=4, multiple_of=4, description="Width of the tiny model, which has four heads.")
    layers: int = Field(2, ge=1, description="Depth of the tiny model.")
    vocabulary: int = Field(4096, ge=300, description="Tokens of the tiny model.")
    device: str = Field("auto", description="auto, cpu, cuda, mps.")


@register_student("encoder")
class EncoderStudent:
    """A model, a head and a tokenizer; made by `fit` or `load`."""

    options: ClassVar = EncoderOptions

    def __init__(self, model: Any, head: nn.Linear, tokenizer: Any, options: EncoderOptions, epochs: int) -> None:
        self._model, self._head, self._tokenizer = model, head, tokenizer
        self._options, self._epochs = options, epochs
        self._device = next(head.parameters()).device

    @classmethod
    def fit(
        cls, train: Labelled, validation: Labelled, options: EncoderOptions, seed: int, progress: Progress
    ) -> EncoderStudent:
        """The student at the epoch that ranks the validation rows best."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model, tokenizer = _loaded(options.source) if options.source else _from_scratch(train.rows, options)
            device = choose_device(options.device)
            head = nn.Linear(_width(model), train.values.shape[1])
            nn.init.zeros_(head.weight)
            student = cls(model.float().to(device), head.to(device), tokenizer, options, 0)
            student._train(train, validation, seed, progress)
        return student

    def predict(self, rows: Sequence[Row]) -> Scores:
        """Standardised values, (rows, tasks) float32; equal up to rounding whatever the other rows."""
        ids = [self._ids(row) for row in rows]
        order = sorted(range(len(ids)), key=lambda place: (-len(ids[place]), place))
        found = np.zeros((len(rows), self._head.out_features), dtype=np.float32)
        with evaluating(self._model), torch.no_grad():
            for start in range(0, len(order), self._options.batch_rows):
                places = order[start : start + self._options.batch_rows]
                found[places] = self._scores([ids[place] for place in places]).cpu().numpy()
        return found

    def settings(self) -> dict[str, Any]:
        """Options and the epoch that was kept."""
        return {**self._options.model_dump(), "kept_epoch": self._epochs}

    def save(self, directory: Path) -> None:
        """Write ``encoder/`` (model and tokenizer) and ``head.safetensors``."""
        with quiet():
            self._model.save_pretrained(directory / _FOLDER)
            self._tokenizer.save_pretrained(directory / _FOLDER)
        with atomic_write(directory / _HEAD, "wb") as file:
            file.write(save({name: value.contiguous().cpu() for name, value in self._head.state_dict().items()}))

    @classmethod
    def load(cls, directory: Path, settings: Mapping[str, Any]) -> EncoderStudent:
        """What `save` wrote."""
        known = {name: value for name, value in settings.items() if name != "kept_epoch"}
        options = make_options(f"{directory}: student 'encoder'", EncoderOptions, known)
        model, tokenizer = _loaded(str(directory / _FOLDER))
        try:
            state = load_tensors(directory / _HEAD, "Fit the student again.")
            head = nn.Linear(state["weight"].shape[1], state["weight"].shape[0])
            head.load_state_dict(state)
        except (KeyError, RuntimeError, IndexError, AttributeError) as error:
            raise InputError(f"{directory / _HEAD}: cannot be read ({error}). Fit the student again.") from error
        device = choose_device(options.device)
        return cls(model.float().to(device), head.to(device), tokenizer, options, int(settings.get("kept_epoch", 0)))

    def _ids(self, row: Row) -> list[int]:
        """Prompt, separator, answer; of a long row the answer keeps its start and the prompt its end."""
        prompt, answer = (self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
                          for text in texts_of(row))  # fmt: skip
        between = self._tokenizer.sep_token_id
        if between is None:
            between = self._tokenizer.eos_token_id
        room = self._options.max_length - (between is not None)
        answer = answer[: max(room - len(prompt), room // 2)]
        prompt = prompt[max(0, len(prompt) - (room - len(answer))) :]
        return [*prompt, *([] if between is None else [between]), *answer] or [0]

    def _scores(self, ids: Sequence[list[int]]) -> torch.Tensor:
        """(rows, tasks): the head on the mean state of each row's tokens."""
        width = max(map(len, ids))
        padding = self._tokenizer.pad_token_id or 0
        tokens = torch.tensor([row + [padding] * (width - len(row)) for row in ids], device=self._device)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ids], device=self._device)
        states = self._model(input_ids=tokens, attention_mask=mask).last_hidden_state
        mean = torch.einsum("bth,bt->bh", states, mask.to(states)) / mask.sum(dim=1, keepdim=True)
        scores: torch.Tensor = self._head(mean)
        return scores

    def _train(self, train: Labelled, validation: Labelled, seed: int, progress: Progress) -> None:
        options = self._options
        ids = [self._ids(row) for row in train.rows]
        values = torch.from_numpy(train.values).to(self._device)
        parameters = [*self._model.parameters(), *self._head.parameters()]
        rate = options.learning_rate or (5e-5 if options.source else 1e-3)
        optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.01)
        steps = options.epochs * -(-len(ids) // options.batch_rows)
        warm = max(1, round(_WARM_UP * steps))
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min((step + 1) / warm, (steps - step) / max(1, steps - warm))
        )
        best, best_score, since = self._state(), -np.inf, 0
        generator = np.random.default_rng(seed)
        for epoch in range(1, options.epochs + 1):
            self._model.train()
            for places in _batches(len(ids), options.batch_rows, generator):
                loss = distil_loss(self._scores([ids[place] for place in places]), values[places], options.ranking)
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(parameters, _CLIP)
                optimizer.step()
                schedule.step()
            score = mean_spearman(self.predict(validation.rows), validation.values)
            progress(epoch, options.epochs)
            if score > best_score:
                best, best_score, since, self._epochs = self._state(), score, 0, epoch
            elif (since := since + 1) >= options.patience:
                break
        self._model.load_state_dict(best["model"])
        self._head.load_state_dict(best["head"])
        self._model.eval()

    def _state(self) -> dict[str, dict[str, torch.Tensor]]:
        return copy.deepcopy({"model": self._model.state_dict(), "head": self._head.state_dict()})


def distil_loss(scores: torch.Tensor, values: torch.Tensor, ranking: float) -> torch.Tensor:
    """The module's loss, averaged over tasks: a scalar.

    Args:
        scores: (rows, tasks), the student's.
        values: (rows, tasks), the teacher's, standardised.
        ranking: Weight of the pairwise term.
    """
    squared = F.mse_loss(scores, values)
    apart = (values.unsqueeze(1) - values.unsqueeze(0)).clamp_min(0)  # i, j, task: y_i - y_j where above 0
    order = apart * F.softplus(scores.unsqueeze(0) - scores.unsqueeze(1))
    return squared + ranking * order.sum() / apart.sum().clamp_min(torch.finfo(apart.dtype).tiny)


def _batches(count: int, size: int, generator: np.random.Generator) -> Iterator[list[int]]:
    """Every place once, in random batches; a last batch of one row joins the one before it."""
    order = generator.permutation(count).tolist()
    starts = list(range(0, count, size))
    if len(starts) > 1 and count - starts[-1] == 1:
        starts.pop()
    for start, stop in zip(starts, [*starts[1:], count], strict=True):
        yield order[start:stop]


def _loaded(source: str) -> tuple[Any, Any]:
    from transformers import AutoModel, AutoTokenizer

    folder = check_directory(source, allow_pickle=False)
    with quiet():
        try:
            model = AutoModel.from_pretrained(folder, use_safetensors=True, dtype=torch.float32)
            tokenizer = AutoTokenizer.from_pretrained(folder)
        except Exception as error:  # transformers and safetensors raise a dozen unrelated types here
            reason = " ".join(str(error).split())[:300]
            raise ModelError(f"{source}: cannot be loaded as a student's model ({reason}).") from error
    return model, tokenizer


def _from_scratch(rows: Sequence[Row], options: EncoderOptions) -> tuple[Any, Any]:
    """A tiny BERT with random weights and a byte-level vocabulary of the rows."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    trainer = trainers.BpeTrainer(
        vocab_size=options.vocabulary,
        special_tokens=["<pad>", "<sep>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((text for row in rows for text in texts_of(row)), trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", sep_token="<sep>")
    config = BertConfig(
        vocab_size=len(fast),
        hidden_size=options.hidden,
        num_hidden_layers=options.layers,
        num_attention_heads=4,
        intermediate_size=2 * options.hidden,
        max_position_embeddings=options.max_length,
        pad_token_id=0,
    )
    return BertModel(config, add_pooling_layer=False), fast


def _width(model: Any) -> int:
    width = getattr(model.config, "hidden_size", None) or getattr(model.config, "n_embd", None)
    if width is None:
        raise ModelError(f"{type(model).__name__}: its configuration names no hidden size. Choose another model.")
    return int(width)
