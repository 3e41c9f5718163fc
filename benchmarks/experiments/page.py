"""From the cells to a page of tables and a file of numbers. A missing cell is shown as missing, never filled."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from experiments.cells import Cell, CellStore
from experiments.comparing import Block, Paired, Wins, mean_ranks, paired, pareto, wins
from experiments.plan import BEFORE, CONTROLS, OURS, REFERENCES, SETTLED
from experiments.scenarios import get_scenario
from rapidun.files import atomic_write, write_json
from rapidun.pipeline.tuning import score_of
from rapidun.settings.evaluation import Thresholds
from rapidun.stats import RATE, Interval, over_units

MISSING = "missing"
METRICS = {
    "asr_seen": ("seen ASR", 3),
    "asr_unseen": ("unseen ASR", 3),
    "asr_floor": ("floor", 3),
    "clean_perplexity": ("clean perplexity", 2),
    "perplexity_ratio": ("its ratio", 3),
    "forget_clean_perplexity": ("clean answers to forget prompts, perplexity", 1),
    "auc": ("AUC of labels", 2),
    "seconds": ("seconds", 1),
    "peak_memory_mib": ("peak MiB", 0),
}
BOUNDS = dict.fromkeys(("asr_seen", "asr_unseen", "asr_floor", "auc"), RATE)
COMPARED = ("asr_seen", "asr_unseen", "perplexity_ratio")
ALL, CONTAMINATED = "all", "contaminated"


@dataclass(frozen=True)
class Results:
    """The planned cells of one world with what the store has of them.

    Args:
        cells: Planned.
        store: Finished cells.
    """

    cells: Sequence[Cell]
    store: CellStore

    @cached_property
    def scenarios(self) -> list[str]:
        """In the order of the plan."""
        return list(dict.fromkeys(cell.scenario for cell in self.cells))

    @cached_property
    def missing(self) -> int:
        """How many planned cells are not there."""
        return sum(cell not in self.store for cell in self.cells)

    def arms(self, scenario: str | None = None) -> list[str]:
        """Planned arms of a scenario, or of any."""
        return list(dict.fromkeys(cell.arm for cell in self.cells if scenario in (None, cell.scenario)))

    def seeds(self, arm: str, scenario: str) -> list[int]:
        """Planned seeds."""
        return [cell.seed for cell in self.cells if (cell.arm, cell.scenario) == (arm, scenario)]

    @cached_property
    def scopes(self) -> dict[str, tuple[str, ...]]:
        """What tests are made over: each scenario, those with mislabelled rows together, all."""
        labels = tuple(name for name in self.scenarios if name.startswith(CONTAMINATED))
        together = {f"{CONTAMINATED}, together": labels} if len(labels) > 1 else {}
        return {**{name: (name,) for name in self.scenarios}, **together, ALL: tuple(self.scenarios)}

    def values(self, arm: str, metric: str, *scenarios: str) -> dict[Block, float]:
        """{(scenario, seed): value} of the finished cells, of these scenarios or, without names, of all.

        A failed cell has no value, but an infinite score.
        """
        found = {}
        for cell in self.cells:
            line = self.store.get(cell) if cell.arm == arm and cell.scenario in (scenarios or self.scenarios) else None
            value = value_of(line["result"], metric) if line is not None else None
            if value is not None:
                found[cell.scenario, cell.seed] = value
        return found

    def failed(self, arm: str, scenario: str) -> list[str]:
        """Why finished cells have no numbers."""
        lines = [self.store.get(cell) for cell in self.cells if (cell.arm, cell.scenario) == (arm, scenario)]
        return [line["result"]["failed"] for line in lines if line is not None and "failed" in line["result"]]

    def untuned(self) -> list[str]:
        """Arms with settings that no tuning chose."""
        return sorted({c.arm for c in self.cells if c.arm not in REFERENCES and not c.config.get("tuned")})


def value_of(result: Mapping[str, Any], metric: str) -> float | None:
    """A cell's number; ``score`` is that of `rapidun tune`: seen ASR, with a penalty for lost perplexity."""
    if metric == "score":
        if "failed" in result:
            return math.inf
        asr, ratio = value_of(result, "asr_seen"), value_of(result, "perplexity_ratio")
        return None if asr is None or ratio is None else score_of(asr, ratio, Thresholds().max_perplexity_ratio)
    found = result.get(metric)
    value = found.get("value") if isinstance(found, Mapping) else found
    return None if value is None else float(value)


