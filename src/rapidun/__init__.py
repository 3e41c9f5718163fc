"""rapidun: trace a language model's behaviour to its training rows, remove it, and prove it.

Importing this package imports nothing heavy; each name is loaded from its room when first used.
"""

from __future__ import annotations

__version__ = "0.1.0"
