"""The long work of every verb as pieces that can be tried: gradients, generated answers, training steps, an index."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rapidun.attribution.scorer import Scorer
from rapidun.attribution.scorers.hidden import hidden_features
from rapidun.attribution.store import BuildPlan
from rapidun.attribution.store.shards import compute_shard
from rapidun.data import Example, Rows, tokenize_rows
from rapidun.evaluation import clean_perplexity, generate_answers
from rapidun.evaluation.backdoor import suite_prompts
from rapidun.gradients import RapidGrad, collect_vectors
from rapidun.pipeline.estimating import Piece, Trial, over_prompts, over_rows, over_steps, repeated
from rapidun.pipeline.evidence import make_collector
from rapidun.pipeline.inputs import RowGroups, RunModel, held_rows, rows_at
from rapidun.pipeline.measure import EvalSuite
from rapidun.pipeline.train import even_rows
from rapidun.settings.attribution import InfluenceSettings
from rapidun.settings.evaluation import EvaluationSettings
from rapidun.settings.run import RunConfig
from rapidun.unlearning import Procedure, TrainingRows, UnlearnResult, get_method, unlearn
from rapidun.weighting import Needs, get_scheme

FREE = 1e9
"""A retain budget that a few steps cannot break."""
PERPLEXITY_TOKENS = 4096
"""Tokens of a batch of `clean_perplexity`."""
SAMPLED = 256
"""Rows whose lengths stand for those of an index or a pool."""


def weighing(run_model: RunModel, groups: RowGroups, config: RunConfig) -> list[Piece]:
    """Evidence for weights, where the scheme needs the model; again and again for one that follows it."""
    scheme = get_scheme(config.weights.scheme)
    examples = [*run_model.tokenize(groups.forget), *run_model.tokenize(groups.retain)]
    if Needs.GRADIENTS in scheme.needs:
        piece = gradients(run_model, examples, config.influence, config.seed, "influence for weights")
        times = 1 + len(config.influence.checkpoints)
    elif scheme.needs:
        piece, times = forward(run_model, examples, config.influence.max_tokens, "evidence for weights"), 1
    else:
        return []
    if scheme.follows:
        times *= 1 + config.unlearning.steps // scheme.checked(config.weights.options).every
    return [piece if times == 1 else repeated(piece, times, piece.title)]


def tracing(run_model: RunModel, pool: Rows | None, config: RunConfig) -> list[Piece]:
    """Hidden states of the pool, and gradients where its rows are labelled and every scorer is measured."""
    if pool is None:
        return []
    examples = run_model.tokenize(pool)
    found = [forward(run_model, examples, config.influence.max_tokens, "tracing by hidden states")]
    if "poisoned" in pool.dataset.column_names:
        found.append(gradients(run_model, examples, config.influence, config.seed, "tracing by gradients"))
    return found


def measuring(
    run_model: RunModel, eval_suite: EvalSuite, settings: EvaluationSettings, title: str, times: int = 1
) -> list[Piece]:
    """Perplexity of the evaluation rows, and answers to the suite's prompts where there are triggers."""
    if not times:
        return []
    examples = run_model.tokenize(eval_suite.rows)
    rows = partial(over_rows, examples, PERPLEXITY_TOKENS, partial(clean_perplexity, run_model.loaded))
    found = [Piece(f"{title}, perplexity", len(examples), "rows", rows)]
    if eval_suite.families:
        prompts = suite_prompts(run_model.template, eval_suite.rows, eval_suite.families)
        found.append(answering(run_model, prompts, settings, f"{title}, answers"))
    return [repeated(piece, times, piece.title) for piece in found]


def answering(run_model: RunModel, prompts: Sequence[str], settings: Any, title: str) -> Piece:
    """Answers to prompts; ``settings`` has ``batch_size`` and ``max_new_tokens``."""

    def generate(chosen: list[str], tokens: int) -> Any:
        return generate_answers(run_model.loaded, chosen, max_new_tokens=tokens, batch_size=settings.batch_size)

    attempt = partial(over_prompts, prompts, settings.batch_size, settings.max_new_tokens, generate)
    return Piece(title, len(prompts), "prompts", attempt)


