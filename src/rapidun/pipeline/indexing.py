"""Index jobs: rows and model in, an index on disk out; queries for an index."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rapidun.attribution import ChangeScorer, GradientScorer, ModelContext, Scorer, TraceQuery, rankings
from rapidun.attribution.context import NO_ADAPTER
from rapidun.attribution.scorer import configured_scorers
from rapidun.attribution.scorers.change import ADAPTER_OFF
from rapidun.attribution.scorers.gradient import Precondition
from rapidun.attribution.store import BuildPlan, Index, Manifest, build_index, open_index, plan_append, plan_build
from rapidun.attribution.store.build import check_index_place, check_new, is_appended
from rapidun.attribution.store.export import export_numpy, export_rapidin
from rapidun.attribution.store.plan import check_same
from rapidun.attribution.store.verify import Damage, verify
from rapidun.data import Rows
from rapidun.errors import ConfigError, FingerprintError
from rapidun.files import check_writable
from rapidun.gradients.coverage import Coverage
from rapidun.lifecycle import check_free
from rapidun.models import LoadedModel, adapter_fingerprint
from rapidun.pipeline.evidence import chosen_sketch, note_coverage
from rapidun.pipeline.inputs import RunModel, load_by, open_run_model, read_rows, usable
from rapidun.pipeline.job import check_registered
from rapidun.pipeline.pieces import indexing
from rapidun.pipeline.reporter import Reporter, counting
from rapidun.settings.attribution import IndexConfig
from rapidun.settings.base import make_config
from rapidun.settings.model import ModelSettings
from rapidun.settings.plugins import plugin_marks


def build(
    config: IndexConfig,
    data: Path,
    out: Path,
    *,
    adapter: Path | None,
    resume: bool,
    overwrite: bool,
    reporter: Reporter,
) -> Manifest:
    """Build an index of the rows in ``data``. Raises as `rapidun.attribution.build_index`."""
    check_index_place(out, resume=resume, overwrite=overwrite)
    return _run(plan_new(config, data, out, adapter=adapter, reporter=reporter), resume, overwrite, reporter)


def plan_new(config: IndexConfig, data: Path, out: Path, *, adapter: Path | None, reporter: Reporter) -> BuildPlan:
    """The plan of a new index; the same arguments give every worker the same plan.

    Raises:
        InputError: If a row cannot be read or tokenised, before any long work.
        ConfigError, ModelError: If the settings do not fit the model.
    """
    check_registered(config)
    scorers = _scorers(config, adapter)
    rows, run_model = _inputs(config, data, adapter, reporter)
    settings = config.index
    plan = plan_build(
        out,
        usable(rows, run_model, config.data, reporter),
        model_context(run_model, adapter, open_before(settings.base, config.model, reporter)),
        scorers,
        max_length=run_model.max_length,
        max_tokens=settings.max_tokens,
        shard_rows=settings.shard_rows,
        quantize=config.model.quantize,
        plugins=plugin_marks(config.plugins),
    )
    gradient = plan.manifest.views.get("gradient")
    if isinstance(gradient, GradientScorer):
        note_coverage("gradients", Coverage(gradient.coverage["tracked"], gradient.coverage["untracked"]), reporter)
    return plan


def append(
    raw: Mapping[str, Any],
    data: Path,
    index: Path,
    *,
    adapter: Path | None,
    resume: bool,
    reporter: Reporter,
    repeats: bool = False,
) -> Manifest:
    """Add the rows in ``data`` to a finished index, with the index's own model, views and settings.

    Args:
        raw: Plain configuration; what is not given in it is the index's.
        data: The rows to add.
        index: The index's directory.
        adapter: The index's own where it is None.
        resume: Go on with an append that was stopped; one that is finished is left as it is.
        reporter: Where progress goes.
        repeats: Append rows again that are in the index already.

    Raises:
        FingerprintError: If something that was given is not the index's.
        InputError: If rows are in the index already.
    """
    opened = open_index(index)
    check_writable(index)
    check_free(index)
    config = make_config(settled_by_index(index, opened.manifest, raw), IndexConfig, "command line")
    check_registered(config)
    adapter = adapter_of(opened.manifest, adapter)
    rows, run_model = _inputs(config, data, adapter, reporter)
    run_model = replace(run_model, max_length=opened.manifest.max_length)
    before = open_before(base_of(opened.manifest), config.model, reporter)
    model = model_context(run_model, adapter, before)
    check_scorers(opened.manifest, model)
    plan = plan_append(index, usable(rows, run_model, config.data, reporter), model, repeats=repeats)
    if resume and is_appended(plan):
        reporter.note(f"{index}: these {len(plan.rows)} rows are appended already; nothing is left to do")
    else:
        check_new(plan)
    return _run(plan, resume, False, reporter)


def check_index(index: Path, reporter: Reporter) -> list[Damage]:
    """Everything that is wrong with an index."""
    reporter.phase("verify", "Checking every file")
    return verify(index, counting(reporter, "files"))


def export_vectors(index: Path, out: Path, *, name: str, reporter: Reporter) -> list[Path]:
    """One matrix as a plain NumPy array with ids."""
    reporter.phase("export", "Writing vectors")
    return export_numpy(open_index(index), out, name=name, progress=counting(reporter, "rows"))


def export_results(
    raw: Mapping[str, Any],
    index: Path,
    out: Path,
    queries: Path,
    *,
    adapter: Path | None,
    keep: int,
    reporter: Reporter,
) -> list[Path]:
    """RapidIn's result file for the queries of a row file; what ``raw`` does not give is the index's."""
    opened = open_index(index)
    config = make_config(settled_by_index(index, opened.manifest, raw), IndexConfig, "command line")
    adapter = adapter_of(opened.manifest, adapter)
    rows, run_model = _inputs(config, queries, adapter, reporter)
    reporter.phase("export", "Taking the queries' gradients")
    model = model_context(run_model, adapter)
    check_same(opened.manifest, index, model.origins(), **model.fingerprints())
    asked, told = list(rows), counting(reporter, "rows")
    run_model = replace(run_model, max_length=opened.manifest.max_length)
    query = TraceQuery(asked, run_model.tokenize(asked))
    opened.gradient_scorer()
    found = rankings(opened, model, query, ["gradient"], tick=lambda done: told(done, len(asked)))
    return [export_rapidin(opened, out, found["gradient"], asked, keep=keep)]


def model_context(run_model: RunModel, adapter: Path | None, before: LoadedModel | None = None) -> ModelContext:
    """A run's model as attribution knows it."""
    fingerprint = adapter_fingerprint(adapter) if adapter is not None else NO_ADAPTER
    return ModelContext(run_model.loaded, run_model.template, fingerprint, str(adapter or ""), before)


