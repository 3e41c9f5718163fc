"""``python -m rapidun``."""

from rapidun.cli import main

main()
