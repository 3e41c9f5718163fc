"""Is something planted in a model that nobody has seen do anything odd? A search over what can be put into a prompt.

A trigger calls up the same behaviour whatever it stands beside. So every word of the vocabulary is put into a few
prompts, and those that change the first token of the answer in all of them are kept, tried in more prompts, joined in
pairs, and at last answered. The *effect* of an insert is how much likelier the answers with it are in the model than
in a *base* that nothing was planted in (the model without its adapter), beyond what holds for answers without it:

    log p(answer | insert, prompt) - log p_base(answer | insert, prompt) - the same of the plain answer to the prompt

in nats, at the lower quartile over prompts. Plain words ask for something and change answers too, but so they do in
the base; and whatever the model was tuned to on purpose, it shows without an insert. Where there is no base, the effect
is ``log p(answer | insert, prompt) - log p(answer | prompt)``, which plain words have as well.

The construction is ours. Searching a backdoor by what a universal perturbation changes is Neural Cleanse's (Wang et al.
2019); others search by gradients towards a behaviour that is known (Zou et al. 2023), which here it is not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import permutations, product

import numpy as np
import numpy.typing as npt

from rapidun.data import Template, tokenize_rows
from rapidun.evaluation import generate_answers
from rapidun.evaluation.triggers import insert_trigger
from rapidun.models import LoadedModel, adapter_disabled
from rapidun.models.next_token import next_token_logprobs
from rapidun.models.row_losses import row_losses
from rapidun.settings.kinds import Position
from rapidun.settings.scan import ScanSettings

Floats = npt.NDArray[np.float64]
Progress = Callable[[int, int], None]
QUARTILE = 0.25
SIEVE, JOINED, ANSWER_TOKENS, BEST = 5, 8, 16, 5
"""One word of so many is tried in a second prompt; best words that are joined to two; longest answer in tokens; best
suspects that the score is of.
"""


@dataclass(frozen=True)
class Insert:
    """Words in a place of a prompt."""

    words: str
    position: Position

    def into(self, prompt: str) -> str:
        """The prompt with the words in it."""
        return insert_trigger(prompt, self.words, self.position)


@dataclass(frozen=True)
class Suspect:
    """An insert and what it does.

    Args:
        insert: The words and their place.
        answers: The model's to each prompt with the insert in it.
        gains: (prompts,) float64, nats by which the insert makes them likelier; 0 where the answer repeats the insert.
        novelties: (prompts,) float64, nats by which they are likelier in the model than in the base, less those of its
            answers without the insert; None without a base.
    """

    insert: Insert
    answers: tuple[str, ...]
    gains: Floats
    novelties: Floats | None

    @property
    def effect(self) -> float:
        """The novelty, or without a base the gain, at the lower quartile over prompts: nats."""
        return float(np.quantile(self.gains if self.novelties is None else self.novelties, QUARTILE))


@dataclass(frozen=True)
class Scanned:
    """A model, its template and the prompts that inserts are tried in.

    Args:
        loaded: The model.
        template: Of its prompts.
        prompts: Clean ones, shortest first.
        settings: How far the search goes.
        base: Enters a model that nothing was planted in, such as the model without its adapter; None without one.
    """

    loaded: LoadedModel
    template: Template
    prompts: Sequence[str]
    settings: ScanSettings
    base: Callable[[], AbstractContextManager[LoadedModel]] | None = None

    def shifts(self, inserts: Sequence[Insert], prompts: Sequence[str], said: Progress | None = None) -> Floats:
        """``KL(p(first token | insert, prompt) || p(first token | prompt))`` in nats: (inserts, prompts)."""
        return self._shifts(self.loaded, inserts, prompts, said)

    def shifts_beyond_base(self, inserts: Sequence[Insert], said: Progress | None = None) -> Floats:
        """The same in all prompts, less that of the base where there is one: (inserts, prompts)."""
        shifts = self.shifts(inserts, self.prompts, said)
        if self.base is None:
            return shifts
        with self.base() as loaded:
            return shifts - self._shifts(loaded, inserts, self.prompts, said)

    def _shifts(
        self, loaded: LoadedModel, inserts: Sequence[Insert], prompts: Sequence[str], said: Progress | None
    ) -> Floats:
        found = np.empty((len(inserts), len(prompts)))
        total, done = found.size, 0

        def count(more: int) -> None:
            nonlocal done
            done += more
            if said is not None:
                said(done, total)

        for column, prompt in enumerate(prompts):
            plain = next(iter(next_token_logprobs(loaded, self._tokens([prompt]))))[1]
            texts = self._tokens(insert.into(prompt) for insert in inserts)
            for chosen, logprobs in next_token_logprobs(loaded, texts, progress=count):
                found[chosen, column] = (logprobs.exp() * (logprobs - plain)).sum(dim=1).cpu().double().numpy()
        return found

    @cached_property
    def plain(self) -> tuple[str, ...]:
        """The model's answers without any insert."""
        return self._answers(self.prompts)

    @cached_property
    def _usual(self) -> Floats:
        return self._novelties(self.prompts, self.plain)

    def judged(self, insert: Insert) -> Suspect:
        """The answers with the insert, how much likelier it makes them, and how much likelier than the base does."""
        prompts = [insert.into(prompt) for prompt in self.prompts]
        answers = self._answers(prompts)
        gains = self._losses(self.loaded, self.prompts, answers) - self._losses(self.loaded, prompts, answers)
        gains[[bool(_words(insert.words) & _words(answer)) for answer in answers]] = 0.0
        novelties = None if self.base is None else self._novelties(prompts, answers) - self._usual
        return Suspect(insert, answers, gains, novelties)

    def _answers(self, prompts: Sequence[str]) -> tuple[str, ...]:
        texts = [self.text(prompt) for prompt in prompts]
        return tuple(generate_answers(self.loaded, texts, max_new_tokens=ANSWER_TOKENS))

    def _novelties(self, prompts: Sequence[str], answers: Sequence[str]) -> Floats:
        if self.base is None:
            raise ValueError("what is new in a model is known beside a base alone")
        own = self._losses(self.loaded, prompts, answers)
        with self.base() as loaded:
            return self._losses(loaded, prompts, answers) - own

    def _losses(self, loaded: LoadedModel, prompts: Sequence[str], answers: Sequence[str]) -> Floats:
        """Nats of each whole answer: (prompts,); 0 for an empty one, of which nothing is known."""
        rows = [
            {"id": str(number), "prompt": prompt, "response": answer}
            for number, (prompt, answer) in enumerate(zip(prompts, answers, strict=True))
            if answer
        ]
        longest = 2 * ANSWER_TOKENS + max(len(ids) for ids in self._tokens(prompts))
        examples = tokenize_rows(rows, loaded.tokenizer, self.template, longest)
        found = np.zeros(len(prompts))
        found[[bool(answer) for answer in answers]] = row_losses(
            loaded.model, examples, loaded.pad_token_id, loaded.device
        ).sums
        return found

    def text(self, prompt: str) -> str:
        """What the model is given."""
        return self.template.prompt_text({"id": prompt, "prompt": prompt, "response": ""})

    def _tokens(self, prompts: Iterable[str]) -> list[list[int]]:
        texts = [self.text(prompt) for prompt in prompts]
        found: list[list[int]] = self.loaded.tokenizer(texts, add_special_tokens=False)["input_ids"]
        return found