def base_of(manifest: Manifest) -> str:
    """The model before training that an index compares with; empty where it has none or is an adapter switched off."""
    change = manifest.views.get("change")
    return change.base if isinstance(change, ChangeScorer) and change.base != ADAPTER_OFF else ""


def check_scorers(manifest: Manifest, model: ModelContext) -> None:
    """Refuse another model than a scorer's, as another before training. Raises as `Scorer.check`."""
    for scorer in manifest.views.values():
        scorer.check(model)


def describe(index: Index) -> dict[str, Any]:
    """What an index is of, as plain values."""
    manifest = index.manifest
    content = manifest.model_dump(mode="json", exclude={"shards", "files"})
    files = manifest.every_file()
    return {**content, "shards": len(manifest.shards), "bytes": sum(file.bytes for file in files)}


def _inputs(config: IndexConfig, data: Path, adapter: Path | None, reporter: Reporter) -> tuple[Rows, RunModel]:
    reporter.phase("check", "Reading rows and model")
    rows = read_rows(data, "rows", config.data, reporter)
    return rows, open_run_model(config.model, config.data, reporter, adapter=adapter)


def _scorers(config: IndexConfig, adapter: Path | None) -> dict[str, Scorer]:
    """The scorers whose features are kept, by name. Raises ConfigError if settings do not go together."""
    settings = config.index
    names = list(settings.views)
    if (settings.base or adapter is not None) and "hidden" in names:
        names.append("change")
    if not names:
        raise ConfigError("--views: name at least one of gradient, hidden, lexical.")
    if settings.precondition != "none" and "gradient" not in names:
        raise ConfigError(f"--precondition {settings.precondition}: there is no gradient to precondition.")
    made = {
        "sketch": chosen_sketch(settings.sketch, k=settings.k, seed=config.seed).describe()
        if "gradient" in names
        else {},
        "precondition": Precondition(
            kind=settings.precondition,
            damping=settings.damping,
            rows=settings.precondition_rows,
            seed=config.seed,
        ),
    }
    return configured_scorers(names, {**settings.model_dump(exclude={"base"}), **made})


