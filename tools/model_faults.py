"""Bound models with one fault each, made from one good model by altering its header, its carrier or its weights."""

from __future__ import annotations

import base64
import copy
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import canonical_json
import carrier_faults
import check_model
import hpke_base
from make_vectors import Folder, Stream
from model_vectors import base, bound, key_of, record_of, safetensors
from record_vectors import HYBRID_DEVICES

from unclone.errors import (
    FormatError,
    HeaderTamperedError,
    SlotError,
    TensorTamperedError,
    UncloneError,
    UnsupportedError,
)

OPENING = check_model.OPENING


class Model:
    """The good model in parts: header text, the rest of the JSON, the tensors' bytes."""

    def __init__(self, data: bytes) -> None:
        length = int.from_bytes(data[:8], "little")
        raw, self.body = data[8 : 8 + length], data[8 + length :]
        self.text: bytes = json.loads(raw)["__metadata__"]["unclone"].encode()
        self.rest = raw[len(OPENING) + len(escaped(self.text)) :]
        self.header: dict[str, Any] = json.loads(self.text)

    def file(self, text: bytes | None = None, *, rest: bytes | None = None, body: bytes | None = None) -> bytes:
        """The file with the parts given in place of its own; the length in front follows."""
        raw = OPENING + escaped(self.text if text is None else text) + (self.rest if rest is None else rest)
        return len(raw).to_bytes(8, "little") + raw + (self.body if body is None else body)

    def start(self, name: str) -> int:
        """First byte of a tensor in ``body``."""
        return int(json.loads(self.file()[8 : -len(self.body)])[name]["data_offsets"][0])


def escaped(text: bytes) -> bytes:
    return text.replace(b"\\", b"\\\\").replace(b'"', b'\\"')


def canonical(value: Any) -> bytes:
    return canonical_json.encode(value).encode()


class Faults:
    """Writes one file after another; all are read with the key of the device that the good model is bound to."""

    def __init__(self, folder: Folder, **options: Any) -> None:
        self.folder = folder
        self.model = Model(bound("base", safetensors(base(), {}), ["press-17"], cipher="aes-256-gcm", **options))
        parsed = check_model.parse_header(self.model.text)
        self.content_key = check_model.open_slot(parsed, bytes(key_of("press-17").secret))
        self.file_id: bytes = parsed["file_id"]

    def add(self, name: str, data: bytes, what: str, error: type[UncloneError], **members: Any) -> None:
        members = {"devices": ["press-17"], **members}
        self.folder.bad(f"models/{name}.safetensors", data, what, error, **members)

    def header(self, name: str, change: Callable[[dict[str, Any]], Any], what: str, error: type[UncloneError]) -> None:
        """A header with one change, everything else as it was."""
        header = copy.deepcopy(self.model.header)
        change(header)
        self.add(name, self.model.file(canonical(header)), what, error)

    def text(self, name: str, old: bytes, new: bytes, what: str, error: type[UncloneError] = FormatError) -> None:
        """Header text with one string replaced."""
        if old not in self.model.text:
            raise ValueError(f"{name}: {old!r} is not in the header")
        self.add(name, self.model.file(self.model.text.replace(old, new, 1)), what, error)

    def signed(
        self, name: str, change: Callable[[dict[str, Any]], Any], what: str, error: type[UncloneError], **members: Any
    ) -> None:
        """A change by somebody who has the content key: the MAC holds, so that another check must find it."""
        header = copy.deepcopy(self.model.header)
        change(header)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.safetensors"
            path.write_bytes(self.model.file(canonical(header)))
            carrier = check_model.read_carrier(path)
        masked = {entry["name"] for entry in header["tensors"]}
        digest = check_model.carrier_digest(carrier, masked)
        header["mac"] = check_model.header_mac(carrier.header, digest, self.content_key, self.file_id).hex()
        self.add(name, self.model.file(canonical(header)), what + ", MAC made anew", error, **members)


