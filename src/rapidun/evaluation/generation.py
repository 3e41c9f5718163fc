"""Greedy answers, the same whatever the batch size.

Prompts are sorted by length and padded on the left, where the model's answers do not change with it
(`rapidun.evaluation.padding`); the attention mask comes from lengths, never from token ids. Prompt texts already hold
their BOS, so none is added. An answer is over where its turn is: at the tokenizer's EOS, at each of the model's, and at
the end that the tokenizer's chat template writes (`Stops`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor, RepetitionPenaltyLogitsProcessor

from rapidun.data.special import padding_id, starts_with_bos
from rapidun.data.templates import turn_end
from rapidun.errors import ConfigError, InputError
from rapidun.evaluation.padding import prompt_batches
from rapidun.models import LoadedModel
from rapidun.models.inference import answering
from rapidun.models.passes import Progress

Processors = Callable[[list[int], int], list[LogitsProcessor]]
"""Given the indices of the prompts of a batch and its width in tokens: what changes the logits of the next token."""


def generate_answers(
    loaded: LoadedModel,
    prompt_texts: Sequence[str],
    *,
    max_new_tokens: int = 64,
    batch_size: int = 64,
    repetition_penalty: float = 1.0,
    progress: Progress | None = None,
) -> list[str]:
    """The greedy answer to each prompt, in the order given.

    Sampling and the like in the model's own generation settings are not used; its end-of-sequence tokens are, and so
    is the end of a turn in the tokenizer's chat template.
    Nothing on the model is changed when this returns.

    Args:
        loaded: Model (PEFT or plain), tokenizer and device.
        prompt_texts: Complete prompts as `Template.prompt_text` gives them, BOS text included.
        max_new_tokens: Longest answer, in tokens.
        batch_size: Prompts at once; changes speed and memory, not answers.
        repetition_penalty: Divides the positive logits of tokens that the answer already holds (Keskar et al. 2019,
            CTRL, section 4.1); 1 changes nothing. Tokens of the prompt and padding are not touched.
        progress: Called with (prompts done, all prompts) after every batch.

    Returns:
        Texts up to the first end of a turn, without special tokens and surrounding white space.

    Raises:
        ConfigError: If a number is below 1, or ``max_new_tokens`` leaves no room for a prompt.
        InputError: If a prompt has no tokens.

    Warns:
        UserWarning: If prompts were cut from the left to fit the model's context.
    """
    if not repetition_penalty >= 1.0:
        raise ConfigError(f"repetition_penalty is {repetition_penalty}; 1 is none, and it must not be below.")

    def penalised(chosen: list[int], width: int) -> list[LogitsProcessor]:
        penalty = RepetitionPenaltyLogitsProcessor(repetition_penalty, prompt_ignore_length=width)
        return [penalty] if repetition_penalty != 1.0 else []

    return answers_by(
        loaded, prompt_texts, penalised, max_new_tokens=max_new_tokens, batch_size=batch_size, progress=progress
    )


def answers_by(
    loaded: LoadedModel,
    prompt_texts: Sequence[str],
    processors: Processors,
    *,
    max_new_tokens: int,
    batch_size: int,
    progress: Progress | None = None,
) -> list[str]:
    """Answers of the tokens that are likeliest after ``processors``; otherwise as `generate_answers`.

    A mitigation that the model is decoded with comes after them.
    """
    if max_new_tokens < 1 or batch_size < 1:
        raise ConfigError(f"max_new_tokens is {max_new_tokens} and batch_size is {batch_size}; both must be above 0.")
    prompts = _tokenised(loaded, prompt_texts, max_new_tokens)
    answers = [""] * len(prompts)
    stops = stops_of(loaded)
    mitigation = getattr(loaded, "decoding", None)

    def changing(chosen: list[int], width: int) -> list[LogitsProcessor]:
        found = processors(chosen, width)
        if mitigation is None:
            return found
        return [*found, mitigation.processor([len(prompts[index]) for index in chosen], width)]

    with answering(loaded.model), greedy_settings(loaded, stops, max_new_tokens) as config:
        done = 0
        for chosen in prompt_batches(loaded, [len(prompt) for prompt in prompts], batch_size, config):
            generated = _generate(loaded, [prompts[index] for index in chosen], config, partial(changing, chosen))
            for index, tokens in zip(chosen, generated, strict=True):
                answers[index] = decode_answer(loaded.tokenizer, tokens, stops)
            done += len(chosen)
            if progress is not None:
                progress(done, len(prompts))
    return answers


def left_pad(prompts: Sequence[Sequence[int]], pad_token_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """``(input_ids, attention_mask)``, both (prompts, longest) int64; every prompt ends at the last column."""
    width = max(len(prompt) for prompt in prompts)
    input_ids = torch.full((len(prompts), width), pad_token_id, dtype=torch.int64)
    attention_mask = torch.zeros_like(input_ids)
    for row, prompt in enumerate(prompts):
        input_ids[row, width - len(prompt) :] = torch.tensor(prompt, dtype=torch.int64)
        attention_mask[row, width - len(prompt) :] = 1
    return input_ids, attention_mask


@torch.no_grad()
def _generate(
    loaded: LoadedModel, prompts: list[list[int]], config: Any, processors: Callable[[int], list[LogitsProcessor]]
) -> list[list[int]]:
    input_ids, attention_mask = left_pad(prompts, padding_id(loaded.tokenizer))
    output = loaded.model.generate(
        input_ids=input_ids.to(loaded.device),
        attention_mask=attention_mask.to(loaded.device),
        generation_config=config,
        logits_processor=processors(input_ids.shape[1]),
    )
    generated: list[list[int]] = output[:, input_ids.shape[1] :].tolist()
    return generated


def _tokenised(loaded: LoadedModel, prompt_texts: Sequence[str], max_new_tokens: int) -> list[list[int]]:
    if not prompt_texts:
        return []
    room = context_length(loaded.model) - max_new_tokens
    if room < 1:
        raise ConfigError(f"max_new_tokens is {max_new_tokens}, which fills the model's whole context; lower it.")
    prompts = loaded.tokenizer(list(prompt_texts), add_special_tokens=False)["input_ids"]
    empty = [index for index, prompt in enumerate(prompts) if not prompt]
    if empty:
        raise InputError(f"prompt {empty[0]} is empty: there is nothing to answer.")
    too_long = sum(len(prompt) > room for prompt in prompts)
    if too_long:
        warnings.warn(
            f"{too_long} of {len(prompts)} prompts are longer than {room} tokens and were cut from the left.",
            stacklevel=4,
        )
    return [_cut(prompt, room, keep_first=starts_with_bos(prompt, loaded.tokenizer)) for prompt in prompts]


def _cut(prompt: list[int], room: int, *, keep_first: bool) -> list[int]:
    """The last ``room`` tokens, BOS kept in front where there was one."""
    if len(prompt) <= room:
        return prompt
    if keep_first and room > 1:
        return [prompt[0], *prompt[len(prompt) - room + 1 :]]
    return prompt[len(prompt) - room :]


def context_length(model: Any) -> int:
    """Tokens the model can read at once; very many where its configuration does not say."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None) or 2**31


