"""The suite `lm-eval`: tasks of the LM evaluation harness (Gao et al.) from local files, before and after.

``--data`` is a directory of the harness's YAML tasks with their data beside them. Nothing is fetched: a task that names
a dataset on the hub is refused before a model is loaded. The harness gets the model that is loaded already, asks it as
its tasks say (without a chat template), and says how each row went; intervals are computed here, from these.
"""

from __future__ import annotations

import copy
import importlib.util
import io
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from rapidun.data import Rows
from rapidun.errors import ConfigError, InputError
from rapidun.evaluation.row_table import write_table
from rapidun.files import file_sha256, sha256_of
from rapidun.models.inference import answering
from rapidun.models.quiet import quiet
from rapidun.pipeline.estimating import Piece, Trial, timed
from rapidun.pipeline.inputs import RunModel
from rapidun.pipeline.reporter import Reporter, counting
from rapidun.pipeline.suites.job import ROWS
from rapidun.pipeline.suites.registry import Suite, plain, register_suite
from rapidun.settings.run import MeasureConfig
from rapidun.stats import RATE, Interval, over_units

HINT = "pip install 'rapidun[lm-eval]'"
TRIED = 2
"""Rows of each task that are tried to say how long all of them take."""

Values = dict[str, dict[int, float]]
"""``task.metric`` to row to value."""


@register_suite("lm-eval")
class LmEval(Suite):
    """Every task of a directory; writes a line for each row and metric."""

    before = True

    def __init__(self, config: MeasureConfig, reporter: Reporter) -> None:
        super().__init__(config, reporter)
        if importlib.util.find_spec("lm_eval") is None:
            raise ConfigError(f"suite lm-eval needs the package lm-eval: {HINT}.")
        self._tasks = load_tasks(config.data.evaluation, config.seed, reporter)

    def rows(self, run_model: RunModel) -> Mapping[str, Sequence[Rows]]:
        """None: the harness reads them."""
        return {}

    def marks(self) -> dict[str, str]:
        """Of every file in the directory."""
        files = sorted(path for path in self.config.data.evaluation.rglob("*") if path.is_file())
        return {"tasks": sha256_of(f"{path.name} {file_sha256(path)}".encode() for path in files)}

    def pieces(self, run_model: RunModel) -> list[Piece]:
        """All rows of all tasks."""
        limit = self.config.evaluation.prompts
        sizes = [min(len(task.eval_docs), limit or len(task.eval_docs)) for task in self._tasks.values()]

        def attempt() -> Trial:
            tried = sum(min(TRIED, size) for size in sizes)
            return Trial(timed(lambda: self._measure(run_model, TRIED)) * sum(sizes) / tried)

        return [Piece("lm-eval", sum(sizes), "rows", attempt)]

    def score(self, run_model: RunModel, done: Mapping[str, Any]) -> dict[str, Any]:
        """Results of each task as the harness gives them."""
        return self._measure(run_model, self.config.evaluation.prompts, self.reporter)

    def write(self, scores: Mapping[str, Any], directory: Path) -> dict[str, Any]:
        """The table of rows; values of the model, of the one without the adapter, and the change."""
        rows = {
            model: [line for task, its in found.items() for line in _lines(task, its)]
            for model, found in scores.items()
        }
        lines = [{"model": model, **line} for model, its in rows.items() for line in its]
        names = ("model", "task", "metric", "row", "value", "answer")
        write_table(directory / ROWS, {name: [line[name] for line in lines] for name in names})
        by_row = {model: _by_row(its) for model, its in rows.items()}
        values = {model: _values(scores[model], by_row[model]) for model in scores}
        found: dict[str, Any] = {"values": plain(values["model"]), "compared_with": "none"}
        if "before" in values:
            change = _change(by_row["model"], by_row["before"])
            found |= {"compared_with": "before", "before": plain(values["before"]), "change": plain(change)}
        return found

    def _measure(self, run_model: RunModel, limit: int | None, reporter: Reporter | None = None) -> dict[str, Any]:
        from lm_eval.evaluator import evaluate
        from lm_eval.models.huggingface import HFLM

        loaded, found = run_model.loaded, {}
        with answering(loaded.model), silent():
            lm = HFLM(
                pretrained=loaded.model,
                tokenizer=copy.deepcopy(loaded.tokenizer),  # the harness may give it a padding token
                batch_size=self.config.evaluation.batch_size,
                max_length=loaded.context_length,
            )
        for done, (name, task) in enumerate(self._tasks.items(), 1):
            with answering(loaded.model), silent(), blamed(name):
                task.set_fewshot_seed(self.config.seed)  # its draws go on from pass to pass
                found[name] = evaluate(lm, {"tasks": {name: task}, "groups": {}}, limit=limit, bootstrap_iters=0)
            if reporter is not None:
                counting(reporter, "tasks")(done, len(self._tasks))
        return found