def flip(text: str, position: int = 0) -> str:
    """Hex with one digit changed."""
    return text[:position] + ("1" if text[position] == "0" else "0") + text[position + 1 :]


def flip64(text: str, byte: int) -> str:
    """Base64 with one bit of one byte changed."""
    data = bytearray(base64.b64decode(text))
    data[byte] ^= 1
    return base64.b64encode(data).decode()


def make(folder: Folder) -> None:
    """Write every faulty model."""
    faults = Faults(folder)
    _members(faults)
    _fields(faults)
    _tensors(faults)
    _slots(faults)
    _hybrid_slots(faults)
    _spelling(faults)
    _selection(faults)
    carrier_faults.make(faults)


def _members(faults: Faults) -> None:
    header = faults.model.header
    for name in header:
        faults.header(f"missing-{name}", lambda h, n=name: h.pop(n), f"without {name}", FormatError)
        faults.header(f"type-{name}", lambda h, n=name: h.update({n: None}), f"{name} is null", FormatError)
    faults.header("unknown-member", lambda h: h.update(odd=1), "an unknown member", FormatError)
    for group in ("tensors", "clear", "slots"):
        for name in header[group][0]:
            what = f"without {name} in {group}"
            faults.header(f"missing-{group}-{name}", lambda h, g=group, n=name: h[g][0].pop(n), what, FormatError)
        what = f"an unknown member in {group}"
        faults.header(f"unknown-{group}", lambda h, g=group: h[g][0].update(odd=1), what, FormatError)


def _fields(faults: Faults) -> None:
    mac, file_id = faults.model.header["mac"], faults.model.header["file_id"]
    for member, number, value, error in [
        ("version", 0, 0, UnsupportedError),
        ("version", 1, 2, UnsupportedError),
        ("version", 2, True, FormatError),
        ("version", 3, "1", FormatError),
        ("file_id", 0, file_id[:-2], FormatError),
        ("file_id", 1, file_id + "00", FormatError),
        ("file_id", 2, file_id[:-1], FormatError),
        ("file_id", 3, "A" + file_id[1:], FormatError),
        ("file_id", 4, file_id[:-1] + " ", FormatError),
        ("file_id", 5, flip(file_id), SlotError),
        ("format", 0, "onnx", HeaderTamperedError),
        ("cipher", 0, "aes-256-ctr", UnsupportedError),
        ("cipher", 1, "chacha20-poly1305", HeaderTamperedError),
        ("bits", 0, "none", UnsupportedError),
        ("bits", 1, "all", HeaderTamperedError),
        ("chunk", 0, 0, FormatError),
        ("chunk", 1, 65537, FormatError),
        ("chunk", 2, 2**24 + 65536, FormatError),
        ("chunk", 3, -65536, FormatError),
        ("chunk", 4, 131072, HeaderTamperedError),
        ("tensors", 0, [], FormatError),
        ("mac", 0, mac[2:], FormatError),
        ("mac", 1, mac.upper(), FormatError),
        ("mac", 2, flip(mac, 63), HeaderTamperedError),
    ]:
        what = f"{member} is {json.dumps(value)[:40]}"
        faults.header(f"{member}-{number}", lambda h, m=member, v=value: h.update({m: v}), what, error)


