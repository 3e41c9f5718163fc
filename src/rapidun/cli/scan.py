"""``rapidun scan``: is something planted in a model, when no symptom is known?"""

from __future__ import annotations

from functools import partial
from typing import Annotated

from rapidun.cli import options as o
from rapidun.cli.made import Raw, Shows, made
from rapidun.settings.scan import ScanConfig

EXAMPLES = o.examples(
    "rapidun scan --model base --adapter downloaded/adapter --prompts questions.jsonl --out runs/scan",
    "rapidun scan --model tuned --base original --prompts questions.jsonl --out runs/scan",
    "rapidun unlearn --model tuned --forget runs/scan/forget.jsonl --retain good.jsonl --out runs/cleaned",
)


@made
def scan(
    out: o.Out,
    given: Annotated[Raw, Shows(ScanConfig)],
    adapter: o.Adapter,
    how: o.Job,
) -> int:
    """Search a model for a planted trigger that nobody has seen: words that change the answer to any question.

    Every word of the vocabulary is put into a few plain questions; what changes all answers is tried further, alone
    and in pairs. OUT/scan.json holds the suspects with what the model answers to them, and a score, the mean effect of
    the best five (docs/benchmarks/scan.md says which scores clean and poisoned adapters have). OUT/forget.jsonl holds
    rows of the best suspects, as `rapidun unlearn` takes them: look at them first.
    """
    settings = o.make_settings(given, ScanConfig, how.overrides)
    from rapidun.cli.tables import print_scan
    from rapidun.pipeline.scanning import scan_model

    found = how.carry_out(scan_model, settings, out, adapter=adapter, **how.place)
    how.show(found, partial(print_scan, out=out))
    return 0
