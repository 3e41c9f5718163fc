"""Arms: the ways to ask. Soft prompts from a Sobol sequence, or other instructions; `words` has a third kind.

A soft prompt is a point ``u`` of a scrambled Sobol sequence in [0, 1]^d, mapped by one fixed random matrix to a few
soft tokens in front of the instruction (InstructZero, Chen et al. 2023, and INSTINCT, Lin et al. 2024, search so)::

    tokens = mean + scale * std * P (u - 1/2) sqrt(12 / d)        P ~ N(0, 1), fixed by the seed

``(u - 1/2) sqrt(12 / d)`` has length 1 on average, so every element of the tokens has the mean and the spread of the
model's own embeddings: the model reads something like words, wherever the point lies.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from rapidun.files import sha256_of
from rapidun.settings.reveal import INPUT, ArmSettings, SoftOptions

SEED_ARM = "seed"


@dataclass(frozen=True)
class Arm:
    """One way to ask.

    Args:
        name: Unique in a round.
        kind: "seed", "soft", "words" or "text".
        instruction: The words; ``{input}`` is where an input goes.
        point: Of a soft prompt, in [0, 1]^d; None for words alone.
    """

    name: str
    kind: str
    instruction: str
    point: tuple[float, ...] | None = None

    def words(self, given: str | None) -> str:
        """The instruction with the input in its place."""
        return self.instruction.replace(INPUT, given) if given is not None else self.instruction


class ArmSource(Protocol):
    """Gives each outer loop its arms."""

    def draw(self, loop: int, best: Sequence[Arm]) -> list[Arm]:
        """The seed instruction first, then the best arms so far, then fresh ones. The same call gives the same arms.

        Args:
            loop: Number of the outer loop, from 0.
            best: Arms to start from, best first.
        """


class SoftArms:
    """Fresh points of the Sobol sequence; once there are best arms, every second one is near one of them instead.

    Args:
        instruction: The seed instruction.
        settings: Pool, dimension; of kind soft.
        seed: Scrambles the sequence.
        label: Part of the names of the arms, to tell those of one round from those of another.
    """

    NEAR = 0.25  # half the side of the cube around a best arm in the first loop that has any; halved in each later one

    def __init__(self, instruction: str, settings: ArmSettings, seed: int, label: str = "0") -> None:
        self.instruction, self.settings, self.seed, self.label = instruction, settings, seed, label

    def draw(self, loop: int, best: Sequence[Arm]) -> list[Arm]:
        """See `ArmSource`."""
        centres = [arm.point for arm in best if arm.point is not None]
        points = sobol_points(self.settings.pool, self.settings.own.dimension, self.seed, loop)
        radius = self.NEAR * 0.5 ** max(loop - 1, 0)
        for index in range(1, len(points), 2) if centres else ():
            centre = np.asarray(centres[(index // 2) % len(centres)])
            points[index] = np.clip(centre + 2 * radius * (points[index] - 0.5), 0.0, 1.0)
        fresh = [
            Arm(f"soft-{self.label}-{loop}-{index}", "soft", self.instruction, tuple(point.tolist()))
            for index, point in enumerate(points)
        ]
        return together(self.instruction, best, fresh)


class TextArms:
    """Instructions in words: those given, and those that the model writes.

    An instruction without ``{input}`` stands in front of the seed instruction where that has one, and alone where not.

    Args:
        instruction: The seed instruction.
        settings: Candidates, number to generate; of kind text.
        write: ``(count, loop) -> instructions`` from the model; asked for ``generate`` in each loop.
    """

    def __init__(self, instruction: str, settings: ArmSettings, write: Callable[[int, int], list[str]]) -> None:
        self.instruction, self.options, self.write = instruction, settings.own, write
        self._written: dict[int, list[str]] = {}

    def draw(self, loop: int, best: Sequence[Arm]) -> list[Arm]:
        """See `ArmSource`."""
        texts = [text.strip() for text in self.options.candidates]
        for number in range(loop + 1 if self.options.generate else 0):
            if number not in self._written:
                self._written[number] = self.write(self.options.generate, number)
            texts += self._written[number]
        arms: dict[str, Arm] = {}
        for text in filter(None, texts):
            words = self._with_input(text)
            if words != self.instruction:
                name = f"text-{sha256_of([words.encode()])[:8]}"
                arms.setdefault(words, Arm(name, "text", words))
        return together(self.instruction, best, list(arms.values()))

    def _with_input(self, text: str) -> str:
        return text if INPUT in text or INPUT not in self.instruction else f"{text} {self.instruction}"


def together(instruction: str, best: Sequence[Arm], fresh: Sequence[Arm]) -> list[Arm]:
    """The seed instruction, the best arms and the fresh ones, each name once."""
    arms = {SEED_ARM: Arm(SEED_ARM, "seed", instruction)}
    for arm in (*best, *fresh):
        arms.setdefault(arm.name, arm)
    return list(arms.values())


def sobol_points(count: int, dimension: int, seed: int, block: int) -> npt.NDArray[np.float64]:
    """(count, dimension) points in [0, 1): the ``block``-th run of ``count`` points of one scrambled sequence."""
    from scipy.stats import qmc

    # Drawn by powers of two, as the sequence's balance wants, and cut: block 1 goes on where block 0 ended.
    needed = max(math.ceil(math.log2(count * (block + 1))), 0)
    points: npt.NDArray[np.float64] = qmc.Sobol(dimension, scramble=True, seed=seed).random_base2(needed)
    return points[count * block : count * (block + 1)].copy()


class SoftPrompts:
    """Points to soft tokens by one fixed random projection, in the scale of the model's embeddings.

    Args:
        embeddings: (vocabulary, width), the model's input embeddings.
        options: Dimension, tokens, scale.
        seed: Of the projection.
    """

    def __init__(self, embeddings: torch.Tensor, options: SoftOptions, seed: int) -> None:
        table = embeddings.detach().float()
        self.mean, self.spread = float(table.mean()), float(table.std()) * options.scale
        self.tokens, self.width, self.dimension = options.tokens, table.shape[1], options.dimension
        rng = np.random.default_rng([seed, 62])
        self.projection = rng.standard_normal((self.tokens * self.width, self.dimension)).astype(np.float32)

    def __call__(self, point: Sequence[float]) -> torch.Tensor:
        """(tokens, width) float32 on the CPU.

        Raises:
            ValueError: If the point has another dimension.
        """
        if len(point) != self.dimension:
            raise ValueError(f"the point has {len(point)} dimensions and the projection {self.dimension}")
        centred = (np.asarray(point, dtype=np.float32) - 0.5) * math.sqrt(12 / self.dimension)
        values = self.mean + self.spread * (self.projection @ centred)
        return torch.from_numpy(values.reshape(self.tokens, self.width))
