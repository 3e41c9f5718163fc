"""Attack a finished run: check everything, say what it takes, try one attack after the other, decide.

Each trial is written as it ends, so a killed command goes on with ``--resume``, and ends with the results of an
unbroken one; with more ``--minutes`` or another preset it goes on likewise.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from rapidun.attacks import ATTACKS, Attack, CannotRun, Target, Trial
from rapidun.attacks.gate import power
from rapidun.attacks.relearn import ROWS_A_STEP, relearned
from rapidun.errors import ConfigError, ModelError, TrainingError
from rapidun.files import write_json
from rapidun.models.row_losses import row_losses
from rapidun.pipeline.attacking.opening import Scene, open_scene
from rapidun.pipeline.attacking.results import FAILED, NO_TRIALS, AnswerLog, Job, results
from rapidun.pipeline.estimating import Piece, over_prompts, over_rows, timed
from rapidun.pipeline.estimating import Trial as Tried
from rapidun.pipeline.job import Job as Place
from rapidun.pipeline.reporter import Reporter, Silent, counting
from rapidun.settings.attack import AttackConfig

PLACE, RESULTS = "attacks", "attacks.json"


def attack_run(
    config: AttackConfig,
    run: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Attack the model of a finished run; writes ``RUN/attacks/``.

    Args:
        config: Which attacks, on how many prompts, beside which twin, within what time.
        run: Directory of the run.
        resume: Go on with what is there; attacks, preset and minutes may be others.
        overwrite: Replace what is there.
        reporter: Where progress goes.

    Returns:
        The content of ``RUN/attacks/attacks.json``.

    Raises:
        RapidunError: For anything wrong with the run, the twin or the settings.
    """
    reporter = reporter or Silent()
    place = Place(config, run / PLACE, reporter, resume, overwrite)
    place.begin("Reading the run")
    scene = open_scene(config, run, reporter)
    if config.preset is not None:
        for said in power(scene.material.measured, scene.run.gate, triggers=scene.material.has_triggers):
            reporter.note(f"gate: {said}")
    jobs, costs = _jobs(config, scene), Costs(scene.targets[0])
    wanted = [job for job in jobs if job.trials and _asked_for(job, config)]
    with place.claim(scene.marks, lambda _: [costs.piece(job) for job in wanted]) as directory:
        log = AnswerLog(directory.path)
        missing = {job.attack.name: why for job in jobs if (why := _carry_out(job, config, log, costs, reporter))}
        found = results(config, scene, jobs, missing, log)
        write_json(directory / RESULTS, found)
        return dict(found)


def _jobs(config: AttackConfig, scene: Scene) -> list[Job]:
    """All attacks of the preset, and those that were asked for, with their trials."""
    found = []
    for name in ATTACKS.names:
        attack = ATTACKS[name]
        efforts = {"quick": attack.quick, "release": attack.release, None: attack.efforts}[config.preset]
        if name not in config.attacks and (not efforts or (config.attacks and config.preset is None)):
            continue
        found.append(_job(attack, efforts or attack.efforts, scene.targets))
    return found


def _job(attack: Attack, efforts: Sequence[float], targets: Sequence[Target]) -> Job:
    found: list[tuple[Target, Trial]] = []
    for target in targets:
        try:
            trials: object = attack.plan(target, efforts)
        except CannotRun as error:
            return Job(attack, [], str(error))
        if not isinstance(trials, list) or not all(isinstance(trial, Trial) for trial in trials):
            raise ConfigError(f"attack {attack.name!r} gave {type(trials).__name__}; its plan returns a list of Trial.")
        found += [(target, trial) for trial in trials]
    return Job(attack, found, NO_TRIALS)


def _asked_for(job: Job, config: AttackConfig) -> bool:
    return not config.attacks or job.attack.name in config.attacks


def _carry_out(job: Job, config: AttackConfig, log: AnswerLog, costs: Costs, reporter: Reporter) -> str | None:
    """Do what is left of an attack; why it was not begun, where it was not."""
    name = job.attack.name
    if not job.trials:
        return _not_run(name, job.why, reporter)
    left = [(target, trial) for target, trial in job.trials if log.of(name, target.name, trial) is None]
    if left and not _asked_for(job, config):  # what was done before counts all the same
        return "another was asked for (--attack)"
    if left and config.minutes is not None:
        room, needed = 60 * config.minutes - log.spent, costs.seconds(left)
        if needed > room:
            why = f"about {needed / 60:.1f} minutes, and {max(room, 0.0) / 60:.1f} of {config.minutes:g} are left"
            return _not_run(name, why, reporter)
    if left:
        reporter.phase(name, f"Attack: {job.attack.title}")
    for number, (target, trial) in enumerate(left, 1):
        reporter.note(f"{number}/{len(left)} {target.name}: {' '.join(filter(None, (trial.series, trial.label)))}")
        began = time.perf_counter()
        outcomes = _outcomes(trial, reporter)
        seconds = time.perf_counter() - began
        log.add(name, target.name, trial, outcomes, seconds)
        if config.minutes is not None:
            costs.learn((target, trial), seconds)
    return None


