"""``python -m distributed.cli``: the command line without an installed script."""

from distributed.cli.main import main

main()
