"""Second reader of bound models: plain Python from bound-model.md and carriers.md alone, for safetensors.

    python spec/check_model.py MODEL --device-key HEX

prints as JSON what it found and the SHA-256 of every tensor with its true weights. Exit codes as in section 9.
Shares no code with the package; `cryptography` supplies X25519, ML-KEM, AES, ChaCha20 and their AEADs, no more.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import hmac
import itertools
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

sys.path.insert(0, str(Path(__file__).parent))

import canonical_json
import hpke_base

HEADER_LIMIT = 32 * 2**20
CARRIER_LIMIT = 100_000_000
OPENING = b'{"__metadata__":{"unclone":"'
DTYPES = {
    "BOOL": ("bool", 8), "F4": ("float4_e2m1", 4), "F6_E2M3": ("float6_e2m3", 6), "F6_E3M2": ("float6_e3m2", 6),
    "U8": ("uint8", 8), "I8": ("int8", 8), "F8_E5M2": ("float8_e5m2", 8), "F8_E4M3": ("float8_e4m3fn", 8),
    "F8_E8M0": ("float8_e8m0", 8), "F8_E4M3FNUZ": ("float8_e4m3fnuz", 8), "F8_E5M2FNUZ": ("float8_e5m2fnuz", 8),
    "I16": ("int16", 16), "U16": ("uint16", 16), "F16": ("float16", 16), "BF16": ("bfloat16", 16),
    "I32": ("int32", 32), "U32": ("uint32", 32), "F32": ("float32", 32), "C64": ("complex64", 64),
    "F64": ("float64", 64), "I64": ("int64", 64), "U64": ("uint64", 64),
}  # fmt: skip
EXIT_CODES = {
    "FormatError": 2, "UnsupportedError": 2, "NotBoundError": 2,
    "SlotError": 3, "HeaderTamperedError": 4, "TensorTamperedError": 4,
}  # fmt: skip


class Finding(Exception):
    """What section 9 calls the error; ``tensor`` where it names one."""

    def __init__(self, error: str, message: str, tensor: str | None = None) -> None:
        super().__init__(message)
        self.error = error
        self.tensor = tensor
        self.exit_code = EXIT_CODES[error]


def need(condition: object, message: str, error: str = "FormatError") -> None:
    if not condition:
        raise Finding(error, message)


@dataclass
class Carrier:
    """A safetensors file: all bytes, where our encoded header lies, and every tensor as (dtype, shape, start, end)."""

    data: bytes
    header: bytes
    header_start: int
    header_end: int
    tensors: dict[str, tuple[str, list[int], int, int]]


def read_carrier(path: Path) -> Carrier:
    try:
        with path.open("rb") as stream:
            start = stream.read(8)
            need(len(start) == 8, "shorter than a length")
            length = int.from_bytes(start, "little")
            need(length <= CARRIER_LIMIT, "header over the limit")
            raw = stream.read(length)
            need(len(raw) == length, "truncated in the header")
            body = stream.read()
    except OSError as problem:
        raise Finding("FormatError", f"cannot read: {problem.strerror}") from None
    entries = _carrier_json(raw)
    metadata = entries.pop("__metadata__", None)
    metadata = {} if metadata is None else metadata
    need(isinstance(metadata, dict) and all(isinstance(v, str) for v in metadata.values()), "metadata is no string map")
    tensors = {name: _carrier_tensor(name, entry, 8 + length) for name, entry in entries.items()}
    position = 8 + length
    for _, _, first, last in sorted(tensors.values(), key=lambda t: t[2:]):
        need(first == position, "tensors overlap, or leave a hole")
        position = last
    need(position == 8 + length + len(body), "the tensors do not end where the file ends")
    need("unclone" in metadata, "an ordinary model", "NotBoundError")
    text = metadata["unclone"]
    # Canonical text is printable ASCII, so that only the quotes and the backslashes are escaped.
    encoded = text.replace("\\", "\\\\").replace('"', '\\"')
    need(text.isascii() and raw.startswith(OPENING + encoded.encode() + b'"'), "the header is not in its place")
    need(len(text) <= HEADER_LIMIT, "header over the limit")
    begin = 8 + len(OPENING)
    return Carrier(start + raw + body, text.encode(), begin, begin + len(encoded), tensors)


def _carrier_json(raw: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        need(len(dict(pairs)) == len(pairs), "a name stands twice")
        return dict(pairs)

    need(raw[:1] == b"{", "the header does not start with a brace")
    try:
        entries = json.loads(raw.decode("utf-8"), object_pairs_hook=unique)
        json.dumps(entries, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError):
        raise Finding("FormatError", "the header is no JSON") from None
    return dict(entries)


def _carrier_tensor(name: str, entry: Any, base: int) -> tuple[str, list[int], int, int]:
    need(isinstance(entry, dict) and set(entry) == {"dtype", "shape", "data_offsets"}, f"{name}: members")
    need(isinstance(entry["dtype"], str) and entry["dtype"] in DTYPES, f"{name}: unknown dtype", "UnsupportedError")
    dtype, bits = DTYPES[entry["dtype"]]
    shape, offsets = entry["shape"], entry["data_offsets"]
    for values in (shape, offsets):
        need(isinstance(values, list) and all(type(n) is int and 0 <= n < 2**63 for n in values), f"{name}: sizes")
    need(len(shape) <= 64 and len(offsets) == 2, f"{name}: sizes")
    for dimension in shape:
        bits *= dimension
        need(bits < 2**64, f"{name}: larger than any memory")
    need(bits % 8 == 0 and offsets[1] - offsets[0] == bits // 8, f"{name}: shape and offsets disagree")
    return dtype, shape, base + offsets[0], base + offsets[1]


# Section 4


def _hex(value: Any, least: int, most: int) -> bytes:
    need(isinstance(value, str) and len(value) % 2 == 0 and least <= len(value) // 2 <= most, "hex of a wrong length")
    need(all(c in "0123456789abcdef" for c in value), "not lower-case hexadecimal")
    return bytes.fromhex(value)


def _base64(value: Any, length: int | None = None) -> bytes:
    need(isinstance(value, str) and value.isascii(), "not base64")
    try:
        data = base64.b64decode(value, validate=True)
    except ValueError:
        raise Finding("FormatError", "not base64") from None
    need(base64.b64encode(data).decode() == value, "another spelling of base64")
    need(length is None or len(data) == length, "base64 of a wrong length")
    return data


def _unsigned(value: Any, most: int = 2**53 - 1) -> int:
    need(type(value) is int and 0 <= value <= most, "not an integer in range")
    return int(value)


def _members(value: Any, names: str) -> None:
    need(isinstance(value, dict) and set(value) == set(names.split()), f"the members are not {names}")


def _tensor_fields(entry: dict[str, Any]) -> None:
    need(isinstance(entry["name"], str) and isinstance(entry["dtype"], str), "name and dtype are strings")
    need(isinstance(entry["shape"], list) and len(entry["shape"]) <= 64, "shape is an array of at most 64")
    for dimension in entry["shape"]:
        _unsigned(dimension)


def _selection_fields(selection: Any, chunk: int) -> None:
    _members(selection, "select share_ppm block positions")
    select, block = selection["select"], selection["block"]
    need(isinstance(select, str), "select is a string")
    known = ("all", "random", "blocks", "magnitude", "first-layers", "saliency")
    need(select in known, "unknown select", "UnsupportedError")
    share = _unsigned(selection["share_ppm"], 1_000_000)
    need(share > 0 and (share == 1_000_000) == (select == "all"), "share and select")
    need(_unsigned(block, chunk) % 4096 == 0 and (block == 0) == (select in ("all", "random")), "block")
    selection["positions"] = _base64(selection["positions"])


def _blocks(entry: dict[str, Any], header: dict[str, Any]) -> int:
    """Blocks of a tensor (section 6.2)."""
    step, block = chunk_length(header["chunk"], entry["pattern"]), header["selection"]["block"]
    return sum(-(-min(step, entry["nbytes"] - at) // block) for at in _steps(entry["nbytes"], step))


def _steps(nbytes: int, step: int) -> range:
    need(nbytes // step <= HEADER_LIMIT, "more chunks than a header can have tags for")
    return range(0, nbytes, step)


def chunk_length(chunk: int, pattern: bytes) -> int:
    return chunk - chunk % len(pattern)


def parse_header(text: bytes) -> dict[str, Any]:
    """The header, with hex and base64 decoded in ``file_id``, ``mac``, ``pattern``, ``tags``, ``hint``, ``sealed``."""
    need(len(text) <= HEADER_LIMIT, "header over the limit")
    try:
        header = canonical_json.decode(text)
    except canonical_json.NotCanonical as problem:
        raise Finding("FormatError", str(problem)) from None
    need(isinstance(header, dict) and type(header.get("version")) is int, "no version")
    need(header["version"] == 1, "another version", "UnsupportedError")
    _members(header, "version file_id format cipher bits chunk selection tensors clear slots mac")
    header["file_id"] = _hex(header["file_id"], 16, 16)
    header["mac"] = _hex(header["mac"], 32, 32)
    need(isinstance(header["format"], str), "format is a string")
    need(isinstance(header["cipher"], str), "cipher is a string")
    need(header["cipher"] in ("aes-256-gcm", "chacha20-poly1305"), "unknown cipher", "UnsupportedError")
    need(isinstance(header["bits"], str), "bits is a string")
    need(header["bits"] in ("finite", "all"), "unknown bits", "UnsupportedError")
    need(_unsigned(header["chunk"], 2**24) >= 65536 and header["chunk"] % 65536 == 0, "chunk")
    _selection_fields(header["selection"], header["chunk"])
    for name in ("tensors", "clear", "slots"):
        need(isinstance(header[name], list), f"{name} is an array")
    need(header["tensors"], "no masked tensor")
    for entry in header["tensors"]:
        _members(entry, "name dtype shape nbytes pattern tags")
        _tensor_fields(entry)
        _unsigned(entry["nbytes"])
        entry["pattern"] = _hex(entry["pattern"], 1, 256)
        entry["tags"] = _base64(entry["tags"])
        chunks = -(-entry["nbytes"] // chunk_length(header["chunk"], entry["pattern"]))
        need(len(entry["tags"]) == (32 if header["selection"]["block"] else 16) * chunks, "a tag for every chunk")
    for entry in header["clear"]:
        _members(entry, "name dtype shape reason")
        _tensor_fields(entry)
        need(isinstance(entry["reason"], str), "reason is a string")
    blocks = header["selection"]["block"] and sum(_blocks(entry, header) for entry in header["tensors"])
    need(
        len(header["selection"]["positions"]) == (-(-blocks // 8) + 16 if header["selection"]["block"] else 0),
        "positions",
    )
    names = [entry["name"] for entry in header["tensors"] + header["clear"]]
    need(len(set(names)) == len(names), "a tensor stands twice")
    for entry in header["slots"]:
        _members(entry, "suite hint sealed")
        need(isinstance(entry["suite"], str), "suite is a string")
        need(entry["suite"] in hpke_base.SEALED_BYTES, "unknown suite", "UnsupportedError")
        entry["hint"] = _hex(entry["hint"], 8, 8)
        entry["sealed"] = _base64(entry["sealed"], hpke_base.SEALED_BYTES[entry["suite"]])
    return dict(header)


# Section 8


def open_slot(header: dict[str, Any], device_key: bytes) -> bytes:
    label = b"unclone v1 slot hint" + header["file_id"]
    for slot in header["slots"]:
        public = hpke_base.device_public(slot["suite"], device_key)
        if slot["hint"] == hashlib.sha256(label + public).digest()[:8]:
            info = b"unclone v1 slot" + header["file_id"]
            try:
                return hpke_base.device_open(slot["suite"], device_key, info, slot["sealed"])
            except hpke_base.OpenError:
                continue
    raise Finding("SlotError", "no slot opens")


# Section 7


def carrier_digest(carrier: Carrier, masked: set[str]) -> bytes:
    holes = [(carrier.header_start, carrier.header_end)]
    holes += [tensor[2:] for name, tensor in carrier.tensors.items() if name in masked]
    digest = hashlib.sha256(len(carrier.data).to_bytes(8, "little"))
    position = 0
    for first, last in sorted(holes):
        digest.update(carrier.data[position:first])
        position = last
    digest.update(carrier.data[position:])
    return digest.digest()


def header_mac(text: bytes, digest: bytes, content_key: bytes, file_id: bytes) -> bytes:
    value = canonical_json.decode(text)
    del value["mac"]
    key = hpke_base.hkdf_expand(content_key, b"unclone v1 header" + file_id, 32)
    return hmac.digest(key, canonical_json.encode(value).encode() + digest, hashlib.sha256)


# Section 6


def keystream(cipher: str, key: bytes, nonce: bytes, length: int) -> bytes:
    """Bytes that the AEAD XORs to a plaintext: AES-CTR from counter 2 (SP 800-38D), ChaCha20 from 1 (RFC 8439)."""
    if cipher == "aes-256-gcm":
        encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
        blocks = b"".join(nonce + (2 + i).to_bytes(4, "big") for i in range(-(-length // 16)))
        return encryptor.update(blocks)[:length]
    counter = (1).to_bytes(4, "little")
    return Cipher(algorithms.ChaCha20(key, counter + nonce), None).encryptor().update(bytes(length))


def masked_bytes(
    header: dict[str, Any], positions: bytes, bitmap: bytes, index: int
) -> Iterator[tuple[list[bool], bytes]]:
    """For each chunk: which of its bytes are ciphertext, and the pattern over all of them."""
    entry, selection, cipher = header["tensors"][index], header["selection"], header["cipher"]
    pattern, nbytes, block = entry["pattern"], entry["nbytes"], selection["block"]
    step = chunk_length(header["chunk"], pattern)
    first = sum(_blocks(other, header) for other in header["tensors"][:index]) if block else 0
    for number, at in enumerate(_steps(nbytes, step)):
        count = min(step, nbytes - at)
        repeated = (pattern * (-(-count // len(pattern))))[:count]
        sealed = [True] * count
        if selection["select"] == "random":
            nonce = index.to_bytes(4, "big") + number.to_bytes(8, "big")
            draws = keystream(cipher, positions, nonce, 4 * -(-count // len(pattern)))
            limit = selection["share_ppm"] * 2**32 // 1_000_000
            word = [int.from_bytes(draws[i : i + 4], "little") < limit for i in range(0, len(draws), 4)]
            repeated = bytes(byte if word[i // len(pattern)] else 0 for i, byte in enumerate(repeated))
        elif block:
            bits = [bitmap[b // 8] >> b % 8 & 1 for b in range(first, first + -(-count // block))]
            first += len(bits)
            sealed = [bool(bits[i // block]) for i in range(count)]
        yield sealed, repeated


def unmask(header: dict[str, Any], keys: dict[str, bytes], bitmap: bytes, index: int, data: bytes) -> Iterator[bytes]:
    """The true bytes of a tensor, chunk by chunk."""
    entry, cipher, key = header["tensors"][index], header["cipher"], keys["aead"]
    aead = AESGCM(key) if cipher == "aes-256-gcm" else ChaCha20Poly1305(key)
    start = 0
    for number, (sealed, repeated) in enumerate(masked_bytes(header, keys["positions"], bitmap, index)):
        chunk = data[start : start + len(sealed)]
        start += len(sealed)
        piece = bytes(itertools.compress(chunk, sealed))
        clear = bytes(itertools.compress(chunk, (not inside for inside in sealed)))
        nonce = index.to_bytes(4, "big") + number.to_bytes(8, "big")
        width = 32 if header["selection"]["block"] else 16
        tags = entry["tags"][width * number : width * number + width]
        try:
            opened = aead.decrypt(nonce, piece + tags[:16], b"")
            if tags[16:]:
                aead.decrypt((index + 2**31).to_bytes(4, "big") + nonce[4:], tags[16:], clear)
        except InvalidTag:
            raise Finding("TensorTamperedError", f"chunk {number}", entry["name"]) from None
        stream = keystream(cipher, key, nonce, len(piece))
        if opened != bytes(a ^ b for a, b in zip(piece, stream, strict=True)):
            raise AssertionError("the AEAD and the keystream of section 6 disagree")
        pattern = itertools.compress(repeated, sealed)
        true = iter(a ^ (b & c) for a, b, c in zip(piece, stream, pattern, strict=True))
        yield bytes(next(true) if inside else byte for byte, inside in zip(chunk, sealed, strict=True))


def open_positions(header: dict[str, Any], key: bytes) -> bytes:
    if not header["selection"]["block"]:
        return b""
    try:
        return AESGCM(key).decrypt(b"\xff" * 12, header["selection"]["positions"], b"")
    except InvalidTag:
        raise Finding("HeaderTamperedError", "the positions do not open") from None


def check(path: Path, device_key: bytes) -> dict[str, Any]:
    """Read a bound model as section 9 says, in its order; raises Finding."""
    carrier = read_carrier(path)
    header = parse_header(carrier.header)
    need(header["format"] == "safetensors", "the header is of another format", "HeaderTamperedError")
    content_key = open_slot(header, device_key)
    for entry in header["tensors"]:
        found = carrier.tensors.get(entry["name"])
        agrees = found is not None and [entry["dtype"], entry["shape"], entry["nbytes"]] == [
            found[0],
            found[1],
            found[3] - found[2],
        ]
        need(agrees, f"{entry['name']}: header and carrier disagree", "HeaderTamperedError")
    digest = carrier_digest(carrier, {entry["name"] for entry in header["tensors"]})
    mac = header_mac(carrier.header, digest, content_key, header["file_id"])
    need(hmac.compare_digest(mac, header["mac"]), "the MAC does not hold", "HeaderTamperedError")
    keys = {
        use: hpke_base.hkdf_expand(content_key, b"unclone v1 " + use.encode() + header["file_id"], 32)
        for use in ("aead", "positions")
    }
    bitmap = open_positions(header, keys["positions"])
    true = {name: carrier.data[first:last] for name, (_, _, first, last) in carrier.tensors.items()}
    indices = {entry["name"]: index for index, entry in enumerate(header["tensors"])}
    for name in [name for name in carrier.tensors if name in indices]:
        true[name] = b"".join(unmask(header, keys, bitmap, indices[name], true[name]))
    return {
        "file_id": header["file_id"].hex(),
        "cipher": header["cipher"],
        "slots": len(header["slots"]),
        "masked": [entry["name"] for entry in header["tensors"]],
        "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in true.items()},
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="verify and open a bound safetensors model")
    parser.add_argument("model", type=Path)
    parser.add_argument("--device-key", required=True, type=bytes.fromhex, metavar="HEX", help="32 bytes")
    options = parser.parse_args(arguments)
    if len(options.device_key) != 32:
        parser.error("a device key has 32 bytes")
    try:
        found = check(options.model, options.device_key)
    except Finding as finding:
        print(json.dumps({"error": finding.error, "message": str(finding), "tensor": finding.tensor}))
        return finding.exit_code
    print(json.dumps(found, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
