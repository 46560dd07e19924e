"""The main job: ``python -m distributed.train RUN_FILE``, the same as ``metasrl train RUN_FILE``."""

from __future__ import annotations

import sys

from distributed.cli.main import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
