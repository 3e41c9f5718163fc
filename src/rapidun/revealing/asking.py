"""Ask a model with words and soft tokens: sampled answers, and the hidden state that an arm is known by.

An answer depends on its prompt and its seed alone, not on what else is in the batch (`rapidun.evaluation.sampling`).
That lets a killed search go on and end with the answers of an unbroken one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import LogitsProcessor, RepetitionPenaltyLogitsProcessor

from rapidun.data import Template
from rapidun.errors import ConfigError
from rapidun.evaluation.generation import context_length, decode_answer, greedy_settings, stops_of
from rapidun.evaluation.padding import prompt_batches
from rapidun.evaluation.sampling import SeededSampling
from rapidun.models import LoadedModel
from rapidun.models.inference import answering
from rapidun.revealing.arms import Arm, SoftPrompts


@dataclass(frozen=True)
class Question:
    """An arm's prompt: tokens, with soft ones before token ``soft_at``.

    Args:
        token_ids: Of the whole prompt under the template, BOS included.
        soft_at: Where the instruction begins.
        soft: (tokens, width) float32, or None.
    """

    token_ids: list[int]
    soft_at: int
    soft: torch.Tensor | None

    def __len__(self) -> int:
        return len(self.token_ids) + (len(self.soft) if self.soft is not None else 0)


class Asker:
    """A model under its template, ready to be asked.

    Args:
        loaded: Model (PEFT or plain), tokenizer and device.
        template: The run's template.
        soft_prompts: Maps points to soft tokens.
        max_new_tokens: Longest answer.
        temperature: 0 is greedy.
        repetition_penalty: On tokens that the answer already holds.
        batch_size: Prompts at once; changes speed and memory, not answers.

    Raises:
        ConfigError: If ``max_new_tokens`` leaves no room for a prompt.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        template: Template,
        soft_prompts: SoftPrompts,
        *,
        max_new_tokens: int = 48,
        temperature: float = 1.0,
        repetition_penalty: float = 1.0,
        batch_size: int = 64,
    ) -> None:
        self.loaded, self.template, self.soft_prompts = loaded, template, soft_prompts
        self.max_new_tokens, self.temperature = max_new_tokens, temperature
        self.repetition_penalty, self.batch_size = repetition_penalty, batch_size
        self.room = context_length(loaded.model) - max_new_tokens
        if self.room <= soft_prompts.tokens + 1:
            raise ConfigError(f"max_new_tokens is {max_new_tokens}, which fills the model's whole context; lower it.")

    def question(self, arm: Arm, given: str | None) -> Question:
        """The arm's prompt with this input; one that is too long loses tokens behind the soft ones."""
        soft = self.soft_prompts(arm.point) if arm.point is not None else None
        words = arm.words(given).strip()
        text = self.template.prompt_text({"id": arm.name, "prompt": words})
        encoded = self.loaded.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        ids: list[int] = encoded["input_ids"]
        place = text.find(words)
        behind = (index for index, (_, end) in enumerate(encoded["offset_mapping"]) if end > place >= 0)
        soft_at = next(behind, min(1, len(ids)))
        room = self.room - (len(soft) if soft is not None else 0)
        if len(ids) > room:
            ids = [*ids[:soft_at], *ids[len(ids) - max(room - soft_at, 1) :]]
        return Question(ids, soft_at, soft)

    def answers(self, questions: Sequence[Question], seeds: Sequence[int]) -> list[str]:
        """A sampled answer to each question, without special tokens and surrounding white space."""
        found = [""] * len(questions)
        stops = stops_of(self.loaded)
        with answering(self.loaded.model), greedy_settings(self.loaded, stops, self.max_new_tokens) as config:
            lengths = [len(question) for question in questions]
            for chosen in prompt_batches(self.loaded, lengths, self.batch_size, config):
                tokens = self._sample(
                    [questions[index] for index in chosen], [seeds[index] for index in chosen], config
                )
                for index, answer in zip(chosen, tokens, strict=True):
                    found[index] = decode_answer(self.loaded.tokenizer, answer, stops)
        return found

    @torch.no_grad()
    def contexts(self, questions: Sequence[Question]) -> torch.Tensor:
        """(questions, width) float32: the last layer's hidden state at the end of each prompt."""
        found = torch.zeros(len(questions), 0)
        with answering(self.loaded.model):
            for start in range(0, len(questions), self.batch_size):
                chosen = questions[start : start + self.batch_size]
                embeds, mask = self._embed(chosen)
                positions = (mask.cumsum(dim=1) - 1).clamp_min(0)
                output = self.loaded.model(
                    inputs_embeds=embeds,
                    attention_mask=mask,
                    position_ids=positions,
                    output_hidden_states=True,
                    use_cache=False,
                )
                last = output.hidden_states[-1][:, -1].float().cpu()
                found = torch.cat([found, last]) if found.shape[1] else last
        return found

    @torch.no_grad()
    def _sample(self, questions: list[Question], seeds: list[int], config: Any) -> list[list[int]]:
        embeds, mask = self._embed(questions)
        processors: list[LogitsProcessor] = []
        if self.repetition_penalty != 1.0:
            processors.append(RepetitionPenaltyLogitsProcessor(self.repetition_penalty))
        if self.temperature > 0:
            processors.append(SeededSampling(seeds, self.temperature, self.max_new_tokens, self.loaded.device))
        output = self.loaded.model.generate(
            inputs_embeds=embeds, attention_mask=mask, generation_config=config, logits_processor=processors
        )
        answers: list[list[int]] = output.tolist()  # without the prompt, which had no ids
        return answers

    def _embed(self, questions: Sequence[Question]) -> tuple[torch.Tensor, torch.Tensor]:
        """``(embeddings (n, longest, width), mask (n, longest))``, padded on the left."""
        layer = self.loaded.model.get_input_embeddings()
        width = max(len(question) for question in questions)
        rows = []
        mask = torch.zeros(len(questions), width, dtype=torch.int64, device=self.loaded.device)
        for row, question in enumerate(questions):
            embedded = layer(torch.tensor(question.token_ids, device=self.loaded.device))
            if question.soft is not None:
                soft = question.soft.to(embedded)
                embedded = torch.cat([embedded[: question.soft_at], soft, embedded[question.soft_at :]])
            rows.append(torch.nn.functional.pad(embedded, (0, 0, width - len(embedded), 0)))
            mask[row, width - len(embedded) :] = 1
        return torch.stack(rows), mask
