"""The exceptions a user sees. Each message says what is wrong, where, and what to do about it.

The command line prints the message alone and exits with code 2; a traceback means a bug in rapidun.
"""

from __future__ import annotations


class RapidunError(Exception):
    """Base of every error caused by input, settings or the machine rather than by a bug."""


class InputError(RapidunError):
    """A file, row, column or value that cannot be used."""


class ConfigError(RapidunError):
    """A setting that is unknown, of the wrong type, or in conflict with another."""


class ModelError(RapidunError):
    """A model directory, tokenizer or adapter that cannot be used as asked."""


class FingerprintError(RapidunError):
    """Two things that do not belong together: the message names both fingerprints."""


class OutputError(RapidunError):
    """An output place that exists already, is full or cannot be written."""


class DiskFullError(OutputError):
    """A disk that is full; what goes on with the work adds how."""


class TrainingError(RapidunError):
    """Training that could not start, changed nothing, or ran out of memory."""
