"""Write spec/vectors/sharing.json and spec/vectors/machines: from spec/ alone, without the package.

    python tools/make_machine_vectors.py [--new-encapsulations] [FOLDER]

Deterministic: every random byte is of SHAKE-256 over a label; what ML-KEM
drew is kept in encapsulations.json. Keys in the index are test keys; the devices' root is
``vector``, whose secret the index gives.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "spec"))

import canonical_json
import check_machine
import check_record
import hpke_base
from encapsulations import encapsulation

ROOT = Path(__file__).resolve().parent.parent
JSON = dict[str, Any]
PARTS = ["controller", "camera", "drive"]


def draw(label: str, count: int) -> bytes:
    return hashlib.shake_256(b"unclone machine vectors, version 1/" + label.encode()).digest(count)


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def redigest(record: JSON) -> JSON:
    bare = {name: value for name, value in record.items() if name != "digest"}
    return {**bare, "digest": hashlib.sha256(canonical_json.encode(bare).encode("ascii")).hexdigest()}


def suite_of(name: str) -> str:
    return hpke_base.HYBRID if name.startswith("h") else hpke_base.X25519


def device(name: str) -> JSON:
    """A device record by device-record.md, with helper data of no provider; hybrid if its name begins with ``h``."""
    suite = suite_of(name)
    key, secret = draw(f"{name} key", 32), draw(f"{name} secret", 16)
    record: JSON = {
        "format": "unclone-device",
        "version": 1,
        "name": name,
        "root": "vector",
        "source": "vector",
        "suite": suite,
        "public_key": b64(hpke_base.device_public(suite, key)),
        "helper": {"scheme": "vector", "fields": {"name": name}},
        "report": {**dict.fromkeys(sorted(check_record.FIGURES), 0), "notes": ["a test vector"]},
    }
    salt = hashlib.sha256(canonical_json.encode(record).encode("ascii")).digest()
    wrapping = hpke_base.hkdf_expand(hpke_base.hkdf_extract(salt, secret), b"unclone v1 record seal", 32)
    return redigest({**record, "sealed_key": b64(AESGCM(wrapping).encrypt(bytes(12), key, None))})


def seal(record: JSON, part: JSON, share: bytes) -> None:
    """Put a share and its check into a part of a record that is otherwise done: section 4."""
    suffix = check_machine.context_of(record) + bytes([part["index"]])
    recipient = base64.b64decode(part["device"]["public_key"])
    ephemeral = draw(f"ephemeral {suffix.hex()} {share.hex()}", 32)
    info = b"unclone v1 machine share" + suffix
    if part["device"]["suite"] == hpke_base.HYBRID:
        drawn = encapsulation(recipient, draw_missing="--new-encapsulations" in sys.argv)
        sealed = hpke_base.seal_hybrid(recipient, info, share, drawn, ephemeral)
    else:
        sealed = hpke_base.seal(recipient, info, share, ephemeral)
    part["share"] = b64(b"".join(sealed))
    part["check"] = hashlib.sha256(b"unclone v1 machine check" + suffix + share).hexdigest()


def machine(devices: list[str], need: int, *, label: str = "press", revision: int = 1, indices: Any = None) -> JSON:
    """A good record of the parts ``PARTS`` or ``part-0``, ``part-1``, ...; its suite by its label, as for devices."""
    suite = suite_of(label)
    key = draw(f"{label} machine key", 32)
    names = PARTS if len(devices) == 3 else [f"part-{number}" for number in range(len(devices))]
    indices = indices or range(1, len(devices) + 1)
    record: JSON = {
        "format": "unclone-machine",
        "version": 1,
        "name": f"{label} Nº 17",
        "id": draw(f"{label} id", 16).hex(),
        "revision": revision,
        "need": need,
        "suite": suite,
        "public_key": b64(hpke_base.device_public(suite, key)),
        "parts": [
            {"name": name, "index": index, "device": device(of)}
            for name, index, of in zip(names, indices, devices, strict=True)
        ],
    }
    rows = [draw(f"{label} {revision} coefficients {row}", 32) for row in range(1, need)]
    shares = [check_machine.share_of(key, rows, part["index"]) for part in record["parts"]]
    for part, share in zip(record["parts"], shares, strict=True):
        seal(record, part, share)
    return redigest(record)


def sharing() -> list[JSON]:
    """Secrets, coefficients and shares."""
    cases = []
    for need, indices, length in ((1, [1, 2], 4), (2, [1, 2, 3], 32), (3, [1, 2, 3, 4, 5], 32), (3, [255, 7, 128], 16),
                                  (5, [11, 3, 200, 77, 5, 254], 32), (32, list(range(1, 33)), 32)):  # fmt: skip
        label = f"{need} of {indices}"
        secret = draw(label, length)
        rows = [draw(f"{label} {row}", length) for row in range(1, need)]
        shares = {str(x): check_machine.share_of(secret, rows, x).hex() for x in indices}
        cases.append(
            {"need": need, "secret": secret.hex(), "coefficients": [row.hex() for row in rows], "shares": shares}
        )
    return cases


class Folder:
    """The vectors as they are written, and their index."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.index: list[JSON] = []
        path.mkdir(parents=True, exist_ok=True)

    def add(self, name: str, data: bytes | JSON, what: str, error: str | None = None, **members: Any) -> None:
        raw = data if isinstance(data, bytes) else json.dumps(data, indent=1).encode() + b"\n"
        (self.path / f"{name}.json").write_bytes(raw)
        code = {None: 0, "RecordError": 2, "UnsupportedError": 2}.get(error, 3)
        self.index.append({"file": f"{name}.json", "what": what, "error": error, "exit_code": code, **members})


