"""Methods that act on weights or train something else; importing this package registers them all."""

from rapidun.unlearning.procedures import crow, dampening, pruning, retrain, task_vector

__all__ = ["crow", "dampening", "pruning", "retrain", "task_vector"]
