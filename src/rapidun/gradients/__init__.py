"""Per-example gradients of a batch in one forward and one backward pass, and their sketches."""

from rapidun.gradients.collector import GradientCollector
from rapidun.gradients.layers import register_layer
from rapidun.gradients.rapidgrad import RapidGrad
from rapidun.gradients.sketches import Exact, Sketch
from rapidun.gradients.vectors import collect_vectors

__all__ = ["Exact", "GradientCollector", "RapidGrad", "Sketch", "collect_vectors", "register_layer"]
