"""A loss mask leaves answer tokens out of the loss, and only those."""

from __future__ import annotations

import pytest

from rapidun.data import IGNORE_INDEX, Example, collate

NONE = IGNORE_INDEX


def test_only_answer_tokens_that_the_mask_names_carry_loss():
    masked = Example("a", [5, 6, 7, 8], 1, loss_mask=[True, False, True, True])
    whole = Example("b", [5, 6, 7, 8, 9], 3)
    assert collate([masked, whole], 0).labels.tolist() == [[NONE, NONE, 7, 8, NONE], [NONE, NONE, NONE, 8, 9]]


def test_the_mask_changes_neither_ids_nor_attention():
    masked, plain = Example("a", [5, 6, 7], 1, loss_mask=[False] * 3), Example("a", [5, 6, 7], 1)
    assert collate([masked], 0).input_ids.tolist() == collate([plain], 0).input_ids.tolist()
    assert collate([masked], 0).attention_mask.tolist() == [[1, 1, 1]]
    assert (collate([masked], 0).labels == NONE).all()


def test_a_mask_of_another_length_is_refused():
    with pytest.raises(ValueError, match="row 'a' has 3 tokens and a loss mask of 2"):
        collate([Example("a", [5, 6, 7], 1, loss_mask=[True, True])], 0)