def _lines(task: str, found: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A line for each row and metric whose value is one number."""
    for sample in found["samples"][task]:
        for metric in sample["metrics"]:
            if isinstance(sample[metric], int | float):
                yield {
                    "task": task,
                    "metric": _named(task, metric, sample["filter"]),
                    "row": int(sample["doc_id"]),
                    "value": float(sample[metric]),
                    "answer": str(sample["filtered_resps"]),
                }


def _named(task: str, metric: str, filtered: str) -> str:
    return f"{task}.{metric}" + ("" if filtered == "none" else f".{filtered}")


def _by_row(lines: Sequence[Mapping[str, Any]]) -> Values:
    found: Values = {}
    for line in lines:
        found.setdefault(line["metric"], {})[line["row"]] = line["value"]
    return found


def _values(found: Mapping[str, Any], by_row: Values) -> dict[str, Interval]:
    """The harness's values; with a t interval where they are means over rows, whose standard error is the harness's."""
    values: dict[str, Interval] = {}
    for task, its in found.items():
        count = int(its["n-samples"][task]["effective"])
        for key, value in its["results"][task].items():
            metric, comma, filtered = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            name = _named(task, metric, filtered)
            rows = list(by_row.get(name, {}).values())
            within = RATE if all(0 <= row <= 1 for row in rows) else (float("-inf"), float("inf"))
            mean = over_units(rows, "rows", within=within)
            is_mean = mean is not None and abs(mean.value - value) <= 1e-9 * max(1.0, abs(value))
            values[name] = mean if is_mean and mean else Interval(float(value), None, None, count, "rows")
    return values


def _change(after: Values, before: Values) -> dict[str, Interval]:
    """Means of what each row gained, with a paired t interval."""
    found = {
        name: over_units([value - before[name][row] for row, value in rows.items() if row in before[name]], "rows")
        for name, rows in after.items()
        if name in before
    }
    return {name: value for name, value in found.items() if value is not None}


FORMATS = ("json", "csv", "parquet", "text", "arrow")
"""What `datasets` reads from local files."""


def load_tasks(directory: Path, seed: int, reporter: Reporter) -> dict[str, Any]:
    """Every task of a directory with its data, and its first row rendered.

    Raises:
        InputError: If there is no task, or one is not local or cannot be read; names it.
    """
    if not directory.is_dir():
        raise InputError(f"{directory}: suite lm-eval reads a directory of YAML tasks: give it by --data.")
    from lm_eval.tasks import TaskManager

    with silent():
        manager = TaskManager(include_path=str(directory.resolve()), include_defaults=False)
    entries = {name: manager.task_index[name] for name in manager.all_subtasks}
    if not entries:
        raise InputError(f"{directory}: no *.yaml in it is a task of lm-eval: a mapping with the key task.")
    others = {path.resolve() for path in directory.rglob("*.yaml")} - {_place(entry) for entry in entries.values()}
    if others:
        reporter.note(f"lm-eval: no task of their own: {', '.join(sorted(path.name for path in others))}")
    found = {name: _task(manager, name, entry, seed) for name, entry in entries.items()}
    reporter.note(f"lm-eval: {', '.join(f'{name} ({len(task.eval_docs)} rows)' for name, task in found.items())}")
    return found


def _place(entry: Any) -> Path:
    return Path(entry.yaml_path).resolve()


def _task(manager: Any, name: str, entry: Any, seed: int) -> Any:
    settings, folder = dict(entry.cfg or {}), _place(entry).parent
    source, options = settings.get("dataset_path"), settings.get("dataset_kwargs") or {}
    if "class" in settings or (source not in FORMATS and not (folder / str(source)).is_dir()):
        said = "class" if "class" in settings else f"dataset_path {source!r}"
        raise InputError(
            f"{entry.yaml_path}: {said} is no local data. Say dataset_path: json (or {', '.join(FORMATS[1:])}) and "
            "dataset_kwargs: {data_files: {test: FILE}}."
        )
    for file in (*_files_of(options.get("data_files")), *_files_of(options.get("data_dir"))):
        if not (folder / file).exists():
            raise InputError(f"{folder / file}: no such file, which {entry.yaml_path} reads.")
    with silent(), blamed(str(entry.yaml_path)), _inside(folder):
        task = manager.load([name])["tasks"][name]
        if task.config.num_fewshot is None:
            task.set_config("num_fewshot", 0)
        task.set_fewshot_seed(seed)
        task.build_all_requests(limit=1)
    return task


def _files_of(given: Any) -> list[str]:
    """The files of a text, a list or a mapping of splits."""
    if isinstance(given, Mapping | list):
        return [file for each in (given.values() if isinstance(given, Mapping) else given) for file in _files_of(each)]
    return [] if given is None else [str(given)]


@contextmanager
def _inside(folder: Path) -> Iterator[None]:
    """With ``folder`` as the working directory: the harness reads a task's data as soon as it has read the task."""
    own = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(own)


@contextmanager
def silent() -> Iterator[None]:
    """Without the bars, messages and log lines of the harness and of `datasets`."""
    import datasets

    log, level, disabled = (
        logging.getLogger("lm_eval"),
        logging.getLogger("lm_eval").level,
        datasets.are_progress_bars_disabled(),
    )
    with ExitStack() as stack:
        stack.enter_context(quiet())
        stack.enter_context(redirect_stdout(io.StringIO()))
        stack.enter_context(redirect_stderr(io.StringIO()))
        log.setLevel(logging.CRITICAL)
        datasets.disable_progress_bars()
        try:
            yield
        finally:
            log.setLevel(level)
            if not disabled:
                datasets.enable_progress_bars()


@contextmanager
def blamed(task: str) -> Iterator[None]:
    """What the harness raises of a task's own file is said of that file: templates in it can fail in any way."""
    try:
        yield
    except (MemoryError, RuntimeError):  # of the machine, torch's too
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:300]
        raise InputError(f"{task}: lm-eval cannot run this task: {type(error).__name__}: {said}") from error
