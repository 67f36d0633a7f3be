"""Helper-data manipulation with a pass/fail oracle, the attack of ``unclone.lab.attacks.helper_data``.

It succeeds where the key depends on the secret alone. Where all helper data is hashed into the key, as in the device
record, no changed helper data ever passes.
"""

import hashlib

import numpy as np
import pytest

from unclone import canonical, extractor
from unclone.errors import RecordError
from unclone.extractor.codebook import load_code
from unclone.lab.attacks.helper_data import recover_secrets
from unclone.lab.schemes.bare_helper import HelperOracle
from unclone.records import HelperData


def digest(secret, helper, hashed):
    public = canonical.encode({"scheme": helper.scheme, "fields": dict(helper.fields)}) if hashed else b""
    return hashlib.sha256(secret + public).digest()


def device_of(unit, made, hashed):
    """The oracle: does the device get its key with this helper data?"""
    enrolled = digest(made.secret, made.helper, hashed)

    def accepts(helper):
        candidates = extractor.reproduce(unit.read(15), helper)
        return any(digest(candidate, helper, hashed) == enrolled for candidate in candidates)

    return HelperOracle(made.helper, accepts)


@pytest.fixture(scope="module")
def victim(chip):
    unit = chip(4096, 0.12, seed=8)
    made = extractor.generate(unit.read(9), debias="none", code="repetition", key_bits=64, error_rate=0.15, failure=0.1)
    return unit, made


def test_the_weakened_extractor_gives_its_key_away(victim):
    unit, made = victim
    device = device_of(unit, made, hashed=False)
    assert made.secret in recover_secrets(device, 1)
    assert device.queries < 10_000


def test_the_default_gives_nothing_away(victim):
    unit, made = victim
    device = device_of(unit, made, hashed=True)
    assert device(made.helper)
    assert not recover_secrets(device, 1)
    assert device.passed == 0
    assert device.queries > 1


def test_every_changed_bit_and_structure_is_refused(chip):
    """With all helper data hashed, as in the device record: nothing changed is accepted, on the genuine chip."""
    unit = chip(8192, 0.03, seed=2)
    made, other = extractor.generate(unit.read(3)), extractor.generate(chip(8192, 0.03, seed=3).read(3))
    device = device_of(unit, made, hashed=True)
    fields = dict(made.helper.fields)
    code = load_code(fields["code"])
    offset = np.frombuffer(canonical.b64decode(fields["offset"]), dtype=np.uint8)
    shift = np.packbits(code.encode(np.eye(code.k, dtype=np.uint8)[5]))
    changes = [{"offset": canonical.b64encode((offset ^ shift).tobytes())}]
    changes += [{"offset": other.helper.fields["offset"]}, {"classes": other.helper.fields["classes"]}]
    changes += [{"levels": [0, *(level + 1 for level in fields["levels"][1:])]}, {"distance": 512}, {"bits": 8193}]
    changes += [{"code": {**fields["code"], "list": 16}}, {"offset": canonical.b64encode(offset[::-1].tobytes())}]
    for name in ("offset", "classes"):
        data = bytearray(canonical.b64decode(fields[name]))
        for bit in range(0, 8 * len(data), 37):
            data[bit // 8] ^= 128 >> bit % 8
            changes.append({name: canonical.b64encode(bytes(data))})
            data[bit // 8] ^= 128 >> bit % 8
    assert device(made.helper)
    tried = 0
    for change in changes:
        try:
            assert not device(HelperData(made.helper.scheme, {**fields, **change}))
            tried += 1
        except RecordError:
            continue
    assert tried > 100
    assert not device(other.helper)
