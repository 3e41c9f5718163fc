"""What `rapidun evaluate` measures: one registered suite a file, and the one job that runs any of them."""

from rapidun.pipeline.suites import backdoor, generation, lm_eval, qa, tofu  # noqa: F401  (registers)
from rapidun.pipeline.suites.job import evaluate_only
from rapidun.pipeline.suites.registry import SUITES, Suite, register_suite

__all__ = ["SUITES", "Suite", "evaluate_only", "register_suite"]