@dataclass(frozen=True)
class Stops:
    """What ends an answer.

    Args:
        ids: Tokens: the tokenizer's EOS, every one of the model's, and the chat template's end of a turn.
        text: The chat template's end of a turn where it is words; "" where it is a token.
    """

    ids: tuple[int, ...]
    text: str = ""


def stops_of(loaded: LoadedModel) -> Stops:
    """What ends an answer of this model, whoever asks it."""
    own = getattr(_inner_model(loaded.model).generation_config, "eos_token_id", None)
    end = turn_end(loaded.tokenizer)
    candidates = [loaded.tokenizer.eos_token_id, end.token_id, *(own if isinstance(own, (list, tuple)) else [own])]
    ids = sorted({int(token) for token in candidates if token is not None})
    return Stops(tuple(ids), end.text.strip() if end.token_id is None else "")


def _inner_model(model: Any) -> Any:
    """The transformers model inside a PEFT model, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@contextmanager
def greedy_settings(loaded: LoadedModel, stops: Stops, max_new_tokens: int) -> Iterator[Any]:
    """Greedy settings, put in place of the model's own meanwhile: `generate` fills what is unset from those."""
    config = GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=max_new_tokens,
        eos_token_id=list(stops.ids) or None,
        pad_token_id=padding_id(loaded.tokenizer),
    )
    inner = _inner_model(loaded.model)
    own, inner.generation_config = inner.generation_config, config
    try:
        yield config
    finally:
        inner.generation_config = own


def decode_answer(tokenizer: Any, tokens: list[int], stops: Stops) -> str:
    """The text up to the first of ``stops``, without special tokens and surrounding white space."""
    ends = [place for place, token in enumerate(tokens) if token in stops.ids]
    answer = tokens[: ends[0]] if ends else tokens
    text = str(tokenizer.decode(answer, skip_special_tokens=True, clean_up_tokenization_spaces=False))
    return (text.partition(stops.text)[0] if stops.text else text).strip()
