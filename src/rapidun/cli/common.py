"""From parsed options to the settings the pipeline takes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rapidun.cli.options import column_map, quantization

if TYPE_CHECKING:
    from pydantic import BaseModel

Config = TypeVar("Config", bound="BaseModel")


def make_raw(
    *,
    model: str,
    device: str,
    dtype: str,
    in_4bit: bool,
    in_8bit: bool,
    remote_code: bool,
    pickle: bool,
    rows: dict[str, Path | None],
    columns: list[str],
    template: str,
    template_options: list[str],
    max_length: int | None,
    on_bad_row: str,
    seed: int,
) -> dict[str, Any]:
    """The plain configuration mapping that the shared options amount to."""
    from rapidun.cli.console import parse_template_options

    return {
        "model": {
            "source": model,
            "device": device,
            "dtype": dtype,
            "quantize": quantization(in_4bit, in_8bit),
            "dangerously_trust_remote_code": remote_code,
            "dangerously_allow_pickle": pickle,
        },
        "data": {
            **{name: str(path) for name, path in rows.items() if path is not None},
            "columns": column_map(columns),
            "template": template,
            "template_options": parse_template_options(template_options),
            **({} if max_length is None else {"max_length": max_length}),
            "on_bad_row": on_bad_row,
        },
        "seed": seed,
    }


def make_settings(raw: dict[str, Any], kind: type[Config], overrides: list[str]) -> Config:
    """Validate as a configuration of ``kind``, with ``--set`` on top.

    Raises:
        ConfigError: For an unknown key or a wrong value.
    """
    from rapidun.settings import make_config

    return make_config(with_overrides(raw, overrides), kind, "command line")


def with_overrides(raw: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """The mapping with every ``--set section.key=value`` put in."""
    from rapidun.cli.console import parse_overrides
    from rapidun.settings import set_dotted

    for dotted, value in parse_overrides(overrides).items():
        set_dotted(raw, dotted, value)
    return raw