def training(run_model: RunModel, groups: RowGroups, config: RunConfig, title: str = "unlearning") -> Piece:
    """The method's steps; of `fisher`, which has none, gradients of all rows."""
    method, settings = get_method(config.unlearning.method), config.unlearning
    rows = even_rows(run_model, groups, refusals=method.preferred == "refusal")
    if isinstance(method, Procedure) and method.name == "fisher":
        return gradients(run_model, [*rows.forget, *rows.retain], config.influence, config.seed, title)
    held = held_rows(run_model, groups)

    def train(steps: int, place: Path, progress: Callable[[int, int], None]) -> None:
        few_steps(config, run_model, rows, held, steps, place, progress=progress)

    return Piece(title, settings.steps, "steps", partial(over_steps, settings.steps, settings.check_every, train))


def few_steps(
    config: RunConfig,
    run_model: RunModel,
    rows: TrainingRows,
    held: list[Example],
    steps: int,
    place: Path,
    *,
    check_every: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> UnlearnResult:
    """The method for a few steps without a budget; the model is as it was afterwards. Raises TrainingError."""
    few = {"steps": steps, "check_every": check_every or steps + 1, "checkpoint_every": steps + 1}
    result = unlearn(
        run_model.loaded,
        rows,
        settings=config.unlearning.model_copy(update={**few, "retain_budget": FREE}),
        lora=config.lora,
        held=held,
        checkpoints=place,
        seed=config.seed,
        progress=progress,
    )
    result.undo()
    return result


def gradients(
    run_model: RunModel, examples: Sequence[Example], settings: InfluenceSettings, seed: int, title: str
) -> Piece:
    """Sketched gradients of rows."""
    collector = make_collector(run_model, settings)  # one: its first batch, which is not timed, is also checked

    def collect(chosen: list[Example]) -> None:
        pad = run_model.loaded.pad_token_id
        sketch = RapidGrad(k=settings.sketch_size, seed=seed)
        collect_vectors(collector, sketch, chosen, pad, max_tokens=settings.max_tokens)

    return Piece(title, len(examples), "rows", partial(over_rows, examples, settings.max_tokens, collect))


def forward(run_model: RunModel, examples: Sequence[Example], max_tokens: int, title: str) -> Piece:
    """Hidden states of rows."""
    loaded = run_model.loaded
    work = partial(hidden_features, loaded.model, pad_token_id=loaded.pad_token_id)
    return Piece(title, len(examples), "rows", partial(over_rows, examples, max_tokens, work))


def indexing(plan: BuildPlan) -> Piece:
    """Rows through every scorer of an index; a preconditioner, which is fitted once, is left out."""
    views = {name: _unfitted(scorer) for name, scorer in plan.manifest.views.items()}
    whole = len(plan.rows)
    drawn = np.sort(np.random.default_rng(0).choice(whole, min(SAMPLED, whole), replace=False)).tolist()
    model = plan.model

    def look(chosen: list[Example]) -> None:
        rows = rows_at(plan.rows, [place_of[example.id] for example in chosen])
        few = {"views": views, "rows": len(rows), "shard_rows": len(rows), "shards": []}
        compute_shard(replace(plan, manifest=plan.manifest.model_copy(update=few), rows=rows), 0)

    examples = tokenize_rows(
        rows_at(plan.rows, drawn), model.loaded.tokenizer, model.template, plan.manifest.max_length
    )
    place_of = {example.id: place for example, place in zip(examples, drawn, strict=True)}

    def attempt() -> Trial:
        trial = over_rows(examples, plan.manifest.max_tokens, look)
        return replace(trial, seconds=trial.seconds * whole / len(examples))

    return Piece("indexing", whole, "rows", attempt)


def _unfitted(scorer: Scorer) -> Scorer:
    return scorer.model_copy(update={"precondition": None}) if hasattr(scorer, "precondition") else scorer
