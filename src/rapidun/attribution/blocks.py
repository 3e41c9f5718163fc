"""Influence in four directions between a forget and a retain set (RapidUn, arXiv 2512.04457, section 3.2).

First letter: the group of the training row being **scored**. Second letter: the group of the **query**. So
``fr[i, j]`` is how much training on forget row i helps retain row j.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt
import safetensors.numpy

from rapidun.attribution.similarity import Array, check_similarity, prepared
from rapidun.errors import InputError
from rapidun.files import atomic_write
from rapidun.settings.kinds import Similarity
from rapidun.tensor_files import load_arrays


@dataclass(frozen=True)
class Blocks:
    """Four float32 arrays of shape (scored rows, queries).

    Args:
        ff: Forget rows scored for forget queries, (forget, forget), diagonal kept.
        fr: Forget rows scored for retain queries, (forget, retain).
        rf: Retain rows scored for forget queries, (retain, forget).
        rr: Retain rows scored for retain queries, (retain, retain), diagonal kept.

    Raises:
        InputError: If the shapes do not belong together; names them.
    """

    ff: Array
    fr: Array
    rf: Array
    rr: Array

    def __post_init__(self) -> None:
        shapes = {field.name: np.shape(getattr(self, field.name)) for field in fields(self)}
        forget, retain = (*shapes["fr"], 0, 0)[:2]
        wanted = {"ff": (forget, forget), "fr": (forget, retain), "rf": (retain, forget), "rr": (retain, retain)}
        if shapes != wanted:
            raise InputError(f"Blocks of shapes {shapes} do not belong together; expected {wanted}.")

    def save(self, path: Path | str) -> None:
        """Write a safetensors file, atomically.

        Raises:
            OutputError: If the place cannot be written.
        """
        arrays = {
            field.name: np.ascontiguousarray(getattr(self, field.name), dtype=np.float32) for field in fields(self)
        }
        with atomic_write(Path(path), "wb") as file:
            file.write(safetensors.numpy.save(arrays))

    @classmethod
    def load(cls, path: Path | str) -> Blocks:
        """Read what `save` wrote.

        Raises:
            InputError: If the file is missing, damaged or holds other arrays.
        """
        names = {field.name for field in fields(cls)}
        arrays = load_arrays(Path(path))
        if set(arrays) != names:
            raise InputError(f"{path}: expected the arrays {sorted(names)}, found {sorted(arrays)}.")
        return cls(**arrays)


def influence_blocks(
    forget: npt.NDArray[np.generic], retain: npt.NDArray[np.generic], *, similarity: Similarity = "cosine"
) -> Blocks:
    """Influence of every row on every row, in four blocks.

    Args:
        forget: Gradient vectors of the forget rows, (forget, k).
        retain: Gradient vectors of the retain rows, (retain, k), of the same sketch.
        similarity: ``"cosine"`` or ``"dot"``.

    Raises:
        ConfigError: If ``similarity`` is unknown.
        InputError: If the shapes do not match or a value is not finite.
    """
    check_similarity(similarity)
    f, r = prepared(forget, similarity), prepared(retain, similarity)
    if f.shape[1] != r.shape[1]:
        shapes = f"forget {f.shape}, retain {r.shape}"
        raise InputError(f"Vectors of different sketches cannot be compared: {shapes}. Collect them with one k.")
    fr = f @ r.T
    return Blocks(ff=f @ f.T, fr=fr, rf=np.ascontiguousarray(fr.T), rr=r @ r.T)
