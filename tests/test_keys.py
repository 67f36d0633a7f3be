"""The key schedule: labels as the specification lists them, known answers, slots that open for their device alone."""

from __future__ import annotations

import hashlib
import hmac
import pickle
import re
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from unclone import keys
from unclone.errors import ParameterError, RecordError, SlotError, UnsupportedError
from unclone.records import DeviceKey, Slot

sys.path.insert(0, str(Path(__file__).parent.parent / "spec"))

import hpke_base

SPEC = Path(__file__).parent.parent / "spec"
KEY = bytes(range(32))
FILE_ID = bytes(range(16))


def test_the_labels_are_those_of_the_specification() -> None:
    table = (SPEC / "bound-model.md").read_text().split("## 8. Keys and slots")[1].split("## 9.")[0]
    listed = re.findall(r"^\| `(unclone v1 [a-z0-9 ]+)` \|", table, re.MULTILINE)
    assert sorted(listed) == sorted(label.decode() for label in keys.LABELS.values())
    assert len(set(listed)) == len(listed)
    for use, label in keys.LABELS.items():
        assert label == b"unclone v1 " + use.encode()


def test_no_label_is_a_prefix_of_another_with_the_same_use_of_it() -> None:
    # `slot` is an HPKE info and `slot hint` a hash input: the pair that shares a prefix never meets in one function.
    prefixes = {
        (a, b) for a in keys.LABELS for b in keys.LABELS if a != b and keys.LABELS[b].startswith(keys.LABELS[a])
    }
    assert prefixes == {("slot", "slot hint")}


def test_second_hpke_against_rfc_9180() -> None:
    # RFC 9180, appendix A.1 (DHKEM(X25519, HKDF-SHA256), HKDF-SHA256): the KEM and its shared secret are those of our
    # suite; the appendix has no AES-256-GCM, so the key schedule is checked against `cryptography` below.
    ephemeral = bytes.fromhex("52c4a758a802cd8b936eceea314432798d5baf2d7e9235dc084ab1b9cfa2f736")
    recipient = bytes.fromhex("4612c550263fc8ad58375df3f557aac531d26850903e55a9f23f21d8534e8ac8")
    enc = bytes.fromhex("37fda3567bdbd628e88668c3c8d7e97d1d1253b6d4ea6d44c150f741f1bf4431")
    public = bytes.fromhex("3948cfe0ad1ddb695d780e59077195da6c56506b027329794ab02bca80815c4d")
    shared = bytes.fromhex("fe0e18c9f024ce43799ae393c7e8fe8fce9d218875e8227b0187c04e7d2ea1fc")
    assert hpke_base.public_key(ephemeral) == enc
    assert hpke_base.public_key(recipient) == public
    assert hpke_base.shared_secret(recipient, enc, enc + public) == shared


def test_second_hybrid_kem_against_cryptography() -> None:
    # `cryptography` has an implementation of its own of MLKEM768-X25519: it opens what the second reader sealed.
    key = DeviceKey(KEY)
    public = keys.public_key(key, keys.HYBRID)
    assert public == hpke_base.device_public(hpke_base.HYBRID, KEY)
    secret, ciphertext = MLKEM768PublicKey.from_public_bytes(public[:1184]).encapsulate()
    sealed = b"".join(hpke_base.seal_hybrid(public, b"unclone v1 slot" + FILE_ID, KEY, (ciphertext, secret), KEY[::-1]))
    slot = Slot(keys.HYBRID, keys.slot_hint(public, FILE_ID), sealed)
    assert keys.open_slot((slot,), key, FILE_ID) == KEY


@pytest.mark.parametrize("suite", list(keys.SUITES))
@given(st.binary(min_size=32, max_size=32), st.binary(min_size=16, max_size=16), st.binary(min_size=32, max_size=32))
@settings(max_examples=15, deadline=None)
def test_slots_of_the_package_open_in_the_second_reader(
    suite: str, device: bytes, file_id: bytes, content: bytes
) -> None:
    public = keys.public_key(DeviceKey(device), suite)
    assert hpke_base.device_public(suite, device) == public
    slot = keys.seal_slot(content, public, file_id, suite)
    assert (slot.suite, len(public)) == (suite, hpke_base.PUBLIC_BYTES[suite])
    assert len(slot.sealed) == hpke_base.SEALED_BYTES[suite] == keys.SUITES[suite].sealed_bytes
    assert hpke_base.device_open(suite, device, b"unclone v1 slot" + file_id, slot.sealed) == content


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=16, max_size=16), st.binary(min_size=32, max_size=32))
@settings(max_examples=15, deadline=None)
def test_slots_of_the_second_reader_open_in_the_package(device: bytes, file_id: bytes, content: bytes) -> None:
    key = DeviceKey(device)
    public = keys.public_key(key)
    enc, sealed = hpke_base.seal(public, b"unclone v1 slot" + file_id, content, hashlib.sha256(content).digest())
    made = Slot(keys.SUITE, keys.slot_hint(public, file_id), enc + sealed)
    assert keys.open_slot((made,), key, file_id) == content


def test_key_schedule_from_plain_hashes() -> None:
    key = DeviceKey(KEY)
    made = keys.content_keys(KEY, FILE_ID)
    for name, value in (("aead", made.aead), ("header", made.header)):
        block = hmac.digest(KEY, b"unclone v1 " + name.encode() + FILE_ID + b"\x01", "sha256")
        assert value == block
    hint = hashlib.sha256(b"unclone v1 slot hint" + FILE_ID + keys.public_key(key)).digest()[:8]
    assert keys.slot_hint(keys.public_key(key), FILE_ID) == hint
    expected = hmac.digest(made.header, b"header" + bytes(32), "sha256")
    assert keys.header_mac(made, b"header", bytes(32)) == expected


