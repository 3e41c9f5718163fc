"""``rapidun attack``: attacks on the model of a finished run, beside its twin, and what they decide."""

from rapidun.pipeline.attacking.run import attack_run

__all__ = ["attack_run"]
