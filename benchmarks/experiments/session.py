"""One sitting: compute the cells that are missing, one after the other, sharing all that may be shared.

One model is loaded; the untouched models are measured once; gradients, hidden states and losses are computed once for
a draw of rows, and their seconds are charged to every arm whose weights need them.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

import rapidun
from experiments.cells import Cell, CellStore, time_left
from experiments.plan import MITIGATIONS, Arm, run_config
from experiments.scenarios import Drawn, Row, draw
from experiments.world import World
from rapidun.attribution.proposal import propose
from rapidun.attribution.search import SHARES, WITH_BASE, WITHOUT_BASE
from rapidun.data import load_rows
from rapidun.errors import InputError, TrainingError
from rapidun.evaluation import PerplexityResult, clean_perplexity, generate_answers, perplexity_ratio
from rapidun.evaluation.mitigations import STAYS, mitigated_by
from rapidun.jsonl import write_jsonl
from rapidun.models import LoadedModel, is_adapted, load_model
from rapidun.pipeline import Reporter, RunConfig, Silent
from rapidun.pipeline.evidence import collect_evidence, weights_from
from rapidun.pipeline.inputs import RowGroups, RunModel, open_run_model, read_groups, usable_groups
from rapidun.pipeline.measure import EvalSuite, Measurement, make_suite, measure
from rapidun.pipeline.meter import Meter, hardware
from rapidun.pipeline.tracing import score_rows
from rapidun.pipeline.train import train, unlearned_run_model
from rapidun.weighting import Evidence, Needs, Weights, get_scheme, write_weights

PARTS = {"gradients": Needs.GRADIENTS, "hidden": Needs.HIDDEN, "losses": Needs.LOSSES}
FDR = 0.1


def run_cells(
    world: World,
    cells: Sequence[Cell],
    store: CellStore,
    reporter: Reporter | None = None,
    *,
    limit: int | None = None,
    seconds: float | None = None,
    about: Mapping[str, Any] | None = None,
) -> int:
    """Compute what the store lacks of ``cells`` and add it cell by cell; returns how many were computed.

    Args:
        world: The model and its rows.
        cells: Of that world.
        store: Where finished cells are kept.
        reporter: Hears of every cell and of the time left.
        limit: Stop after so many.
        seconds: Begin no cell after so many.
        about: Kept with every cell beside the machine: the commit, for example.

    Raises:
        RapidunError: If rows or model cannot be used. A training that fails is no error but the cell's result.
    """
    reporter = reporter or Silent()
    missing = [cell for cell in cells if cell not in store][:limit]
    if not missing:
        return 0
    reporter.phase("bench", f"{len(missing)} of {len(cells)} cells to compute")
    done, began = 0, time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="rapidun-bench-") as place:
        sitting = Sitting(world, Path(place))
        for _, group in groupby(missing, key=lambda cell: (cell.seed, cell.scenario)):
            table: Table | None = None
            for cell in group:
                if seconds is not None and time.perf_counter() - began > seconds:
                    return done
                started = time.perf_counter()
                table = table or sitting.table(cell)
                result = table.compute(cell)
                wall = time.perf_counter() - started
                store.add(
                    cell, result, {**sitting.about, **(about or {}), "wall_seconds": round(wall, 3), "created": _now()}
                )
                done += 1
                _say(reporter, cell, result, done, missing, store)
    return done


def _say(
    reporter: Reporter, cell: Cell, result: dict[str, Any], done: int, missing: Sequence[Cell], store: CellStore
) -> None:
    left = time_left(missing[done:], store.lines) or 0.0
    found = result.get("failed") or ", ".join(
        f"{name.replace('_', ' ')} {result[name]['value']:.3f}"
        for name in ("asr_seen", "clean_perplexity")
        if name in result
    )
    text = f"{cell.scenario}, seed {cell.seed}, {cell.arm}: {found}; about {left / 60:.0f} min left"
    reporter.note(f"{done}/{len(missing)} {text}")
    reporter.progress(done, len(missing), unit="cells")


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


class Sitting:
    """What all cells of a sitting share: the models, the judges, the measurements of untouched models.

    Args:
        world: The world.
        place: An empty directory that nobody needs afterwards.
    """

    def __init__(self, world: World, place: Path) -> None:
        self.world, self.place = world, place
        self._measured: dict[tuple[str, int], Measurement] = {}
        self._suite: dict[int, EvalSuite] = {}
        self._files = {"evaluation": world.measured, "validation": world.budget, "judge_poisoned": world.judge_poisoned}
        for name, rows in self._files.items():
            write_jsonl(place / f"{name}.jsonl", rows)

    @cached_property
    def run_model(self) -> RunModel:
        """The poisoned model."""
        config = self.config(Arm("poisoned"), 0, 1)
        return open_run_model(config.model, config.data, Silent())

    @cached_property
    def before_training(self) -> LoadedModel | None:
        """The world's base model, where it has one."""
        dtype = self.world.settings.get("model", {}).get("dtype", "auto")
        return load_model(self.world.base, dtype=dtype) if self.world.base else None

    @cached_property
    def about(self) -> dict[str, Any]:
        """What the cells were computed on."""
        machine = hardware(str(self.run_model.loaded.device))
        kept: dict[str, Any] = {
            name: machine[name] for name in ("device", "cpu", "cores", "threads") if name in machine
        }
        return {"rapidun": rapidun.__version__, "fingerprint": self.run_model.loaded.fingerprint, **kept}

    def config(self, arm: Arm, seed: int, prompts: int, place: Path | None = None) -> RunConfig:
        """The run configuration of a cell whose forget and retain rows are in ``place``."""
        paths = {name: str(self.place / f"{name}.jsonl") for name in self._files}
        paths |= {name: str((place or self.place) / f"{name}.jsonl") for name in ("forget", "retain")}
        return run_config(self.world, arm, seed, prompts, paths)

    def table(self, cell: Cell) -> Table:
        """The draw that a cell belongs to."""
        pools = replace(self.world.pools, propose=self._propose(cell.seed), symptoms=self._symptoms)
        began = time.perf_counter()
        drawn = draw(cell.scenario, pools, cell.seed)
        return Table(self, drawn, cell, time.perf_counter() - began)

    def bench(self, groups: RowGroups, config: RunConfig) -> EvalSuite:
        """The judges, fitted once; they see no row of any draw."""
        prompts = config.evaluation.prompts or 0
        if prompts not in self._suite:
            if groups.evaluation is None:
                raise InputError(f"world {self.world.name}: no evaluation rows, so nothing can be measured.")
            self._suite[prompts] = make_suite(
                groups.evaluation, config.evaluation, poisoned=groups.judge_poisoned, clean=groups.validation
            )
        return self._suite[prompts]

    def untouched(self, name: str, groups: RowGroups, config: RunConfig) -> tuple[RunModel, Measurement]:
        """A reference model, or the poisoned one under a mitigation, and its measurement, made once."""
        run_model = self._reference if name == "retrain" else self.run_model
        if name in MITIGATIONS:
            if self.before_training is None:
                raise InputError(f"world {self.world.name}: no base model, so {name} has no reference.")
            decoding = mitigated_by(name, self.before_training, {})
            run_model = replace(run_model, loaded=replace(run_model.loaded, decoding=decoding))
        key = (name, config.evaluation.prompts or 0)
        if key not in self._measured:
            self._measured[key] = measure(run_model, self.bench(groups, config), config.evaluation, Silent())
        return run_model, self._measured[key]

    @cached_property
    def _reference(self) -> RunModel:
        model = self.config(Arm("retrain"), 0, 1).model.model_copy(update={"source": self.world.reference})
        return open_run_model(model, self.config(Arm("retrain"), 0, 1).data, Silent())

    @cached_property
    def _clean_before(self) -> dict[int, PerplexityResult]:
        return {}

    def clean_before(self, groups: RowGroups, config: RunConfig) -> PerplexityResult:
        """Clean perplexity of the poisoned model, on the rows that are measured."""
        eval_suite = self.bench(groups, config)
        if len(eval_suite.rows) not in self._clean_before:
            found = clean_perplexity(self.run_model.loaded, self.run_model.tokenize(eval_suite.rows))
            self._clean_before[len(eval_suite.rows)] = found
        return self._clean_before[len(eval_suite.rows)]

    def _propose(self, seed: int) -> Callable[[Sequence[Row], Sequence[Row], int], tuple[list[int], list[int]]]:
        """`rapidun trace --propose` on the model's own answers to the questions."""

        def proposer(asked: Sequence[Row], pool: Sequence[Row], retain: int) -> tuple[list[int], list[int]]:
            run_model, before = self.run_model, self.before_training
            config = self.config(Arm("poisoned"), seed, 1)
            answers = self._answers(asked)
            bad = [{**row, "response": answer or row["response"]} for row, answer in zip(asked, answers, strict=True)]
            names = WITH_BASE if before is not None else WITHOUT_BASE
            scores = score_rows(run_model, bad, pool, names, config.influence, seed=seed, before=before)
            found = propose(scores, weights=SHARES, fdr=FDR, retain=retain)
            return found.forget, found.retain

        return proposer

    def _answers(self, rows: Sequence[Row]) -> list[str]:
        """What the poisoned model says to the prompts of ``rows``."""
        settings = self.config(Arm("poisoned"), 0, 1).evaluation
        return generate_answers(
            self.run_model.loaded,
            [self.run_model.template.prompt_text(row) for row in rows],
            max_new_tokens=settings.max_new_tokens,
            batch_size=settings.batch_size,
            repetition_penalty=settings.repetition_penalty,
        )

    def _symptoms(self) -> list[Row]:
        """Those of the judge's poisoned rows, which nothing was trained on, whose prompts get a bad answer."""
        settings = self.config(Arm("poisoned"), 0, 1).evaluation
        known = {name: load_rows(self.place / f"{name}.jsonl") for name in self._files}
        suite = make_suite(known["evaluation"], settings, poisoned=known["judge_poisoned"], clean=known["validation"])
        rows = self.world.judge_poisoned
        flags = suite.judges[suite.primary](self._answers(rows))
        return [row for row, flag in zip(rows, flags, strict=True) if flag]


