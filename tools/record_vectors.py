"""Device records for spec/vectors. The helper data is of no extractor: the index gives the candidate secrets."""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import replace
from typing import Any

import canonical_json
from make_vectors import Folder, Stream

from unclone import canonical, keys
from unclone.device_file import render_device, seal_context
from unclone.errors import ReconstructionError, RecordAlteredError, RecordError, UnsupportedError
from unclone.records import Device, DeviceKey, EnrollmentReport, HelperData

DEVICES = ["press-17", "press-18", "Presse \U0001f916 Nº 17"]
HYBRID_DEVICES = ["press-40", "press-41"]
PASSPHRASE = "violet anchor seventeen marsh \u00f3belisk"
REPORT = EnrollmentReport(
    readings=5,
    response_bits=8192,
    ones_ppm=503_000,
    error_rate_ppm=61_000,
    raw_entropy_millibits=7_100_000,
    debiased_entropy_millibits=1_900_000,
    residual_entropy_millibits=141_250,
    key_bits=128,
    failure_log10_milli=-9_204,
    notes=("error rate assumed", "25 °C only"),
)


def device(name: str) -> tuple[Device, DeviceKey, bytes]:
    """A record, its device key and the secret that unseals it."""
    stream = Stream(f"device {name}")
    key, secret = DeviceKey(stream.take(32)), stream.take(16)
    fields = {"offset": stream.take(24).hex(), "cells": [3, 1, 2], "design": {"code": "polar", "crc": True}}
    suite = keys.HYBRID if name in HYBRID_DEVICES else keys.SUITE
    public = keys.public_key(key, suite)
    blank = Device(name, "puf", "sim:sram", suite, public, HelperData("vector", fields), b"", REPORT)
    return replace(blank, sealed_key=keys.seal_device_key(key, secret, seal_context(blank))), key, secret


def passphrase_device() -> tuple[Device, DeviceKey, bytes]:
    """A record of root ``passphrase``, its device key, and the secret as hashlib stretches it."""
    stream = Stream("device bench")
    key, salt = DeviceKey(stream.take(32)), stream.take(16)
    secret = hashlib.scrypt(PASSPHRASE.encode(), salt=salt, n=1 << 10, r=8, p=1, dklen=32)
    helper = HelperData("passphrase-scrypt-1", {"salt": canonical.b64encode(salt), "log_n": 10, "r": 8, "p": 1})
    report = EnrollmentReport(0, 0, 0, 0, 0, 0, 0, 0, 0, ("root passphrase: not a PUF",))
    blank = Device("bench", "passphrase", "passphrase", keys.SUITE, keys.public_key(key), helper, b"", report)
    return replace(blank, sealed_key=keys.seal_device_key(key, secret, seal_context(blank))), key, secret


def redigest(value: dict[str, Any]) -> dict[str, Any]:
    """With the digest that the rest has now: what somebody does who alters a record on purpose."""
    rest = {name: item for name, item in value.items() if name != "digest"}
    return {**rest, "digest": hashlib.sha256(canonical_json.encode(rest).encode()).hexdigest()}


def dump(value: Any) -> bytes:
    return json.dumps(value).encode() + b"\n"


def altered(value: dict[str, Any], path: str, new: Any) -> dict[str, Any]:
    """A copy with the member at a dotted path replaced; ``...`` removes it."""
    result = copy.deepcopy(value)
    *parents, last = path.split(".")
    place = result
    for name in parents:
        place = place[name]
    if new is ...:
        del place[last]
    else:
        place[last] = new
    return result


def flipped(text: str) -> str:
    """Base64 or hex with its first character exchanged for another valid one."""
    return (
        ("B" if text[0] == "A" else "A") + text[1:]
        if text.endswith("=")
        else ("1" if text[0] == "0" else "0") + text[1:]
    )