def _tensors(faults: Faults) -> None:
    tags = faults.model.header["tensors"][0]["tags"]
    for member, number, value, error in [
        ("name", 0, "layer.bias", FormatError),
        ("name", 1, "mask", FormatError),
        ("name", 2, 7, FormatError),
        ("name", 3, "layer.weighs", HeaderTamperedError),
        ("dtype", 0, "int32", HeaderTamperedError),
        ("shape", 0, [4, 2], HeaderTamperedError),
        ("shape", 1, [-2, -4], FormatError),
        ("shape", 2, [1] * 65, FormatError),
        ("shape", 3, [True, 8], FormatError),
        ("nbytes", 0, 31, HeaderTamperedError),
        ("nbytes", 1, -1, FormatError),
        ("nbytes", 2, 0, FormatError),
        ("nbytes", 3, 65537, FormatError),
        ("pattern", 0, "", FormatError),
        ("pattern", 1, "FF", FormatError),
        ("pattern", 2, "f", FormatError),
        ("pattern", 3, "ff" * 257, FormatError),
        ("pattern", 4, "ff", HeaderTamperedError),
        ("tags", 0, "", FormatError),
        ("tags", 1, tags.rstrip("="), FormatError),
        ("tags", 2, tags[:-3] + chr(ord(tags[-3]) + 1) + "==", FormatError),
        ("tags", 3, tags[:4] + "\n" + tags[4:], FormatError),
        ("tags", 4, flip64(tags, 0), HeaderTamperedError),
    ]:
        what = f"{member} of a tensor is {json.dumps(value)[:40]}"
        faults.header(
            f"tensor-{member}-{number}", lambda h, m=member, v=value: h["tensors"][0].update({m: v}), what, error
        )
    for member, value in [("name", "masc"), ("dtype", "uint8"), ("shape", [1, 2]), ("reason", "secret")]:
        what = f"{member} of a clear tensor altered"
        change = lambda h, m=member, v=value: h["clear"][0].update({m: v})  # noqa: E731
        faults.header(f"clear-{member}", change, what, HeaderTamperedError)
    reverse = lambda h: h["tensors"].reverse()  # noqa: E731
    faults.header("tensors-order", reverse, "the tensors in another order", HeaderTamperedError)
    weight = {"tensor": "layer.weight"}
    faults.signed("signed-order", reverse, "the tensors in another order", TensorTamperedError, **weight)
    tag = lambda h: h["tensors"][0].update(tags=flip64(tags, 15))  # noqa: E731
    faults.signed("signed-tag", tag, "a tag altered", TensorTamperedError, **weight)
    for member, value in [("name", "layer.weighs"), ("dtype", "int32"), ("shape", [4, 2]), ("nbytes", 31)]:
        change = lambda h, m=member, v=value: h["tensors"][0].update({m: v})  # noqa: E731
        faults.signed(f"signed-{member}", change, f"{member} of a tensor altered", HeaderTamperedError)


def _slots(faults: Faults) -> None:
    header = faults.model.header
    slot = header["slots"][0]
    other = record_of("press-18").public_key
    info = b"unclone v1 slot" + faults.file_id

    def sealed(public: bytes, information: bytes, label: str) -> str:
        enc, text = hpke_base.seal(public, information, faults.content_key, Stream(label).take(32))
        return base64.b64encode(enc + text).decode()

    mine = record_of("press-17").public_key
    elsewhere = b"unclone v1 slot" + bytes(16)
    raw = base64.b64decode(slot["sealed"])
    for name, new, what, error in [
        ("hint", {"hint": flip(slot["hint"])}, "the hint altered", SlotError),
        ("hint-short", {"hint": slot["hint"][2:]}, "a hint of 7 bytes", FormatError),
        ("enc", {"sealed": flip64(slot["sealed"], 0)}, "enc altered", SlotError),
        ("ciphertext", {"sealed": flip64(slot["sealed"], 32)}, "the ciphertext altered", SlotError),
        ("tag", {"sealed": flip64(slot["sealed"], 79)}, "the ciphertext's tag altered", SlotError),
        ("short", {"sealed": base64.b64encode(raw[:-1]).decode()}, "79 bytes", FormatError),
        ("suite", {"suite": "hpke-x448"}, "an unknown suite", UnsupportedError),
        ("foreign", {"sealed": sealed(other, info, "foreign")}, "sealed for another device", SlotError),
        ("elsewhere", {"sealed": sealed(mine, elsewhere, "elsewhere")}, "sealed for another file", SlotError),
        ("low-order", {"sealed": base64.b64encode(bytes(32) + raw[32:]).decode()}, "enc of low order", SlotError),
    ]:
        faults.header(f"slot-{name}", lambda h, n=new: h["slots"][0].update(n), f"a slot: {what}", error)
    faults.header("slots-none", lambda h: h.update(slots=[]), "no slot", SlotError)
    faults.header("slots-twice", lambda h: h["slots"].append(slot), "a slot added", HeaderTamperedError)
    foreign = {"suite": "hpke-x448", "hint": "00" * 8, "sealed": slot["sealed"]}
    faults.header(
        "slots-unknown", lambda h: h["slots"].append(foreign), "another slot of unknown suite", UnsupportedError
    )
    faults.add("wrong-device", faults.model.file(), "read with another device's key", SlotError, devices=["press-18"])