def test_a_slot_opens_for_its_device_and_file_alone() -> None:
    key, other = DeviceKey(KEY), DeviceKey(KEY[::-1])
    slot = keys.seal_slot(b"c" * 32, keys.public_key(key), FILE_ID)
    assert keys.open_slot((slot,), key, FILE_ID) == b"c" * 32
    for slots, holder, file_id in [
        ((), key, FILE_ID),
        ((slot,), other, FILE_ID),
        ((slot,), key, bytes(16)),
        ((Slot(slot.suite, keys.slot_hint(keys.public_key(other), FILE_ID), slot.sealed),), other, FILE_ID),
        ((Slot(slot.suite, keys.slot_hint(keys.public_key(key), bytes(16)), slot.sealed),), key, bytes(16)),
    ]:
        with pytest.raises(SlotError):
            keys.open_slot(slots, holder, file_id)


def test_a_decoy_with_the_same_hint_does_not_hide_the_slot() -> None:
    key = DeviceKey(KEY)
    slot = keys.seal_slot(b"c" * 32, keys.public_key(key), FILE_ID)
    decoy = Slot(slot.suite, slot.hint, bytes(80))
    assert keys.open_slot((decoy, slot), key, FILE_ID) == b"c" * 32


@pytest.mark.parametrize("suite", list(keys.SUITES))
def test_every_bit_of_a_slot_counts(suite: str) -> None:
    key = DeviceKey(KEY)
    slot = keys.seal_slot(b"c" * 32, keys.public_key(key, suite), FILE_ID, suite)
    for bit in range(8 * len(slot.sealed)):
        sealed = bytearray(slot.sealed)
        sealed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(SlotError):
            keys.open_slot((Slot(slot.suite, slot.hint, bytes(sealed)),), key, FILE_ID)


@pytest.mark.parametrize("point", [bytes(32), b"\x01" + bytes(31), bytes.fromhex("ecff" + "ff" * 29 + "7f")])
def test_points_of_low_order_are_refused(point: bytes) -> None:
    with pytest.raises(RecordError, match="low order"):
        keys.seal_slot(KEY, point, FILE_ID)
    key = DeviceKey(KEY)
    with pytest.raises(SlotError):
        keys.open_slot(
            (Slot(keys.SUITE, keys.slot_hint(keys.public_key(key), FILE_ID), point + bytes(48)),), key, FILE_ID
        )


@pytest.mark.parametrize("fault", ["point", "modulus"])
def test_hybrid_public_keys_that_are_none_are_refused(fault: str) -> None:
    public = bytearray(keys.public_key(DeviceKey(KEY), keys.HYBRID))
    if fault == "point":
        public[1184:] = bytes(32)
    else:
        public[:2] = b"\xff\xff"  # a coefficient above q: FIPS 203, section 7.2
    with pytest.raises(RecordError, match="public key"):
        keys.seal_slot(KEY, bytes(public), FILE_ID, keys.HYBRID)


def test_suites_have_keys_of_their_own() -> None:
    # One X25519 key in both suites would let a slot of one stand for a slot of the other.
    x25519, hybrid = (keys.public_key(DeviceKey(KEY), suite) for suite in keys.SUITES)
    assert hybrid[1184:] != x25519
    assert [keys.suite_named(short) for short in ("x25519", "hybrid")] == list(keys.SUITES)
    with pytest.raises(ParameterError, match="x25519 or hybrid"):
        keys.suite_named("kyber")


def test_sealed_device_keys() -> None:
    key, context, secret = DeviceKey(KEY), b"context", b"s" * 16
    sealed = keys.seal_device_key(key, secret, context)
    assert len(sealed) == keys.SEALED_KEY_BYTES
    public = keys.public_key(key)
    opened = keys.open_device_key(sealed, [b"x" * 16, secret, b"y" * 16], context, public)
    assert opened is not None
    assert (bytes(opened[0].secret), opened[1]) == (KEY, secret)
    assert keys.open_device_key(sealed, [], context, public) is None
    assert keys.open_device_key(sealed, [b"x" * 16], context, public) is None
    assert keys.open_device_key(sealed, [secret], b"contexu", public) is None
    assert keys.open_device_key(sealed, [secret], context, keys.public_key(DeviceKey(KEY[::-1]))) is None
    for bit in range(8 * len(sealed)):
        altered = bytearray(sealed)
        altered[bit // 8] ^= 1 << bit % 8
        assert keys.open_device_key(bytes(altered), [secret], context, public) is None


def test_fresh_keys_differ() -> None:
    assert len({keys.new_content_key() for _ in range(100)}) == 100
    assert len({bytes(keys.new_device_key().secret) for _ in range(100)}) == 100


def test_unknown_suite() -> None:
    with pytest.raises(UnsupportedError, match="x448"):
        keys.check_suite("hpke-x448")


def test_secrets_stay_out_of_texts() -> None:
    key = DeviceKey(KEY)
    made = keys.content_keys(KEY, FILE_ID)
    for text in (repr(key), str(key), repr(made)):
        assert "secret" in text or text == "ContentKeys()"
        assert KEY.hex() not in text
        assert repr(made.aead) not in text
    with pytest.raises(TypeError):
        pickle.dumps(key)


def test_a_wiped_key_is_of_no_use() -> None:
    with DeviceKey(KEY) as key:
        held = key._secret
    assert bytes(held) == bytes(32)
    with pytest.raises(ParameterError, match="wiped"):
        keys.public_key(key)
    with pytest.raises(ParameterError, match="32 bytes"):
        DeviceKey(b"short")