def make(folder: Folder) -> None:
    """Write the good records and the bad ones."""
    record = device("press-17")[0]
    good = render_device(record)
    value = json.loads(good)
    for name in [*DEVICES, *HYBRID_DEVICES]:
        _, its_key, its_secret = device(name)
        folder.devices[name] = {"device_key": bytes(its_key.secret).hex(), "secret": its_secret.hex()}
    opening: dict[str, Any] = {"candidates": ["press-17"]}
    folder.good("records/plain.json", good, "as written", **opening)
    compact = json.dumps(dict(reversed(value.items())), separators=(",", ":"), ensure_ascii=False).encode()
    folder.good("records/compact.json", compact, "no white space, members in another order, UTF-8 unescaped", **opening)
    others = ["press-18", "press-17"]
    folder.good("records/second-candidate.json", good, "the second candidate is right", candidates=others)
    named = render_device(device(DEVICES[2])[0])
    folder.good("records/unicode.json", named, "a name beyond ASCII", candidates=DEVICES[2:])

    bench, bench_key, bench_secret = passphrase_device()
    folder.devices["bench"] = {
        "device_key": bytes(bench_key.secret).hex(),
        "secret": bench_secret.hex(),
        "passphrase": PASSPHRASE,
    }
    folder.good("records/passphrase.json", render_device(bench), "root passphrase", candidates=["bench"])

    _hybrid(folder)
    candidates = {"candidates": ["press-17"]}
    wrong = {"candidates": ["press-18"]}
    folder.bad("records/wrong-secret.json", good, "no candidate is right", ReconstructionError, **wrong)
    _altered(folder, value, candidates)
    _malformed(folder, value, good, candidates)


def _hybrid(folder: Folder) -> None:
    record, key, _ = device("press-40")
    value = json.loads(render_device(record))
    candidates = {"candidates": ["press-40"]}
    folder.good("records/hybrid.json", render_device(record), "the hybrid suite", **candidates)
    x25519 = canonical.b64encode(keys.public_key(key))
    raw = record.public_key
    for name, suite, public, error in [
        ("mlkem", keys.HYBRID, canonical.b64encode(bytes([raw[0] ^ 1]) + raw[1:]), ReconstructionError),
        ("x25519", keys.HYBRID, canonical.b64encode(raw[:-1] + bytes([raw[-1] ^ 1])), ReconstructionError),
        ("as-x25519", keys.SUITE, x25519, ReconstructionError),
        ("short", keys.HYBRID, canonical.b64encode(raw[:-1]), RecordError),
        ("key-of-x25519", keys.HYBRID, x25519, RecordError),
        ("suite-of-x25519", keys.SUITE, value["public_key"], RecordError),
    ]:
        changed = redigest({**value, "suite": suite, "public_key": public})
        what = f"hybrid record, suite or public key altered ({name}), digest made anew"
        folder.bad(f"records/hybrid-{name}.json", dump(changed), what, error, **candidates)


def _altered(folder: Folder, value: dict[str, Any], candidates: dict[str, Any]) -> None:
    changes = {
        "name": "press-18",
        "root": "tpm",
        "source": "sim:sran",
        "public_key": flipped(value["public_key"]),
        "helper.scheme": "vectos",
        "helper.fields.offset": flipped(value["helper"]["fields"]["offset"]),
        "helper.fields.cells": [3, 2, 1],
        "helper.fields.design.crc": False,
        "sealed_key": flipped(value["sealed_key"].rstrip("=")) + "=" * value["sealed_key"].count("="),
        "report.readings": 6,
        "report.key_bits": 64,
        "report.failure_log10_milli": -9_205,
        "report.notes": ["error rate assumed"],
    }
    for path, new in changes.items():
        changed = altered(value, path, new)
        folder.bad(f"records/altered-{path}.json", dump(changed), f"{path} altered", RecordAlteredError, **candidates)
        deliberate = dump(redigest(changed))
        what = f"{path} altered, digest made anew"
        folder.bad(f"records/redigested-{path}.json", deliberate, what, ReconstructionError, **candidates)
    digest = altered(value, "digest", flipped(value["digest"]))
    folder.bad("records/altered-digest.json", dump(digest), "digest altered", RecordAlteredError, **candidates)
    upper = altered(value, "digest", value["digest"].upper())
    folder.bad("records/upper-digest.json", dump(upper), "digest in capitals", RecordAlteredError, **candidates)


