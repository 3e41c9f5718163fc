"""One file per section of the report; each has ``build(run) -> Section | None``. The order is in ``page.py``."""
