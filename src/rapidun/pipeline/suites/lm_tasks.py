"""Tasks of the LM evaluation harness from a directory: local ones alone, read and tried before a model is loaded."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from rapidun.errors import InputError
from rapidun.models.quiet import quiet
from rapidun.pipeline.reporter import Reporter

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
    """One task, ready to be asked."""
    settings, folder = dict(entry.cfg or {}), _place(entry).parent
    source, options = settings.get("dataset_path"), settings.get("dataset_kwargs") or {}
    if "class" in settings or (source not in FORMATS and not (folder / str(source)).is_dir()):
        said = "class" if "class" in settings else f"dataset_path {source!r}"
        raise InputError(
            f"{entry.yaml_path}: {said} is no local data. Say dataset_path: json (or {', '.join(FORMATS[1:])}) and "
            "dataset_kwargs: {data_files: {test: FILE}}."
        )
    for file in (*_named(options.get("data_files")), *_named(options.get("data_dir"))):
        if not (folder / file).exists():
            raise InputError(f"{folder / file}: no such file, which {entry.yaml_path} reads.")
    with silent(), blamed(str(entry.yaml_path)), _inside(folder):
        task = manager.load([name])["tasks"][name]
        if task.config.num_fewshot is None:
            task.set_config("num_fewshot", 0)
        task.set_fewshot_seed(seed)
        task.build_all_requests(limit=1)
    return task


def _named(given: Any) -> list[str]:
    """The files of a text, a list or a mapping of splits."""
    if isinstance(given, Mapping | list):
        return [file for each in (given.values() if isinstance(given, Mapping) else given) for file in _named(each)]
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
