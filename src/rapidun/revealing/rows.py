"""From pulls to forget rows: judged, without repetitions, best arms first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from rapidun.data.content import content_id
from rapidun.revealing.pulls import Pull, mean_rewards
from rapidun.revealing.reward import answer_similarity


def select_rows(
    pulls: Sequence[Pull],
    *,
    threshold: float,
    limit: int,
    max_similarity: float,
    per_input: int | None = None,
    round_number: int = 1,
) -> list[dict[str, Any]]:
    """Forget rows from the answers that the judge calls unwanted.

    Arms go by their mean reward, answers within an arm by the judge's score. An answer that is nearly one taken before
    (``answer_similarity`` above ``max_similarity``) is left out: it would only weigh that one more.

    Args:
        pulls: Of one round.
        threshold: Lowest score of a row.
        limit: Most rows.
        max_similarity: In (0, 1]; 1 leaves out exact repetitions alone.
        per_input: Most rows that share an input; None sets no limit, and rows without an input have none.
        round_number: Written into each row.

    Returns:
        Rows with ``id, prompt, response``, ``response_clean`` where the right answer is known, ``arm``, ``arm_kind``,
        ``score`` (the arm's mean reward), ``judge`` (the answer's score) and ``round``.
    """
    candidates = _ranked(pulls, threshold)
    similarity = answer_similarity([answer for *_, answer in candidates])
    kept: list[int] = []
    taken: Counter[str] = Counter()
    for index, (_, pull, place, _) in enumerate(candidates):
        if len(kept) == limit:
            break
        given = pull.inputs[place]
        if given is not None and per_input is not None and taken[given] == per_input:
            continue
        if not kept or similarity[index, kept].max() <= max_similarity - 1e-9:
            kept.append(index)
            taken.update([given] if given is not None else [])
    rows: dict[str, dict[str, Any]] = {}
    for index in kept:
        reward, pull, place, answer = candidates[index]
        row = _row(reward, pull, place, answer, round_number)
        rows.setdefault(row["id"], row)
    return list(rows.values())


def _ranked(pulls: Sequence[Pull], threshold: float) -> list[tuple[float, Pull, int, str]]:
    """(mean reward of the arm, pull, place in the pull, answer) of every answer that counts, best first."""
    means = mean_rewards(pulls)
    found = [
        (means[pull.arm.name], pull, place, answer)
        for pull in pulls
        for place, answer in enumerate(pull.answers)
        if pull.scores[place] >= threshold and answer.strip()
    ]
    return sorted(found, key=lambda item: (-item[0], -item[1].scores[item[2]]))


def _row(reward: float, pull: Pull, place: int, answer: str, round_number: int) -> dict[str, Any]:
    row: dict[str, Any] = {"prompt": pull.prompts[place], "response": answer}
    right = pull.references[place]
    if right:
        row["response_clean"] = right
    return {
        "id": f"revealed-{content_id(row)}",
        **row,
        "arm": pull.arm.name,
        "arm_kind": pull.arm.kind,
        "score": reward,
        "judge": pull.scores[place],
        "round": round_number,
    }
