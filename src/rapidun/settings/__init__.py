"""Every setting of every verb, in one place that needs no torch: typed, limited, with its help beside it.

The command line, YAML files, ``--print-config`` and docs/settings.md are made from these classes. Each module holds the
settings of one thing, so that a help page imports no more than it shows.
"""
