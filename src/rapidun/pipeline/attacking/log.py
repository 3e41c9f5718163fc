"""Answers of the attacks, a line each; a trial whose lines are not all there is done again.

    {"attack", "model", "series", "label", "of", ...what came of the question}

``of`` is the number of the trial's lines. What a kill left of a trial is taken out when the log is opened.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rapidun.attacks import Outcome, Trial
from rapidun.jsonl import Line, append_log, numbered_log, read_log, write_jsonl
from rapidun.reading import as_kind

ANSWERS, SECONDS = "answers.jsonl", "log.jsonl"
FAILED = "failed"
Key = tuple[str, str, str, str]
_OWN = ("attack", "model", "series", "label", "of")
AGAIN = "No attack wrote this. Attack again with --overwrite."


@dataclass(frozen=True)
class _Own:
    attack: str
    model: str
    series: str
    label: str
    of: int


@dataclass(frozen=True)
class _Timed(_Own):
    seconds: float


class AnswerLog:
    """What was measured so far, in a directory that is held."""

    def __init__(self, directory: Path) -> None:
        self._answers, self._seconds = directory / ANSWERS, directory / SECONDS
        found: dict[Key, list[Line]] = {}
        for number, line in numbered_log(self._answers):
            as_kind(_Own, {name: line[name] for name in _OWN if name in line}, f"{self._answers}:{number}", AGAIN)
            found.setdefault(_key(line), []).append(line)
        self._done = {key: lines for key, lines in found.items() if len(lines) == lines[0]["of"]}
        write_jsonl(self._answers, [line for lines in self._done.values() for line in lines])
        timed = as_kind(list[_Timed], read_log(self._seconds), self._seconds, AGAIN)
        write_jsonl(self._seconds, map(asdict, timed))  # private from its first line on
        self.spent = sum(line.seconds for line in timed)

    @property
    def path(self) -> Path:
        """The file of the answers."""
        return self._answers

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
