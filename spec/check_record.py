"""Second reader of device records: plain Python from device-record.md alone.

    python spec/check_record.py RECORD --secret HEX [--secret HEX ...]

takes the fuzzy extractor's candidate secrets, or the passphrase of a record of that root (``--passphrase-file``), and
prints as JSON the device key they give. Exit codes as in the specification: 2 malformed, 3 altered, or none of the
candidates is right. Shares no code with the package. For test records: it prints a secret.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import sys
import unicodedata
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

sys.path.insert(0, str(Path(__file__).parent))

import canonical_json
import hpke_base

LIMIT = 4 * 2**20
MEMBERS = {
    "format", "version", "name", "root", "source", "suite", "public_key", "helper", "sealed_key", "report", "digest",
}  # fmt: skip
FIGURES = {
    "readings", "response_bits", "ones_ppm", "error_rate_ppm", "raw_entropy_millibits", "debiased_entropy_millibits",
    "residual_entropy_millibits", "key_bits", "failure_log10_milli",
}  # fmt: skip
EXIT_CODES = {"RecordError": 2, "UnsupportedError": 2, "RecordAlteredError": 3, "ReconstructionError": 3}


class Finding(Exception):
    """What the specification calls the error."""

    def __init__(self, error: str, message: str) -> None:
        super().__init__(message)
        self.error = error
        self.exit_code = EXIT_CODES[error]


def need(condition: object, message: str, error: str = "RecordError") -> None:
    if not condition:
        raise Finding(error, message)


def _base64(value: Any, length: int) -> bytes:
    need(isinstance(value, str) and value.isascii(), "not base64")
    try:
        data = base64.b64decode(value, validate=True)
    except ValueError:
        raise Finding("RecordError", "not base64") from None
    need(base64.b64encode(data).decode() == value and len(data) == length, "base64 of another spelling or length")
    return data


def _text(value: Any) -> None:
    need(isinstance(value, str) and len(value) <= 256, "not a string of at most 256 characters")


def public_key(record: dict[str, Any]) -> bytes:
    """The public key of a record whose suite is known."""
    return _base64(record["public_key"], hpke_base.PUBLIC_BYTES[record["suite"]])


def canonical_without(record: dict[str, Any], *names: str) -> bytes:
    return canonical_json.encode({k: v for k, v in record.items() if k not in names}).encode("ascii")


def parse(data: bytes) -> dict[str, Any]:
    """A record that is well formed and matches its digest; raises Finding."""
    need(len(data) <= LIMIT, "longer than 4 MiB")
    try:
        record = canonical_json.parse(data)
    except canonical_json.NotCanonical as problem:
        raise Finding("RecordError", str(problem)) from None
    need(isinstance(record, dict) and record.get("format") == "unclone-device", "not a device record")
    need(type(record.get("version")) is int, "version is an integer")
    need(record["version"] == 1, "another version", "UnsupportedError")
    need(set(record) == MEMBERS, "missing or unknown members")
    expected = hashlib.sha256(canonical_without(record, "digest")).hexdigest()
    need(record["digest"] == expected, "the digest does not match", "RecordAlteredError")
    for name in ("name", "root", "source", "suite"):
        _text(record[name])
    need(record["suite"] in hpke_base.PUBLIC_BYTES, "unknown suite", "UnsupportedError")
    public_key(record)
    _base64(record["sealed_key"], 48)
    helper, report = record["helper"], record["report"]
    need(isinstance(helper, dict) and set(helper) == {"scheme", "fields"}, "helper")
    need(isinstance(helper["fields"], dict), "helper")
    _text(helper["scheme"])
    need(isinstance(report, dict) and set(report) == FIGURES | {"notes"}, "report")
    need(all(type(report[name]) is int for name in FIGURES), "every figure is an integer")
    need(isinstance(report["notes"], list) and all(isinstance(note, str) for note in report["notes"]), "notes")
    return dict(record)


def open_key(record: dict[str, Any], candidates: list[bytes]) -> bytes:
    """The device key that one of the candidate secrets unseals (section 5)."""
    salt = hashlib.sha256(canonical_without(record, "sealed_key", "digest")).digest()
    sealed = _base64(record["sealed_key"], 48)
    found = []
    for candidate in candidates:
        prk = hpke_base.hkdf_extract(salt, candidate)
        wrapping = hpke_base.hkdf_expand(prk, b"unclone v1 record seal", 32)
        try:
            key = AESGCM(wrapping).decrypt(bytes(12), sealed, None)
        except InvalidTag:
            continue
        if hpke_base.device_public(record["suite"], key) == public_key(record):
            found.append(key)
    need(found, "no candidate gives the key", "ReconstructionError")
    return found[0]


def passphrase_secret(record: dict[str, Any], passphrase: str) -> bytes:
    """The candidate secret of a record of root ``passphrase``: section 7.1."""
    need(record["root"] == "passphrase", "not of root passphrase", "ReconstructionError")
    need(record["helper"]["scheme"] == "passphrase-scrypt-1", "scheme")
    fields = record["helper"]["fields"]
    need(set(fields) == {"salt", "log_n", "r", "p"}, "fields of the scheme")
    need(all(type(fields[name]) is int for name in ("log_n", "r", "p")), "costs are integers")
    salt = _base64(fields["salt"], 16)
    costs = 10 <= fields["log_n"] <= 20 and (fields["r"], fields["p"]) == (8, 1)
    need(costs, "other costs", "UnsupportedError")
    text = unicodedata.normalize("NFC", passphrase).encode()
    return hashlib.scrypt(text, salt=salt, n=1 << fields["log_n"], r=8, p=1, maxmem=2**31 - 2, dklen=32)


def check(data: bytes, candidates: list[bytes], passphrase: str | None = None) -> dict[str, Any]:
    record = parse(data)
    if passphrase is not None:
        candidates = [passphrase_secret(record, passphrase)]
    key = open_key(record, candidates)
    return {
        "name": record["name"],
        "scheme": record["helper"]["scheme"],
        "digest": record["digest"],
        "device_key": key.hex(),
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="verify a device record and unseal its key with a candidate secret")
    parser.add_argument("record", type=Path)
    parser.add_argument("--secret", action="append", default=[], type=bytes.fromhex, metavar="HEX")
    parser.add_argument("--passphrase-file", type=Path, metavar="FILE", help="its first line is the passphrase")
    options = parser.parse_args(arguments)
    try:
        with options.record.open("rb") as stream:
            data = stream.read(LIMIT + 1)
        lines = options.passphrase_file and options.passphrase_file.read_text().splitlines()
        found = check(data, options.secret, lines[0] if lines else None)
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