def changed(record: JSON, change: Callable[[JSON], Any]) -> JSON:
    """A changed copy with the digest it has then."""
    copied = copy.deepcopy(record)
    change(copied)
    return redigest(copied)


def put(path: str, value: Any) -> Callable[[JSON], Any]:
    """Set the member at a dotted path; ``...`` removes it."""

    def change(record: JSON) -> None:
        *parents, last = [int(name) if name.isdigit() else name for name in path.split(".")]
        place: Any = record
        for name in parents:
            place = place[name]
        if value is ...:
            del place[last]
        else:
            place[last] = value

    return change


def good(folder: Folder) -> None:
    press = machine(["a", "b", "c"], 2)
    key = draw("press machine key", 32).hex()
    for pair in (["controller", "camera"], ["drive", "camera"], ["controller", "drive"], PARTS):
        at = {name: "abc"[PARTS.index(name)] for name in pair}
        folder.add("two-of-three-" + "-".join(pair), press, "any two parts do", at=at, key=key)
    spelled = json.dumps(dict(reversed(press.items())), separators=(",", ":"), ensure_ascii=False).encode()
    folder.add("compact", spelled, "another spelling", at={"camera": "b", "drive": "c"}, key=key)
    repaired = machine(["a", "d", "c"], 2, revision=2)
    folder.add("revision-2", repaired, "a part replaced, the same key", at={"camera": "d", "drive": "c"}, key=key)
    states = {"controller": "missing", "camera": "another", "drive": "present"}
    folder.add("removed", repaired, "the removed part", "PartsError", at={"camera": "b", "drive": "c"}, states=states)
    odd = machine(["a", "b", "c", "d", "e"], 4, label="odd", indices=[255, 3, 128, 77, 1])
    at = {"part-4": "e", "part-0": "a", "part-2": "c", "part-3": "d"}
    folder.add("four-of-five", odd, "odd indices", at=at, key=draw("odd machine key", 32).hex())
    many = machine([f"m{number}" for number in range(32)], 2, label="many")
    at = {"part-31": "m31", "part-7": "m7"}
    folder.add("thirty-two", many, "32 parts", at=at, key=draw("many machine key", 32).hex())
    hybrid, at = machine(["h0", "h1", "h2"], 2, label="hybrid"), {"controller": "h0", "drive": "h2"}
    folder.add("hybrid", hybrid, "machine and parts hybrid", at=at, key=draw("hybrid machine key", 32).hex())
    mixed, at = machine(["a", "h1", "c"], 2, label="hybrid"), {"controller": "a", "camera": "h1"}
    folder.add("hybrid-mixed", mixed, "parts of both suites", at=at, key=draw("hybrid machine key", 32).hex())


