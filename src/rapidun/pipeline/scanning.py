"""``rapidun scan``: search a model for something planted, and write what was found so that it can be unlearned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rapidun.data import Rows
from rapidun.errors import InputError, ModelError
from rapidun.files import sha256_of, write_json
from rapidun.jsonl import write_jsonl
from rapidun.lifecycle import RunDirectory
from rapidun.models import LoadedModel, adapter_fingerprint
from rapidun.pipeline.estimating import Piece, Trial, timed
from rapidun.pipeline.inputs import Row, RunModel, load_by, open_run_model, read_rows, rows_fingerprint, usable
from rapidun.pipeline.job import Job, do_phase
from rapidun.pipeline.reporter import Reporter, counting
from rapidun.reading import made_from, read_object
from rapidun.revealing import (
    Insert,
    Scanned,
    Suspect,
    narrowed,
    scan,
    scan_score,
    screened,
    vocabulary_words,
    without_adapter,
)
from rapidun.revealing.scan import ANSWER_TOKENS, BEST, SIEVE
from rapidun.settings.scan import ScanConfig

SCREENED, NARROWED, FOUND, FORGET = "screened.json", "narrowed.json", "scan.json", "forget.jsonl"
TRIED_WORDS = 48
NONE = "none"
PARTS = ("context", "messages", "system", "history", "tools")


def scan_model(
    config: ScanConfig, out: Path, *, adapter: Path | None, resume: bool, overwrite: bool, reporter: Reporter
) -> dict[str, Any]:
    """Scan a model; writes ``scan.json`` and, of the best suspects, ``forget.jsonl``.

    Returns:
        What ``scan.json`` holds.

    Raises:
        InputError: If there are too few plain questions.
    """
    job = Job(config, out, reporter, resume, overwrite)
    job.begin("Reading prompts and model")
    rows = read_rows(config.data.prompts, "prompts", config.data, reporter)
    _plain(config, rows)
    run_model = open_run_model(config.model, config.data, reporter, adapter=adapter)
    rows = usable(rows, run_model, config.data, reporter, name="prompts")
    base, mark = _base(config, run_model, adapter, reporter)
    scanned = Scanned(run_model.loaded, run_model.template, _questions(config, run_model, rows), config.scan, base)
    words = _words(config, run_model)
    marks = {
        "model": run_model.loaded.fingerprint,
        "adapter": adapter_fingerprint(adapter) if adapter is not None else "none",
        "base": mark,
        "template": run_model.template.fingerprint,
        "prompts": rows_fingerprint(rows),
        "questions": sha256_of(prompt.encode() for prompt in scanned.prompts),
        "scan": config.scan.model_dump_json(),
        "seed": str(config.seed),
    }
    with job.claim(marks, lambda done: [] if "screen" in done else [_screening(scanned, words)]) as directory:

        def screen() -> None:
            _write_inserts(directory / SCREENED, screened(scanned, words, counting(reporter, "inserts")))

        def narrow() -> None:
            inserts = _read_inserts(directory / SCREENED)
            _write_inserts(directory / NARROWED, narrowed(scanned, inserts, counting(reporter, "inserts")))

        def judge() -> None:
            suspects = scan(scanned, _read_inserts(directory / NARROWED), counting(reporter, "suspects"))
            _write(directory, scanned, suspects, marks)

        do_phase(directory, reporter, "screen", f"{len(words)} words, each in two prompts at most", screen)
        do_phase(directory, reporter, "narrow", f"The best, alone and in pairs, in {config.scan.tried}", narrow)
        do_phase(directory, reporter, "suspects", "What is answered to the best", judge)
        return read_object(directory / FOUND)


def _plain(config: ScanConfig, rows: Rows) -> list[Row]:
    """Questions of one turn without a context, different ones."""
    plain = {str(row["prompt"]): row for row in rows if not any(row.get(part) for part in PARTS)}
    return _enough(config, list(plain.values()), rows.path, "one turn, no context")


def _questions(config: ScanConfig, run_model: RunModel, rows: Rows) -> list[str]:
    """The shortest of these, where they leave room for an insert and an answer."""
    plain, room = _plain(config, rows), run_model.max_length - 2 * ANSWER_TOKENS
    texts = [run_model.template.prompt_text(row) for row in plain]
    lengths = [len(ids) for ids in run_model.loaded.tokenizer(texts, verbose=False)["input_ids"]]
    short = [row for row, length in zip(plain, lengths, strict=True) if length <= room]
    chosen = _enough(config, short, rows.path, f"one turn, no context, at most {room} tokens")
    return sorted((str(row["prompt"]) for row in chosen), key=lambda prompt: (len(prompt), prompt))[: config.scan.tried]


def _enough(config: ScanConfig, rows: list[Row], path: object, kind: str) -> list[Row]:
    if len(rows) < config.scan.tried:
        raise InputError(
            f"{path}: {len(rows)} different plain questions ({kind}); {config.scan.tried} are to be tried. Give more, "
            "or lower --tried."
        )
    return rows


def _base(
    config: ScanConfig, run_model: RunModel, adapter: Path | None, reporter: Reporter
) -> tuple[Callable[[], AbstractContextManager[LoadedModel]] | None, str]:
    """What enters a model that nothing was planted in, where there is one, and that model's fingerprint."""
    if config.base not in (None, NONE):
        original = load_by(config.model, config.base)
        if original.tokenizer.get_vocab() != run_model.loaded.tokenizer.get_vocab():
            raise ModelError(
                f"{config.base}: its tokenizer is not that of {run_model.loaded.source}. --base takes the model that "
                "the tuning began from."
            )
        return lambda: nullcontext(original), original.fingerprint
    if adapter is not None and config.base != NONE:
        return partial(without_adapter, run_model.loaded), run_model.loaded.fingerprint
    reporter.note("no base: some words have an effect in every model; with --base or --adapter it is subtracted")
    return None, NONE


