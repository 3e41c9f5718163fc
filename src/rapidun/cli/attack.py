"""``rapidun attack RUN``: does the behaviour come back?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rapidun.cli import options as o
from rapidun.cli.made import Raw, Shows, made
from rapidun.settings.attack import AttackConfig

EXAMPLES = o.examples(
    "rapidun attack runs/demo --preset quick --twin clean_model",
    "rapidun attack runs/demo --preset release --twin none --minutes 30",
    "rapidun attack runs/demo --attack quantise --attack relearn --resume",
)
EXIT_CODES = {"PASS": 0, "FAIL": 1, "UNDECIDED": 3, None: 0}


@made
def attack(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Directory of a finished `rapidun run`, demo or unlearn.")],
    given: Annotated[Raw, Shows(AttackConfig)],
    how: Annotated[o.How, o.Asks("resume", "overwrite", "dry_run", "as_json")],
) -> int:
    """Try to bring back what a run made its model forget, and the same on a twin that never learnt it: RUN/attacks.

    Exit code 0 when the preset's gate was passed (or none was asked for), 1 when not, 3 when there was too little to
    decide, 2 for bad input.
    """
    settings = o.make_settings(given, AttackConfig)
    from rapidun.cli.tables import print_attacks
    from rapidun.pipeline.attacking import attack_run

    found = how.carry_out(attack_run, settings, run, **how.place)
    how.show(found, print_attacks)
    return EXIT_CODES[found["verdict"]]
