"""Licences for spec/vectors: of models/base.safetensors, good and with one fault each."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import canonical_json
import check_model
from make_vectors import Folder, Stream, seal_with
from model_faults import Model, flip, flip64
from model_vectors import base, bound, key_of, record_of, safetensors

from unclone.errors import FormatError, InputError, LicenceError, UnsupportedError

NOW = "2030-06-01T12:00:00Z"


class Release:
    """models/base.safetensors: its file id and content key."""

    def __init__(self) -> None:
        header = Model(bound("base", safetensors(base(), {}), ["press-17"], cipher="aes-256-gcm")).text
        parsed = check_model.parse_header(header)
        self.file_id: bytes = parsed["file_id"]
        self.content_key = check_model.open_slot(parsed, bytes(key_of("press-17").secret))


def licence(release: Release, device: str, label: str, **changes: Any) -> dict[str, Any]:
    """A licence, its members replaced before it is sealed; ``info`` replaces the label of the seal."""
    record = record_of(device)
    hint = hashlib.sha256(b"unclone v1 slot hint" + release.file_id + record.public_key).hexdigest()[:16]
    info = changes.pop("info", b"unclone v1 licence")
    value: dict[str, Any] = {
        "format": "unclone-licence",
        "version": 1,
        "file_id": release.file_id.hex(),
        "suite": record.suite,
        "hint": hint,
        "not_after": "",
        "note": "",
        **changes,
    }
    terms = hashlib.sha256(canonical_json.encode(value).encode()).digest()
    stream = Stream(f"licence {label}")
    sealed = seal_with(stream, record.suite, record.public_key, info + terms, release.content_key)
    return {**value, "sealed": base64.b64encode(sealed).decode()}


def encode(value: dict[str, Any]) -> bytes:
    return canonical_json.encode(value).encode()


def make(folder: Folder) -> None:
    """Write the licences."""
    release = Release()
    use = {"file_id": release.file_id.hex(), "now": NOW}

    def good(name: str, what: str, device: str, **terms: Any) -> None:
        members = {"device": device, **use, "content_key": release.content_key.hex()}
        folder.good(f"licences/{name}.json", encode(licence(release, device, name, **terms)), what, **members)

    good("plain", "no terms", "press-18")
    good("hybrid", "the hybrid suite", "press-40")
    good(
        "terms",
        "both terms",
        "press-18",
        not_after="2030-12-31T23:59:59Z",
        note="Linie 4, Presse 18: nur für Prüfungen",
    )
    good("last-second", "in its last second", "press-18", not_after=NOW)
    good("leap-day", "ends on a leap day", "press-18", not_after="2032-02-29T00:00:00Z")
    good("note-longest", "256 characters beyond the BMP", "press-18", note="\U0001f916" * 256)
    _useless(folder, release, use)
    _malformed(folder, release, use)


def _useless(folder: Folder, release: Release, use: dict[str, Any]) -> None:
    value = licence(release, "press-18", "terms", not_after="2030-12-31T23:59:59Z", note="note")
    hybrid = licence(release, "press-40", "hybrid")
    other = hashlib.sha256(b"unclone v1 slot hint" + release.file_id + record_of("press-17").public_key).hexdigest()
    slot = licence(release, "press-18", "slot", info=b"unclone v1 slot")

    def bad(name: str, changed: dict[str, Any], what: str, device: str = "press-18", **members: Any) -> None:
        folder.bad(f"licences/{name}.json", encode(changed), what, LicenceError, device=device, **{**use, **members})

    bad("wrong-device", value, "read by another device", "press-17")
    bad("wrong-device-hint", {**value, "hint": other[:16]}, "another device's, under the hint of this one", "press-17")
    bad("wrong-model", value, "for another model", file_id="00" * 16)
    bad("moved", {**value, "file_id": "00" * 16}, "file_id altered to that of another model", file_id="00" * 16)
    bad("expired", value, "a second too late", now="2031-01-01T00:00:00Z")
    bad("longer", {**value, "not_after": "2031-12-31T23:59:59Z"}, "a later end written in")
    bad("endless", {**value, "not_after": ""}, "its end taken out")
    bad("note", {**value, "note": "notes"}, "the note altered")
    bad("hint", {**value, "hint": flip(value["hint"])}, "the hint altered")
    for part, byte in (("enc", 0), ("ciphertext", 32), ("tag", 79)):
        bad(f"sealed-{part}", {**value, "sealed": flip64(value["sealed"], byte)}, f"{part} altered")
    for part, byte in (("mlkem", 0), ("x25519", 1088), ("ciphertext", 1120)):
        changed = {**hybrid, "sealed": flip64(hybrid["sealed"], byte)}
        bad(f"hybrid-{part}", changed, f"{part} of the hybrid seal altered", "press-40")
    low = base64.b64encode(bytes(32) + base64.b64decode(value["sealed"])[32:]).decode()
    bad("low-order", {**value, "sealed": low}, "enc of low order")
    bad("slot-label", slot, "sealed under the label of slots")


def _malformed(folder: Folder, release: Release, use: dict[str, Any]) -> None:
    value = licence(release, "press-18", "plain")

    def bad(name: str, data: bytes, what: str, error: type[InputError] = FormatError) -> None:
        folder.bad(f"licences/{name}.json", data, what, error, device="press-18", **use)

    for name in value:
        bad(f"missing-{name}", encode({k: v for k, v in value.items() if k != name}), f"without {name}")
        bad(f"type-{name}", encode({**value, name: [1]}), f"{name} is an array")
    raw = base64.b64decode(value["sealed"])
    for name, member, new in [
        ("version-true", "version", True),
        ("odd", "odd", 1),
        ("format", "format", "unclone-device"),
        ("file-id-short", "file_id", "00" * 15),
        ("file-id-upper", "file_id", "AB" * 16),
        ("hint-short", "hint", "00" * 7),
        ("sealed-short", "sealed", base64.b64encode(raw[:-1]).decode()),
        ("sealed-spelling", "sealed", value["sealed"] + "\n"),
        ("note-long", "note", "n" * 257),
        ("time-date", "not_after", "2031-12-31"),
        ("time-day", "not_after", "2031-02-29T00:00:00Z"),
        ("time-zone", "not_after", "2031-12-31T23:59:59+00:00"),
        ("time-leap", "not_after", "2031-12-31T23:59:60Z"),
        ("time-lower", "not_after", "2031-12-31t23:59:59z"),
        ("time-space", "not_after", "2031-12-31T23:59:59Z "),
        ("time-digits", "not_after", "\u0662\u0660\u0663\u0661-12-31T23:59:59Z"),
        ("time-zero", "not_after", "0000-01-01T00:00:00Z"),
    ]:
        bad(name, encode({**value, member: new}), f"{member} is {json.dumps(new)[:40]}")
    bad("version-2", encode({**value, "version": 2}), "version 2", UnsupportedError)
    bad("suite", encode({**value, "suite": "hpke-x448"}), "an unknown suite", UnsupportedError)
    hybrid = record_of("press-40").suite
    bad("suite-hybrid", encode({**value, "suite": hybrid}), "80 bytes in the hybrid suite")
    text = encode(value)
    bad("newline", text + b"\n", "a newline behind it")
    bad("space", text.replace(b":", b": ", 1), "a space")
    bad("duplicate", text.replace(b"{", b'{"file_id":"",', 1), "a member stands twice")
    bad("truncated", text[:-9], "truncated")
    bad("empty", b"", "empty")
    bad("long", text[:-1] + b" " * 2**14 + b"}", "longer than 16 KiB")
