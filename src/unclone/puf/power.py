"""What sources on real hardware share: switching a board off and on, commands, whether a device file is there."""

from __future__ import annotations

import glob
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress

from unclone.errors import SourceError

__all__ = ["device_state", "power_hook", "split_command", "stop_group"]


def power_hook(command: str, what: str, limit: float) -> Callable[[], None] | None:
    """How to power-cycle ``what``.

    Args:
        command: ``"ask"`` for the person, else a program and its arguments, run without a shell; it returns when the
            power is on again. Empty for none.
        what: for messages.
        limit: seconds the command may take.

    Raises:
        SourceError: the command cannot be split into words.
    """
    if not command:
        return None
    if command == "ask":
        return lambda: _ask(what)
    words = split_command(command)
    return lambda: _run(words, what, limit)


def device_state(pattern: str, what: str) -> str:
    """Whether a device file of a pattern is there and readable: ``"usable"``, or what is missing."""
    nodes = sorted(glob.glob(pattern))
    if not nodes:
        return f"usable; no {what} here ({pattern})"
    if not any(os.access(node, os.R_OK | os.W_OK) for node in nodes):
        return f"no permission for {nodes[0]}: join its group"
    return f"usable; {', '.join(nodes[:4])}"


def split_command(command: str) -> list[str]:
    """A command's words, as a shell would split them; nothing is expanded.

    Raises:
        SourceError: no word, or a quote that does not end.
    """
    try:
        words = shlex.split(command)
    except ValueError as problem:
        raise SourceError(f"cannot split the command {command!r}: {problem}") from None
    if not words:
        raise SourceError("the command is empty; name a program")
    return words


def stop_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a process that was started in a session of its own, with all it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _ask(what: str) -> None:
    print(f"Switch {what} off, wait five seconds, switch it on, and press Enter.", file=sys.stderr, flush=True)
    if not sys.stdin.readline():
        raise SourceError(f"{what} needs a power cycle and nobody answered; name a command with power=COMMAND")


def _run(words: list[str], what: str, limit: float) -> None:
    try:
        process = subprocess.Popen(  # noqa: S603 - the user's own hook, no shell
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as problem:
        raise SourceError(f"the power hook {words[0]!r} for {what} does not start: {problem.strerror}") from None
    try:
        status = process.wait(limit)
    except subprocess.TimeoutExpired:
        stop_group(process)
        raise SourceError(
            f"the power hook {words[0]!r} for {what} took more than {limit:g} s (power_timeout)"
        ) from None
    if status:
        raise SourceError(f"the power hook {words[0]!r} for {what} failed with status {status}; try it by hand")