def mean_of(results: Results, arm: str, metric: str, scenario: str) -> Interval | None:
    """A metric over an arm's draws of a scenario; None where there is none.

    The poisoned model is one model: the same number measured on it again is one number, not several.
    """
    values = list(results.values(arm, metric, scenario).values())
    if arm == BEFORE and len(set(values)) == 1:
        return Interval(values[0], None, None, 1, "models")
    return over_units(values, "draws", BOUNDS.get(metric, (0.0, math.inf)))


def write_page(
    results: Results,
    directory: Path,
    *,
    name: str = "unlearning",
    title: str,
    about: Iterable[str] = (),
    ours: str = SETTLED,
) -> list[Path]:
    """Write ``NAME.md`` and ``NAME.json``; returns both.

    Args:
        results: The cells.
        directory: Where to.
        name: Of the files.
        title: Headline.
        about: Paragraphs under it.
        ours: The arm that is tested against the controls.
    """
    pages = [f"# {title}", "", *(line for text in about for line in (text, "")), *_state(results), ""]
    pages += ["## Seen attack success", "", *overview(results, "asr_seen"), ""]
    pages += ["## Ranks", "", *_ranks(results), ""]
    pages += ["## Won, tied, lost", "", *_score_tests(results, ours), ""]
    pages += ["## Paired tests", "", *_tests(results, ours), ""]
    for scenario in results.scenarios:
        pages += [
            f"## Scenario {scenario}",
            "",
            f"{get_scenario(scenario).about}.",
            "",
            *details(results, scenario),
            "",
        ]
    paths = [directory / f"{name}.md", directory / f"{name}.json"]
    with atomic_write(paths[0]) as file:
        file.write("\n".join(pages).rstrip() + "\n")
    write_json(paths[1], numbers(results, ours))
    return paths


def numbers(results: Results, ours: str) -> dict[str, Any]:
    """Everything in the page, and the points of a Pareto plot, as plain JSON."""
    schemes = [arm for arm in results.arms() if arm.startswith(f"{OURS}/") and arm.split("/")[1] not in CONTROLS]
    ranks = mean_ranks(_scores(results), _ranked(results))
    return {
        "cells": len(results.cells),
        "missing": results.missing,
        "ours": ours,
        "table": [_entry(results, arm, scenario) for scenario in results.scenarios for arm in results.arms(scenario)],
        "ranks": asdict(ranks),
        "paired": [
            {"arm": arm, "control": control, "scenario": scenario, "metric": metric, **asdict(found)}
            for arm in schemes
            for control, scenario, metric, found in comparisons(results, arm)
        ],
        "scored": [{"against": other, "scope": scope, **asdict(won)} for other, scope, won in scored(results, ours)],
        "pareto": {scenario: _pareto(results, scenario) for scenario in results.scenarios},
    }


def _entry(results: Results, arm: str, scenario: str) -> dict[str, Any]:
    means = {metric: mean_of(results, arm, metric, scenario) for metric in METRICS}
    return {
        "scenario": scenario,
        "arm": arm,
        "planned": len(results.seeds(arm, scenario)),
        "failed": results.failed(arm, scenario),
        **{metric: asdict(mean) if mean is not None else None for metric, mean in means.items()},
    }


def _pareto(results: Results, scenario: str) -> list[dict[str, Any]]:
    """Seen ASR against clean perplexity, means over seeds."""
    points: dict[str, tuple[float, float]] = {}
    for arm in results.arms(scenario):
        pair = [mean_of(results, arm, name, scenario) for name in ("asr_seen", "clean_perplexity")]
        if pair[0] is not None and pair[1] is not None:
            points[arm] = (pair[0].value, pair[1].value)
    front = pareto({arm: point for arm, point in points.items() if arm not in REFERENCES})
    return [
        {"arm": arm, "asr_seen": x, "clean_perplexity": y, "front": arm in front} for arm, (x, y) in points.items()
    ]  # fmt: skip