def _malformed(folder: Folder, value: dict[str, Any], good: bytes, candidates: dict[str, Any]) -> None:
    def bad(name: str, data: bytes, what: str, error: type[RecordError] | type[UnsupportedError] = RecordError) -> None:
        folder.bad(f"records/{name}.json", data, what, error, **candidates)

    for name in value:
        bad(f"missing-{name}", dump(altered(value, name, ...)), f"without {name}")
        # The digest itself has no digest: a wrong type in it is an alteration like any other.
        if name not in ("digest", "format"):
            changed = redigest(altered(value, name, [1]))
            bad(f"type-{name}", dump(changed), f"{name} is an array, digest made anew")
    places = {
        "helper.scheme": (..., 7, "s" * 257),
        "helper.fields": (..., []),
        "report.readings": (..., "5", True),
        "report.notes": (..., "none", [1]),
        "helper.odd": (1,),
        "report.odd": (1,),
        "name": ("n" * 257,),
        "root": ("r" * 257,),
        "public_key": (value["public_key"][:-1], value["public_key"] + "\n", "AAAA"),
        "sealed_key": (value["sealed_key"][:-4], value["sealed_key"] + "AAAA"),
    }
    for path, values in places.items():
        for number, new in enumerate(values):
            what = f"{path} " + ("missing" if new is ... else f"is {json.dumps(new)[:24]}") + ", digest made anew"
            bad(f"malformed-{path}-{number}", dump(redigest(altered(value, path, new))), what)
    last = value["public_key"][-2]
    spelled = value["public_key"][:-2] + chr(ord(last) + 1) + "="
    bad("base64-bits", dump(redigest(altered(value, "public_key", spelled))), "unused bits of the base64 are set")
    bad("format", dump(redigest(altered(value, "format", "unclone-devices"))), "another format")
    version = dump(redigest(altered(value, "version", 2)))
    bad("version-2", version, "version 2", UnsupportedError)
    bad("version-true", dump(altered(value, "version", True)), "version is true")
    suite = dump(redigest(altered(value, "suite", "hpke-x448")))
    bad("suite", suite, "an unknown suite", UnsupportedError)
    bad("unknown-member", dump(redigest({**value, "odd": 1})), "an unknown member")
    bad("duplicate", good.replace(b"{\n", b'{\n  "version": 1,\n', 1), "a member stands twice")
    bad("float", good.replace(b'"readings": 5', b'"readings": 5.0'), "a float")
    bad("nan", good.replace(b'"readings": 5', b'"readings": NaN'), "NaN")
    bad("integer", good.replace(b'"readings": 5', b'"readings": 9007199254740992'), "an integer of 2^53")
    bad("digits", good.replace(b'"readings": 5', b'"readings": ' + b"9" * 5000), "an integer of 5,000 digits")
    bad("surrogate", good.replace(b'"press-17"', b'"press-\\ud800"'), "a lone surrogate")
    bad("member-name", good.replace(b'"crc"', '"crç"'.encode()), "a member's name beyond ASCII")
    deep = good.replace(b"[\n        3,", b"[" * 14 + b"]" * 13 + b",\n        3,", 1)
    bad("deep", deep, "17 arrays and objects deep")
    bad("bom", b"\xef\xbb\xbf" + good, "a byte order mark")
    bad("utf-8", good.replace(b"press-17", b"press-\xff"), "not UTF-8")
    bad("truncated", good[:-40], "truncated")
    bad("empty", b"", "empty")
    bad("array", b"[]\n", "an array")
    bad("garbage", Stream("garbage").take(64), "random bytes")
    bad("nested", b"[" * 5000, "5,000 open brackets")
