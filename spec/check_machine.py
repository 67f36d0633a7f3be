"""Second implementation of machine records and their sharing: plain Python from machine.md alone.

    python spec/check_machine.py RECORD --device-key NAME=HEX [--device-key NAME=HEX ...]

takes device keys of parts, and prints as JSON the machine key they give. Exit codes as in the specification: 2
malformed, 3 altered, or too few parts. Shares no code with the package; it multiplies by logarithms, where the package
shifts. For test records: it prints a secret.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import canonical_json
import check_record
import hpke_base
from check_record import Finding, need

LIMIT = 64 * 2**20
MEMBERS = {"format", "version", "name", "id", "revision", "need", "suite", "public_key", "parts", "digest"}
PART_MEMBERS = {"name", "index", "device", "share", "check"}


class TooFew(Finding):
    """Too few parts gave their share."""

    def __init__(self, states: dict[str, str]) -> None:
        super().__init__("ReconstructionError", json.dumps(states))
        self.error = "PartsError"


def _tables() -> tuple[list[int], list[int]]:
    """Powers and logarithms of the generator x + 1 of GF(2^8)."""
    powers, logs, value = [0] * 510, [0] * 256, 1
    for exponent in range(255):
        powers[exponent] = powers[exponent + 255] = value
        logs[value] = exponent
        doubled = value << 1
        value ^= doubled ^ (0x11B if doubled > 0xFF else 0)
    return powers, logs


POWERS, LOGS = _tables()


def multiply(a: int, b: int) -> int:
    return POWERS[LOGS[a] + LOGS[b]] if a and b else 0


def divide(a: int, b: int) -> int:
    if not b:
        raise ZeroDivisionError
    return POWERS[LOGS[a] - LOGS[b] + 255] if a else 0


def share_of(secret: bytes, coefficients: list[bytes], x: int) -> bytes:
    """The share at ``x``; ``coefficients`` are those of x, x^2, ..., each as long as the secret."""
    share = bytearray(secret)
    power = 1
    for row in coefficients:
        power = multiply(power, x)
        for place, byte in enumerate(row):
            share[place] ^= multiply(byte, power)
    return bytes(share)


def combine(shares: dict[int, bytes]) -> bytes:
    """The secret from shares by x: section 3."""
    secret = bytearray(len(next(iter(shares.values()))))
    for x, share in shares.items():
        weight = 1
        for other in shares:
            if other != x:
                weight = multiply(weight, divide(other, other ^ x))
        for place, byte in enumerate(share):
            secret[place] ^= multiply(byte, weight)
    return bytes(secret)


def _hex(value: Any, length: int) -> None:
    need(isinstance(value, str) and re.fullmatch(r"[0-9a-f]*", value) and len(value) == 2 * length, "not hex")


def _integer(value: Any, low: int, high: int) -> None:
    need(type(value) is int and low <= value <= high, f"not an integer of {low} to {high}")


def _part(part: Any) -> None:
    need(isinstance(part, dict) and set(part) == PART_MEMBERS, "missing or unknown members of a part")
    need(isinstance(part["name"], str) and re.fullmatch(r"[A-Za-z0-9._-]{1,64}", part["name"]), "name of a part")
    need(isinstance(part["device"], dict), "device of a part")
    device = check_record.parse(json.dumps(part["device"]).encode())
    _integer(part["index"], 1, 255)
    check_record._base64(part["share"], hpke_base.SEALED_BYTES[device["suite"]])
    _hex(part["check"], 32)


def parse(data: bytes) -> dict[str, Any]:
    """A record that is well formed and matches its digest; raises Finding."""
    need(len(data) <= LIMIT, "longer than 64 MiB")
    try:
        record = canonical_json.parse(data)
    except canonical_json.NotCanonical as problem:
        raise Finding("RecordError", str(problem)) from None
    need(isinstance(record, dict) and record.get("format") == "unclone-machine", "not a machine record")
    need(type(record.get("version")) is int, "version is an integer")
    need(record["version"] == 1, "another version", "UnsupportedError")
    need(set(record) == MEMBERS, "missing or unknown members")
    expected = hashlib.sha256(check_record.canonical_without(record, "digest")).hexdigest()
    need(record["digest"] == expected, "the digest does not match", "RecordAlteredError")
    need(isinstance(record["name"], str) and len(record["name"]) <= 256, "name")
    need(isinstance(record["suite"], str), "suite")
    need(record["suite"] in hpke_base.PUBLIC_BYTES, "unknown suite", "UnsupportedError")
    parts = record["parts"]
    need(isinstance(parts, list) and 2 <= len(parts) <= 32, "2 to 32 parts")
    _hex(record["id"], 16)
    _integer(record["revision"], 1, 2**31)
    _integer(record["need"], 2, len(parts))
    check_record.public_key(record)
    for part in parts:
        _part(part)
    for seen in ([p["name"] for p in parts], [p["index"] for p in parts], [p["device"]["public_key"] for p in parts]):
        need(len(set(seen)) == len(seen), "two parts share a name, an index or a device")
    return dict(record)


def context_of(record: dict[str, Any]) -> bytes:
    """SHA-256 of C: section 4."""
    parts = [{name: part[name] for name in ("name", "index", "device")} for part in record["parts"]]
    bare = {**{name: value for name, value in record.items() if name != "digest"}, "parts": parts}
    return hashlib.sha256(canonical_json.encode(bare).encode("ascii")).digest()


def open_shares(record: dict[str, Any], device_keys: dict[str, bytes]) -> tuple[dict[int, bytes], dict[str, str]]:
    """Shares by x, and what became of each part."""
    shares: dict[int, bytes] = {}
    states: dict[str, str] = {}
    for part in record["parts"]:
        name, suffix = part["name"], context_of(record) + bytes([part["index"]])
        if name not in device_keys:
            states[name] = "missing"
            continue
        suite = part["device"]["suite"]
        if hpke_base.device_public(suite, device_keys[name]) != check_record.public_key(part["device"]):
            states[name] = "another device"
            continue
        sealed = check_record._base64(part["share"], hpke_base.SEALED_BYTES[suite])
        try:
            share = hpke_base.device_open(suite, device_keys[name], b"unclone v1 machine share" + suffix, sealed)
        except hpke_base.OpenError:
            states[name] = "altered"
            continue
        check = hashlib.sha256(b"unclone v1 machine check" + suffix + share).hexdigest()
        states[name] = "present" if check == part["check"] and len(share) == 32 else "forged"
        if states[name] == "present":
            shares[part["index"]] = share
    return shares, states


def check(data: bytes, device_keys: dict[str, bytes]) -> dict[str, Any]:
    """The machine key; raises Finding."""
    record = parse(data)
    shares, states = open_shares(record, device_keys)
    if len(shares) < record["need"]:
        raise TooFew(states)
    key = combine(dict(list(shares.items())[: record["need"]]))
    public = hpke_base.device_public(record["suite"], key)
    need(public == check_record.public_key(record), "not the machine's key", "ReconstructionError")
    return {"name": record["name"], "revision": record["revision"], "machine_key": key.hex(), "parts": states}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="verify a machine record and combine its key from parts' keys")
    parser.add_argument("record", type=Path)
    parser.add_argument("--device-key", action="append", required=True, metavar="NAME=HEX")
    options = parser.parse_args(arguments)
    pairs = (text.split("=", 1) for text in options.device_key)
    device_keys = {name: bytes.fromhex(key) for name, key in pairs}
    try:
        with options.record.open("rb") as stream:
            found = check(stream.read(LIMIT + 1), device_keys)
    except OSError as problem:
        print(json.dumps({"error": "RecordError", "message": str(problem.strerror)}))
        return 2
    except Finding as finding:
        print(json.dumps({"error": finding.error, "message": str(finding)}))
        return finding.exit_code
    print(json.dumps(found, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
