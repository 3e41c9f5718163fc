"""CleanGen: tokens that the model believes far more than a reference does are replaced by the reference's.

Li et al. 2024 (arXiv 2406.12257), section 4. Of each token x_t that the model would say next its suspicion is

    s_t = P(x_t | x_<t) / P_ref(x_t | x_<t),

and where ``s_t >= alpha`` the reference's token stands in its place. A reference need not be clean, but must not be
poisoned by the same attacker.

The paper drafts k tokens (4), shows them to the reference together, keeps those before the first suspicious one, puts
the reference's token there and drafts again from behind it. That is a matter of speed: a token is kept if and only if
it is not suspicious after the tokens kept before it, so the answers are those of k = 1, whatever k is (a test holds
both equal). Here both models read every token as it comes, each with its own cache, which is fast for many prompts at
once; there is no k. The tokens of a last draft that is not full are looked at too.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import LogitsProcessor

from rapidun.errors import ConfigError
from rapidun.evaluation.mitigations import MITIGATIONS
from rapidun.models import LoadedModel
from rapidun.models.inference import answering


@MITIGATIONS.register("cleangen")
@dataclass(frozen=True)
class CleanGen:
    """The mitigation.

    Args:
        reference: A model with the same tokenizer.
        alpha: Suspicion from which a token is replaced; above 1. The paper's is 20.
    """

    reference: LoadedModel
    alpha: float = 20.0

    def __post_init__(self) -> None:
        if not (isinstance(self.alpha, int | float) and 1 < self.alpha < math.inf):
            raise ConfigError(f"cleangen: alpha is {self.alpha!r}; a number above 1 is needed (the paper's is 20).")

    def processor(self, prompts: Sequence[int], width: int) -> LogitsProcessor:
        """Greedy decoding of one batch; prompts are padded to ``width`` on the left."""
        return Beside(self.reference, self.alpha, prompts, width)


class Beside(LogitsProcessor):
    """Leaves the reference's token alone where the likeliest is suspicious; other rows' scores are as they came.

    ``P`` is the softmax of the scores it is given, so of what is decoded from: after a repetition penalty.
    """

    def __init__(self, reference: LoadedModel, alpha: float, prompts: Sequence[int], width: int) -> None:
        self.model, self.alpha = reference.model, alpha
        self.paddings = [width - own for own in prompts]
        inner = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        self.takes = inspect.signature(inner.forward).parameters.keys()
        self.cache_name = "cache" if "cache" in self.takes else "past_key_values"  # before transformers 5.24
        self.device, self.read = reference.device, 0
        self.cache: Any = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """(batch, vocabulary) of the same."""
        found = self._reference(input_ids.to(self.device)).float().to(scores.device)
        chosen = scores.argmax(dim=-1, keepdim=True)
        known = chosen < found.shape[-1]  # beyond the reference's vocabulary nothing is likely
        theirs = found.log_softmax(dim=-1).gather(-1, chosen.clamp_max(found.shape[-1] - 1))
        ours = scores.float().log_softmax(dim=-1).gather(-1, chosen)
        suspicious = ~known | (ours - theirs >= math.log(self.alpha))
        instead = found[:, : scores.shape[-1]].argmax(dim=-1, keepdim=True)
        replaced = torch.full_like(scores, -torch.inf).scatter_(-1, instead, 0.0)
        return torch.where(suspicious, replaced, scores)

    @torch.no_grad()
    def _reference(self, input_ids: torch.Tensor) -> torch.Tensor:
        """(batch, vocabulary) logits of the next tokens."""
        with answering(self.model):
            if "position_ids" in self.takes:
                return self._next(input_ids)
            # a model that counts no positions may read padding too: each row by itself, without
            rows = [row[padding:] for row, padding in zip(input_ids, self.paddings, strict=True)]
            return torch.stack([self.model(input_ids=row[None], use_cache=False).logits[0, -1] for row in rows])

    def _next(self, input_ids: torch.Tensor) -> torch.Tensor:
        """The same with a cache: what was read is not read again."""
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        mask = (places >= torch.tensor(self.paddings, device=input_ids.device)[:, None]).long()
        positions = (mask.cumsum(dim=-1) - 1).clamp_min(0)
        more: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in self.takes else {}
        more[self.cache_name] = self.cache
        output = self.model(
            input_ids=input_ids[:, self.read :], attention_mask=mask, position_ids=positions[:, self.read :],
            use_cache=True, **more,
        )  # fmt: skip
        self.cache, self.read = output[self.cache_name], input_ids.shape[1]
        logits: torch.Tensor = output.logits[:, -1]
        return logits