def altered(folder: Folder) -> None:
    press, at = machine(["a", "b", "c"], 2), {"controller": "a", "camera": "b"}
    later = machine(["a", "b", "d"], 2, revision=2)
    states = {"controller": "present", "camera": "altered", "drive": "missing"}

    def bad(
        name: str, change: Callable[[JSON], Any], what: str, error: str = "PartsError", states: Any = states
    ) -> None:
        members = {"states": states} if error == "PartsError" else {}
        folder.add(name, changed(press, change), what, error, at=at, **members)

    share = base64.b64decode(press["parts"][1]["share"])
    for name, place in (("enc", 0), ("ciphertext", 40), ("tag", 79)):
        flipped = share[:place] + bytes([share[place] ^ 1]) + share[place + 1 :]
        bad(f"share-{name}", put("parts.1.share", b64(flipped)), f"a bit of the share's {name}")
    bad("share-of-another", put("parts.1.share", press["parts"][2]["share"]), "another part's share")
    bad("share-of-later", put("parts.1.share", later["parts"][1]["share"]), "the share of another revision")
    bad("share-zero", put("parts.1.share", b64(bytes(80))), "enc of low order")
    forged = {**states, "camera": "forged"}
    bad("check", put("parts.1.check", "0" * 64), "another check", states=forged)
    evil = copy.deepcopy(press)
    seal(evil, evil["parts"][1], draw("evil", 32))
    bad(
        "share-forged",
        put("parts.1.share", evil["parts"][1]["share"]),
        "a share that somebody else sealed",
        states=forged,
    )
    bad("share-and-check-forged", put("parts.1", evil["parts"][1]), "its check forged too", "ReconstructionError")
    both = {"controller": "altered", "camera": "altered", "drive": "missing"}
    for path, value in {
        "name": "press Nº 18", "id": "00" * 16, "revision": 2, "need": 3, "parts.2.name": "drive-2", "parts.2.index": 9,
        "public_key": later["parts"][2]["device"]["public_key"], "parts.2.device": later["parts"][2]["device"],
    }.items():  # fmt: skip
        moved = {("drive-2" if path == "parts.2.name" and k == "drive" else k): v for k, v in both.items()}
        bad(f"context-{path}", put(path, value), f"{path} altered, digest made anew: no share opens", states=moved)
    hybrid = machine(["a", "h1", "c"], 2, label="hybrid")
    share = base64.b64decode(hybrid["parts"][1]["share"])
    for name, place in (("mlkem", 0), ("x25519", 1088), ("ciphertext", 1120), ("tag", 1167)):
        flipped = share[:place] + bytes([share[place] ^ 1]) + share[place + 1 :]
        record = changed(hybrid, put("parts.1.share", b64(flipped)))
        what = f"a bit of the hybrid share's {name}"
        places = {"controller": "a", "camera": "h1"}
        folder.add(f"share-hybrid-{name}", record, what, "PartsError", at=places, states=states)
    one = {"controller": "present", "camera": "missing", "drive": "missing"}
    folder.add("too-few", press, "one part", "PartsError", at={"controller": "a"}, states=one)
    digest = {**press, "digest": "0" * 64}
    folder.add("digest", digest, "another digest", "RecordAlteredError", at=at)
    plain = {**press, "name": "another"}
    folder.add("name-plain", plain, "a name altered, the digest not", "RecordAlteredError", at=at)
    bad(
        "device-altered",
        put("parts.2.device.name", "x"),
        "a device record's digest does not match",
        "RecordAlteredError",
    )


