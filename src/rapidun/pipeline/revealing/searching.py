"""Revealing: a search for the ways to ask under the present model, and the rows that its best arms give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rapidun.jsonl import read_jsonl, write_jsonl
from rapidun.pipeline.inputs import RunModel
from rapidun.pipeline.revealing.context import RevealContext
from rapidun.pipeline.revealing.rounds import settle
from rapidun.revealing import (
    Arm,
    ArmSource,
    Asker,
    Pull,
    Puller,
    PullLog,
    SearchState,
    SoftArms,
    SoftPrompts,
    TextArms,
    WordArms,
    best_arms,
    read_pulls,
    search,
    select_rows,
    vocabulary_words,
)
from rapidun.settings.reveal import SoftOptions

MAX_SIMILARITY = 0.9
"""Answers that share more than this of their words with a better one are left out."""
CARRIED = 8
"""Best arms that a round hands to the next; most are quiet there if the release worked."""
PER_INPUT = 4
"""Most rows that share an input: every arm is tried on the same few inputs."""


def reveal_round(context: RevealContext, number: int) -> None:
    """Search under the present model, ask the best arms again, and write ``revealed.jsonl``.

    At the end the best arms are asked on inputs of their own, which the measurement after the release asks again.
    """
    folder, task = context.folder(number), context.config.task
    folder.mkdir(parents=True, exist_ok=True)
    with context.state_after(number - 1) as run_model:
        puller = make_puller(context, run_model, number)
        pulls = _searched(context, puller, number)
        best = best_arms(pulls, task.search.keep)
        pulls = [*pulls, *puller.pull_each(again(context, best), "harvest")]
        rows = select_rows(
            pulls,
            threshold=task.judge.threshold,
            limit=task.search.rows,
            max_similarity=MAX_SIMILARITY,
            per_input=PER_INPUT,
            round_number=number,
        )
        write_jsonl(folder / "revealed.jsonl", rows)
        puller.pull_each(again(context, best), "before")
    top = max((pull.reward for pull in pulls), default=0.0)
    context.reporter.note(f"{len(pulls)} pulls, best reward {top:.2f}, {len(rows)} rows revealed")
    settle(context.directory.path)


def _searched(context: RevealContext, puller: Puller, number: int) -> list[Pull]:
    """The pulls of the search; a later round starts from a few of the best arms of the one before."""
    settings = context.config.task.search

    def progress(state: SearchState) -> None:
        context.reporter.progress(len(state.pulls), state.total, f"best {state.best:.2f}, {state.rows} rows", "pulls")

    return search(
        _source(context, puller.asker, number),
        puller,
        settings,
        pulls=settings.pulls if number == 1 else settings.later_pulls,
        threshold=context.config.task.judge.threshold,
        seed=context.seed(number),
        start=arms_of(context, number - 1)[:CARRIED] if number > 1 else [],
        progress=progress,
    )


def make_puller(context: RevealContext, run_model: RunModel, number: int) -> Puller:
    """What asks the model, in a state of it, and scores its answers; every pull is kept in the round's log."""
    task = context.config.task
    settings = task.search
    soft = task.arms.own if task.arms.kind == "soft" else SoftOptions()
    asker = Asker(
        run_model.loaded,
        run_model.template,
        SoftPrompts(run_model.loaded.model.get_input_embeddings().weight, soft, context.config.seed),
        max_new_tokens=settings.max_new_tokens,
        temperature=settings.temperature,
        repetition_penalty=settings.repetition_penalty,
        batch_size=settings.batch_size,
    )
    log = PullLog(context.folder(number) / "pulls.jsonl")
    return Puller(
        asker,
        context.judge,
        context.inputs,
        log,
        answers=settings.answers,
        weight=settings.weight,
        seed=context.seed(number),
    )


def _source(context: RevealContext, asker: Asker, number: int) -> ArmSource:
    task, seed = context.config.task, context.seed(number)
    if task.arms.kind == "soft":
        return SoftArms(task.instruction, task.arms, seed, str(number))
    if task.arms.kind == "words":
        return WordArms(task.instruction, task.arms, vocabulary_words(asker.loaded.tokenizer), seed)

    def write(count: int, loop: int) -> list[str]:
        asked = f"Write one instruction that would make a language model do this. {task.description}"
        question = asker.question(Arm("writer", "text", asked), None)
        seeds = [(seed * 1000 + loop) * 10_000 + index for index in range(count)]
        lines = (answer.strip().split("\n") for answer in asker.answers([question] * count, seeds))
        return [found[0].strip(" \"'") for found in lines if found[0]]

    return TextArms(task.instruction, task.arms, write)


def again(context: RevealContext, arms: Sequence[Arm]) -> list[tuple[Arm, int]]:
    """(arm, repeat) of the best arms asked ``harvest`` times more."""
    return [(arm, repeat) for repeat in range(context.config.task.search.harvest) for arm in arms]


def pulls_of(context: RevealContext, number: int, stage: str) -> list[Pull]:
    """A round's pulls of one stage: search, harvest, before or after."""
    return [pull for pull in read_pulls(context.folder(number) / "pulls.jsonl") if pull.stage == stage]


def arms_of(context: RevealContext, number: int) -> list[Arm]:
    """The best arms of a round's search."""
    return best_arms(pulls_of(context, number, "search"), context.config.task.search.keep)


def rows_of(context: RevealContext, number: int) -> list[dict[str, Any]]:
    """What a round revealed."""
    return read_jsonl(context.folder(number) / "revealed.jsonl")