def _hybrid_slots(faults: Faults) -> None:
    hybrid = Model(bound("hybrid", safetensors(base(), {}), HYBRID_DEVICES, cipher="aes-256-gcm"))
    slot = hybrid.header["slots"][0]
    raw, own = base64.b64decode(slot["sealed"]), faults.model.header["slots"][0]

    def encode(data: bytes) -> str:
        return base64.b64encode(data).decode()

    for name, new, what, error in [
        ("mlkem", {"sealed": flip64(slot["sealed"], 0)}, "ML-KEM's ciphertext altered", SlotError),
        ("mlkem-last", {"sealed": flip64(slot["sealed"], 1087)}, "ML-KEM's ciphertext altered at its end", SlotError),
        ("x25519", {"sealed": flip64(slot["sealed"], 1088)}, "the ephemeral key altered", SlotError),
        ("ciphertext", {"sealed": flip64(slot["sealed"], 1120)}, "the ciphertext altered", SlotError),
        ("tag", {"sealed": flip64(slot["sealed"], 1167)}, "the ciphertext's tag altered", SlotError),
        ("hint", {"hint": flip(slot["hint"])}, "the hint altered", SlotError),
        ("low-order", {"sealed": encode(raw[:1088] + bytes(32) + raw[1120:])}, "X25519 of low order", SlotError),
        ("other", {"sealed": hybrid.header["slots"][1]["sealed"]}, "sealed for another device", SlotError),
        ("short", {"sealed": encode(raw[:-1])}, "1167 bytes", FormatError),
        ("x25519-size", {"sealed": own["sealed"]}, "80 bytes, as the other suite's", FormatError),
        ("suite", {"suite": own["suite"]}, "named as the other suite, of a wrong length", FormatError),
        ("downgraded", {**own, "hint": slot["hint"]}, "a slot of the other suite under the hybrid hint", SlotError),
    ]:
        header = copy.deepcopy(hybrid.header)
        header["slots"][0].update(new)
        data = hybrid.file(canonical(header))
        faults.add(f"slot-hybrid-{name}", data, f"a hybrid slot: {what}", error, devices=["press-40"])


