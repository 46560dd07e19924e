"""``python -m metasrl``: the command line without an installed script."""

from metasrl.command import main

main()
