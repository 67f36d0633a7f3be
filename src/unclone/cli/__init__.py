"""The command line: one verb for each public function; nothing but parsing and printing.

Results go to standard output, talk to standard error. Exit codes: 0 success, 1 unexpected failure, 2 usage or bad
input, 3 not this device or altered key material, 4 altered model, 130 interrupted.
"""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Entry point of the command ``unclone``."""
    try:
        import typer  # noqa: F401
    except ImportError:
        sys.exit("unclone: the command line needs 'typer' and 'rich': pip install 'unclone[cli]'")
    try:
        from unclone.cli.app import run

        code = run(sys.argv[1:])
    except KeyboardInterrupt:  # before the verbs were loaded
        code = 130
    sys.exit(code)
