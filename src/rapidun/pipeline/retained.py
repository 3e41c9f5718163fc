"""A retained model: one that was trained without the forget rows, and so shows what forgotten looks like."""

from __future__ import annotations

from pathlib import Path

from rapidun.errors import ConfigError
from rapidun.models.adapter_files import CONFIG, check_adapter_directory
from rapidun.models.sources import check_directory, is_gguf, is_local
from rapidun.pipeline.inputs import RunModel, open_run_model
from rapidun.pipeline.reporter import Reporter
from rapidun.settings.run import MeasureConfig

ROWS = "rows.parquet"


def stored_rows(source: str | None) -> Path | None:
    """The table of rows that ``source`` names, or that lies in it, a directory of results; None where it is a model."""
    if source is None or not is_local(source):
        return None
    path = Path(source).expanduser()
    found = path / ROWS if path.is_dir() else path
    return found if found.suffix == ".parquet" and found.is_file() else None


def check_retained(config: MeasureConfig, *, borrowed: bool) -> None:
    """Find out before long work whether the retained model can be loaded.

    Raises:
        ModelError: Says what is missing.
        ConfigError: If it is an adapter, and the model is an object that somebody else holds.
    """
    source = config.retained
    if source is None or not is_local(source) or is_gguf(source):
        return
    if not _is_adapter(source):
        check_directory(source, allow_pickle=config.model.dangerously_allow_pickle)
    elif borrowed:
        raise ConfigError(f"{source}: a retained adapter needs its model as a path. Give both so, or a whole model.")
    else:
        check_adapter_directory(Path(source).expanduser())


def _is_adapter(source: str) -> bool:
    folder = Path(source).expanduser()
    return (folder / CONFIG).is_file() and not (folder / "config.json").is_file()


def open_retained(config: MeasureConfig, reporter: Reporter) -> RunModel:
    """The retained model, with the template and the length of the other."""
    source = str(config.retained)
    if _is_adapter(source):
        return open_run_model(config.model, config.data, reporter, adapter=Path(source).expanduser())
    return open_run_model(config.model.model_copy(update={"source": source}), config.data, reporter)
