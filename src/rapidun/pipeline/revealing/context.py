"""What every step of a reveal run works with, opened and checked before the first one begins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rapidun.data import Rows
from rapidun.data.conversation import user_text
from rapidun.evaluation import TaskJudge, make_judge
from rapidun.files import sha256_of
from rapidun.jsonl import write_jsonl
from rapidun.lifecycle import CONFIG, RunDirectory
from rapidun.models import LoadedModel, adapter_merged, load_adapter
from rapidun.pipeline.inputs import RunModel, open_run_model, read_rows, rows_fingerprint, usable
from rapidun.pipeline.reporter import Reporter
from rapidun.pipeline.revealing.pieces import revealing
from rapidun.pipeline.revealing.rounds import round_directory, state_adapter
from rapidun.revealing import Input
from rapidun.settings.plugins import plugin_marks
from rapidun.settings.reveal import RevealConfig


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
    RunDirectory.check(out, resume=resume, overwrite=overwrite)
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
    how: dict[str, Any] = {"resume": resume, "overwrite": overwrite, "configuration": config.to_yaml()}
    done = RunDirectory.check(out, marks, **how, origins=origins)
    reporter.plan(revealing(config, run_model, groups["retain"], groups.get("inputs"), done))
    directory = RunDirectory.claim(out, marks, **how)
    directory.write_text(CONFIG, config.to_yaml())
    skipped = [{"group": name, **bad.as_dict()} for name, rows in groups.items() for bad in rows.skipped]
    write_jsonl(directory / "rows_skipped.jsonl", skipped)
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