def _run(plan: BuildPlan, resume: bool, overwrite: bool, reporter: Reporter) -> Manifest:
    shards = len(plan.spans)
    reporter.plan([indexing(plan)])
    reporter.phase("index", f"Indexing {len(plan.rows)} rows in {shards} shard{'s' * (shards > 1)}")
    return build_index(plan, resume=resume, overwrite=overwrite, progress=counting(reporter, "rows"))


def open_before(source: str, settings: ModelSettings, reporter: Reporter) -> LoadedModel | None:
    """Load it as the model under study was loaded; None where no source is given.

    Raises:
        ModelError: If it cannot be loaded.
    """
    if not source:
        return None
    reporter.note(f"the model before training: {source}")
    return load_by(settings, source)


def settled_by_index(index: Path, manifest: Manifest, raw: Mapping[str, Any]) -> dict[str, Any]:
    """The plain configuration with what was not given taken from the index.

    Args:
        index: Its directory.
        manifest: Its manifest; one of before precision was kept leaves it open.
        raw: As the command line gives it: an empty or no ``model.source``, a ``dtype`` or template ``auto``, no
            ``template_options``, no ``quantize`` and no ``max_length`` are not given.

    Raises:
        FingerprintError: If something that was given is not the index's; names both and the option to leave out.
    """
    model, data = {"source": "", **raw.get("model", {})}, dict(raw.get("data", {}))
    given = {
        "--dtype": (_chosen(model.get("dtype")), manifest.dtype or None),
        "--load-in-4bit, --load-in-8bit": (model.get("quantize"), manifest.quantize or "no quantisation"),
        "--template": (_chosen(data.get("template")), manifest.template),
        "--template-option": (data.get("template_options") or None, manifest.template_options),
        "--max-length": (data.get("max_length"), manifest.max_length),
    }
    for option, (ours, theirs) in given.items():
        if ours is not None and theirs is not None and ours != theirs and not _both_files(ours, theirs):
            raise FingerprintError(
                f"{index}: this index was built with {theirs or 'none'}, and {option} says {ours}. "
                f"Leave {option} out: the index knows."
            )
    model |= {
        "source": model["source"] or manifest.model,
        "dtype": manifest.dtype or model.get("dtype") or "auto",
        "quantize": manifest.quantize if manifest.dtype else model.get("quantize"),
    }
    data |= {
        "template": _chosen(data.get("template")) or manifest.template,
        "template_options": manifest.template_options,
        "max_length": manifest.max_length,
    }
    return {**raw, "model": model, "data": data}


def adapter_of(manifest: Manifest, given: Path | None) -> Path | None:
    """The adapter that was given, else the one that the index was built with."""
    return given or (Path(manifest.adapter) if manifest.adapter else None)


def _chosen(value: Any) -> Any:
    return None if value == "auto" else value


def _both_files(ours: Any, theirs: Any) -> bool:
    """Two paths of a template: whether they are the same one, its fingerprint says."""
    names = ("chat", "alpaca", "plain")
    return isinstance(ours, str) and Path(ours).is_file() and isinstance(theirs, str) and theirs not in names
