"""The JSON Schemas of spec/schema say what the parsers do, wherever JSON Schema can say it."""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

import unclone
from unclone import canonical
from unclone.canonical import CanonicalError
from unclone.device_file import parse_device, render_device
from unclone.errors import UncloneError
from unclone.header import encode_header, parse_header

SPEC = Path(__file__).parent.parent / "spec"
VECTORS = SPEC / "vectors"
INDEX = json.loads((VECTORS / "vectors.json").read_text())["vectors"]


def _schema(name: str) -> Draft202012Validator:
    schema = json.loads((SPEC / "schema" / f"{name}.schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


HEADER, DEVICE = _schema("header"), _schema("device")
BASE_HEADER: dict[str, Any] = json.loads(encode_header(unclone.inspect(VECTORS / "models" / "base.safetensors")))
BASE_RECORD: dict[str, Any] = json.loads((VECTORS / "records" / "plain.json").read_bytes())

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([65536, 65537, 2**24, 2**24 + 65536, 2**53 - 1, 1.5]),
    st.sampled_from(
        ["", "ff", "FF", "f", "00" * 16, "a" * 257, "AAAA", "AAA=", "AAB=", "aes-256-gcm", "all", "é", "ff\n"]
    ),
    st.sampled_from([[], [1], [-1], [1.5], [1] * 65, ["x"], {}, {"odd": 1}, {"é": 1}]),
)


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every member and item at any depth."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else []
    return [place for name, item in items for place in [(*path, name), *_places(item, (*path, name))]]


def _mutated(value: dict[str, Any], place: tuple[Any, ...], action: str, new: Any) -> dict[str, Any]:
    result = copy.deepcopy(value)
    *parents, last = place
    target: Any = result
    for name in parents:
        target = target[name]
    if action == "replace":
        target[last] = new
    elif action == "remove":
        del target[last]
    elif isinstance(target, dict):
        target["odd"] = new
    else:
        target.append(new)
    return result


def _redigested(value: dict[str, Any]) -> dict[str, Any]:
    if "digest" not in value:
        return value
    rest = {name: item for name, item in value.items() if name != "digest"}
    try:
        return {**rest, "digest": hashlib.sha256(canonical.encode(rest)).hexdigest()}
    except CanonicalError:
        return value


def _header_parses(value: Any) -> bool:
    try:
        parse_header(canonical.encode(value))
    except (CanonicalError, UncloneError):
        return False
    return True


def _record_parses(value: Any) -> bool:
    try:
        parse_device(json.dumps(value).encode())
    except UncloneError:
        return False
    return True


def _beyond_schema(value: dict[str, Any]) -> bool:
    """What the schema's description leaves to the reader: names that stand twice, numbers of tags and blocks."""
    names = [entry["name"] for entry in value["tensors"] + value["clear"]]
    if len(set(names)) != len(names):
        return True
    for entry in value["tensors"]:
        step = value["chunk"] - value["chunk"] % (len(entry["pattern"]) // 2)
        try:
            tags = canonical.b64decode(entry["tags"])
        except CanonicalError:
            return True
        if len(tags) != (32 if value["selection"]["block"] else 16) * -(-entry["nbytes"] // step):
            return True
    block = value["selection"]["block"]
    if not block:
        return False
    steps = [(e["nbytes"], value["chunk"] - value["chunk"] % (len(e["pattern"]) // 2)) for e in value["tensors"]]
    blocks = sum(-(-min(step, nbytes - at) // block) for nbytes, step in steps for at in range(0, nbytes, step))
    try:
        return (
            block > value["chunk"] or len(canonical.b64decode(value["selection"]["positions"])) != -(-blocks // 8) + 16
        )
    except CanonicalError:
        return True


def test_base_cases_pass_both() -> None:
    assert HEADER.is_valid(BASE_HEADER)
    assert _header_parses(BASE_HEADER)
    assert DEVICE.is_valid(BASE_RECORD)
    assert _record_parses(BASE_RECORD)


@settings(max_examples=600, deadline=None)
@given(st.sampled_from(_places(BASE_HEADER)), st.sampled_from(["replace", "remove", "add"]), VALUES)
def test_header_schema_and_parser_agree(place: tuple[Any, ...], action: str, new: Any) -> None:
    value = _mutated(BASE_HEADER, place, action, new)
    said = HEADER.is_valid(value)
    assert _header_parses(value) == (said and not _beyond_schema(value))


@settings(max_examples=600, deadline=None)
@given(st.sampled_from(_places(BASE_RECORD)), st.sampled_from(["replace", "remove", "add"]), VALUES)
def test_device_schema_and_parser_agree(place: tuple[Any, ...], action: str, new: Any) -> None:
    value = _redigested(_mutated(BASE_RECORD, place, action, new))
    assert _record_parses(value) == DEVICE.is_valid(value)


def _carried(path: Path) -> bytes | None:
    """The header text of a safetensors file that can still be taken apart as one."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    try:
        metadata = json.loads(data[8 : 8 + length])["__metadata__"]
        return str(metadata["unclone"]).encode()
    except (ValueError, KeyError):
        return None


@pytest.mark.parametrize("entry", [e for e in INDEX if e["file"].startswith("models/")], ids=lambda e: e["file"])
def test_header_schema_on_the_vectors(entry: dict[str, Any]) -> None:
    text = _carried(VECTORS / entry["file"])
    if text is None:
        assert entry["exit_code"] == 2
        return
    try:
        value = canonical.decode(text)
    except CanonicalError:
        assert entry["error"] == "FormatError"
        return
    if entry["exit_code"] in (0, 3, 4):
        assert HEADER.is_valid(value)
    elif not entry["file"].startswith(("models/carrier", "models/trailing", "models/truncated")):
        assert not HEADER.is_valid(value) or _beyond_schema(value)


@pytest.mark.parametrize("entry", [e for e in INDEX if e["file"].startswith("records/")], ids=lambda e: e["file"])
def test_device_schema_on_the_vectors(entry: dict[str, Any]) -> None:
    data = (VECTORS / entry["file"]).read_bytes()
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        assert entry["error"] == "RecordError"
        return
    if entry["exit_code"] == 0 or entry["error"] == "ReconstructionError":
        assert DEVICE.is_valid(value)
    elif entry["exit_code"] == 2 and entry["file"].split("/")[1] not in TEXT_FAULTS:
        assert not DEVICE.is_valid(value)


TEXT_FAULTS = {"bom.json", "duplicate.json", "float.json", "deep.json", "surrogate.json"}
"""Faults of the text, which a JSON Schema validator never sees."""


def test_records_and_headers_of_the_package(device: unclone.Device, model_file: Path, tmp_path: Path) -> None:
    assert DEVICE.is_valid(json.loads(render_device(device)))
    for bits in ("finite", "all"):
        header = unclone.bind(model_file, device, tmp_path / bits, bits=bits)
        assert HEADER.is_valid(json.loads(encode_header(header)))
