"""The tokens behind a trace: for a query and the rows that a trace found, every pair of tokens, ready to print.

One line for each training row, in the order given, of values that JSON can hold:

``query_index, by, words, rank, id``; ``score`` (the sum of all pairs; with cosine similarity between -1 and 1);
``matrix`` (traced query tokens x traced train tokens); and ``query`` and ``train``, each ``{id, pieces, answer_start,
traced}``: the text of every token of the row, where its answer begins, and which tokens the matrix is about.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rapidun.attribution.tokens import trace_tokens_many
from rapidun.attribution.words import token_texts, word_mask
from rapidun.data import Example
from rapidun.pipeline.inputs import Row, RunModel
from rapidun.settings.attribution import InfluenceSettings
from rapidun.settings.kinds import Decomposition

_DIGITS = 5  # significant; enough to colour and to sum by


def word_query(
    run_model: RunModel, query_row: Row, words: Sequence[str] = (), *, case_sensitive: bool = True
) -> Example:
    """The tokenised query; with ``words``, only they carry loss.

    Raises:
        InputError: If a word is not in the answer.
    """
    example = run_model.tokenize([query_row])[0]
    if not words:
        return example
    return word_mask(example, run_model.loaded.tokenizer, words=words, case_sensitive=case_sensitive)


def token_lines(
    run_model: RunModel,
    query_row: Row,
    train_rows: Sequence[Row],
    settings: InfluenceSettings,
    *,
    by: Decomposition = "position",
    words: Sequence[str] = (),
    case_sensitive: bool = True,
    query_index: int = 0,
) -> list[dict[str, Any]]:
    """One line for each training row, see above.

    Args:
        query_row: ``prompt``, ``response`` and, where there are any, ``id`` and ``context``.
        train_rows: The hits of a trace, best first.
        settings: Those of the trace, so that the pairs sum to its score (up to the sketch's error).
        by: ``"position"`` or ``"loss"``, see `rapidun.attribution.tokens`.
        words: Restrict the query's loss to these words of its answer.
        case_sensitive: Whether the words' case counts.
        query_index: Which query of several this is; kept in the lines.

    Raises:
        InputError: If a word is not in the answer, or a row cannot be tokenised.
    """
    query = word_query(run_model, query_row, words, case_sensitive=case_sensitive)
    trains = run_model.tokenize(list(train_rows)) if train_rows else []
    found = trace_tokens_many(
        run_model.loaded.model,
        query,
        trains,
        by=by,
        targets=settings.targets,
        normalize=settings.normalize,
        token_normalize=settings.token_normalize,
        pad_token_id=run_model.loaded.pad_token_id,
        max_tokens=settings.max_tokens,
    )
    tokenizer = run_model.loaded.tokenizer
    asked = token_texts(tokenizer, query.input_ids)
    lines = []
    for rank, (train, influence) in enumerate(zip(trains, found, strict=True), 1):
        norms = influence.query_norm * influence.train_norm
        cosine = settings.similarity == "cosine" and norms > 0
        matrix = influence.matrix / norms if cosine else influence.matrix  # sums to what the trace calls its score
        lines.append(
            {
                "query_index": query_index,
                "by": by,
                "words": list(words),
                "rank": rank,
                "id": train.id,
                "score": float(matrix.sum()),
                "query": _side(query, asked, influence.query_positions),
                "train": _side(train, token_texts(tokenizer, train.input_ids), influence.train_positions),
                "matrix": [[float(f"{value:.{_DIGITS}g}") for value in row] for row in matrix],
            }
        )
    return lines


def _side(example: Example, pieces: list[str], traced: list[int]) -> dict[str, Any]:
    return {"id": example.id, "pieces": pieces, "answer_start": example.answer_start, "traced": traced}
