"""``python -m unclone``: the same as the command ``unclone``."""

from unclone.cli import main

main()
