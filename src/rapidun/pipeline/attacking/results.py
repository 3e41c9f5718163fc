"""What attacks came to: curves beside the twin's, checks, and the verdict, as plain JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rapidun.attacks import Attack, AttackCheck, Curve, Outcome, Point, Target, Trial, decide_attacks
from rapidun.attacks.curves import curves_of
from rapidun.attacks.gate import Measured, not_measured
from rapidun.jsonl import Line, append_log, numbered_log, read_log, write_jsonl
from rapidun.pipeline.attacking.opening import Scene
from rapidun.reading import as_kind, made_from
from rapidun.settings.attack import AttackConfig

NO_TRIALS = "this run has nothing for it"


@dataclass(frozen=True)
class Job:
    """An attack with its trials on every target; without any, ``why``."""

    attack: Attack
    trials: Sequence[tuple[Target, Trial]]
    why: str = ""


def results(config: AttackConfig, scene: Scene, jobs: Sequence[Job], missing: dict[str, str], log: AnswerLog) -> Any:
    """The content of ``attacks.json``; the same for the same answers."""
    records: list[dict[str, Any]] = []
    checks: list[AttackCheck] = []
    for job in jobs:
        name, why = job.attack.name, missing.get(job.attack.name)
        about = {"name": name, "title": job.attack.title, "unit": job.attack.unit}
        decides = job.attack.decides(scene.material.has_triggers)
        why = why or _stopped(job, log)
        curves = {} if why else {target.name: _curves(job, target.name, log) for target in scene.targets}
        why = why or _unlike(curves)
        if why is not None:
            records.append({**about, "status": "not run", "why": why})
            checks += [not_measured(name, why)] if decides and why != NO_TRIALS else []
            continue
        ours, twins = curves["unlearned"], curves.get("twin")
        checks += job.attack.bar(Measured(name, ours, twins, scene.run.gate, scene.before)) if decides else []
        records.append({**about, "status": "run", "curves": _beside(ours, twins)})
    verdict = str(decide_attacks(checks)) if config.preset else None
    primary = scene.eval_suite.primary
    card = scene.eval_suite.cards.get(primary)
    return {
        "preset": config.preset,
        "twin": str(config.twin) if config.twin is not None else "none",
        "seed": config.seed,
        "prompts": scene.material.measured,
        "behaviour": "attack success" if scene.material.has_triggers else "probability of the forget rows' answers",
        "judge": None if card is None else {"name": primary, **card.to_dict()},
        "attacks": records,
        "verdict": verdict,
        "checks": [check.to_dict() for check in checks] if config.preset else [],
        "fingerprints": scene.marks,
    }


def _curves(job: Job, model: str, log: AnswerLog) -> list[Curve]:
    points: list[Point] = []
    for target, trial in job.trials:
        if target.name == model:
            with made_from(log.path):
                points += job.attack.summary(trial, log.of(job.attack.name, model, trial) or [])
    return curves_of(points)


def _stopped(job: Job, log: AnswerLog) -> str | None:
    """Why an attack has no curves: one of its trainings failed."""
    for target, trial in job.trials:
        outcomes = log.of(job.attack.name, target.name, trial) or [{FAILED: "not measured"}]
        if FAILED in outcomes[0]:
            label = ", ".join(filter(None, (trial.series, trial.label)))
            return f"{label} on the {target.name} model: {outcomes[0][FAILED]}"
    return None


def _unlike(curves: Mapping[str, Sequence[Curve]]) -> str | None:
    """Why two models cannot be put beside each other: one has points that the other has not (layers, say)."""
    points = {model: [point.label for curve in each for point in curve.points] for model, each in curves.items()}
    ours, twins = points.get("unlearned"), points.get("twin")
    if twins is None or ours == twins:
        return None
    return f"the twin is of another kind, and there is nothing beside {(ours or ['it'])[-1]}"


def _beside(ours: Sequence[Curve], twins: Sequence[Curve] | None) -> list[dict[str, Any]]:
    found = []
    for place, curve in enumerate(ours):
        points = [
            {"effort": point.effort, "label": point.label, "measure": point.measure, "unlearned": point.to_dict(),
             "twin": twins[place].points[number].to_dict() if twins is not None else None}
            for number, point in enumerate(curve.points)
        ]  # fmt: skip
        found.append({"series": curve.series, "points": points})
    return found


ANSWERS, SECONDS = "answers.jsonl", "log.jsonl"
FAILED = "failed"
Key = tuple[str, str, str, str]
_OWN = ("attack", "model", "series", "label", "of")
AGAIN = "No attack wrote this. Attack again with --overwrite."


@dataclass(frozen=True)
class _Own:
    attack: str
    model: str
    series: str
    label: str
    of: int


@dataclass(frozen=True)
class _Timed(_Own):
    seconds: float


class AnswerLog:
    """What was measured so far, in a directory that is held: answers of the attacks, a line each.

        {"attack", "model", "series", "label", "of", ...what came of the question}

    ``of`` is the number of the trial's lines. What a kill left of a trial is taken out when the log is opened, and the
    trial is done again.
    """

    def __init__(self, directory: Path) -> None:
        self._answers, self._seconds = directory / ANSWERS, directory / SECONDS
        found: dict[Key, list[Line]] = {}
        for number, line in numbered_log(self._answers):
            as_kind(_Own, {name: line[name] for name in _OWN if name in line}, f"{self._answers}:{number}", AGAIN)
            attack, model, series, label = (str(line[name]) for name in _OWN[:4])
            found.setdefault((attack, model, series, label), []).append(line)
        self._done = {key: lines for key, lines in found.items() if len(lines) == lines[0]["of"]}
        write_jsonl(self._answers, [line for lines in self._done.values() for line in lines])
        timed = as_kind(list[_Timed], read_log(self._seconds), self._seconds, AGAIN)
        write_jsonl(self._seconds, map(asdict, timed))  # private from its first line on
        self.spent = sum(line.seconds for line in timed)

    @property
    def path(self) -> Path:
        """The file of the answers."""
        return self._answers

    def of(self, attack: str, model: str, trial: Trial) -> list[Outcome] | None:
        """A finished trial's outcomes; None where it was not done."""
        lines = self._done.get((attack, model, trial.series, trial.label))
        if lines is None:
            return None
        return [{name: value for name, value in line.items() if name not in _OWN} for line in lines]

    def add(self, attack: str, model: str, trial: Trial, outcomes: Sequence[Outcome], seconds: float) -> None:
        """A trial is finished."""
        own = dict(zip(_OWN, (attack, model, trial.series, trial.label, len(outcomes)), strict=True))
        lines = [{**own, **outcome} for outcome in outcomes]
        append_log(self._answers, lines)
        self._done[attack, model, trial.series, trial.label] = lines
        append_log(self._seconds, [{**own, "seconds": round(seconds, 3)}])
        self.spent += seconds
