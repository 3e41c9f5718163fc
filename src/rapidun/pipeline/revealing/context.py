"""What every step of a reveal run works with, opened and checked before the first one begins."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import yaml

from rapidun.data import Rows
from rapidun.data.conversation import user_text
from rapidun.evaluation import TaskJudge, make_judge
from rapidun.files import sha256_of
from rapidun.lifecycle import RunDirectory
from rapidun.models import LoadedModel, adapter_merged, load_adapter
from rapidun.pipeline.estimating import Piece, over_steps, repeated
from rapidun.pipeline.inputs import RunModel, open_run_model, read_rows, rows_fingerprint, usable
from rapidun.pipeline.job import Job
from rapidun.pipeline.pieces import answering
from rapidun.pipeline.reporter import Reporter
from rapidun.pipeline.revealing.rounds import round_directory, state_adapter
from rapidun.revealing import Input, train_round
from rapidun.settings.plugins import plugin_marks
from rapidun.settings.reveal import INPUT, MODULES, RevealConfig


@dataclass(frozen=True)
class RevealContext:
    """A run's configuration, model, rows and judges; ``utility`` are the rows by which utility is measured."""

    config: RevealConfig
    run_model: RunModel
    retain: Rows
    utility: Rows
    inputs: list[Input]
    judge: TaskJudge
    utility_judge: TaskJudge | None
    directory: RunDirectory
    reporter: Reporter

    def folder(self, number: int) -> Path:
        """Where round ``number`` keeps its files."""
        return round_directory(self.directory.path, number)

    def seed(self, number: int) -> int:
        """Of what is random in round ``number``."""
        return 1000 * self.config.seed + number

    @contextmanager
    def state_after(self, number: int) -> Iterator[RunModel]:
        """The model with the adapter of the state after round ``number`` merged; it is as it was afterwards.

        Merged, because nearly all that is done with it is asking, at half the price with the adapter in the weights.
        """
        adapter = state_adapter(self.directory.path, number)
        if adapter is None:
            yield self.run_model
            return
        model = load_adapter(self.run_model.loaded.model, adapter)
        try:
            with adapter_merged(model):
                yield self.run_model.with_model(model)
        finally:
            model.unload()


def open_reveal(
    config: RevealConfig,
    out: Path,
    resume: bool,
    overwrite: bool,
    reporter: Reporter,
    loaded: LoadedModel | None = None,
) -> RevealContext:
    """Read and check everything, then claim the directory. Raises as `rapidun.pipeline.reveal`."""
    task = config.task
    job = Job(config, out, reporter, resume, overwrite)
    job.begin("Reading task, rows and model")
    retain = read_rows(task.retain, "retain", config.data, reporter)
    inputs = read_rows(task.inputs, "inputs", config.data, reporter) if task.inputs else None
    kept = read_rows(task.utility.rows, "utility", config.data, reporter) if task.utility.rows else retain
    judge = make_judge(task.judge.kind, task.judge.options)
    wanted = task.utility.judge
    utility_judge = make_judge(wanted.kind, wanted.options) if wanted else None
    run_model = open_run_model(config.model, config.data, reporter, loaded=loaded)
    given = {"retain": retain, "utility": kept, **({"inputs": inputs} if inputs else {})}
    groups = {name: usable(rows, run_model, config.data, reporter, name=name) for name, rows in given.items()}
    marks = _identity(config, run_model, groups)
    origins = {"model": config.model.source, **{f"rows {name}": rows.path for name, rows in groups.items()}}
    directory = job.claim(
        marks,
        partial(_pieces, config, run_model, groups["retain"], groups.get("inputs")),
        origins=origins,
        skipped={name: rows.skipped for name, rows in groups.items()},
    )
    asked = [Input(user_text(row), row.get("response") or None) for row in groups.get("inputs", ())]
    return RevealContext(
        config, run_model, groups["retain"], groups["utility"], asked, judge, utility_judge, directory, reporter
    )


def _identity(config: RevealConfig, run_model: RunModel, groups: Mapping[str, Rows]) -> dict[str, str]:
    # what the report prints is no part of what a run is: one that turns out offensive can still be masked
    settings = config.model_dump(mode="json", exclude={"task": {"mask"}})
    return {
        "configuration": sha256_of([yaml.safe_dump(settings, sort_keys=False, allow_unicode=True).encode()]),
        "model": run_model.loaded.fingerprint,
        "template": run_model.template.fingerprint,
        **plugin_marks(config.plugins),
        **{f"rows {name}": rows_fingerprint(rows) for name, rows in groups.items()},
    }


def _pieces(
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
    settings, examples = config.task.release, run_model.tokenize(retain)

    def train(steps: int, place: Path, progress: Callable[[int, int], None]) -> None:
        few = settings.model_copy(update={"modules": {**settings.modules, "steps": steps}})
        train_round(run_model.loaded, None, examples, examples, few, place, seed=config.seed, progress=progress)

    whole = 2 * settings.of_modules.steps
    return Piece("releasing", whole, "steps", partial(over_steps, whole, whole, train))
