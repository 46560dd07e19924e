"""``python -m benchmarks.dice``."""

from benchmarks.dice.accuracy import main

main()
