"""Helper-data manipulation with a pass/fail oracle, as in the survey of Delvaux, Gu, Schellekens and Verbauwhede
("Helper data algorithms for PUF-based key generation: overview and analysis", IEEE TCAD 34(6), 2015).

The attacker holds the device: he writes helper data, the device says whether it still gets its key. Against a weakened
extractor, whose key depends on the secret alone, he erases all symbols but an information set (altered reliabilities),
which makes one wrong symbol decide; then he lets a position read its neighbour's cell (moved positions). Pass or fail
tells whether the two cells are equal, and the chain of these comparisons tells the key. Where all helper data is hashed
into the key, as in the device record, no changed helper data ever passes.
"""

import numpy as np
import pytest

from unclone import canonical, extractor
from unclone.extractor.codebook import load_code
from unclone.extractor.fuzzy import parse_helper
from unclone.extractor.helper import Sketch
from unclone.records import HelperData

TRIES = 5


def digest(secret, helper, hashed):
    import hashlib

    public = canonical.encode({"scheme": helper.scheme, "fields": dict(helper.fields)}) if hashed else b""
    return hashlib.sha256(secret + public).digest()


class Device:
    """The oracle: does the device get its key with this helper data?"""

    def __init__(self, unit, made, hashed):
        self.unit, self.hashed, self.queries, self.passed = unit, hashed, 0, 0
        self.enrolled = digest(made.secret, made.helper, hashed)

    def passes(self, helper):
        self.queries += 1
        candidates = extractor.reproduce(self.unit.read(15), helper)
        passed = any(digest(candidate, helper, self.hashed) == self.enrolled for candidate in candidates)
        self.passed += passed
        return passed

    def equal(self, helper):
        """One right answer suffices: with one symbol wrong the key never comes."""
        return any(self.passes(helper) for _ in range(TRIES))


def information_set(columns, order, k):
    """Positions, in the given order of preference, that determine the message; ``None`` if they do not."""
    basis, chosen = {}, []
    for position in order:
        vector = columns[position]
        while vector:
            pivot = vector.bit_length()
            if pivot not in basis:
                basis[pivot] = vector
                chosen.append(int(position))
                break
            vector ^= basis[pivot]
        if len(chosen) == k:
            return sorted(chosen)
    return None


def with_units(sketch, kept, units):
    """Helper data that erases all but ``kept`` and lets the positions read ``units`` (rising)."""
    classes = np.zeros_like(sketch.classes)
    classes[kept] = 1
    retained = np.zeros_like(sketch.retained)
    retained[units] = 1
    offset = np.where(classes > 0, sketch.offset, 0).astype(np.uint8)
    return Sketch(sketch.layout, sketch.debias, sketch.code, (0, 16), classes, offset, retained).pack()


def attack(device, helper):
    """The secret, or ``None``: compares the cells of neighbouring code positions, one by one."""
    rng = np.random.default_rng(1)
    sketch = parse_helper(helper)
    code = load_code(sketch.code)
    generator = code.encode(np.eye(code.k, dtype=np.uint8)).T
    columns = [int("".join(map(str, row)), 2) for row in generator]
    units = np.flatnonzero(sketch.retained)
    order = rng.permutation(code.n)
    if not device.equal(with_units(sketch, information_set(columns, order, code.k), units)):
        return None
    relative = [0]
    for position in range(code.n - 1):
        # The next free unit; the positions up to it move by one, so that this one reads its neighbour's cell.
        target = units[position + 1]
        free = next((x for x in range(target, sketch.layout.units) if not sketch.retained[x]), None)
        if free is None:
            break
        end = int(np.searchsorted(units, free))
        changed = units.copy()
        changed[position:end] = np.append(units[position + 1 : end], free)
        outside = order[(order < position) | (order >= end)]
        kept = information_set(columns, [position, *outside], code.k)
        if kept is None:
            return None
        relative.append(relative[-1] ^ (not device.equal(with_units(sketch, kept, changed))))
    known = information_set(columns, range(len(relative)), code.k)
    for first in (0, 1):
        word = np.array(relative, dtype=np.uint8)[known] ^ first ^ sketch.offset[known]
        secret = np.packbits(solve(generator[known], word)).tobytes()
        if digest(secret, helper, device.hashed) == device.enrolled:
            return secret
    return None


def solve(matrix, right):
    """The message with ``matrix @ message == right`` over GF(2)."""
    rows = np.concatenate([matrix, right[:, None]], axis=1).astype(np.uint8)
    for column in range(matrix.shape[1]):
        pivot = column + int(np.argmax(rows[column:, column]))
        rows[[column, pivot]] = rows[[pivot, column]]
        rows[(rows[:, column] == 1) & (np.arange(len(rows)) != column)] ^= rows[column]
    return rows[:, -1]


@pytest.fixture(scope="module")
def victim(chip):
    unit = chip(4096, 0.12, seed=8)
    made = extractor.generate(unit.read(9), debias="none", code="repetition", key_bits=64, error_rate=0.15, failure=0.1)
    return unit, made


def test_the_weakened_extractor_gives_its_key_away(victim):
    unit, made = victim
    device = Device(unit, made, hashed=False)
    assert attack(device, made.helper) == made.secret
    assert device.queries < 10_000


def test_the_default_gives_nothing_away(victim):
    unit, made = victim
    device = Device(unit, made, hashed=True)
    assert device.passes(made.helper)
    device.passed = 0
    assert attack(device, made.helper) is None
    assert device.passed == 0


def test_every_changed_bit_and_structure_is_refused(chip):
    """With all helper data hashed, as in the device record: nothing changed is accepted, on the genuine chip."""
    unit = chip(8192, 0.03, seed=2)
    made, other = extractor.generate(unit.read(3)), extractor.generate(chip(8192, 0.03, seed=3).read(3))
    device = Device(unit, made, hashed=True)
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
    assert device.passes(made.helper)
    tried = 0
    for change in changes:
        try:
            assert not device.passes(HelperData(made.helper.scheme, {**fields, **change}))
            tried += 1
        except extractor_errors():
            continue
    assert tried > 100
    assert not device.passes(other.helper)


def extractor_errors():
    from unclone.errors import RecordError

    return RecordError