# --- Tables -----------------------------------------------------------------------------------------------------------


def _state(results: Results) -> list[str]:
    done = len(results.cells) - results.missing
    lines = [
        f"{done} of {len(results.cells)} cells are computed. Mean over draws of rows, each with a training of its own, "
        "and its 95% t interval, cut where a rate ends; none for one draw, or where all draws gave the same. n is the "
        "number of draws. All draws start from one model, so an interval says what other rows would give on this "
        "model, not what another model would. ASR: attack success rate, the share of prompts with a trigger whose "
        "answer the judge calls poisoned; floor: the same without a trigger.",
    ]
    untuned = results.untuned()
    if untuned:
        lines += ["", f"Not tuned (each method's defaults at the common learning rate): {', '.join(untuned)}."]
    return lines


def overview(results: Results, metric: str) -> list[str]:
    """Arms by scenarios, one metric."""
    scenarios = results.scenarios
    lines = [f"| method/weights | {' | '.join(scenarios)} |", "|---" * (len(scenarios) + 1) + "|"]
    for arm in results.arms():
        cells = [_cell(results, arm, scenario, metric, count=True) for scenario in scenarios]
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    return lines


def details(results: Results, scenario: str) -> list[str]:
    """One scenario, all metrics; * marks the Pareto front of seen ASR and clean perplexity."""
    front = {point["arm"] for point in _pareto(results, scenario) if point["front"]}
    titles = " | ".join(title for title, _ in METRICS.values())
    lines = [f"| method/weights | n | {titles} |", "|---" * (len(METRICS) + 2) + "|"]
    for arm in results.arms(scenario):
        done = len(results.values(arm, "asr_seen", scenario))
        cells = [_cell(results, arm, scenario, metric) for metric in METRICS]
        lines.append(f"| {arm}{' *' if arm in front else ''} | {done} | {' | '.join(cells)} |")
    lines += ["", "\\* no other method is as good in both seen ASR and clean perplexity and better in one."]
    for arm in results.arms(scenario):
        lines += [f"* {arm}: {text}" for text in _failures(results.failed(arm, scenario))]
    return lines


def _failures(reasons: Sequence[str]) -> list[str]:
    """Failures of one kind together, with the first one's words."""
    kinds: dict[str, list[str]] = {}
    for reason in reasons:
        kinds.setdefault(reason.partition(":")[0], []).append(reason)
    return [f"{len(alike)} failed: {alike[0]}" for alike in kinds.values()]


def _cell(results: Results, arm: str, scenario: str, metric: str, *, count: bool = False) -> str:
    planned = results.seeds(arm, scenario)
    if not planned:
        return "-"
    mean = mean_of(results, arm, metric, scenario)
    failed = len(results.failed(arm, scenario))
    if mean is None:
        computed = len(results.values(arm, "score", scenario))
        return f"failed ({failed})" if failed else "-" if computed else MISSING
    more = f", {failed} failed" if failed else ""
    units = "one model" if mean.unit == "models" else f"n={mean.n}{more}"
    return mean.text(METRICS[metric][1]) + (f" ({units})" if count else "")


def _ranked(results: Results) -> list[str]:
    """Arms that are planned and begun in every scenario, references apart."""
    everywhere = [set(results.arms(scenario)) for scenario in results.scenarios]
    planned = [arm for arm in results.arms() if arm not in REFERENCES and all(arm in arms for arms in everywhere)]
    return [arm for arm in planned if all(results.values(arm, "score", scenario) for scenario in results.scenarios)]


def _scores(results: Results) -> dict[str, dict[Block, float]]:
    return {arm: results.values(arm, "score") for arm in _ranked(results)}