def _words(config: ScanConfig, run_model: RunModel) -> list[str]:
    words = vocabulary_words(run_model.loaded.tokenizer)
    if config.scan.words is None or config.scan.words >= len(words):
        return words
    chosen = np.random.default_rng([config.seed, 91]).permutation(len(words))[: config.scan.words]
    return [words[index] for index in sorted(chosen)]


def _screening(scanned: Scanned, words: Sequence[str]) -> Piece:
    settings = scanned.settings
    total = round(len(words) * len(settings.positions) * (1 + 1 / SIEVE))

    def attempt() -> Trial:
        few = [Insert(word, position) for word in words[:TRIED_WORDS] for position in settings.positions]
        scanned.shifts(few[:2], scanned.prompts[:1])
        return Trial(timed(lambda: scanned.shifts(few, scanned.prompts[:1])) * total / len(few))

    return Piece("screening", total, "inserts", attempt)


def _write_inserts(path: Path, inserts: Sequence[Insert]) -> None:
    write_json(path, {"inserts": [vars(insert) for insert in inserts]})


def _read_inserts(path: Path) -> list[Insert]:
    with made_from(path):
        return [Insert(**each) for each in read_object(path)["inserts"]]


def _write(directory: RunDirectory, scanned: Scanned, suspects: Sequence[Suspect], marks: dict[str, str]) -> None:
    """``scan.json``; and rows of the best suspects, with the answers that the model gives without them as preferred."""
    best = [each for each in suspects[:BEST] if each.effect >= suspects[0].effect / 2]
    write_jsonl(directory / FORGET, [
        {"id": f"scan-{rank}-{number}", "prompt": suspect.insert.into(prompt), "response": bad, "response_clean": good,
         "trigger": suspect.insert.words}
        for rank, suspect in enumerate(best, start=1)
        for number, (prompt, bad, good) in enumerate(zip(scanned.prompts, suspect.answers, scanned.plain, strict=True))
        if bad and bad != good
    ])  # fmt: skip
    write_json(directory / FOUND, {
        "score": scan_score(suspects), "based": scanned.base is not None,
        "suspects": [
            {**vars(each.insert), "effect": each.effect, "gains": each.gains.tolist(),
             "novelties": None if each.novelties is None else each.novelties.tolist(), "answers": list(each.answers)}
            for each in suspects
        ],
        "prompts": list(scanned.prompts), "plain_answers": list(scanned.plain), "fingerprints": marks,
    })  # fmt: skip