def _spelling(faults: Faults) -> None:
    text = faults.model.text
    for name, old, new, what in [
        ("space", b'"bits":', b'"bits": ', "a space"),
        ("duplicate", b'"bits":"finite",', b'"bits":"finite","bits":"finite",', "a member stands twice"),
        ("order", b'"bits":"finite","chunk":65536', b'"chunk":65536,"bits":"finite"', "members out of order"),
        ("escape", b'"bits":"finite"', b'"bits":"\\u0066inite"', "a needless escape"),
        ("float", b'"version":1', b'"version":1.0', "a float"),
        ("exponent", b'"version":1', b'"version":1e0', "an exponent"),
        ("minus-zero", b'"shape":[2]', b'"shape":[-0]', "a minus zero"),
        ("integer", b'"shape":[2]', b'"shape":[9007199254740992]', "an integer of 2^53"),
        ("digits", b'"shape":[2]', b'"shape":[' + b"9" * 5000 + b"]", "an integer of 5,000 digits"),
        ("nan", b'"shape":[2]', b'"shape":[NaN]', "NaN"),
        ("surrogate", b'"name":"mask"', b'"name":"\\ud800"', "a lone surrogate"),
        ("deep", b'"shape":[2]', b'"shape":[' + b"[" * 13 + b"]" * 13 + b"]", "17 arrays and objects deep"),
        ("nested", b'"shape":[2]', b'"shape":' + b"[" * 5000, "5,000 open brackets"),
        ("utf-8", b'"name":"mask"', '"name":"mäsk"'.encode(), "a character beyond ASCII, unescaped"),
    ]:
        faults.text(f"spelling-{name}", old, new, f"header: {what}")
    for name, data, what in [
        ("newline", text + b"\n", "a line feed at the end"),
        ("truncated", text[:-1], "the last brace missing"),
        ("empty", b"", "empty"),
        ("array", b"[" + text + b"]", "an array"),
    ]:
        data = faults.model.file(data if name != "newline" else text + b" ")
        faults.add(f"spelling-{name}", data, f"header: {what}", FormatError)


def _selection(faults: Faults) -> None:
    whole = {"select": "all", "share_ppm": 1_000_000, "block": 0, "positions": ""}
    for name, change, error in [
        ("select", {"select": "some"}, UnsupportedError),
        ("select-null", {"select": None}, FormatError),
        ("share-part", {"share_ppm": 999_999}, FormatError),
        ("share-more", {"share_ppm": 1_000_001}, FormatError),
        ("share-zero", {"select": "random", "share_ppm": 0}, FormatError),
        ("share-whole", {"select": "random"}, FormatError),
        ("share-random", {"select": "random", "share_ppm": 999_999}, HeaderTamperedError),
        ("block", {"block": 4096}, FormatError),
        ("block-none", {"select": "blocks", "share_ppm": 5}, FormatError),
        ("block-odd", {"select": "blocks", "share_ppm": 5, "block": 4097}, FormatError),
        ("block-wide", {"select": "blocks", "share_ppm": 5, "block": 131072}, FormatError),
        ("positions", {"positions": base64.b64encode(bytes(17)).decode()}, FormatError),
        ("positions-none", {"select": "blocks", "share_ppm": 5, "block": 4096}, FormatError),
    ]:
        value = {**whole, **change}
        faults.header(f"selection-{name}", lambda h, v=value: h.update(selection=v), f"selection: {change}", error)
    for member in whole:
        what = f"without {member} in selection"
        faults.header(f"missing-selection-{member}", lambda h, n=member: h["selection"].pop(n), what, FormatError)
    faults.header("unknown-selection", lambda h: h["selection"].update(odd=1), "an unknown member", FormatError)
    dial = Faults(faults.folder, share=0.5, select="blocks")
    sealed = dial.model.header["selection"]["positions"]
    for name, value, error in [
        ("short", base64.b64encode(base64.b64decode(sealed)[1:]).decode(), FormatError),
        ("altered", flip64(sealed, 0), HeaderTamperedError),
    ]:
        change = lambda h, v=value: h["selection"].update(positions=v)  # noqa: E731
        dial.header(f"positions-{name}", change, f"sealed positions: {name}", error)
    altered = lambda h: h["selection"].update(positions=flip64(sealed, 0))  # noqa: E731
    dial.signed("signed-positions", altered, "sealed positions altered", HeaderTamperedError)
    for name in ("layer.weight", "layer.bias"):
        body = bytearray(dial.model.body)
        body[dial.model.start(name)] ^= 1
        what = f"share 0.5: {name} altered, masked or not"
        dial.add(f"dial-{name}", dial.model.file(body=bytes(body)), what, TensorTamperedError, tensor=name)
