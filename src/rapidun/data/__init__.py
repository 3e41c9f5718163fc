"""Rows in: layouts, readers, templates, tokenisation, collation."""

from rapidun.data.badrows import BadRow
from rapidun.data.batches import IGNORE_INDEX, Batch, Example, collate, token_budget_batches
from rapidun.data.layouts import LAYOUTS
from rapidun.data.rows import Rows, RowStream, assert_disjoint, load_rows
from rapidun.data.templates import Template, require_same_template
from rapidun.data.tokenise import tokenize_rows

__all__ = [
    "IGNORE_INDEX",
    "LAYOUTS",
    "BadRow",
    "Batch",
    "Example",
    "RowStream",
    "Rows",
    "Template",
    "assert_disjoint",
    "collate",
    "load_rows",
    "require_same_template",
    "token_budget_batches",
    "tokenize_rows",
]
