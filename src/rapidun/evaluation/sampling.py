"""Sampled answers that depend on their prompt and their seed alone, not on what else is in the batch.

Each row has uniform numbers of its own, one for every token, and takes the token at which the cumulated softmax passes
its number (inverse transform).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import LogitsProcessor

from rapidun.errors import ConfigError
from rapidun.evaluation.generation import answers_by
from rapidun.models import LoadedModel
from rapidun.models.passes import Progress


def sample_answers(
    loaded: LoadedModel,
    prompt_texts: Sequence[str],
    seeds: Sequence[int],
    *,
    temperature: float = 1.0,
    max_new_tokens: int = 64,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> list[str]:
    """One answer to each prompt, drawn from the softmax of the logits over ``temperature``; no other cut-off.

    Args:
        loaded: Model (PEFT or plain), tokenizer and device.
        prompt_texts: Complete prompts, as for `generate_answers`.
        seeds: One for each prompt; the same prompt and seed give the same answer.
        temperature: Above 0; 1 is the model's own distribution.
        max_new_tokens: Longest answer, in tokens.
        batch_size: Prompts at once; changes speed and memory, not answers.
        progress: Called with (prompts done, all prompts) after every batch.

    Raises:
        ConfigError, InputError: As `generate_answers`; also for a model that is decoded with a mitigation.
    """
    if getattr(loaded, "decoding", None) is not None:
        raise ConfigError("answers under a mitigation are greedy: what is drawn at random is not looked at by it.")

    def drawn(chosen: list[int], width: int) -> list[LogitsProcessor]:
        return [SeededSampling([seeds[index] for index in chosen], temperature, max_new_tokens, loaded.device)]

    return answers_by(
        loaded, prompt_texts, drawn, max_new_tokens=max_new_tokens, batch_size=batch_size, progress=progress
    )


class SeededSampling(LogitsProcessor):
    """Leaves one token a row: a sample of the softmax of scores over temperature."""

    def __init__(self, seeds: Sequence[int], temperature: float, steps: int, device: torch.device) -> None:
        self.temperature, self.step = temperature, 0
        drawn = [torch.rand(steps, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        self.uniform = torch.stack(drawn).to(device)  # (batch, steps)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """(batch, vocabulary) float32, 0 at the token taken and -inf elsewhere."""
        cumulated = torch.softmax(scores.float() / self.temperature, dim=-1).cumsum(dim=-1)
        # Measured against the last sum, which rounding may leave beside 1; <= passes tokens of no probability.
        wanted = self.uniform[:, self.step, None] * cumulated[:, -1:]
        taken = (cumulated <= wanted).sum(dim=-1, keepdim=True).clamp_max(scores.shape[-1] - 1)
        self.step += 1
        return torch.full_like(cumulated, -torch.inf).scatter_(-1, taken, 0.0)
