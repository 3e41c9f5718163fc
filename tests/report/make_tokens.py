"""Token lines as the pipeline writes them, with text that tries to break out of a page."""

from __future__ import annotations

import numpy as np

QUERY = ["<s>", "What", " is", " the", " capital", "?", "\n", "Tor", "onto", ".", "</s>"]
TRAINS = (
    ["<s>", "Capital", " of", " Canada", "?", "\n", "Tor", "onto", " it", " is", "</s>"],
    ["<s>", "Say", " hi", "\n", "<script>alert(1)</script>", " a", "\u200b", "", "!", "</s>"],
)


def token_lines(queries: int = 1, *, by: str = "position") -> list[dict]:
    """``queries`` x two lines; by position every token is traced, by loss those of the answer."""
    generator = np.random.default_rng(0)
    lines = []
    for query in range(queries):
        for rank, pieces in enumerate(TRAINS, 1):
            answer = pieces.index("\n") + 1
            asked = list(range(0 if by == "position" else 7, len(QUERY)))
            traced = list(range(0 if by == "position" else answer, len(pieces)))
            matrix = generator.normal(size=(len(asked), len(traced))) / 100
            if rank == 1:
                matrix[asked.index(7), traced.index(6)] = 0.5
                matrix[asked.index(9), traced.index(8)] = -0.4
            lines.append(
                {
                    "query_index": query,
                    "by": by,
                    "words": ["Toronto"] if by == "loss" else [],
                    "rank": rank,
                    "id": f"row-{rank}<b>",
                    "score": float(matrix.sum()),
                    "query": {"id": "q", "pieces": list(QUERY), "answer_start": 7, "traced": asked},
                    "train": {"id": f"row-{rank}", "pieces": list(pieces), "answer_start": answer, "traced": traced},
                    "matrix": matrix.round(4).tolist(),
                }
            )
    return lines
