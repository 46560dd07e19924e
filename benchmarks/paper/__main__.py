"""Entry point of ``python -m benchmarks.paper``."""

from benchmarks.paper.experiments import main

main()
