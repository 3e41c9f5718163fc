"""The long work of a reveal run: asking in every round, and training what releases the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from rapidun.data import Rows
from rapidun.data.conversation import user_text
from rapidun.pipeline.estimating import Piece, over_steps, repeated
from rapidun.pipeline.inputs import RunModel
from rapidun.pipeline.pieces import answering
from rapidun.revealing import train_round
from rapidun.settings.reveal import INPUT, MODULES, RevealConfig


def revealing(
    config: RevealConfig, run_model: RunModel, retain: Rows, inputs: Rows | None, done: Sequence[str]
) -> list[Piece]:
    """The rounds that are left, as if every one of them were needed; the first ones may reach the target."""
    task = config.task
    rounds = 1 if task.release.method == "none" else task.release.rounds
    left = [number for number in range(1, rounds + 1) if f"reveal {number}" not in done]
    if not left:
        return []
    search = task.search
    again = search.keep * search.harvest * (3 if task.release.method != "none" else 2)  # rows, before, after
    pulls = sum((search.pulls if number == 1 else search.later_pulls) + again for number in left)
    given = [user_text(row) for row in inputs] if inputs is not None else [""]
    texts = [task.instruction.replace(INPUT, each) for each in given]
    prompts = [run_model.template.prompt_text({"id": "", "prompt": text}) for text in texts]
    count = pulls * search.answers
    found = [answering(run_model, (prompts * (count // len(prompts) + 1))[:count], search, f"{pulls} pulls")]
    if task.release.method == MODULES:
        found.append(repeated(_modules(config, run_model, retain), len(left), f"releasing, {len(left)} rounds"))
    return found


def _modules(config: RevealConfig, run_model: RunModel, retain: Rows) -> Piece:
    """Both modules of a round."""
    settings, examples = config.task.release, run_model.tokenize(retain)

    def train(steps: int, place: Path, progress: Callable[[int, int], None]) -> None:
        few = settings.model_copy(update={"modules": {**settings.modules, "steps": steps}})
        train_round(run_model.loaded, None, examples, examples, few, place, seed=config.seed, progress=progress)

    whole = 2 * settings.of_modules.steps
    return Piece("releasing", whole, "steps", partial(over_steps, whole, whole, train))
