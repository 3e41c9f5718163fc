"""Which options each suite of `rapidun evaluate` reads, so that one that would be left unread is refused at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

EXAMPLES = ("--poisoned", "--clean")
MITIGATION = "--mitigation"
"""Of the suites that judge or compare answers."""


@dataclass(frozen=True)
class Reads:
    """Options beside --data.

    Args:
        needs: What a suite cannot do without.
        takes: What it reads where it is given.
        why: What the needed ones are for, for the error.
    """

    needs: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()
    why: str = ""


READS: dict[str, Reads] = {
    "auto": Reads(takes=(*EXAMPLES, MITIGATION)),
    "backdoor": Reads(needs=EXAMPLES, takes=(MITIGATION,), why="rows to fit its judges on"),
    "perplexity": Reads(takes=EXAMPLES),
    "qa": Reads(
        needs=("--forget", "--retain"),
        takes=("--retained-model", MITIGATION),
        why="rows, beside the held-out rows of --data that nothing was trained on",
    ),
    "tofu": Reads(takes=("--forget", "--retained-model", MITIGATION)),
    "generation": Reads(takes=("--retained-model", MITIGATION)),
    "lm-eval": Reads(),
}
"""Of the suites that come with rapidun; `register_suite` adds those of a plugin."""


def check_reads(suite: str, given: Mapping[str, Any]) -> None:
    """Refuse what a suite lacks, and what it would not read.

    Args:
        suite: Its name.
        given: Options to their values; None where one is not given.

    Raises:
        ValueError: Names the option, and the suites that read it.
    """
    reads = READS[suite]
    if missing := [name for name in reads.needs if given[name] is None]:
        raise ValueError(f"suite {suite} needs {' and '.join(missing)} {reads.why}")
    for name, value in given.items():
        if value is not None and name not in (*reads.needs, *reads.takes):
            readers = [each for each, its in READS.items() if name in its.needs + its.takes and each != "auto"]
            raise ValueError(f"suite {suite} does not read {name} (read by: {', '.join(readers)}); choose by --suite")
