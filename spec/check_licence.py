"""Second reader of licences: plain Python from licence.md and bound-model.md, section 8, alone.

    python spec/check_licence.py LICENCE --device-key HEX --file-id HEX [--now 2031-12-31T23:59:59Z]

prints as JSON the content key that a licence holds for a device. Exit codes: 2 malformed, 3 of no use here.
Shares no code with the package. For test licences: it prints a secret.
"""

from __future__ import annotations

import argparse
import base64
import calendar
import hashlib
import json
import re
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import canonical_json
import hpke_base

LIMIT = 16 * 2**10
MEMBERS = {"format", "version", "file_id", "suite", "hint", "sealed", "not_after", "note"}
EXIT_CODES = {"FormatError": 2, "UnsupportedError": 2, "LicenceError": 3}


class Finding(Exception):
    """What the specification calls the error."""

    def __init__(self, error: str, message: str) -> None:
        super().__init__(message)
        self.error = error
        self.exit_code = EXIT_CODES[error]


def need(condition: object, message: str, error: str = "FormatError") -> None:
    if not condition:
        raise Finding(error, message)


def _hex(value: Any, length: int) -> bytes:
    need(isinstance(value, str) and len(value) == 2 * length, "hex of a wrong length")
    need(all(character in "0123456789abcdef" for character in value), "not lower-case hexadecimal")
    return bytes.fromhex(value)


def _base64(value: Any, length: int) -> bytes:
    need(isinstance(value, str) and value.isascii(), "not base64")
    try:
        data = base64.b64decode(value, validate=True)
    except ValueError:
        raise Finding("FormatError", "not base64") from None
    need(base64.b64encode(data).decode() == value and len(data) == length, "base64 of another spelling or length")
    return data


def seconds(text: str) -> tuple[int, ...]:
    """A time that can be compared: year, month, day, hour, minute, second."""
    match = re.fullmatch(r"([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{2}):([0-9]{2}):([0-9]{2})Z", text)
    need(match, "not_after is no time of RFC 3339")
    year, month, day, hour, minute, second = found = tuple(int(part) for part in match.groups())  # type: ignore[union-attr]
    need(year >= 1 and 1 <= month <= 12 and hour < 24 and minute < 60 and second < 60, "no such time")
    need(1 <= day <= calendar.monthrange(year, month)[1], "no such day")
    return found


def parse(data: bytes) -> dict[str, Any]:
    """A licence that is well formed; raises Finding."""
    need(len(data) <= LIMIT, "longer than 16 KiB")
    try:
        licence = canonical_json.decode(data)
    except canonical_json.NotCanonical as problem:
        raise Finding("FormatError", str(problem)) from None
    need(isinstance(licence, dict) and licence.get("format") == "unclone-licence", "not a licence")
    need(type(licence.get("version")) is int, "version is an integer")
    need(licence["version"] == 1, "another version", "UnsupportedError")
    need(set(licence) == MEMBERS, "missing or unknown members")
    need(isinstance(licence["suite"], str), "suite is a string")
    need(isinstance(licence["not_after"], str) and isinstance(licence["note"], str), "the terms are strings")
    need(licence["suite"] in hpke_base.SEALED_BYTES, "unknown suite", "UnsupportedError")
    need(len(licence["note"]) <= 256, "note")
    if licence["not_after"]:
        seconds(licence["not_after"])
    _base64(licence["sealed"], hpke_base.SEALED_BYTES[licence["suite"]])
    _hex(licence["file_id"], 16)
    _hex(licence["hint"], 8)
    return dict(licence)


def check(data: bytes, device_key: bytes, file_id: bytes, now: str) -> dict[str, Any]:
    """What the licence gives a device for a model at a time; raises Finding."""
    licence = parse(data)
    need(licence["file_id"] == file_id.hex(), "another model's", "LicenceError")
    public = hpke_base.device_public(licence["suite"], device_key)
    hint = hashlib.sha256(b"unclone v1 slot hint" + file_id + public).digest()[:8]
    need(licence["hint"] == hint.hex(), "another device's", "LicenceError")
    terms = canonical_json.encode({name: value for name, value in licence.items() if name != "sealed"}).encode("ascii")
    info = b"unclone v1 licence" + hashlib.sha256(terms).digest()
    sealed = _base64(licence["sealed"], hpke_base.SEALED_BYTES[licence["suite"]])
    try:
        content_key = hpke_base.device_open(licence["suite"], device_key, info, sealed)
    except hpke_base.OpenError:
        raise Finding("LicenceError", "it does not open") from None
    need(len(content_key) == 32, "not a content key", "LicenceError")
    ended = licence["not_after"] and seconds(now) > seconds(licence["not_after"])
    need(not ended, "it has ended", "LicenceError")
    return {"file_id": licence["file_id"], "note": licence["note"], "content_key": content_key.hex()}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="verify and open a licence")
    parser.add_argument("licence", type=Path)
    parser.add_argument("--device-key", required=True, type=bytes.fromhex, metavar="HEX")
    parser.add_argument("--file-id", required=True, type=bytes.fromhex, metavar="HEX")
    parser.add_argument("--now", default=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), metavar="TIME")
    options = parser.parse_args(arguments)
    try:
        with options.licence.open("rb") as stream:
            found = check(stream.read(LIMIT + 1), options.device_key, options.file_id, options.now)
    except OSError as problem:
        print(json.dumps({"error": "FormatError", "message": str(problem.strerror)}))
        return 2
    except Finding as finding:
        print(json.dumps({"error": finding.error, "message": str(finding)}))
        return finding.exit_code
    print(json.dumps(found, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
