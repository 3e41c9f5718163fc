"""`tune`: learning rate and strength for one model and forget set, by a short probe and then by Optuna's TPE.

The rows that decide are tuning rows, given apart and never those of a report: a setting chosen on the rows it is then
reported on looks better than it is. Influence and weights are computed once; every trial trains and is measured.

    score = forget + 5 max(0, ratio - limit) + 0.5 max(0, ratio - 1)          lower is better

``ratio`` is clean perplexity after over before on the tuning rows, ``limit`` the gate's. ``forget`` is the attack
success rate with seen triggers; where none is measured, the missing share of the wanted rise of the forget rows'
perplexity (on a log scale). A trial that trained nothing usable counts as the worst.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from rapidun.errors import ConfigError, InputError, TrainingError
from rapidun.evaluation import assert_disjoint_prompts, perplexity_ratio
from rapidun.files import write_json
from rapidun.jsonl import read_jsonl, write_jsonl
from rapidun.models import attach_lora, is_adapted
from rapidun.pipeline.context import MeasuredContext, identity, open_inputs, origins_of, suite_of
from rapidun.pipeline.estimating import Piece, repeated
from rapidun.pipeline.inputs import RowGroups, RunModel, held_rows, read_rows
from rapidun.pipeline.job import Job
from rapidun.pipeline.measure import EvalSuite, Measurement
from rapidun.pipeline.pieces import FREE, few_steps, measuring, training, weighing
from rapidun.pipeline.reporter import Reporter, Silent
from rapidun.pipeline.train import CHECKPOINTS, train, training_rows, unlearned_run_model
from rapidun.reading import RESTORE, as_kind, read_object
from rapidun.settings.run import RunConfig
from rapidun.unlearning import get_method
from rapidun.unlearning.rate import derived_rate

VALUES = "values.json"
"""In a trial's directory: what it tries."""
WORST = 10.0
RATE_SPAN, STRENGTH_SPAN = 16.0, 4.0
TRIAL_SPAN = 4.0
STRENGTHS = ("ascent", "gamma", "strength", "selection", "c", "beta")
"""The option that says how hard a method pushes: the first of these that it has."""
PROBE_FACTORS = (1 / 16, 1 / 4, 1.0, 4.0, 16.0)
PROBE_STRENGTHS = (0.5, 1.0, 2.0)


@dataclass(frozen=True)
class Trial:
    """One setting and what it gave.

    Args:
        number: From 1.
        values: ``learning_rate`` and the method's strength, where it has one.
        score: Lower is better.
        forget: Attack success rate, or the missing share of the forget rows' rise.
        ratio: Clean perplexity after over before.
        note: Why it counts as the worst, or why training stopped early.
    """

    number: int
    values: dict[str, float]
    score: float
    forget: float | None = None
    ratio: float | None = None
    note: str | None = None


@dataclass(frozen=True)
class Probe:
    """One short training: how far the forget rows rose, how far the validation rows did (relative)."""

    values: dict[str, float]
    forget_rise: float
    held_rise: float


@dataclass(frozen=True)
class Tuned:
    """What `tune` found: the probes, what they suggest, the trials, and the best values."""

    probes: list[Probe]
    suggestion: dict[str, float]
    trials: list[Trial]
    best: dict[str, float]
    files: list[Path] = field(default_factory=list)


