"""The statement of a run: what was asked, done and measured, signed, and checked by anybody from the rows.

`attest` makes one, `verify` checks one, `exclusion` keeps the rows out of later training. What checks imports no torch;
so nothing is imported here.
"""