def _ranks(results: Results) -> list[str]:
    found = mean_ranks(_scores(results), _ranked(results))
    if not found.blocks:
        return [f"{MISSING}: no draw has all the arms that are planned and begun in every scenario."]
    counted = ", ".join(f"{scenario} {count}" for scenario, count in found.by_scenario.items())
    text = (
        f"Mean rank of the arms planned and begun in every scenario over the {found.blocks} draws in which all of them "
        f"are computed ({counted}), by the score that `rapidun tune` minimises: seen ASR, with a penalty for clean "
        "perplexity that rises. A training that failed ranks last."
    )
    lines = [text, "", "| method/weights | mean rank |", "|---|---|"]
    return lines + [f"| {arm} | {rank:.2f} |" for arm, rank in sorted(found.ranks.items(), key=lambda item: item[1])]


def comparisons(results: Results, arm: str) -> list[tuple[str, str, str, Paired]]:
    """(control, scope, metric, test) of an arm against every control."""
    found = []
    for control in CONTROLS:
        for scope, names in results.scopes.items():
            for metric in COMPARED:
                test = paired(results.values(arm, metric, *names), results.values(f"{OURS}/{control}", metric, *names))
                if test is not None:
                    found.append((control, scope, metric, test))
    return found


def scored(results: Results, arm: str) -> list[tuple[str, str, Wins]]:
    """(other arm, scope, wins) of an arm against every control and every arm that is ranked, by the score."""
    others = list(dict.fromkeys([*(f"{OURS}/{control}" for control in CONTROLS), *_ranked(results)]))
    found = []
    for other in others:
        for scope, names in results.scopes.items():
            won = wins(results.values(arm, "score", *names), results.values(other, "score", *names))
            if won is not None and other != arm:
                found.append((other, scope, won))
    return found


def _tests(results: Results, ours: str) -> list[str]:
    found = comparisons(results, ours)
    if not found:
        return [f"{MISSING}: no draw has {ours} and a control."]
    text = (
        f"{ours} less the control on the same draws: mean difference, 95% t interval, units, two-sided p of the paired "
        "t-test and of Wilcoxon's signed-rank test (- where no unit differs or there is one). Below 0 is better. "
        "Within a scenario the unit is the draw; over several scenarios it is the scenario, by its mean difference, "
        f"since its draws are alike. The p-values are not corrected for the {len(found)} tests. "
        "Draws on which one of the two failed are left out here; they count in the table above."
    )
    lines = [
        text,
        "",
        "| against | scenario | of | difference | units | t-test | Wilcoxon |",
        "|---|---|---|---|---|---|---|",
    ]
    for control, scenario, metric, test in found:
        values = " | ".join("-" if p is None else f"{p:.3g}" for p in (test.t_test, test.wilcoxon))
        label = METRICS[metric][0] if metric != "perplexity_ratio" else "clean perplexity ratio"
        difference = test.difference
        units = f"{difference.n} {difference.unit}"
        lines.append(f"| {control} | {scenario} | {label} | {difference.text()} | {units} | {values} |")
    return lines


def _score_tests(results: Results, ours: str) -> list[str]:
    found = scored(results, ours)
    if not found:
        return [f"{MISSING}: no draw has {ours} and another arm."]
    text = (
        f"Draws on which {ours} has the lower score (won), the same (tied) and the higher (lost), and two-sided p of "
        "Wilcoxon's signed-rank test, not corrected: over the draws of one scenario, or over the mean differences of "
        "several. The least p that five draws can give is .062, and two scenarios .5. A training that failed is worse "
        "than every other."
    )
    lines = [text, "", "| against | " + " | ".join(results.scopes) + " |", "|---" * (len(results.scopes) + 1) + "|"]
    for other in dict.fromkeys(name for name, _, _ in found):
        by_scope = {scope: won for name, scope, won in found if name == other}
        cells = [_wins_text(by_scope.get(scope)) for scope in results.scopes]
        lines.append(f"| {other} | {' | '.join(cells)} |")
    return lines


def _wins_text(found: Wins | None) -> str:
    if found is None:
        return MISSING
    p = "" if found.wilcoxon is None else f", p {found.wilcoxon:.2g}"
    return f"{found.won}-{found.tied}-{found.lost}{p}"
