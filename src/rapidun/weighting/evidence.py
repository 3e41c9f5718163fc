"""What weights are made of: similarities in four directions, by gradients or by hidden states, and losses.

A scheme says which of these it needs, and only those are computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Flag, auto

import numpy as np

from rapidun.errors import InputError
from rapidun.weighting.scores import BlocksLike, FloatArray, checked_blocks


class Needs(Flag):
    """What a scheme looks at besides the number of rows."""

    NOTHING = 0
    GRADIENTS = auto()  # one forward and backward pass over both groups
    HIDDEN = auto()  # one forward pass over both groups
    LOSSES = auto()  # one forward pass over the forget rows


@dataclass(frozen=True, eq=False)
class Evidence:
    """What is known of a forget and a retain set; None where it was not asked for.

    Args:
        forget: Number of forget rows.
        retain: Number of retain rows.
        gradients: Influence blocks, each (scored rows, queries).
        hidden: The same four blocks of hidden-state similarity.
        losses: (forget rows,) mean answer loss of each forget row before unlearning.
    """

    forget: int
    retain: int
    gradients: BlocksLike | None = None
    hidden: BlocksLike | None = None
    losses: FloatArray | None = None

    @classmethod
    def of(cls, blocks: BlocksLike) -> Evidence:
        """Influence blocks alone.

        Raises:
            InputError: If the blocks cannot be used; see `fuse`.
        """
        ff, _, _, rr = checked_blocks(blocks)
        return cls(ff.shape[0], rr.shape[0], gradients=blocks)

    def blocks(self, kind: str = "gradients") -> BlocksLike:
        """The "gradients" or the "hidden" blocks.

        Raises:
            InputError: If they were not collected.
        """
        found = self.gradients if kind == "gradients" else self.hidden
        if found is None:
            raise InputError(f"this weighting scheme needs {kind} blocks, and there are none.")
        return found

    def forget_losses(self) -> FloatArray:
        """(forget rows,) losses.

        Raises:
            InputError: If they were not collected, or one is not finite.
        """
        if self.losses is None:
            raise InputError("this weighting scheme needs the losses of the forget rows, and there are none.")
        values = np.asarray(self.losses, dtype=np.float64)
        if values.shape != (self.forget,) or not np.isfinite(values).all():
            raise InputError(f"losses of shape {values.shape} for {self.forget} forget rows: one finite number a row.")
        return values
