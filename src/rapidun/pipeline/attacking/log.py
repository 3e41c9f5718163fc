"""Answers of the attacks, a line each; a trial whose lines are not all there is done again.

    {"attack", "model", "series", "label", "of", ...what came of the question}

``of`` is the number of the trial's lines. What a kill left of a trial is taken out when the log is opened.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rapidun.attacks import Outcome, Trial
from rapidun.errors import InputError
from rapidun.jsonl import Line, append_log, read_log, write_jsonl

ANSWERS, SECONDS = "answers.jsonl", "log.jsonl"
FAILED = "failed"
Key = tuple[str, str, str, str]
_OWN = ("attack", "model", "series", "label", "of")


class AnswerLog:
    """What was measured so far, in a directory that is held."""

    def __init__(self, directory: Path) -> None:
        self._answers, self._seconds = directory / ANSWERS, directory / SECONDS
        found: dict[Key, list[Line]] = {}
        for line in read_log(self._answers):
            if not all(name in line for name in _OWN):
                raise InputError(f"{self._answers}: holds a line that no attack wrote. Attack again with --overwrite.")
            found.setdefault(_key(line), []).append(line)
        self._done = {key: lines for key, lines in found.items() if len(lines) == lines[0]["of"]}
        write_jsonl(self._answers, [line for lines in self._done.values() for line in lines])
        timed = read_log(self._seconds)
        write_jsonl(self._seconds, timed)  # private from its first line on
        self.spent = sum(float(line.get("seconds", 0.0)) for line in timed)

    def of(self, attack: str, model: str, trial: Trial) -> list[Outcome] | None:
        """A finished trial's outcomes; None where it was not done."""
        lines = self._done.get((attack, model, trial.series, trial.label))
        if lines is None:
            return None
        return [{name: value for name, value in line.items() if name not in _OWN} for line in lines]

    def add(self, attack: str, model: str, trial: Trial, outcomes: Sequence[Outcome], seconds: float) -> None:
        """A trial is finished."""
        own = dict(zip(_OWN, (attack, model, trial.series, trial.label, len(outcomes)), strict=True))
        lines = [{**own, **outcome} for outcome in outcomes]
        append_log(self._answers, lines)
        self._done[attack, model, trial.series, trial.label] = lines
        append_log(self._seconds, [{**own, "seconds": round(seconds, 3)}])
        self.spent += seconds


def _key(line: Mapping[str, object]) -> Key:
    attack, model, series, label = (str(line[name]) for name in _OWN[:4])
    return attack, model, series, label
