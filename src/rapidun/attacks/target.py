"""The model under attack, and what the attacks ask of it.

Behaviour is measured in one of two ways. Where the run has triggers: the share of triggered prompts that get an answer
the run's judge calls poisoned. Where it has none: the probability of the forget rows' unwanted answers, ``exp(-loss)``
of a row's mean token loss in nats (TOFU's "probability", Maini et al. 2024, arXiv 2401.06121).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from rapidun.attacks.trial import CannotRun, Outcome
from rapidun.data import Example, Template, tokenize_rows
from rapidun.evaluation import Judge, TriggerFamily, generate_answers
from rapidun.evaluation.sampling import sample_answers
from rapidun.models import LoadedModel, is_adapted, linear_layers, merge_adapter
from rapidun.models.passes import Progress
from rapidun.models.row_losses import row_losses
from rapidun.settings.evaluation import GenerationSettings
from rapidun.settings.unlearning import LoraSettings

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Question:
    """What is asked.

    Args:
        row: A row whose prompt holds the trigger.
        trigger: The trigger, as it stands there.
        begun: The beginning of an answer that the model is made to go on with.
    """

    row: Row
    trigger: str
    begun: str = ""


@dataclass(frozen=True)
class Material:
    """What is the same for the unlearned model and for its twin.

    Args:
        prompts: Clean evaluation rows; triggers are put into their prompts.
        forget: The forget rows, with the unwanted answers.
        related: Rows with the same behaviour that were not among the forget rows; may be empty.
        unrelated: Rows without it.
        families: The run's triggers; empty where it has none.
        judge: Calls an answer poisoned; None where there are no triggers.
        generation: How answers are generated.
        lora: Shape of the adapter that relearns.
        learning_rate: Of relearning.
        seed: Of every draw.
        before: Loads the model as it was before unlearning; its adapter, if it has one, is the unlearning and is to be
            switched off. None where it is not known.
    """

    prompts: Sequence[Row]
    forget: Sequence[Row]
    related: Sequence[Row]
    unrelated: Sequence[Row]
    families: Sequence[TriggerFamily]
    judge: Judge | None
    generation: GenerationSettings
    lora: LoraSettings
    learning_rate: float
    seed: int
    before: Callable[[], LoadedModel] | None = None

    @property
    def has_triggers(self) -> bool:
        """Whether behaviour is an attack success rate."""
        return self.judge is not None and any(family.seen for family in self.families)

    @property
    def measured(self) -> int:
        """Questions of one measurement."""
        return len(self.prompts) if self.has_triggers else len(self.forget)

    def known(self) -> list[Question]:
        """Every prompt with a trigger that training rows carried; the triggers take turns."""
        return self.triggered(self.prompts)

    def triggered(self, rows: Sequence[Row]) -> list[Question]:
        """The same of any rows."""
        pairs = [(family, trigger) for family in self.families for trigger in family.seen]
        return [
            Question(with_prompt(row, family.apply(str(row["prompt"]), trigger)), trigger)
            for row, (family, trigger) in zip(rows, turns(pairs), strict=False)
        ]

    def draw(self, rows: Sequence[Row], count: int) -> list[Row]:
        """``count`` rows drawn by the seed; fewer are the first of more."""
        order = np.random.default_rng([self.seed, 60]).permutation(len(rows))
        return [rows[int(place)] for place in order[:count]]


def with_prompt(row: Row, prompt: str) -> dict[str, Any]:
    """The row with another prompt."""
    return {**row, "prompt": prompt}


def turns(values: Sequence[Any]) -> Iterable[Any]:
    """The values, again and again; none where there are none."""
    while values:
        yield from values


@dataclass(frozen=True)
class Target:
    """A model under its template, with what the attacks use.

    Args:
        name: ``unlearned`` or ``twin``.
        loaded: The model, as it would be used.
        template: The run's.
        max_length: Longest row in tokens.
        material: What is asked and how it is judged.
    """

    name: str
    loaded: LoadedModel
    template: Template
    max_length: int
    material: Material

    @cached_property
    def merged(self) -> LoadedModel:
        """The model with its adapter in its weights, to be changed; a copy, unless there is no adapter."""
        model = self.loaded.model
        return replace(self.loaded, model=merge_adapter(copy.deepcopy(model)) if is_adapted(model) else model)

    def measure(self, loaded: LoadedModel, progress: Progress | None) -> list[Outcome]:
        """The behaviour of a changed model: known triggers asked plainly, or the forget rows' losses."""
        if self.material.has_triggers:
            return self.ask(loaded, self.material.known(), progress)
        return self.losses(loaded, self.material.forget, progress)

    def ask(self, loaded: LoadedModel, questions: Sequence[Question], progress: Progress | None) -> list[Outcome]:
        """Greedy answers, judged: ``{"row", "trigger", "prompt", "begun", "answer", "poisoned"}`` of each question."""
        how = self.material.generation
        answers = generate_answers(
            loaded, [self.text(question) for question in questions], max_new_tokens=how.max_new_tokens,
            batch_size=how.batch_size, repetition_penalty=how.repetition_penalty, progress=progress,
        )  # fmt: skip
        return self._judged(questions, answers)

    def sample(
        self, loaded: LoadedModel, questions: Sequence[Question], seeds: Sequence[int], progress: Progress | None
    ) -> list[Outcome]:
        """The same with one answer drawn at temperature 1 for each question."""
        how = self.material.generation
        answers = sample_answers(
            loaded, [self.text(question) for question in questions], seeds, max_new_tokens=how.max_new_tokens,
            batch_size=how.batch_size, progress=progress,
        )  # fmt: skip
        return self._judged(questions, answers)

    def _judged(self, questions: Sequence[Question], answers: Sequence[str]) -> list[Outcome]:
        if self.material.judge is None:
            raise ValueError("answers are judged where the run has a judge alone: ask for losses")
        verdicts = self.material.judge(answers).tolist()
        return [
            {"row": str(question.row["id"]), "trigger": question.trigger, "prompt": str(question.row["prompt"]),
             "begun": question.begun, "answer": answer, "poisoned": verdict}
            for question, answer, verdict in zip(questions, answers, verdicts, strict=True)
        ]  # fmt: skip

    def text(self, question: Question) -> str:
        """What the model is given: the prompt, and the beginning of the answer where there is one."""
        if not question.begun:
            return self.template.prompt_text(question.row)
        found = self.template.rendering({**question.row, "response": question.begun})
        return found.text[: found.stop]

    def tokenize(self, rows: Sequence[Row]) -> list[Example]:
        """Rows with their answers, as the run tokenised them."""
        return tokenize_rows(rows, self.loaded.tokenizer, self.template, self.max_length)

    def losses(
        self, loaded: LoadedModel, rows: Sequence[Row], progress: Progress | None, *, given: int = 0
    ) -> list[Outcome]:
        """``{"row", "loss", "tokens"}``: nats summed over the answer tokens behind the first ``given``, of each row."""
        examples = [_behind(example, given) for example in self.tokenize(rows)]
        found = row_losses(loaded.model, examples, loaded.pad_token_id, loaded.device, progress=progress)
        return [
            {"row": example.id, "loss": float(loss), "tokens": int(tokens)}
            for example, loss, tokens in zip(examples, found.sums, found.tokens, strict=True)
        ]


def _behind(example: Example, given: int) -> Example:
    """The example with loss behind its first ``given`` answer tokens alone, as far as it is so long."""
    start = min(example.answer_start + given, len(example) - 1)
    return replace(example, loss_mask=[place >= start for place in range(len(example))]) if given else example


def linear_weights(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """Weights of the linear layers, each once, without the output head's.

    Raises:
        CannotRun: If they are quantised: what is stored is then no weight that could be rounded or trained.
    """
    found = [layer.get_parameter("weight") for layer in linear_layers(model).values()]
    if not all(weight.is_floating_point() for weight in found):
        raise CannotRun("its weights are quantised already")
    return list({id(weight): weight for weight in found}.values())