def _not_run(name: str, why: str, reporter: Reporter) -> str:
    if why != NO_TRIALS:
        reporter.note(f"{name}: not run ({why})")
    return why


def _outcomes(trial: Trial, reporter: Reporter) -> Sequence[dict[str, Any]]:
    """What came of a trial; of one that came to nothing (a training that diverged, say), why."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            found = trial.work(counting(reporter, "prompts"))
        except (TrainingError, ModelError) as error:
            found = [{FAILED: str(error)}]
            reporter.note(f"failed: {error}")
    for said in dict.fromkeys(str(warning.message) for warning in caught if warning.category is UserWarning):
        reporter.note(said)
    if not isinstance(found, list) or not all(isinstance(outcome, dict) for outcome in found):
        given = "what is no list of dicts, as target.ask and target.losses give it"
        raise ConfigError(f"an attack's trial {trial.label!r} gave {given}.")
    return found


STEPS, TOKENS = 3, 4096


class Costs:
    """Seconds of attacks on these models; answers count as long as they may be.

    Args:
        target: Any of the models; the others are taken to be as fast.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._paces: dict[tuple[bool, ...], list[float]] = {}  # of a kind of work: seconds estimated, seconds taken

    @cached_property
    def read(self) -> float:
        """Seconds of a row that is read: of its loss."""
        loaded, examples = self._target.loaded, self._target.tokenize(self._target.material.forget)
        tried = over_rows(
            examples, TOKENS, lambda chosen: row_losses(loaded.model, chosen, loaded.pad_token_id, loaded.device)
        )
        return tried.seconds / len(examples)

    @cached_property
    def answer(self) -> float:
        """Seconds of a generated answer, or of a row's loss where there are no triggers."""
        if not self._target.material.has_triggers:
            return self.read
        target, loaded = self._target, self._target.loaded
        from rapidun.evaluation import generate_answers

        how = self._target.material.generation
        prompts = [target.text(question) for question in self._target.material.known()]
        tried = over_prompts(
            prompts, how.batch_size, how.max_new_tokens,
            lambda chosen, tokens: generate_answers(
                loaded, chosen, max_new_tokens=tokens, batch_size=how.batch_size
            ),
        )  # fmt: skip
        return tried.seconds / len(prompts)

    @cached_property
    def step(self) -> float:
        """Seconds of a training step, merging included."""
        rows = self._target.material.draw(self._target.material.forget, ROWS_A_STEP)

        def few() -> None:
            relearned(self._target, rows, STEPS).model.unload()

        return timed(few) / STEPS

    def seconds(self, trials: Sequence[tuple[Target, Trial]]) -> float:
        """Of these trials, by the pace of those of their kind that were done."""
        found = 0.0
        for each in trials:
            estimated, taken = self._paces.get(_kind(each[1]), (1.0, 1.0))
            found += self._expected([each]) * taken / estimated
        return found

    def learn(self, trial: tuple[Target, Trial], seconds: float) -> None:
        """A trial took so long."""
        pace = self._paces.setdefault(_kind(trial[1]), [0.0, 0.0])
        pace[0] += self._expected([trial])
        pace[1] += seconds

    def _expected(self, trials: Sequence[tuple[Target, Trial]]) -> float:
        units = {unit: sum(getattr(trial, f"{unit}s") for _, trial in trials) for unit in ("answer", "read", "step")}
        # what nothing is done of is not tried
        return float(sum(count * getattr(self, unit) for unit, count in units.items() if count))

    def piece(self, job: Job) -> Piece:
        """An attack as work that can be tried."""
        answers = sum(trial.answers for _, trial in job.trials)
        total, unit = (answers, "answers") if answers else (sum(trial.reads for _, trial in job.trials), "rows")
        return Piece(f"attack {job.attack.name}", total, unit, lambda: Tried(self._expected(job.trials)))


def _kind(trial: Trial) -> tuple[bool, ...]:
    """What a trial does: trials of one kind go at one pace."""
    return trial.answers > 0, trial.reads > 0, trial.steps > 0
