"""Per-example gradients of a batch in one forward and one backward pass, and their sketches."""

from rapidun.gradients.collector import Collector, GradientCollector, collect_vectors
from rapidun.gradients.factored import FactoredSketch
from rapidun.gradients.layers import register_layer
from rapidun.gradients.preconditioners import Preconditioner, fit_preconditioner, load_preconditioner
from rapidun.gradients.rapidgrad import RapidGrad
from rapidun.gradients.readout import Readout, ReadoutCollector, make_collector
from rapidun.gradients.sketches import DenseSketch, Exact, FactorSketch, Sketch, register_sketch, sketch_from

__all__ = [
    "Collector",
    "DenseSketch",
    "Exact",
    "FactorSketch",
    "FactoredSketch",
    "GradientCollector",
    "Preconditioner",
    "RapidGrad",
    "Readout",
    "ReadoutCollector",
    "Sketch",
    "collect_vectors",
    "fit_preconditioner",
    "load_preconditioner",
    "make_collector",
    "register_layer",
    "register_sketch",
    "sketch_from",
]