def tune(
    config: RunConfig,
    tuning: Path,
    out: Path,
    *,
    trials: int,
    probe_steps: int | None = None,
    resume: bool,
    overwrite: bool,
    reporter: Reporter,
) -> Tuned:
    """Probe, then ``trials`` trials; writes ``probe.json``, ``trials.jsonl`` and ``best.yaml``, a configuration to run.

    Args:
        config: The run to tune; its learning rate and strength are the middle of what is searched.
        tuning: Clean rows that decide. None of ``data.evaluation`` or of the forget rows may share a prompt with them.
        out: New directory.
        trials: How many; 0 probes only, and needs no Optuna.
        probe_steps: Steps of a probe; an eighth of the run's by default.
        resume: Go on after the last finished trial.
        overwrite: Replace what is there.
        reporter: Where progress goes.

    Raises:
        ConfigError: If there is nothing to tune, or Optuna is missing.
        InputError: If rows are bad or shared.
    """
    names = tuned_names(config)
    if trials:
        _optuna()
    steps = probe_steps or max(10, config.unlearning.steps // 8)
    own = config.model_copy(update={"data": config.data.model_copy(update={"evaluation": tuning})})
    job = Job(own, out, reporter, resume, overwrite)
    context = _open(own, config.data.evaluation, job, partial(_pieces, names, steps, trials))
    with context.directory as directory:
        context.weigh()
        context.before()
        context = replace(context, config=_with_rate(context))
        space = search_space(context.config)
        probes = _probes(context, space, steps)
        suggestion = suggest(probes, space, config.unlearning.retain_budget)
        write_json(out / "probe.json", {"suggestion": suggestion, "probes": [asdict(probe) for probe in probes]})
        reporter.note("probe suggests " + ", ".join(f"{name}={value:.3g}" for name, value in suggestion.items()))
        done = _trials(context, around(suggestion, space), suggestion, trials)
        best = min(done, key=lambda trial: trial.score).values if done else suggestion
        directory.write_text("best.yaml", with_values(config, best).to_yaml())
    return Tuned(probes, suggestion, done, best, [out / name for name in ("probe.json", "trials.jsonl", "best.yaml")])


def tuned_names(config: RunConfig) -> list[str]:
    """What there is to tune: ``learning_rate``, and the method's strength where it has one above 0.

    Raises:
        ConfigError: If the method has neither.
    """
    settings = config.unlearning
    method = get_method(settings.method)
    options = method.checked(settings.options)
    names = ["learning_rate"] if settings.method != "fisher" else []
    strength = next((name for name in STRENGTHS if name in method.options), None)
    names += [strength] if strength is not None and options[strength] > 0 else []
    if not names:
        raise ConfigError(f"method {settings.method!r} has nothing to tune.")
    return names


def search_space(config: RunConfig) -> dict[str, tuple[float, float]]:
    """``{name: (low, high)}``: a factor of 16 around the learning rate, of 4 around the strength; both by log.

    Raises:
        ConfigError: If the method has neither.
    """
    settings = config.unlearning
    middle = {**get_method(settings.method).checked(settings.options), "learning_rate": settings.learning_rate}
    spans = {name: RATE_SPAN if name == "learning_rate" else STRENGTH_SPAN for name in tuned_names(config)}
    return {name: (middle[name] / span, middle[name] * span) for name, span in spans.items()}


def _with_rate(context: MeasuredContext) -> RunConfig:
    """The configuration with a number for its learning rate: the middle of what is searched."""
    config, run_model = context.config, context.run_model
    if config.unlearning.learning_rate != "auto" or "learning_rate" not in tuned_names(config):
        return config
    held = held_rows(run_model, context.groups)
    model = attach_lora(run_model.loaded.model, **config.lora.model_dump(), seed=config.seed)
    try:
        rate, reason = derived_rate(model, held, run_model.loaded.pad_token_id, run_model.loaded.device)
    finally:
        model.unload()
    context.reporter.note(reason)
    return with_values(config, {"learning_rate": rate})


def with_values(config: RunConfig, values: Mapping[str, float]) -> RunConfig:
    """The configuration with these values of the search space."""
    changes: dict[str, Any] = {name: value for name, value in values.items() if name == "learning_rate"}
    own = {name: value for name, value in values.items() if name != "learning_rate"}
    settings = config.unlearning.model_copy(update={**changes, "options": {**config.unlearning.options, **own}})
    return config.model_copy(update={"unlearning": settings})


def score_of(forget: float, ratio: float, limit: float) -> float:
    """The score at the head of this module."""
    return forget + 5.0 * max(0.0, ratio - limit) + 0.5 * max(0.0, ratio - 1.0)


def suggest(probes: Sequence[Probe], space: Mapping[str, tuple[float, float]], budget: float) -> dict[str, float]:
    """Of the probes that kept within half the budget, the one whose forget rows rose most; else the mildest."""
    sound = [probe for probe in probes if probe.held_rise <= budget / 2]
    chosen = max(sound, key=lambda probe: probe.forget_rise) if sound else min(probes, key=lambda p: p.held_rise)
    return {name: min(max(chosen.values[name], low), high) for name, (low, high) in space.items()}


def around(suggestion: Mapping[str, float], space: Mapping[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    """What the trials search: rates within a factor of 4 of the suggested one and within those probed; all strengths.

    A short probe says which rates do harm, and little of the strength that is best in the end.
    """
    if "learning_rate" not in space:
        return dict(space)
    rate, (low, high) = suggestion["learning_rate"], space["learning_rate"]
    return {**space, "learning_rate": (max(low, rate / TRIAL_SPAN), min(high, rate * TRIAL_SPAN))}


def _pieces(
    names: Sequence[str],
    steps: int,
    trials: int,
    config: RunConfig,
    groups: RowGroups,
    run_model: RunModel,
    eval_suite: EvalSuite,
) -> list[Piece]:
    """Weights once, the probes, and trials that are each a training and a measurement."""
    probes = len(PROBE_FACTORS) * ("learning_rate" in names) + len(PROBE_STRENGTHS) * (len(names) > 1)
    short = config.model_copy(update={"unlearning": config.unlearning.model_copy(update={"steps": steps})})
    found = [*weighing(run_model, groups, config), repeated(training(run_model, groups, short), probes, "probing")]
    if trials:
        found.append(repeated(training(run_model, groups, config), trials, f"{trials} trials"))
    return [*found, *measuring(run_model, eval_suite, config.evaluation, "measuring", 1 + trials)]


def _open(
    config: RunConfig,
    report: Path | None,
    job: Job,
    pieces: Callable[[RunConfig, RowGroups, RunModel, EvalSuite], list[Piece]],
) -> MeasuredContext:
    job.begin("Reading rows and model")

    def check_apart(groups: RowGroups) -> None:
        if report is None or groups.evaluation is None:
            return
        rows = read_rows(report, "evaluation", config.data, job.reporter)
        try:
            assert_disjoint_prompts(list(rows), list(groups.evaluation))
        except InputError as error:
            tuning = config.data.evaluation
            raise InputError(f"{tuning}: tuning rows and report rows must be apart. {error}") from error

    groups, run_model = open_inputs(config, job.reporter, check_rows=check_apart)
    eval_suite = suite_of(groups.evaluation or groups.retain, groups, config, job.reporter)
    directory = job.claim(
        identity(config, groups, run_model),
        lambda done: pieces(config, groups, run_model, eval_suite),
        origins=origins_of(config, groups),
    )
    return MeasuredContext(config, groups, run_model, directory, job.reporter, eval_suite)


def _probes(context: MeasuredContext, space: Mapping[str, tuple[float, float]], steps: int) -> list[Probe]:
    """Rates from a 16th to 16 times the configured one at its strength, then strengths at the rate that did best."""
    context.reporter.phase("probe", f"Probing with {steps} steps")
    middle = {name: math.sqrt(low * high) for name, (low, high) in space.items()}
    found = []
    if "learning_rate" in space:
        rates = [middle["learning_rate"] * factor for factor in PROBE_FACTORS]
        found = [_probe(context, {**middle, "learning_rate": rate}, steps) for rate in rates]
        middle |= suggest(found, {"learning_rate": (min(rates), max(rates))}, context.config.unlearning.retain_budget)
    strength = next((name for name in space if name != "learning_rate"), None)
    if strength is not None:
        factors = [factor for factor in PROBE_STRENGTHS if factor != 1.0 or not found]
        found += [_probe(context, {**middle, strength: middle[strength] * factor}, steps) for factor in factors]
    return found


def _probe(context: MeasuredContext, values: dict[str, float], steps: int) -> Probe:
    """Train for a few steps without a budget, and look at losses alone."""
    config, run_model = with_values(context.config, values), context.run_model
    refusals = get_method(config.unlearning.method).preferred == "refusal"
    weights = context.directory / "weights.jsonl"
    rows = training_rows(run_model, context.groups, weights, Silent(), refusals=refusals)
    held = held_rows(run_model, context.groups)
    place = context.directory / "probe"
    try:
        result = few_steps(config, run_model, rows, held, steps, place, check_every=steps)
    except TrainingError:
        return Probe(values, 0.0, FREE)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    rise = result.forget_loss_after - result.forget_loss_before
    held_rise = result.held_loss_after / result.held_loss_before - 1.0
    if not (math.isfinite(rise) and math.isfinite(held_rise)):
        return Probe(values, 0.0, FREE)
    return Probe(values, rise, held_rise)


def _trials(
    context: MeasuredContext, space: Mapping[str, tuple[float, float]], suggestion: dict[str, float], count: int
) -> list[Trial]:
    """TPE, begun at the probe's suggestion; finished trials of a stopped run are told to it and not run again."""
    path = context.directory / "trials.jsonl"
    done = _finished_trials(path, space)
    if len(done) >= count:
        return done
    optuna = _optuna()
    ranges = {name: optuna.distributions.FloatDistribution(*ends, log=True) for name, ends in space.items()}
    begun, started = len(done), time.monotonic()
    while len(done) < count:
        number = len(done) + 1
        pace = (time.monotonic() - started) / max(1, len(done) - begun)  # of the trials of this session
        left = "" if len(done) == begun else f", about {pace * (count - len(done)) / 60:.0f} min left"
        context.reporter.phase("trial", f"Trial {number} of {count}{left}")
        values = suggestion if not done else _next(optuna, ranges, done, context.config.seed)
        trial = _trial(context, number, values)
        done.append(trial)
        write_jsonl(path, (asdict(each) for each in done))
        best = min(each.score for each in done)
        said = ", ".join(f"{name}={value:.3g}" for name, value in values.items())
        context.reporter.note(
            f"score {trial.score:.4f} (best {best:.4f}) with {said}" + (f" ({trial.note})" if trial.note else "")
        )
    return done


def _finished_trials(path: Path, space: Mapping[str, tuple[float, float]]) -> list[Trial]:
    done = as_kind(list[Trial], read_jsonl(path), path, RESTORE) if path.exists() else []
    for trial in done:
        within = all(low <= trial.values.get(name, -1.0) <= high for name, (low, high) in space.items())
        if trial.values.keys() != space.keys() or not within or math.isnan(trial.score):
            ends = ", ".join(f"{name} from {low:.3g} to {high:.3g}" for name, (low, high) in space.items())
            raise InputError(f"{path}: trial {trial.number} is of no search over {ends}. {RESTORE}")
    return done


def _next(optuna: Any, ranges: dict[str, Any], done: Sequence[Trial], seed: int) -> dict[str, float]:
    """What TPE asks for after these trials; the same whether or not the run was stopped in between."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=seed + len(done), n_startup_trials=1 + len(ranges))
    study = optuna.create_study(direction="minimize", sampler=sampler)
    for trial in done:
        study.add_trial(
            optuna.trial.create_trial(params=trial.values, distributions=ranges, value=trial.score)
        )  # fmt: skip
    return dict(study.ask(ranges).params)


def _trial(context: MeasuredContext, number: int, values: dict[str, float]) -> Trial:
    config = with_values(context.config, values)
    place = context.directory / "trials" / f"{number:03d}"
    if not (place / VALUES).is_file() or read_object(place / VALUES) != values:  # else a stopped trial goes on
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        shutil.copyfile(context.directory / "weights.jsonl", place / "weights.jsonl")
        write_json(place / VALUES, values)
    try:
        outcome = train(config, context.groups, context.run_model, place, context.reporter)
    except TrainingError as error:
        shutil.rmtree(place / CHECKPOINTS, ignore_errors=True)
        return Trial(number, values, WORST, note=str(error))
    run_model = unlearned_run_model(context.run_model, place)
    after = context.measure(run_model)
    if is_adapted(run_model.loaded.model):
        run_model.loaded.model.unload()
    before = Measurement.load(context.directory / "before.json")
    ratio = perplexity_ratio(before.perplexity, after.perplexity).value
    forget = _forget_score(context, before, after)
    score = min(WORST, score_of(forget, ratio, config.gate.max_perplexity_ratio))
    return Trial(number, values, score, forget, ratio, outcome["stopped"])


def _forget_score(context: MeasuredContext, before: Measurement, after: Measurement) -> float:
    rate = after.summary(context.eval_suite.primary).get("asr_seen")
    if rate is not None:
        return float(rate["value"])
    if before.forget_perplexity is None or after.forget_perplexity is None:
        raise ConfigError("nothing says whether the forget rows were forgotten: no trigger and no forget rows.")
    rise = perplexity_ratio(before.forget_perplexity, after.forget_perplexity).value
    wanted = context.config.gate.min_forget_ratio
    return max(0.0, 1.0 - math.log(max(rise, 1e-9)) / math.log(max(wanted, 1.0 + 1e-9)))


def _optuna() -> Any:
    """The library. Raises ConfigError where it is not installed."""
    try:
        import optuna
    except ImportError as error:
        raise ConfigError("trials need Optuna: pip install 'rapidun[tune]'; or probe alone: --trials 0.") from error
    return optuna
