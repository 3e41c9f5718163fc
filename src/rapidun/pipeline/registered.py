"""A configuration seen again, now that the registers are open and nothing is loaded yet: the first step of every job.

`rapidun.settings` needs no torch, so it may have known names alone. Here options of methods, judges and students are
checked too, and a template file is read.
"""

from __future__ import annotations

from pathlib import Path

import rapidun.attacks  # these five open the registers
import rapidun.evaluation.public
import rapidun.unlearning
import rapidun.valuation
import rapidun.weighting  # noqa: F401
from rapidun.data.rendering import compiled_template
from rapidun.reading import read_text
from rapidun.settings.base import Replayable, make_config
from rapidun.settings.model import TEMPLATES, RowSettings


def check_registered(config: Replayable) -> None:
    """Refuse what the things that a configuration names cannot do.

    Raises:
        ConfigError: Names the section, and what is possible.
        InputError: If a template is none; names the line.
    """
    make_config(config.model_dump(), type(config))
    rows = getattr(config, "data", None)
    if isinstance(rows, RowSettings) and rows.template not in TEMPLATES:
        compiled_template(read_text(Path(rows.template)), rows.template)
