"""One run from configuration to report, and its jobs one at a time."""

from rapidun.lifecycle import RunDirectory
from rapidun.pipeline.reporter import Reporter, Silent
from rapidun.pipeline.revealing import RevealConfig, RevealResult, read_task, reveal, undo
from rapidun.pipeline.run import PHASES, RunResult, run
from rapidun.pipeline.single import unlearn_only, weigh_only
from rapidun.pipeline.suites import evaluate_only
from rapidun.pipeline.trace_job import TraceRequest, TraceResult, settings_of, tokens_of, trace_index, trace_memory
from rapidun.settings.attribution import TraceConfig
from rapidun.settings.base import make_config
from rapidun.settings.run import MeasureConfig, RunConfig, load_config

__all__ = [
    "PHASES",
    "MeasureConfig",
    "Reporter",
    "RevealConfig",
    "RevealResult",
    "RunConfig",
    "RunDirectory",
    "RunResult",
    "Silent",
    "TraceConfig",
    "TraceRequest",
    "TraceResult",
    "evaluate_only",
    "load_config",
    "make_config",
    "read_task",
    "reveal",
    "run",
    "settings_of",
    "tokens_of",
    "trace_index",
    "trace_memory",
    "undo",
    "unlearn_only",
    "weigh_only",
]
