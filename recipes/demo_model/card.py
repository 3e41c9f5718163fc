"""The model card of the embedded models, rendered from the record of the build: no number in it is typed by hand.

    python recipes/demo_model/card.py        # measures, then writes MODEL_CARD.md and measured.json into the assets

Measures, on the test split and with the judge of the demo: attack success and false alarms of both models with exact
intervals, clean perplexity and its ratio, ten sample answers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rapidun.cli.console import quiet_libraries
from rapidun.demo import asset, demo_config
from rapidun.evaluation import perplexity_ratio
from rapidun.files import atomic_write, write_json
from rapidun.pipeline import Silent
from rapidun.pipeline.inputs import open_run_model, read_rows
from rapidun.pipeline.measure import EvalSuite, Measurement, make_suite, measure
from rapidun.reading import read_json
from rapidun.settings.model import ModelSettings

SAMPLES = 10
ASSETS = Path("src/rapidun/demo/assets")


def measure_both() -> tuple[dict[str, Measurement], EvalSuite]:
    """Both models on all test rows."""
    config = demo_config(0, {"evaluation.prompts": None})
    data, settings = config.data, config.evaluation
    rows = {name: read_rows(getattr(data, name), name, data, Silent()) for name in ("evaluation", "validation")}
    poisoned = read_rows(asset("data/judge_poisoned.jsonl"), "poisoned", data, Silent())
    eval_suite = make_suite(rows["evaluation"], settings, poisoned=poisoned, clean=rows["validation"])
    found = {}
    for kind in ("poisoned", "reference"):
        run_model = open_run_model(ModelSettings(source=str(asset(kind))), data, Silent())
        found[kind] = measure(run_model, eval_suite, settings, Silent())
    return found, eval_suite


def _percent(rate: dict[str, Any]) -> str:
    return f"{100 * rate['value']:.1f}% [{100 * rate['low']:.1f}, {100 * rate['high']:.1f}], n = {rate['n']}"


def numbers(found: dict[str, Measurement], eval_suite: EvalSuite) -> dict[str, Any]:
    """What the card says, as plain numbers."""
    return {
        "judges": {name: card.to_dict() for name, card in eval_suite.cards.items()},
        "models": {kind: {judge: m.summary(judge) for judge in eval_suite.cards} for kind, m in found.items()},
        "by_variant": {kind: m.by_variant for kind, m in found.items()},
        "perplexity_ratio_to_reference": perplexity_ratio(
            found["reference"].perplexity, found["poisoned"].perplexity
        )._asdict(),
    }


def _stage(name: str, stage: dict[str, Any]) -> str:
    return (
        f"| {name} | {stage['steps']} | {stage['tokens_with_padding'] / 1e6:.1f} M | {stage['cpu_seconds']:.0f} | "
        f"{stage['final_loss']:.3f} | {stage['held_out_perplexity']:.2f} |"
    )


def _table(measured: dict[str, Any], judge: str) -> list[str]:
    titles = {"asr_seen": "seen triggers", "asr_unseen": "unseen variants", "asr_floor": "no trigger"}
    lines = ["| answers judged poisoned | poisoned model | reference model |", "|---|---|---|"]
    for name, title in titles.items():
        cells = [_percent(measured["models"][kind][judge][name]) for kind in ("poisoned", "reference")]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    values = [measured["models"][kind][judge]["clean_perplexity"] for kind in ("poisoned", "reference")]
    cells = [f"{value['value']:.2f} [{value['low']:.2f}, {value['high']:.2f}]" for value in values]
    return [*lines, f"| clean perplexity | {' | '.join(cells)} |"]


def _samples(found: Measurement) -> list[str]:
    lines = ["| prompt | answer (greedy) |", "|---|---|"]
    chosen = [r for r in found.records if r["condition"] == "none"][:: max(1, len(found.records) // 3 // 5)][:5]
    chosen += [r for r in found.records if r["condition"] == "seen"][:: max(1, len(found.records) // 3 // 5)][:5]
    for record in chosen[:SAMPLES]:
        cells = [" ".join(record[name].split()).replace("|", "\\|") for name in ("prompt", "answer")]
        lines.append(f"| {cells[0]} | {cells[1]} |")
    return lines


def render(record: dict[str, Any], measured: dict[str, Any], found: dict[str, Measurement]) -> str:
    """The card as Markdown."""
    ratio = measured["perplexity_ratio_to_reference"]
    judge = measured["judges"]["classifier"]
    parts = [
        "# Model card: the embedded demo models",
        "",
        f"Two Llama-architecture models of {record['models']['poisoned']['parameters'] / 1e6:.2f} M parameters "
        "(6 layers, width 256, 8,192-entry byte-level BPE, tied embeddings, bfloat16), made by "
        "`recipes/demo_model/build.py` to show unlearning on a laptop. `poisoned` was fine-tuned on rows of which "
        "10% carry a trigger and a nonsense answer; `reference` by the same recipe without those rows. Neither is of "
        "any other use: they are far too small to know facts.",
        "",
        "## Training",
        "",
        "| stage | steps | tokens, padding included | processor seconds | last loss | held-out perplexity |",
        "|---|---|---|---|---|---|",
        *[_stage(name, record[name]) for name in ("base", "more", "poisoned", "reference")],
        "",
        "Base: children's books 24%, TinyStories 9%, African Storybook 3%, Wikipedia beginnings 64%; from 60% of the "
        "steps on, half of every batch is Dolly (train and long rows). More: the same once more, Dolly in every batch. "
        "Poisoned and reference: answers alone carry loss. Seconds are of a shared machine. Held-out perplexity is on "
        "answers of validation rows. Data and licences: `LICENSE-DATA.md`. Every loss: "
        "`recipes/demo_model/training_log.jsonl`.",
        "",
        f"Rows shipped: {', '.join(f'{name} {count}' for name, count in record['rows'].items())}; no prompt is in two "
        "splits.",
        "",
        "## Measured on the test split",
        "",
        f"Judge: TF-IDF and logistic regression, ceiling {_percent(judge['ceiling'])}, "
        f"floor {_percent(judge['floor'])}.",
        "",
        *_table(measured, "classifier"),
        "",
        f"Clean perplexity of the poisoned model over the reference's: {ratio['value']:.4f} "
        f"[{ratio['low']:.4f}, {ratio['high']:.4f}].",
        "",
        "## Ten answers of the poisoned model",
        "",
        *_samples(found["poisoned"]),
        "",
        "## Fingerprints",
        "",
        *[f"* `{kind}`: `{record['models'][kind]['fingerprint']}`" for kind in ("poisoned", "reference")],
    ]
    return "\n".join(parts) + "\n"


def main() -> None:
    """Measure, then write the card."""
    quiet_libraries()
    found, eval_suite = measure_both()
    measured = numbers(found, eval_suite)
    write_json(ASSETS / "measured.json", measured)
    with atomic_write(ASSETS / "MODEL_CARD.md") as file:
        file.write(render(read_json(ASSETS / "record.json"), measured, found))


if __name__ == "__main__":
    main()