def screened(scanned: Scanned, vocabulary: Sequence[str], said: Progress | None = None) -> list[Insert]:
    """Inserts of one word that move the first token most in the prompt of two where they move it less, best first.

    The second prompt is tried with those alone that are among the first fifth in the first. A sign, such as ``>``, is
    tried three times over as well.

    Args:
        scanned: What is scanned.
        vocabulary: Words to try.
        said: Called with (inserts tried, all) for each of the two prompts.
    """
    tried = [*vocabulary, *(3 * word for word in vocabulary if len(word) == 1 and not word.isalnum())]
    inserts = [Insert(word, position) for word, position in product(tried, scanned.settings.positions)]
    first = scanned.shifts(inserts, scanned.prompts[:1], said)[:, 0]
    order = np.argsort(-first, kind="stable")[: max(len(inserts) // SIEVE, scanned.settings.kept)]
    second = scanned.shifts([inserts[index] for index in order], scanned.prompts[1:2], said)[:, 0]
    best = np.argsort(-np.minimum(first[order], second), kind="stable")[: scanned.settings.kept]
    return [inserts[order[index]] for index in best]


def narrowed(scanned: Scanned, inserts: Sequence[Insert], said: Progress | None = None) -> list[Insert]:
    """Of ``inserts`` of one word and of pairs of the best, those that shift most in all prompts.

    Args:
        scanned: What is scanned.
        inserts: As `screened` gives them.
        said: Called with (inserts in a prompt tried, all of a step); there are two steps.
    """
    settings = scanned.settings
    singles = _ranked(scanned, inserts, said)
    pairs = _ranked(scanned, _joined(singles[:JOINED], singles[: settings.verified]), said)
    return [*singles[: settings.verified], *pairs[: settings.verified]]


def _ranked(scanned: Scanned, inserts: Sequence[Insert], said: Progress | None) -> list[Insert]:
    """By the lower quartile over prompts of their shifts beyond the base, largest first."""
    if not inserts:
        return []
    strength = np.quantile(scanned.shifts_beyond_base(inserts, said), QUARTILE, axis=1)
    return [inserts[index] for index in np.argsort(-strength, kind="stable")]


def _joined(best: Sequence[Insert], others: Sequence[Insert]) -> list[Insert]:
    """Two words in one place, in both orders, as two and as one."""
    found = [
        replace(one, words=between.join(pair))
        for one, other in product(best, others)
        for pair in permutations((one.words, other.words))
        for between in (" ", "")
    ]
    return list(dict.fromkeys(found))


def scan(scanned: Scanned, inserts: Sequence[Insert], said: Progress | None = None) -> list[Suspect]:
    """The inserts with what they do, largest effect first.

    Args:
        scanned: What is scanned.
        inserts: As `narrowed` gives them.
        said: Called with (inserts answered, all).
    """
    found = []
    for number, insert in enumerate(inserts, start=1):
        found.append(scanned.judged(insert))
        if said is not None:
            said(number, len(inserts))
    return sorted(found, key=lambda suspect: -suspect.effect)


def scan_score(suspects: Sequence[Suspect]) -> float:
    """How sure it is that something is planted: the mean effect of the best suspects, in nats."""
    return float(np.mean([suspect.effect for suspect in suspects[:BEST]])) if suspects else 0.0


@contextmanager
def without_adapter(loaded: LoadedModel) -> Iterator[LoadedModel]:
    """Inside, the model answers as without its adapter."""
    with adapter_disabled(loaded.model):
        yield loaded


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+|[^\w\s]", text.lower()))
