"""How a build is carried out; none of it changes the index."""

from __future__ import annotations

from dataclasses import dataclass, field

from rapidun.pipeline.reporter import Reporter, Silent


@dataclass(frozen=True)
class Settings:
    """What every engine is told.

    Args:
        workers: Number of workers; None lets the engine choose.
        resume: Go on with what a stopped build left.
        overwrite: Replace an index that is there.
        reporter: Told of phases and progress.
    """

    workers: int | None = None
    resume: bool = False
    overwrite: bool = False
    reporter: Reporter = field(default_factory=Silent)
