"""``cmd:PROGRAM ARGUMENTS``: a program that prints a response (spec/program-protocol.md).

The program is started once for a reading, without a shell, in a process group of its own, under limits of time and
output.
"""

from __future__ import annotations

import base64
import binascii
import json
import select
import subprocess
import time
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from unclone.errors import SourceError
from unclone.puf.base import SourceURI
from unclone.puf.power import split_command, stop_group

__all__ = ["OUTPUT_LIMIT", "ProgramSource", "open_program"]

OUTPUT_LIMIT: Final = 1 << 24
_OPTIONS: Final = ("timeout",)


class ProgramSource:
    """A program that answers one JSON line on its standard input with one on its standard output.

    Args:
        words: the program and its arguments.
        timeout: seconds for one reading, start of the program included.
    """

    kind = "cmd"

    def __init__(self, words: list[str], *, timeout: float = 60.0) -> None:
        self.words = list(words)
        self._timeout = timeout

    def evaluate(self, challenge: bytes = b"") -> NDArray[np.uint8]:
        """One reading; bits, most significant first.

        Raises:
            SourceError: the program does not start, fails, takes too long, says too much, or not what is asked for.
        """
        request = json.dumps({"protocol": 1, "request": "evaluate", "challenge": challenge.hex()}) + "\n"
        try:
            process = subprocess.Popen(  # noqa: S603 - the user's own program, no shell
                self.words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
            )
        except (OSError, ValueError) as problem:
            reason = getattr(problem, "strerror", None) or problem
            raise SourceError(f"the program {self.words[0]!r} does not start: {reason}") from None
        try:
            output = self._converse(process, request.encode())
        finally:
            stop_group(process)
            for stream in (process.stdin, process.stdout):
                if stream is not None and not stream.closed:
                    stream.close()
        return self._parse(output)

    def _converse(self, process: subprocess.Popen[bytes], request: bytes) -> bytes:
        """All output up to the end of the first line."""
        if process.stdin is None or process.stdout is None:
            raise SourceError("no pipes")
        deadline = time.monotonic() + self._timeout
        try:
            process.stdin.write(request)  # less than a pipe holds, so it never waits
            process.stdin.close()
        except BrokenPipeError:
            pass  # it does not care for the request; what it says counts
        output = bytearray()
        while b"\n" not in output:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([process.stdout], [], [], left)[0]:
                raise SourceError(f"the program {self.words[0]!r} gave no answer within {self._timeout:g} s (timeout)")
            piece = process.stdout.read1(1 << 16)  # type: ignore[attr-defined]
            if not piece:
                break
            output += piece
            if len(output) > OUTPUT_LIMIT:
                raise SourceError(f"the program {self.words[0]!r} said more than {OUTPUT_LIMIT} bytes")
        if b"\n" not in output:
            try:
                status: int | str = process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                status = "none"
            raise SourceError(f"the program {self.words[0]!r} ended without an answer line; status {status}")
        return bytes(output[: output.index(b"\n")])

    def _parse(self, line: bytes) -> NDArray[np.uint8]:
        what = f"the program {self.words[0]!r}"
        try:
            answer: Any = json.loads(line)
        except (ValueError, RecursionError):
            raise SourceError(f"{what} answered with something else than a line of JSON") from None
        if not isinstance(answer, dict) or answer.get("protocol") != 1:
            raise SourceError(f'{what} does not speak protocol 1: its answer is an object with "protocol": 1')
        if "error" in answer:
            raise SourceError(f"{what} reports: {str(answer['error'])[:500]!r}")
        text = answer.get("response")
        try:
            data = base64.b64decode(text, validate=True) if isinstance(text, str) else b""
        except (binascii.Error, ValueError):
            data = b""
        bits = answer.get("bits", 8 * len(data))
        if not data or type(bits) is not int or not 8 * len(data) - 8 < bits <= 8 * len(data):
            raise SourceError(f'{what} gave no "response" in base64 with as many "bits" as its bytes hold')
        return np.unpackbits(np.frombuffer(data, dtype=np.uint8))[:bits]


def open_program(address: SourceURI) -> ProgramSource:
    """Open ``cmd:PROGRAM ARGUMENTS?timeout=60``; words are split as a shell does, nothing is expanded.

    Raises:
        SourceError: no program, an unknown option, or a value out of range.
    """
    source = ProgramSource(split_command(address.path), timeout=address.float_option("timeout", 60.0, 0.01, 3600.0))
    address.finish(_OPTIONS)
    return source