def malformed(folder: Folder) -> None:
    press, at = machine(["a", "b", "c"], 2), {"controller": "a", "camera": "b"}

    def bad(name: str, data: bytes | JSON, what: str, error: str = "RecordError") -> None:
        folder.add(name, data, what, error, at=at)

    for name in press:
        without = {k: v for k, v in press.items() if k != name}
        bad(f"missing-{name}", without if name == "digest" else redigest(without), f"without {name}")
    first = press["parts"][0]
    for name in first:
        bad(f"missing-part-{name}", changed(press, put(f"parts.0.{name}", ...)), f"a part without {name}")
    places: dict[str, tuple[Any, ...]] = {
        "need": (1, 4, True, "2"), "revision": (0, 2**31 + 1), "id": ("00" * 15, "AB" * 16, 7), "name": ("n" * 257, 7),
        "public_key": ("AAAA", 7), "parts": ([], [first], {}, [first] * 33, [first, 7]), "suite": (7,),
        "parts.0.name": ("", "a b", "n" * 65, "drive", "Nº", "a\n", 7), "parts.0.index": (0, 256, 3, True),
        "parts.0.share": (b64(bytes(79)), first["share"] + "\n", 7), "parts.0.check": ("00" * 31, "AB" * 32, 7),
        "parts.0.device": ([], {}, press["parts"][1]["device"]), "odd": (1,), "parts.0.odd": (1,),
        "format": ("unclone-device",),
    }  # fmt: skip
    for path, values in places.items():
        for number, value in enumerate(values):
            what = f"{path} is {json.dumps(value)[:30]}, digest made anew"
            bad(f"malformed-{path}-{number}", changed(press, put(path, value)), what)
    newer = changed(press, put("parts.0.device", redigest({**first["device"], "version": 2})))
    bad("device-version", newer, "a device record of version 2", "UnsupportedError")
    bad("version-2", changed(press, put("version", 2)), "version 2", "UnsupportedError")
    bad("version-true", changed(press, put("version", True)), "version is true")
    bad("suite", changed(press, put("suite", "hpke-x448")), "an unknown suite", "UnsupportedError")
    bad("suite-hybrid", changed(press, put("suite", hpke_base.HYBRID)), "the hybrid suite, and 32 bytes of public key")
    longer = redigest(device("h1"))
    bad("share-x25519-of-hybrid", changed(press, put("parts.0.device", longer)), "80 bytes of share for a hybrid part")
    raw = json.dumps(press).encode()
    bad("duplicate", raw.replace(b"{", b'{"version": 1, ', 1), "a member stands twice")
    bad("float", raw.replace(b'"need": 2', b'"need": 2.0'), "a float")
    bad("truncated", raw[:-50], "truncated")
    bad("empty", b"", "empty")
    bad("nested", b"[" * 5000, "5,000 open brackets")
    bad("garbage", draw("garbage", 64), "random bytes")


def make(path: Path) -> None:
    """Write all vectors and their index."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "sharing.json").write_text(json.dumps(sharing(), indent=1) + "\n")
    folder = Folder(path / "machines")
    good(folder)
    altered(folder)
    malformed(folder)
    names = [*"abcde", "h0", "h1", "h2", *(f"m{number}" for number in range(32))]
    devices = {
        name: {"device_key": draw(f"{name} key", 32).hex(), "secret": draw(f"{name} secret", 16).hex()}
        for name in names
    }
    lines = ",\n  ".join(json.dumps(entry) for entry in folder.index)
    text = f'{{\n "devices": {json.dumps(devices)},\n "vectors": [\n  {lines}\n ]\n}}\n'
    (folder.path / "index.json").write_text(text)


if __name__ == "__main__":
    folders = [argument for argument in sys.argv[1:] if not argument.startswith("--")]
    make(Path(folders[0]) if folders else ROOT / "spec" / "vectors")
