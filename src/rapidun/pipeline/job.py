"""What every job does with its directory: refuse, plan, claim, do each phase once, say what ran."""

from __future__ import annotations

import ctypes
import gc
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rapidun
import rapidun.attacks  # these five open the registers
import rapidun.evaluation.public
import rapidun.unlearning
import rapidun.valuation
import rapidun.weighting
from rapidun.data import BadRow
from rapidun.data.rendering import compiled_template
from rapidun.gradients.rapidgrad import forget_hashes
from rapidun.jsonl import write_jsonl
from rapidun.lifecycle import CONFIG, RunDirectory
from rapidun.pipeline.estimating import Piece
from rapidun.pipeline.inputs import RunModel
from rapidun.pipeline.meter import Meter, hardware, versions
from rapidun.pipeline.reporter import Reporter
from rapidun.reading import read_text
from rapidun.sealed import write_sealed
from rapidun.settings.base import Replayable, make_config
from rapidun.settings.model import TEMPLATES, RowSettings


def check_registered(config: Replayable) -> None:
    """Refuse what the things that a configuration names cannot do: the first step of every job.

    `rapidun.settings` needs no torch, so it may have known names alone. Now that the registers are open, options of
    methods, judges and students are checked too, and a template file is read; nothing is loaded yet.

    Raises:
        ConfigError: Names the section, and what is possible.
        InputError: If a template is none; names the line.
    """
    make_config(config.model_dump(), type(config))
    rows = getattr(config, "data", None)
    if isinstance(rows, RowSettings) and rows.template not in TEMPLATES:
        compiled_template(read_text(Path(rows.template)), rows.template)


@dataclass(frozen=True)
class Job:
    """A job and the directory of its results, before that is claimed.

    Args:
        config: What to do.
        out: Where the results go.
        reporter: Where progress goes.
        resume: Go on with what is there.
        overwrite: Replace what is there.
        resumable: Whether the verb has ``--resume``.
    """

    config: Replayable
    out: Path
    reporter: Reporter
    resume: bool
    overwrite: bool
    resumable: bool = True

    def begin(self, title: str) -> None:
        """Refuse settings and places that cannot be, before anything is read. Raises as `RunDirectory.check`."""
        check_registered(self.config)
        RunDirectory.check(self.out, **self._how)
        self.reporter.phase("check", title)

    def claim(
        self,
        marks: Mapping[str, str],
        pieces: Callable[[Sequence[str]], Sequence[Piece]],
        *,
        origins: Mapping[str, object] | None = None,
        skipped: Mapping[str, Sequence[BadRow]] | None = None,
        replayable: bool = True,
    ) -> RunDirectory:
        """Say what the work will take and claim the directory, now that everything was read and checked.

        Args:
            marks: What must be the same for a resume.
            pieces: The long work that is left, given the phases that are done.
            origins: Where ``marks`` came from.
            skipped: Rows that were left out of each group, for ``rows_skipped.jsonl``.
            replayable: Whether ``config.yaml`` alone says the whole command; it is written then.

        Raises:
            OutputError, FingerprintError: As `RunDirectory.claim`.
        """
        how: dict[str, Any] = {**self._how, "origins": origins, "configuration": self.config.to_yaml()}
        done = RunDirectory.check(self.out, marks, **how)
        self.reporter.plan(pieces(done))
        directory = RunDirectory.claim(self.out, marks, **how)
        if replayable:
            directory.write_text(CONFIG, how["configuration"])
        if skipped is not None:
            lines = [{"group": name, **bad.as_dict()} for name, rows in skipped.items() for bad in rows]
            write_jsonl(directory / "rows_skipped.jsonl", lines)
        return directory

    @property
    def _how(self) -> dict[str, Any]:
        return {"resume": self.resume, "overwrite": self.overwrite, "resumable": self.resumable}


def do_phase(directory: RunDirectory, reporter: Reporter, name: str, title: str, step: Callable[[], object]) -> None:
    """Do ``step``, measured while it runs, and mark it when its files are in place; unless it is marked already."""
    if directory.done(name):
        reporter.note(f"{name}: done before")
        return
    reporter.phase(name, title)
    _give_back_memory()
    with Meter(name) as meter:
        step()
    directory.mark(meter.record)


def _give_back_memory() -> None:
    """What the phase before remembered, and what it freed and glibc keeps: a gigabyte, of a small chat model."""
    forget_hashes()
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def write_manifest(
    directory: RunDirectory, facts: Mapping[str, Any], *, seed: int, device: str, fingerprints: Mapping[str, str]
) -> None:
    """``manifest.json``: versions, seed, fingerprints, hardware, what every phase took, and this run's ``facts``."""
    write_sealed(
        directory / "manifest.json",
        {
            "rapidun_version": rapidun.__version__,
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "seed": seed,
            **facts,
            "versions": versions(),
            "hardware": hardware(device),
            "fingerprints": dict(fingerprints),
            "phases": directory.phases,
        },
    )


def subject_facts(run_model: RunModel) -> dict[str, str]:
    """Model, dtype and template."""
    return {
        "model": run_model.loaded.source,
        "dtype": str(run_model.loaded.dtype).removeprefix("torch."),
        "template": run_model.template.name,
    }
