"""Licences: vectors, both readers, every bit, every term, the models and loaders they open."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

import unclone
from unclone import keys
from unclone.errors import FormatError, LicenceError, OutputError, ParameterError, SlotError, UncloneError
from unclone.licence import Licence, issue, load_licence, parse_licence, render_licence, save_licence, unseal
from unclone.records import DeviceKey

sys.path.insert(0, str(Path(__file__).parent.parent / "spec"))

import check_licence

SPEC = Path(__file__).parent.parent / "spec"
VECTORS = SPEC / "vectors"
INDEX: dict[str, Any] = json.loads((VECTORS / "vectors.json").read_text())
ENTRIES = [entry for entry in INDEX["vectors"] if entry["file"].startswith("licences/")]
SCHEMA = Draft202012Validator(json.loads((SPEC / "schema" / "licence.schema.json").read_text()))

KEY, CONTENT_KEY, FILE_ID = bytes(range(32)), bytes(reversed(range(32))), bytes(range(16))


class Recipient:
    """A public key and its suite, as a record has them."""

    def __init__(self, key: bytes = KEY, suite: str = keys.SUITE) -> None:
        self.suite = suite
        self.public_key = keys.public_key(DeviceKey(key), suite)


def _package(entry: dict[str, Any], key: bytes) -> tuple[str | None, int, str | None]:
    now = datetime.fromisoformat(entry["now"])
    try:
        found = unseal(VECTORS / entry["file"], DeviceKey(key), bytes.fromhex(entry["file_id"]), now=now)
    except UncloneError as problem:
        return type(problem).__name__, problem.exit_code, None
    return None, 0, found.hex()


def _second(entry: dict[str, Any], key: bytes) -> tuple[str | None, int, str | None]:
    try:
        data = (VECTORS / entry["file"]).read_bytes()
        found = check_licence.check(data, key, bytes.fromhex(entry["file_id"]), entry["now"])
    except check_licence.Finding as finding:
        return finding.error, finding.exit_code, None
    return None, 0, found["content_key"]


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: str(entry["file"]))
def test_vector(entry: dict[str, Any]) -> None:
    key = bytes.fromhex(INDEX["devices"][entry["device"]]["device_key"])
    expected = entry["error"], entry["exit_code"], entry.get("content_key")
    assert _second(entry, key) == expected, "second reader"
    assert _package(entry, key) == expected, "package"


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: str(entry["file"]))
def test_schema_on_the_vectors(entry: dict[str, Any]) -> None:
    data = (VECTORS / entry["file"]).read_bytes()
    try:
        value = json.loads(data)
    except ValueError:
        assert entry["error"] == "FormatError"
        return
    of_the_text = {"newline", "space", "duplicate", "long", "time-day", "time-zero"}
    if entry["exit_code"] != 2:
        assert SCHEMA.is_valid(value)
    elif Path(entry["file"]).stem not in of_the_text:
        assert not SCHEMA.is_valid(value)


def test_every_error_occurs() -> None:
    assert {entry["error"] for entry in ENTRIES} == {None, *check_licence.EXIT_CODES}


def test_a_licence_opens_a_model_that_has_no_slot_for_the_device() -> None:
    model = VECTORS / "models" / "base.safetensors"
    key = DeviceKey(bytes.fromhex(INDEX["devices"]["press-18"]["device_key"]))
    with pytest.raises(SlotError):
        unclone.restore(model, key)
    digests = next(entry["sha256"] for entry in INDEX["vectors"] if entry["file"] == "models/base.safetensors")
    licence = VECTORS / "licences" / "plain.json"
    for given_as in (licence, str(licence), load_licence(licence)):
        with unclone.restore(model, key, licence=given_as) as restored:
            assert set(restored) == set(digests)
    other = DeviceKey(bytes.fromhex(INDEX["devices"]["press-17"]["device_key"]))
    with pytest.raises(LicenceError, match="another device"):
        unclone.restore(model, other, licence=licence)


@pytest.mark.parametrize("suite", list(keys.SUITES))
def test_every_bit_of_a_licence_counts(suite: str) -> None:
    key = DeviceKey(KEY)
    terms = {"not_after": "2099-12-31T23:59:59Z", "note": "n"}
    data = render_licence(issue(CONTENT_KEY, FILE_ID, Recipient(suite=suite), **terms))
    # In the hybrid suite every eleventh bit: 14,000 decapsulations would take long, and miss no region of the file.
    for bit in range(0, 8 * len(data), 1 if suite == keys.SUITE else 11):
        altered = bytearray(data)
        altered[bit // 8] ^= 1 << bit % 8
        with pytest.raises((FormatError, LicenceError)):
            unseal(parse_licence(bytes(altered)), key, FILE_ID)


@given(st.text(max_size=256), st.datetimes(timezones=st.just(UTC)), st.sampled_from(list(keys.SUITES)))
@settings(max_examples=40, deadline=None)
def test_round_trip(note: str, end: datetime, suite: str) -> None:
    try:
        note.encode()
    except UnicodeEncodeError:
        return
    not_after = end.replace(microsecond=0).strftime("%Y-%m-%dT%H:%M:%SZ").rjust(20, "0")
    licence = issue(CONTENT_KEY, FILE_ID, Recipient(suite=suite), not_after=not_after, note=note)
    data = render_licence(licence)
    assert parse_licence(data) == licence
    assert SCHEMA.is_valid(json.loads(data))
    assert unseal(licence, DeviceKey(KEY), FILE_ID, now=end.replace(microsecond=0)) == CONTENT_KEY
    found = check_licence.check(data, KEY, FILE_ID, not_after)
    assert found["content_key"] == CONTENT_KEY.hex()


@given(st.binary(max_size=400))
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        parse_licence(data)


def test_expired_by_the_systems_clock() -> None:
    licence = issue(CONTENT_KEY, FILE_ID, Recipient(), not_after="2020-01-01T00:00:00Z")
    with pytest.raises(LicenceError, match="ended at 2020-01-01T00:00:00Z"):
        unseal(licence, DeviceKey(KEY), FILE_ID)


@pytest.mark.parametrize(
    "terms", [{"not_after": "tomorrow"}, {"not_after": "2031-13-01T00:00:00Z"}, {"note": "n" * 257}]
)
def test_terms_that_no_licence_can_have(terms: dict[str, str]) -> None:
    with pytest.raises(ParameterError):
        issue(CONTENT_KEY, FILE_ID, Recipient(), **terms)


def test_sizes_are_those_of_the_specification() -> None:
    sizes = [len(render_licence(issue(CONTENT_KEY, FILE_ID, Recipient(suite=suite)))) for suite in keys.SUITES]
    text = (SPEC / "licence.md").read_text()
    assert f"takes {sizes[0]} bytes" in text
    assert f"and {sizes[1]} in the hybrid one" in text


def test_a_licence_is_no_slot_and_a_slot_no_licence() -> None:
    key, to = DeviceKey(KEY), Recipient()
    licence, slot = issue(CONTENT_KEY, FILE_ID, to), keys.seal_slot(CONTENT_KEY, to.public_key, FILE_ID)
    with pytest.raises(LicenceError):
        unseal(Licence(FILE_ID, slot.suite, slot.hint, sealed=slot.sealed), key, FILE_ID)
    with pytest.raises(SlotError):
        keys.open_slot((unclone.records.Slot(licence.suite, licence.hint, licence.sealed),), key, FILE_ID)


def test_files(tmp_path: Path) -> None:
    licence = issue(CONTENT_KEY, FILE_ID, Recipient(), note="Linie 4")
    save_licence(licence, tmp_path / "press.licence.json")
    assert load_licence(tmp_path / "press.licence.json") == licence
    with pytest.raises(OutputError):
        save_licence(licence, tmp_path / "press.licence.json")
    (tmp_path / "not.json").write_bytes(b"{}")
    with pytest.raises(FormatError, match=r"not\.json"):
        load_licence(tmp_path / "not.json")
    with pytest.raises(FormatError, match="cannot read"):
        load_licence(tmp_path / "missing.json")


def test_nothing_of_the_key_shows() -> None:
    licence = issue(CONTENT_KEY, FILE_ID, Recipient())
    assert "sealed" not in repr(licence)
    with pytest.raises(LicenceError) as caught:
        unseal(licence, DeviceKey(CONTENT_KEY), FILE_ID)
    assert CONTENT_KEY.hex() not in str(caught.value)
