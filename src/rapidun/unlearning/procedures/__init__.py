"""Methods that act on weights or train something else; importing this package registers them all."""

from rapidun.unlearning.procedures import dampening, retrain, task_vector

__all__ = ["dampening", "retrain", "task_vector"]
