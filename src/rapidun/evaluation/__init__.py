"""What a model does, measured: greedy answers, judges with floor and ceiling, backdoor rates, perplexity, the gate.

The names are those of `rapidun.evaluation.public`, imported when the first of them is used. `gate`, `rates`,
`judges` and the arithmetic of `perplexity` need no torch: what checks stored results (`rapidun.statement`) imports
these alone.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rapidun.evaluation.public import *  # noqa: F403
else:
    from importlib import import_module

    def __getattr__(name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(import_module("rapidun.evaluation.public"), name)
