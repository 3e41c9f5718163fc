"""Methods that act on weights or train something else; importing this package registers them all."""

from rapidun.unlearning.procedures import dampening, retrain, task_vector
from rapidun.unlearning.procedures.registry import PROCEDURES, Procedure, register_procedure

__all__ = ["PROCEDURES", "Procedure", "dampening", "register_procedure", "retrain", "task_vector"]
