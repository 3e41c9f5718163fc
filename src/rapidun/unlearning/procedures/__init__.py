"""Methods that act on weights or train something else; importing this package registers them all."""

from rapidun.unlearning.procedures import beear, crow, dampening, int4, pruning, retrain, task_vector

__all__ = ["beear", "crow", "dampening", "int4", "pruning", "retrain", "task_vector"]
