"""Rows in: layouts, readers, templates, tokenisation, collation."""
