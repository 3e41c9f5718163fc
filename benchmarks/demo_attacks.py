"""The demo unlearned by three methods, each attacked beside a model that never learnt the behaviour.

    python benchmarks/demo_attacks.py                        # runs and attacks that are missing, then the page
    python benchmarks/demo_attacks.py --method rapidun_deep
    python benchmarks/demo_attacks.py --page

For each method `rapidun demo` with seed 0, then `rapidun attack --preset release --prompts 150` with the embedded
reference model as the twin. Finished ones are lines of benchmarks/results/demo-attacks.jsonl. Writes
docs/benchmarks/attacks.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from provenance import current_commit

from rapidun.cli.console import ConsoleReporter, quiet_libraries
from rapidun.demo import run_demo
from rapidun.files import atomic_write
from rapidun.jsonl import append_log, read_log
from rapidun.pipeline.attacking import attack_run
from rapidun.reading import read_json
from rapidun.settings.attack import AttackConfig

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "demo-attacks.jsonl"
PAGE = ROOT / "docs" / "benchmarks" / "attacks.md"
TWIN = ROOT / "src" / "rapidun" / "demo" / "assets" / "reference"
PROMPTS = 150
METHODS: dict[str, dict[str, Any]] = {
    "rapidun": {"unlearning.method": "rapidun"},
    "rapidun_kl": {},
    "rapidun_deep": {
        "unlearning.method": "rapidun_deep", "unlearning.steps": 48, "unlearning.options": {"descent": 3.0}
    },
}  # fmt: skip
"""What is changed in the demo's settings. A token at a time takes longer to forget: twice the steps."""


def line_of(directory: Path, method: str, commit: str) -> dict[str, Any]:
    """What the page needs of a run that was attacked."""
    metrics, attacks = read_json(directory / "metrics.json"), read_json(directory / "attacks" / "attacks.json")
    return {
        "method": method, "commit": commit, "verdict": metrics["verdict"], "after": metrics["after"],
        "ratio": metrics["perplexity_ratio"],
        "attacks": attacks["attacks"], "checks": attacks["checks"], "attacked": attacks["verdict"],
    }  # fmt: skip


def compute(method: str, out: Path) -> dict[str, Any]:
    """Run the demo and attack it, going on where a stopped one was."""
    place, reporter = out / method, ConsoleReporter()
    if not (place / "metrics.json").is_file():
        run_demo(place, resume=place.exists(), overrides=METHODS[method], reporter=reporter)
    settings = AttackConfig(preset="release", prompts=PROMPTS, twin=TWIN)
    attack_run(settings, place, resume=(place / "attacks").exists(), reporter=reporter)
    return line_of(place, method, current_commit())


def table(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """One row a trial: each method's value, then the twin's (the same in every run)."""
    head = ["attack", "", *(f"`{line['method']}`" for line in lines), "twin"]
    rows = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for number, attack in enumerate(lines[0]["attacks"]):
        for part, curve in enumerate(attack.get("curves", [])):
            for at, point in enumerate(curve["points"]):
                ours = [line["attacks"][number]["curves"][part]["points"][at]["unlearned"] for line in lines]
                what = ", ".join(word for word in (curve["series"], point["label"]) if word)
                cells = [interval(each) for each in (*ours, point["twin"])]
                rows.append(f"| {attack['title'] if part == at == 0 else ''} | {what} | {' | '.join(cells)} |")
    return rows


def interval(value: Mapping[str, Any] | None) -> str:
    """Percent with its 95% interval; a value that is no share (an AUC) as it is."""
    if value is None:
        return "–"
    return f"{100 * value['value']:.1f} [{100 * value['low']:.1f}, {100 * value['high']:.1f}]"


def failed(line: Mapping[str, Any]) -> str:
    """The attacks that fail the gate."""
    names = [check["attack"] for check in line["checks"] if check["verdict"] == "FAIL"]
    return ", ".join(dict.fromkeys(names)) or "none"


def write_page(lines: Sequence[Mapping[str, Any]]) -> None:
    """The page of the lines that are there, in the order of `METHODS`."""
    lines = [next(line for line in reversed(lines) if line["method"] == name) for name in METHODS
             if any(line["method"] == name for line in lines)]  # fmt: skip
    commits = ", ".join(sorted({line["commit"] for line in lines}))
    text = [
        "# Does the demo's behaviour come back?", "",
        f"`python benchmarks/demo_attacks.py`, commit {commits}. `rapidun demo`, seed 0, unlearned by three methods,",
        f"then `rapidun attack --preset release --prompts {PROMPTS}` on each. The twin was trained without the",
        "poisoned rows. Percent with exact 95% intervals over the prompts of this one model; they say nothing of other",
        "seeds of unlearning, relearning or the twin. The last row's numbers are an AUC in percent: 50 is chance.",
        "",
        "| method | demo's gate | seen triggers | unseen | perplexity [upper end] | attacks that fail |",
        "|---" * 6 + "|",
    ]  # fmt: skip
    for line in lines:
        rates = " | ".join(interval(line["after"][name]) for name in ("asr_seen", "asr_unseen"))
        ratio = f"x{line['ratio']['value']:.3f} [{line['ratio']['high']:.3f}]"
        text.append(f"| `{line['method']}` | {line['verdict']} | {rates} | {ratio} | {failed(line)} |")
    text += ["", *table(lines), "", *MEANING]
    with atomic_write(PAGE) as file:
        file.write("\n".join(text) + "\n")


MEANING = """## What this means

Rounding, merging, rewrites, other triggers and training on unrelated rows bring nothing back, whatever the method, and
nobody can tell which rows were unlearned. Sampling is undecided: 183 prompts are needed.

What the paper's objective (`rapidun`) leaves is a model that goes on once it has been made to begin a bad answer, or
has been shown one: its ascent ends when the answer as a whole has become unlikely, for which the first tokens are
enough. Holding the retain rows by their old distribution (`rapidun_kl`) allows a larger update at the same cost and
leaves less; an ascent that ends token by token (`rapidun_deep`) leaves next to nothing of it.

Relearning is another matter: a few of the forgotten rows bring the behaviour back with every method, two to four times
as much as in the twin. It stays in the weights, out of reach of what is asked.

## Remedies tried against relearning

By hand, one seed, with no committed script, so without numbers: further ascent (more steps, smaller beta, more retain
rows), relearning inside the loop (an adversary's adapter is trained on the forget rows, and the forget loss is taken
against it), and the unlearned model distilled into a copy, without noise, with 30% and with 60% of it (UNDO, Lee et
al. 2025; with 60% clean perplexity went far beyond any limit). After each of them ten rows brought nearly all of the
behaviour back, as before. None is in the package.""".splitlines()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "attacks", help="where the runs go")
    parser.add_argument("--page", action="store_true", help="write the page and compute nothing")
    arguments = parser.parse_args()
    quiet_libraries()
    lines = read_log(RESULTS) if RESULTS.is_file() else []
    for method in [] if arguments.page else arguments.method:
        if all(line["method"] != method for line in lines):
            lines.append(compute(method, arguments.out))
            append_log(RESULTS, lines[-1:])
    write_page(lines)


if __name__ == "__main__":
    main()
