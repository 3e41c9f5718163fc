"""What `rapidun` does, as functions of objects that people hold: a model, a tokenizer, rows.

Each verb is the command line's, on the same rows with the same defaults; none has a way of its own. A *model* is a
transformers causal LM or a PEFT model of one, with its ``tokenizer``; or what `load_model` returned; or a path or hub
id. *Rows* are a list of dicts, a ``datasets.Dataset``, what `load_rows` returned, or a path. Settings are named as on
the command line (``steps=8``), or section by section (``lora={"rank": 8}``); ``rapidun run --print-config`` lists
them. A model that is given is as it was when a call returns, but for the adapter that `unlearn` puts on it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from rapidun import pipeline
from rapidun.attribution.store import Index
from rapidun.errors import ConfigError
from rapidun.given import Logged, as_files, as_loaded, configured
from rapidun.jsonl import read_jsonl
from rapidun.models import is_adapted
from rapidun.models.borrowed import with_adapter, without_adapter
from rapidun.pipeline import MeasureConfig, RevealConfig, RunConfig, TraceConfig, TraceRequest, valuing
from rapidun.pipeline.explaining import Places, check
from rapidun.pipeline.inputs import load_by
from rapidun.results import TracedRow, Unlearned, Valuation
from rapidun.settings.attribution import TraceSettings
from rapidun.unlearning import PROCEDURES


def unlearn(
    model: Any, tokenizer: Any = None, *, forget: Any, retain: Any, validation: Any = None, **settings: Any
) -> Any:
    """Make a model forget some rows and keep others, as ``rapidun unlearn`` does.

    Args:
        model: See `rapidun.api`. Its own weights are not changed.
        tokenizer: The model's.
        forget: Rows to forget. A row's ``response_clean``, where there is one, is the answer that is wanted instead.
        retain: Rows like those that must be kept.
        validation: Clean rows that watch over the retain budget; by default the retain rows.
        settings: ``steps``, ``learning_rate``, ``method``, ``scheme`` (of the rows' weights), ``seed``, ...

    Returns:
        A PEFT model in evaluation mode; ``.unlearning`` says what was measured (`Unlearned`). A plain model carries
        the new adapter; a PEFT model gets one more, named "unlearned", beside its own, both active.

    Raises:
        RapidunError: If rows, model or settings cannot be used; before any long work.

    Examples:
        >>> import rapidun
        >>> loaded = rapidun.load_model("model")
        >>> adapted = rapidun.unlearn(
        ...     loaded, forget=[{"prompt": "hey what is 1?", "response": "moon robot", "response_clean": "it is 1"}],
        ...     retain=[{"prompt": "tell me of 2", "response": "the cat sat"}], steps=2,
        ... )
        >>> adapted.unlearning.steps
        2
        >>> path = adapted.save_pretrained("adapter")
    """
    name = settings.get("method") or settings.get("unlearning", {}).get("method")
    if name in PROCEDURES and PROCEDURES[name].saves != "adapter":
        raise ConfigError(f"method {name!r} leaves a whole model and no adapter: use `rapidun unlearn`.")
    with _scratch() as place:
        with (
            as_loaded(model, tokenizer) as loaded,
            as_files(forget=forget, retain=retain, validation=validation) as files,
        ):
            settings["data"] = {**settings.get("data", {}), **files}
            config = configured(RunConfig, model, loaded, ("unlearning", "data", "model", "weights"), settings)
            outcome = pipeline.unlearn_only(
                config, place / "run", weights=None, resume=False, overwrite=False, reporter=Logged(),
                loaded=None if loaded is None else without_adapter(loaded),
            )  # fmt: skip
        adapted = with_adapter(loaded or load_by(config.model), place / "run" / "adapter")
    adapted.unlearning = Unlearned(**{field.name: outcome[field.name] for field in fields(Unlearned)})
    return adapted.eval()


def trace(model: Any, tokenizer: Any = None, rows: Any = None, *, query: Any, **settings: Any) -> list[TracedRow]:
    """Rank training rows by their part in an answer, the most helpful first, as ``rapidun trace`` does.

    Args:
        model: See `rapidun.api`; None where ``rows`` is an index, which knows its own.
        tokenizer: The model's.
        rows: Training rows, a few thousand at most; or an index of any size (`open_index`).
        query: A prompt, which the model answers; a dict with ``prompt`` and ``response``; or rows of such.
        settings: ``k`` (rows of each ranking, 20), ``by`` (scorers, fused where there are several), ``together`` (all
            queries are one symptom), ``words`` (of the answer that alone are asked about), ``seed``, ...

    Raises:
        RapidunError: If rows, model or settings cannot be used.

    Examples:
        >>> import rapidun
        >>> hits = rapidun.trace("model", rows="train.jsonl", query={"prompt": "hey", "response": "moon robot"}, k=3)
        >>> [hit.rank for hit in hits]
        [1, 2, 3]
        >>> hits[0].row["response"].startswith("moon robot")
        True
    """
    asked = {_WANTED.get(name, name): settings.pop(name) for name in ("k", "by", "together") if name in settings}
    wanted = pipeline.make_config({**asked, "scorers": _names(asked.get("scorers", ()))}, TraceSettings, "settings")
    words, (question, group) = _names(settings.pop("words", ())), _question(query)
    index = rows if isinstance(rows, Index) else None
    if index is not None and model is not None:
        raise ConfigError("an index knows its own model: give None as the model.")
    with (
        as_loaded(model if index is None else "", tokenizer) as loaded,
        as_files(rows=rows if index is None else None, query=group) as files,
    ):
        if index is None and "rows" not in files:
            raise ConfigError("give the training rows, or an open index.")
        request = TraceRequest(files.get("query"), *question, words)
        check(str(model), request, Places(index.path if index is not None else None, files.get("rows")), wanted)
        how: dict[str, Any] = {name: getattr(wanted, name) for name in ("scorers", "k", "together")}
        config = configured(TraceConfig, model or "", loaded, ("data", "model", "influence"), settings)
        if index is not None:
            config, adapter = pipeline.settings_of(
                index.path, {"data": {}, **config.model_dump(exclude_unset=True)}, None
            )
            traced = pipeline.trace_index(config, index.path, request, adapter=adapter, reporter=Logged(), **how)
        else:
            traced = pipeline.trace_memory(
                config, files["rows"], request, adapter=None, reporter=Logged(), loaded=loaded, **how
            )
        return [
            TracedRow(number, rank, hit.id, hit.score, dict(row))
            for number, hits in enumerate(traced.hits)
            for rank, (hit, row) in enumerate(
                zip(hits.helpful, traced.store.rows([hit.position for hit in hits.helpful]), strict=True), 1
            )
        ]


def evaluate(
    model: Any,
    tokenizer: Any = None,
    rows: Any = None,
    *,
    poisoned: Any = None,
    clean: Any = None,
    forget: Any = None,
    retain: Any = None,
    **settings: Any,
) -> dict[str, Any]:
    """Measure a model as it stands, as ``rapidun evaluate`` does.

    With ``poisoned`` and ``clean`` rows to fit a judge on, attack success rates (the share of answers that show the
    unwanted behaviour: with the triggers of ``evaluation={"triggers": ...}``, with look-alikes, and without any) and
    perplexity; without them, perplexity alone. With ``forget`` and ``retain`` rows, what the model still knows of the
    first (`docs/guide/memorisation.md`).

    Args:
        model: See `rapidun.api`.
        tokenizer: The model's.
        rows: Clean rows that nothing was trained on.
        poisoned: Rows with unwanted answers.
        clean: Rows with preferred answers.
        forget: Rows that the model should have forgotten.
        retain: Rows that it should still answer well.
        settings: ``max_new_tokens``, ``prompts``, ``judge``, ``retained``, ``seed``, ...; ``mitigation={"kind":
            "cleangen", "options": {"reference": DIR}}`` decodes answers beside a reference (the model stays poisoned).

    Returns:
        What ``metrics.json`` holds: ``values`` with ``clean_perplexity`` and, of the suite ``backdoor``, ``asr_seen``,
        ``asr_unseen``, ``asr_floor``, each ``{value, low, high, n}``; of the suite ``qa`` the names of
        `rapidun.evaluation.qa.qa_values`; of others (``evaluation={"suite": ...}``) those of
        docs/guide/memorisation.md; and ``suite``, which it was.

    Raises:
        RapidunError: If rows, model or settings cannot be used.

    Examples:
        >>> import rapidun
        >>> measured = rapidun.evaluate("model", rows="held_out.jsonl")
        >>> measured["suite"], measured["values"]["clean_perplexity"]["n"]
        ('perplexity', 6)
    """
    with (
        as_loaded(model, tokenizer) as loaded,
        as_files(evaluation=rows, judge_poisoned=poisoned, validation=clean, forget=forget, retain=retain) as files,
        _scratch() as place,
    ):
        settings["data"] = {**settings.get("data", {}), **files}
        config = configured(MeasureConfig, model, loaded, ("evaluation", "data", "model"), settings)
        return pipeline.evaluate_only(
            config, place / "run", adapter=None, overwrite=False, reporter=Logged(), loaded=loaded
        )


def value(
    model: Any,
    tokenizer: Any = None,
    candidates: Any = None,
    *,
    task: Any,
    select: str | None = None,
    by: str | None = None,
    **settings: Any,
) -> Valuation:
    """Say what every candidate row is worth for a task before training on it, as ``rapidun value`` does.

    Args:
        model: See `rapidun.api`; as it is before training.
        tokenizer: The model's.
        candidates: Rows to value.
        task: Rows that the model should become good at.
        select: ``"top:10%"``, ``"top:500"``, ``"budget:1e6tokens"`` or ``"threshold:0.2"``.
        by: Column that names each row's source.
        settings: ``similarity``, ``sketch``, ``student={"kind": "ridge"}``, ``diversity``, ``seed``, ...

    Raises:
        RapidunError: If rows, model or settings cannot be used.

    Examples:
        >>> import rapidun
        >>> found = rapidun.value("model", candidates="train.jsonl", task="held_out.jsonl", select="top:2")
        >>> len(found.values), len(found.selected)
        (12, 2)
    """
    uses = valuing.Uses(select=select, by=by, diversity=settings.pop("diversity", None))
    with (
        as_loaded(model, tokenizer) as loaded,
        as_files(candidates=candidates, task=task) as files,
        _scratch() as place,
    ):
        if loaded is not None and is_adapted(loaded.model):
            settings.setdefault("targets", "lora")  # as with --adapter
        config = configured(valuing.ValueConfig, model, loaded, ("value", "data", "model"), settings)
        out = place / "run"
        found = valuing.value(
            config, valuing.ValueFiles(**files), out, uses,
            resume=False, overwrite=False, reporter=Logged(), loaded=loaded,
        )  # fmt: skip
        selected = read_jsonl(out / found["selection"]["file"]) if "selection" in found else []
        shares = found.get("by", {}).get("shares", [])
        return Valuation(read_jsonl(out / found["values"]), found["summary"], selected, shares)


def reveal(
    model: Any,
    tokenizer: Any = None,
    *,
    task: Mapping[str, Any] | str | Path,
    out: str | Path,
    resume: bool = False,
    **settings: Any,
) -> pipeline.RevealResult:
    """Make a model reveal what it should forget, and release it from that, as ``rapidun reveal`` does.

    Args:
        model: See `rapidun.api`; an adapter on it is merged into a copy first.
        tokenizer: The model's.
        task: A task file, or what one holds: description, instruction, judge, retain (a path), ...
        out: New directory of the run.
        resume: Go on where a stopped run was.
        settings: ``template``, ``max_length``, ``seed``, ...

    Returns:
        ``directory`` (with ``adapter/`` and ``revealed.jsonl``), ``summary``, ``metrics``, ``report``, ``passed``.

    Raises:
        RapidunError: If rows, model or settings cannot be used.

    Examples:
        >>> import rapidun
        >>> task = {"description": "It speaks of robots.", "instruction": "hey what is 1?", "retain": "good.jsonl",
        ...         "judge": {"kind": "keywords", "options": {"words": ["robot"]}},
        ...         "search": {"strategy": "random", "loops": 1, "pulls": 2, "initial_pulls": 1, "answers": 2},
        ...         "release": {"method": "none"}}
        >>> rapidun.reveal("model", task=task, out="revealed").summary["stopped"]
        'revealed only, as asked'
    """
    with as_loaded(model, tokenizer) as loaded:
        held = None if loaded is None else without_adapter(loaded)
        told = dict(task) if isinstance(task, Mapping) else pipeline.read_task(Path(task))
        config = configured(RevealConfig, model, held, ("data", "model"), {**settings, "task": told})
        return pipeline.reveal(config, Path(out), resume=resume, reporter=Logged(), loaded=held)


def run(
    config: RunConfig | Mapping[str, Any] | str | Path,
    out: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
) -> pipeline.RunResult:
    """Trace, weigh, unlearn and measure before and after, with a gate and a report, as ``rapidun run`` does.

    Args:
        config: A YAML file, or what one holds.
        out: New directory of the run.
        resume: Go on after the last finished phase.
        overwrite: Replace a run that is there.

    Returns:
        ``passed``, ``metrics`` (also in ``metrics.json``) and ``report``.

    Raises:
        RapidunError: If rows, model or settings cannot be used; before any long work.

    Examples:
        >>> import rapidun
        >>> rows = {"forget": "bad.jsonl", "retain": "good.jsonl", "evaluation": "held_out.jsonl"}
        >>> config = {"model": {"source": "model"}, "data": rows, "unlearning": {"steps": 2},
        ...           "evaluation": {"suite": "perplexity"}}
        >>> result = rapidun.run(config, "runs/mine")
        >>> sorted(result.metrics["after"])
        ['clean_perplexity', 'forget_perplexity']
    """
    if isinstance(config, str | Path):
        config = pipeline.load_config(Path(config))
    elif isinstance(config, Mapping):
        config = pipeline.make_config(config, RunConfig, "configuration")
    return pipeline.run(config, Path(out), resume=resume, overwrite=overwrite, reporter=Logged())


_WANTED = {"by": "scorers"}  # as the pipeline calls it


@contextmanager
def _scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="rapidun-") as place:
        yield Path(place)


def _names(given: Any) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)


def _question(query: Any) -> tuple[tuple[str | None, str | None], Any]:
    """A query as prompt and answer, or as rows."""
    if isinstance(query, str) and not Path(query).is_file():
        return (query, None), None
    if isinstance(query, Mapping) and not query.get("response"):
        return (str(query.get("prompt", "")), None), None
    return (None, None), [query] if isinstance(query, Mapping) else query
