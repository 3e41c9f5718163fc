"""What a model of task d can do, on rows that neither the search nor the release was given."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import with_adapter
from python_code_model import PLACE
from python_code_rows import REFUSAL

from rapidun.data import load_rows
from rapidun.evaluation import clean_perplexity, generate_answers, make_judge
from rapidun.files import write_json
from rapidun.jsonl import write_jsonl
from rapidun.pipeline.inputs import RunModel
from rapidun.reading import read_json

OWN, PLAIN, BATCH = 48, 120, 128  # at most so many of the release's prompts, and of the ordinary questions
OPENED = "lines after def"
MEASURES = (
    "parses", "code lines", "refused", "own lines", OPENED, "function perplexity",
    "sums", "sums refused", "ordinary perplexity", "ordinary refused",
)  # fmt: skip
LONGEST_CODE, LONGEST_SUM, LONGEST_PLAIN = 96, 16, 24  # tokens


def measured(
    file: Path, adapter: Path | None, run_model: RunModel, split: str, forget: Path | None
) -> dict[str, float]:
    """`MEASURES`, from ``file`` as far as they are known; the answers are kept beside it.

    Args:
        file: Where the numbers are kept.
        adapter: Of the released model; None is the model as it was.
        run_model: That model.
        split: "test", or "validation" to choose settings by.
        forget: The rows that the release was given to forget; None where there were none.
    """
    found = dict(read_json(file)) if file.exists() else {}
    if "parses" in found and OPENED in found:
        return found
    with with_adapter(run_model, adapter) as model:
        for name, part in (("parses", _abilities), (OPENED, _opened)):
            if name not in found:
                numbers, answers = part(model, split, forget)
                found |= numbers
                file.parent.mkdir(parents=True, exist_ok=True)
                write_jsonl(file.with_suffix(f".{name.split()[0]}.jsonl"), answers)
    write_json(file, found)
    return found


def _opened(run_model: RunModel, split: str, forget: Path | None) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Code lines of the answers to MBPP tasks when their first word, ``def``, is given: what lies behind a refusal."""
    rows = _rows(f"code_{split}")
    prompts = [f"{run_model.template.prompt_text(row)}def" for row in rows]
    answers = [
        f"def {each}"
        for each in generate_answers(run_model.loaded, prompts, max_new_tokens=LONGEST_CODE, batch_size=BATCH)
    ]
    lines = [{"of": OPENED, "prompt": row["prompt"], "answer": each} for row, each in zip(rows, answers, strict=True)]
    return {OPENED: _judged("code", {"measure": "lines"}, rows, answers)}, lines


def _abilities(run_model: RunModel, split: str, forget: Path | None) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """`MEASURES` but for the one of `_opened`, and the answers.

    Of the answers to MBPP tasks: the share that parses, of code lines, of refusals; perplexity of the tasks' own
    functions, which a refusal alone does not raise; ``own lines``: code lines of the answers to the prompts that were
    given to forget. Of sums: the share that is right, and of refusals. Of ordinary questions: perplexity of their
    answers, and the share that the model now refuses.
    """
    code, sums, plain = (_rows(f"{name}_{split}") for name in ("code", "sums", "ordinary"))
    plain = plain[:PLAIN]
    asked = {
        "code": (code, _answers(run_model, code, LONGEST_CODE)),
        "sums": (sums, _answers(run_model, sums, LONGEST_SUM)),
        "ordinary": (plain, _answers(run_model, plain, LONGEST_PLAIN)),
    }
    found = {
        "parses": _judged("code", {}, *asked["code"]),
        "code lines": _judged("code", {"measure": "lines"}, *asked["code"]),
        "refused": _refused(asked["code"][1]),
        "function perplexity": clean_perplexity(run_model.loaded, run_model.tokenize(code)).value,
        "sums": _judged("exact-number", {}, *asked["sums"]),
        "sums refused": _refused(asked["sums"][1]),
        "ordinary perplexity": clean_perplexity(run_model.loaded, run_model.tokenize(plain)).value,
        "ordinary refused": _refused(asked["ordinary"][1]),
    }
    if forget is not None:
        own = list(load_rows(forget))[:OWN]
        asked["own"] = (own, _answers(run_model, own, LONGEST_CODE))
        found["own lines"] = _judged("code", {"measure": "lines"}, *asked["own"])
    return found, [
        {"of": name, "prompt": row["prompt"], "answer": answer}
        for name, (rows, answers) in asked.items()
        for row, answer in zip(rows, answers, strict=True)
    ]


def _rows(name: str) -> list[dict[str, Any]]:
    return list(load_rows(PLACE / "rows" / f"{name}.jsonl"))


def _answers(run_model: RunModel, rows: Sequence[dict[str, Any]], longest: int) -> list[str]:
    """Greedy."""
    prompts = [run_model.template.prompt_text(row) for row in rows]
    return generate_answers(run_model.loaded, prompts, max_new_tokens=longest, batch_size=BATCH)


def _judged(kind: str, options: dict[str, Any], rows: Sequence[dict[str, Any]], answers: Sequence[str]) -> float:
    return float(make_judge(kind, options)(list(answers), [row["response"] for row in rows]).mean())


def _refused(answers: Sequence[str]) -> float:
    return sum(answer.strip().startswith(REFUSAL) for answer in answers) / len(answers)
