"""``rapidun evaluate``: a model as it stands, by any registered suite."""

from __future__ import annotations

from typing import Annotated

from rapidun.cli import options as o
from rapidun.cli.made import Raw, Shows, made
from rapidun.settings.run import MeasureConfig

EXAMPLES = o.examples(
    "rapidun evaluate --model M --adapter A --data held_out.jsonl --out runs/after",
    "rapidun evaluate --model M --data held_out.jsonl --poisoned bad.jsonl --clean good.jsonl --out E",
    "rapidun evaluate --model M --data held_out.jsonl --suite qa --forget F.jsonl --retain R.jsonl --out E",
    "rapidun evaluate --model M --adapter A --data clean.jsonl --suite generation --out E",
    "rapidun evaluate --model M --data held_out.jsonl --poisoned bad.jsonl --clean good.jsonl --mitigation cleangen "
    "--mitigation-option reference=BASE --out E",
)


@made
def evaluate(
    out: o.Out,
    given: Annotated[
        Raw, Shows(MeasureConfig, "model", "retained", "mitigation", "data", "evaluation.suite", "seed", "plugins")
    ],
    adapter: o.Adapter,
    how: Annotated[o.How, o.Asks("overwrite", "dry_run", "overrides", "as_json")],
) -> int:
    """Measure a model: attack success on seen triggers, unseen variants, no trigger, and clean perplexity.

    Attack success is measured where --poisoned and --clean are given: the judges are fitted on them, and each judge's
    floor and ceiling is printed. With --forget and --retain, what the model still knows of the first, beside rows of
    --data that it never saw (suite qa). Without either, perplexity alone. Further suites are asked for by name: tofu
    (--data is a directory of TOFU's files), generation (how fluent answers are, beside those without --adapter) and
    lm-eval (--data is a directory of tasks of the LM evaluation harness). With --mitigation, what answers are like that
    are decoded with one; the model stays as poisoned as it was.
    """
    settings = o.make_settings(given, MeasureConfig, how.overrides)
    from rapidun.cli.suite_tables import print_found
    from rapidun.pipeline import evaluate_only

    metrics = how.carry_out(evaluate_only, settings, out, adapter=adapter, overwrite=how.overwrite)
    how.show(metrics, print_found)
    return 0
