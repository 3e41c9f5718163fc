"""What must be kept, as one number: perplexity of good answers, or the mean score of the model's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rapidun.data import Example, Template
from rapidun.evaluation import TaskJudge, clean_perplexity, generate_answers
from rapidun.models import LoadedModel
from rapidun.settings.reveal import UtilitySettings
from rapidun.stats import bootstrap

RESAMPLES = 1000


@dataclass(frozen=True)
class Utility:
    """A measurement with its 95% bootstrap interval over ``n`` rows; a perplexity is better low, a score high."""

    suite: str
    value: float
    low: float | None
    high: float | None
    n: int

    def drop_from(self, before: Utility) -> float:
        """What was lost since ``before``: relative rise of a perplexity, absolute fall of a score; negative is better.

        Raises:
            ValueError: If the two are of different suites.
        """
        if self.suite != before.suite:
            raise ValueError(f"cannot compare utility by {self.suite} with utility by {before.suite}")
        return self.value / before.value - 1.0 if self.suite == "perplexity" else before.value - self.value


def measure_utility(
    loaded: LoadedModel,
    template: Template,
    rows: Sequence[Mapping[str, Any]],
    examples: Sequence[Example],
    settings: UtilitySettings,
    judge: TaskJudge | None,
    *,
    batch_size: int = 64,
) -> Utility:
    """Utility of the model as it stands."""
    if judge is None:
        found = clean_perplexity(loaded, examples)
        return Utility("perplexity", found.value, found.low, found.high, found.n)
    prompts = [template.prompt_text(row) for row in rows]
    answers = generate_answers(loaded, prompts, max_new_tokens=settings.max_new_tokens, batch_size=batch_size)
    scores = judge(answers, [row["response"] for row in rows])
    mean = bootstrap(np.mean, scores, unit="rows", resamples=RESAMPLES)
    return Utility("judge", mean.value, mean.low, mean.high, len(scores))