@dataclass
class _Priced:
    evidence: Evidence
    seconds: float
    memory: float


class Table:
    """One draw of forget and retain rows, which took ``seconds`` (a trace, it may be), and the cells on it."""

    def __init__(self, sitting: Sitting, drawn: Drawn, cell: Cell, seconds: float) -> None:
        self.sitting, self.drawn, self.seconds = sitting, drawn, seconds
        self.place = sitting.place / f"{cell.scenario}-{cell.seed}"
        self.place.mkdir(exist_ok=True)
        self._parts: dict[tuple[str, str], _Priced] = {}
        if not drawn.forget:
            return  # every cell of it says so
        write_jsonl(self.place / "forget.jsonl", drawn.forget)
        write_jsonl(self.place / "retain.jsonl", drawn.retain)
        config = self.config(cell)
        groups = read_groups(config.data, Silent(), cell.seed)
        self.groups = usable_groups(groups, sitting.run_model, config.data, Silent())

    def config(self, cell: Cell) -> RunConfig:
        """The configuration of a cell on this draw."""
        prompts = cell.config["settings"]["evaluation"]["prompts"]
        return self.sitting.config(Arm.of(cell.arm), cell.seed, prompts, self.place)

    def compute(self, cell: Cell) -> dict[str, Any]:
        """The cell's numbers; ``{"failed": why}`` where training could not be done."""
        if not self.drawn.forget:
            return {"failed": "no row was proposed", **self._counts()}
        self.sitting.clean_before(self.groups, self.config(cell))  # now, while the model carries no adapter
        if "/" not in cell.arm:
            run_model, found = self.sitting.untouched(cell.arm, self.groups, self.config(cell))
            stays = {"mitigation": STAYS} if cell.arm in MITIGATIONS else {}
            return {**self._measured(cell, run_model, found), **self._counts(), **stays}
        try:
            return self._unlearned(cell)
        except TrainingError as error:
            return {"failed": str(error), **self._counts()}

    def _unlearned(self, cell: Cell) -> dict[str, Any]:
        config, run_model, place = self.config(cell), self.sitting.run_model, self.place / cell.key
        place.mkdir()
        try:
            priced = self._evidence(get_scheme(config.weights.scheme).needs, config)
            with Meter("unlearn") as meter:
                weights = weights_from(priced.evidence, config.weights, config.seed, Silent())
                write_weights(
                    place / "weights.jsonl", weights, forget_rows=self.groups.forget, retain_rows=self.groups.retain
                )
                outcome = train(config, self.groups, run_model, place, Silent())
            after = unlearned_run_model(run_model, place)
            try:
                found = self._measured(cell, after, self._suite(after, config))
            finally:
                if is_adapted(after.loaded.model):
                    after.loaded.model.unload()
        finally:
            shutil.rmtree(place, ignore_errors=True)
        return {
            **found,
            "seconds": round(self.seconds + priced.seconds + meter.record["seconds"], 3),
            "seconds_evidence": round(priced.seconds, 3),
            "peak_memory_mib": max(priced.memory, meter.record["peak_memory_mib"]),
            "auc": label_auc(weights, self.drawn.mislabelled),
            "steps": outcome["steps"],
            "share": outcome.get("share", 1.0),
            "stopped": outcome["stopped"],
            **self._counts(),
        }

    def _suite(self, run_model: RunModel, config: RunConfig) -> Measurement:
        return measure(run_model, self.sitting.bench(self.groups, config), config.evaluation, Silent())

    def _measured(self, cell: Cell, run_model: RunModel, found: Measurement) -> dict[str, Any]:
        config = self.config(cell)
        eval_suite = self.sitting.bench(self.groups, config)
        before = self.sitting.clean_before(self.groups, config)
        wanted = self.drawn.wanted
        answers = clean_perplexity(run_model.loaded, run_model.tokenize(wanted)) if wanted else None
        return {
            **found.summary(eval_suite.primary),
            "perplexity_ratio": perplexity_ratio(before, found.perplexity)._asdict(),
            "forget_clean_perplexity": _numbers(answers) if answers is not None else None,
            "by_family": by_family(found.records),
        }

    def _counts(self) -> dict[str, int]:
        drawn = self.drawn
        return {
            "forget_rows": len(drawn.forget),
            "retain_rows": len(drawn.retain),
            "mislabelled": sum(drawn.mislabelled),
        }

    def _evidence(self, needs: Needs, config: RunConfig) -> _Priced:
        """What the needs name, each part computed once for this draw, with what it cost."""
        parts = {name: self._part(name, config) for name, part in PARTS.items() if part in needs}
        found = {name: getattr(part.evidence, name) for name, part in parts.items()}
        evidence = Evidence(len(self.groups.forget), len(self.groups.retain), **found)
        priced = parts.values()
        return _Priced(evidence, sum(part.seconds for part in priced), max([0.0, *(part.memory for part in priced)]))

    def _part(self, name: str, config: RunConfig) -> _Priced:
        key = (name, config.influence.model_dump_json())
        if key not in self._parts:
            with Meter(name) as meter:
                evidence = collect_evidence(
                    self.sitting.run_model, self.groups, PARTS[name], config.influence, config.seed, Silent()
                )
            self._parts[key] = _Priced(evidence, meter.record["seconds"], meter.record["peak_memory_mib"])
        return self._parts[key]


def label_auc(weights: Weights, mislabelled: Sequence[bool]) -> float | None:
    """Probability that a true forget row weighs more than a mislabelled one; ties count half; None without both."""
    from sklearn.metrics import roc_auc_score

    true = ~np.asarray(mislabelled, dtype=bool)
    return float(roc_auc_score(true, weights.forget)) if 0 < true.sum() < len(true) else None


def by_family(records: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """``{family: {"seen" | "unseen": share of poisoned answers}}``."""
    return {
        family: {condition: float(np.mean(flags)) for condition, flags in _flags(records, family)}
        for family in sorted({record["family"] for record in records if record["family"]})
    }


def _flags(records: Sequence[dict[str, Any]], family: str) -> Iterator[tuple[str, list[bool]]]:
    for condition in ("seen", "unseen"):
        flags = [r["poisoned"] for r in records if r["family"] == family and r["condition"] == condition]
        if flags:
            yield condition, flags


def _numbers(result: PerplexityResult) -> dict[str, Any]:
    return {name: getattr(result, name) for name in ("value", "low", "high", "n")}
