"""Entry point of ``python -m benchmarks.dice``."""

from benchmarks.dice.accuracy_page import main

main()
