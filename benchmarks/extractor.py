"""The fuzzy extractor against its targets, beside the peers that are installed.

    python benchmarks/extractor.py [--json] [--quick] [--trials 100000]

Recorded silicon comes from UNCLONE_DATA (else ../shared/data) and is reported as absent without it. ``--quick`` enrols
SCuM on the first readings only and tries a hundredth of the foreign devices and manipulations.

Peers: BCH(127, k, t) x 16 with hard decisions and no debiasing, as wolfCrypt's SRAM PUF has it (bounded-distance
decoding fails if and only if a block holds more than t errors, so counting errors decides it); the package
fuzzy-extractor 0.3, if installed (it needs two repairs to import today, which are applied here).
"""

import argparse
import hashlib
import json
import os
import statistics
import sys
import tempfile
import time
import types
from pathlib import Path

import numpy as np

from unclone import canonical, extractor
from unclone.errors import RecordError
from unclone.extractor.codebook import load_code
from unclone.extractor.design import design
from unclone.extractor.entropy import most_common_value
from unclone.extractor.soft import field_log_odds, skew_spread
from unclone.records import HelperData

BCH = {10: 64, 15: 36}


def keyed(secret, helper):
    """Stand-in for the device record: a digest over the secret and all helper data."""
    return hashlib.sha256(secret + canonical.encode(dict(helper.fields))).digest()


def opened(made, readings, helpers=None):
    """How many readings give the enrolled key."""
    helpers = helpers or [made.helper] * len(readings)
    right = keyed(made.secret, made.helper)
    found = extractor.reproduce_many(list(readings), helpers)
    return sum(
        any(keyed(candidate, helper) == right for candidate in candidates)
        for candidates, helper in zip(found, helpers, strict=True)
    )


def silicon():
    folder = Path(os.environ.get("UNCLONE_DATA", Path(__file__).parents[2] / "shared" / "data")) / "puf"
    out = {}
    for name in ("sram_scum", "sram_uno_temperature"):
        path = folder / f"{name}.npz"
        if path.exists():
            with np.load(path) as data:
                out[name] = dict(data)
    return out


def soft_mixture(readings, rate, cells=400_000):
    """Field error rates and shares of the cells with each enrolment count, in the heterogeneous model."""
    rng = np.random.default_rng(0)
    skew = skew_spread(rate) * rng.normal(size=cells)
    counts = sum((skew + rng.normal(size=cells) > 0).astype(int) for _ in range(readings))
    odds = field_log_odds(readings, rate, rate)
    error = 1 / (1 + np.exp(np.abs(odds)))
    return error, np.bincount(counts, minlength=readings + 1) / cells


def designs():
    def row(title, error, key, failure, weight=None, **options):
        start = time.perf_counter()
        found = design(error, key, failure, weight=weight, **options)
        return {
            "case": title,
            "response_bits": found.response_bits,
            "helper_bytes": found.helper_bytes,
            "predicted_failure": found.predicted_failure,
            "method": found.method,
            "bound_bits": found.bound_bits,
            "seconds": time.perf_counter() - start,
        }

    error, weight = soft_mixture(16, 0.15)
    rows = [row(f"{key} bit, {ber:.0%}, 1e-9", ber, key, 1e-9) for key in (128, 256) for ber in (0.05, 0.15, 0.25)]
    rows.append(row("128 bit, 15 %, 1e-9, 16 enrolment readings", error, 128, 1e-9, weight, simulate=True))
    return rows


def scum(data, quick):
    rows = []
    for readings in (1, 3, 9):
        tried = bad = foreign = accepted = enrolments = 0
        worst = -999.0
        for name in ("L45", "M39", "M42"):
            bits = np.unpackbits(data[name], axis=1)
            starts = range(max(0, min(1 if quick else len(bits), len(bits) - readings + 1)))
            for start in starts:
                made = extractor.generate(bits[start : start + readings])
                enrolments += 1
                worst = max(worst, made.report.failure_log10_milli / 1000)
                tried += len(bits)
                bad += len(bits) - opened(made, bits)
                for other in ("L45", "M39", "M42"):
                    if other != name:
                        foreign += 1
                        accepted += opened(made, np.unpackbits(data[other][:1], axis=1))
        rows.append(
            {
                "enrolment_readings": readings,
                "enrolments": enrolments,
                "reconstructions": tried,
                "failed": bad,
                "foreign": foreign,
                "foreign_accepted": accepted,
                "worst_predicted_failure_log10": worst,
            }
        )
    return rows


def uno(data):
    reads, valid = np.unpackbits(data["reads"], axis=2), data["valid"]
    rows = []
    for title in ("-1 C", "ambient reliability"):
        tried = bad = 0
        residual, refused, rates = [], [], []
        for board in range(len(reads)):
            reliability = data["rel_ambient15_pct"][board] / 100.0 if title != "-1 C" else None
            try:
                made = extractor.generate(reads[board][-1:], reliability=reliability)
            except extractor_refusal() as reason:
                refused.append(str(reason))
                continue
            residual.append(made.report.residual_entropy_millibits / 1000)
            cold = reads[board][valid[board]]
            tried += len(cold)
            bad += len(cold) - opened(made, cold)
            rates.append(float((reads[board][-1] != cold[0]).mean()))
        rows.append(
            {"enrolled": title, "reconstructions": tried, "failed": bad, "refused": refused}
            | {"least_residual_bits": min(residual), "highest_error_rate": max(rates)}
        )
    board = np.unpackbits(data["board22_golden38"], axis=1)
    bad, residual = 0, []
    for reading in board:
        made = extractor.generate(reading[None])
        residual.append(made.report.residual_entropy_millibits / 1000)
        bad += len(board) - opened(made, board)
    highest = max(float((a != b).mean()) for a in board for b in board)
    rows.append(
        {"enrolled": "board 22 at each of 38 temperatures", "reconstructions": len(board) ** 2, "failed": bad}
        | {"refused": [], "least_residual_bits": min(residual), "highest_error_rate": highest}
    )
    return rows


def extractor_refusal():
    from unclone.errors import EnrollmentError

    return EnrollmentError


def chip(bits, rate, rng):
    skew = skew_spread(rate) * rng.normal(size=bits)
    return lambda m=1: (skew + rng.normal(size=(m, bits)) > 0).astype(np.uint8)


def foreign_and_manipulated(trials):
    """Half foreign chips, half altered helper data on the genuine chip."""
    rng = np.random.default_rng(1)
    read = chip(4096, 0.04, rng)
    made, other = extractor.generate(read(5)), extractor.generate(chip(4096, 0.04, rng)(5))
    foreign = accepted = 0
    while foreign < trials // 2:
        readings = rng.integers(0, 2, (1000, 4096), dtype=np.uint8)
        accepted += opened(made, readings)
        foreign += len(readings)
    manipulated = passed = malformed = 0
    kinds = {}
    reading = read(1)
    fields = dict(made.helper.fields)
    code = load_code(fields["code"])
    while manipulated < trials // 2:
        batch = []
        while len(batch) < 500:
            kind, changes = manipulation(fields, other.helper.fields, code, rng)
            helper = HelperData(made.helper.scheme, {**fields, **changes})
            if dict(helper.fields) == fields:
                continue
            try:
                extractor.fuzzy.parse_helper(helper)
            except RecordError:
                malformed += 1
            else:
                batch.append(helper)
                kinds[kind] = kinds.get(kind, 0) + 1
        passed += opened(made, [reading] * len(batch), batch)
        manipulated += len(batch)
    return {
        "foreign": foreign,
        "foreign_accepted": accepted,
        "manipulated": manipulated,
        "manipulated_accepted": passed,
        "refused_as_malformed": malformed,
        "kinds": kinds,
        "genuine_opens": opened(made, [reading]),
    }


def manipulation(fields, other, code, rng):
    """One change of helper data, of a random kind."""

    offset = np.unpackbits(np.frombuffer(canonical.b64decode(fields["offset"]), dtype=np.uint8))[: code.n]
    kind = ("offset bit", "offset bits", "class bit", "code word", "swap", "levels", "distance", "splice")[
        rng.integers(8)
    ]
    width = (len(fields["levels"]) - 1).bit_length()
    packed = np.unpackbits(np.frombuffer(canonical.b64decode(fields["classes"]), dtype=np.uint8))[: code.n * width]
    alive = np.flatnonzero(packed.reshape(code.n, width).any(axis=1))
    if kind in ("offset bit", "offset bits"):
        offset[rng.choice(alive, 1 if kind == "offset bit" else int(rng.integers(2, 200)), replace=False)] ^= 1
        return kind, {"offset": canonical.b64encode(np.packbits(offset).tobytes())}
    if kind == "class bit":
        packed[rng.integers(0, len(packed))] ^= 1
        return kind, {"classes": canonical.b64encode(np.packbits(packed).tobytes())}
    if kind == "levels":
        steps = np.cumsum(rng.integers(1, 20, len(fields["levels"]) - 1))
        return kind, {"levels": [0, *(int(step) for step in steps)]}
    if kind == "distance":
        return kind, {"distance": int(1 << rng.integers(0, 12))}
    if kind == "splice":
        return kind, {name: other[name] for name in ("offset", "classes", "levels") if rng.integers(2)}
    if kind == "code word":
        offset ^= code.encode(rng.integers(0, 2, code.k, dtype=np.uint8))
        offset[np.setdiff1d(np.arange(code.n), alive)] = 0
    else:
        a, b = rng.choice(alive, 2, replace=False)
        offset[[a, b]] = offset[[b, a]]
    return kind, {"offset": canonical.b64encode(np.packbits(offset).tobytes())}


def speed():
    rng = np.random.default_rng(3)
    read = chip(8192, 0.05, rng)
    start = time.perf_counter()
    made = extractor.generate(read(9))
    enrol = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "reading.npz"
        np.savez(path, reading=np.packbits(read(1), axis=1))
        times = []
        for _ in range(101):
            start = time.perf_counter()
            with np.load(path) as data:
                reading = np.unpackbits(data["reading"], axis=1)
            assert made.secret in extractor.reproduce(reading, made.helper)
            times.append(time.perf_counter() - start)
    readings = [read(1) for _ in range(500)]
    start = time.perf_counter()
    extractor.reproduce_many(readings, [made.helper] * 500)
    batch = 500 / (time.perf_counter() - start)
    size = len(canonical.encode(dict(made.helper.fields)))
    return {
        "enrol_ms": 1e3 * enrol,
        "reconstruct_with_file_ms_median": 1e3 * statistics.median(times),
        "reconstruct_batch_per_s": batch,
        "helper_json_bytes": size,
        "code": f"polar ({made.helper.fields['code']['n']}, {made.helper.fields['code']['k']}), list 8",
    }


def bch(data):
    """BCH(127, k, t) x 16 on the first 2032 bits: enrolled on one reading, read on all others."""
    rows = []
    sets = {}
    if "sram_scum" in data:
        sets["SCuM, every pair of readings"] = [
            np.unpackbits(data["sram_scum"][n], axis=1) for n in ("L45", "M39", "M42")
        ]
    if "sram_uno_temperature" in data:
        reads = np.unpackbits(data["sram_uno_temperature"]["reads"], axis=2)
        valid = data["sram_uno_temperature"]["valid"]
        sets["UNO, enrolled at -1 C"] = [
            np.concatenate([board[-1:], board[:-1][good[:-1]]]) for board, good in zip(reads, valid, strict=True)
        ]
    for title, devices in sets.items():
        for t, k in BCH.items():
            tried = bad = 0
            least = float("inf")
            for bits in devices:
                head = bits[:, :2032]
                least = min(least, 2032 * most_common_value(bits[0]) - 16 * (127 - k))
                for start in range(len(head) if "pair" in title else 1):
                    errors = (head ^ head[start]).reshape(len(head), 16, 127).sum(axis=2).max(axis=1)
                    bad += int((np.delete(errors, start) > t).sum())
                    tried += len(head) - 1
            rows.append(
                {"peer": f"BCH(127,{k},{t}) x 16", "data": title, "reconstructions": tried, "failed": bad}
                | {"failed_share": bad / tried, "least_residual_bits": max(0.0, least)}
            )
    return rows


def fuzzy_extractor_peer():
    try:
        import fastpbkdf2  # noqa: F401
    except ImportError:
        sys.modules["fastpbkdf2"] = types.SimpleNamespace(pbkdf2_hmac=hashlib.pbkdf2_hmac)
    try:
        import fuzzy_extractor as peer
    except ImportError:
        return "absent (pip install --no-deps fuzzy-extractor==0.3)"
    shim = types.ModuleType("numpy")
    shim.__dict__.update({name: getattr(np, name) for name in dir(np) if not name.startswith("_")})
    shim.fromstring = lambda data, dtype: np.frombuffer(data, dtype=dtype).copy()
    peer.np = shim
    rng = np.random.default_rng(1)
    device = peer.FuzzyExtractor(16, 8)
    value = rng.integers(0, 256, 16, dtype=np.uint8)
    key, helper = device.generate(value)
    foreign = [device.reproduce(rng.integers(0, 256, 16, dtype=np.uint8), helper) for _ in range(20)]
    return {
        "helper_bytes": sum(part.nbytes for part in helper),
        "genuine": device.reproduce(value, helper) == key,
        "foreign": 20,
        "foreign_given_a_key": sum(one is not None for one in foreign),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--quick", action="store_true", help="first enrolments only, a hundredth of the trials")
    parser.add_argument("--trials", type=int, default=100_000, help="foreign devices and manipulations")
    options = parser.parse_args()
    data = silicon()
    absent = "absent: set UNCLONE_DATA"
    result = {
        "design": designs(),
        "scum": scum(data["sram_scum"], options.quick) if "sram_scum" in data else absent,
        "uno": uno(data["sram_uno_temperature"]) if "sram_uno_temperature" in data else absent,
        "foreign_and_manipulated": foreign_and_manipulated(options.trials // (100 if options.quick else 1)),
        "speed": speed(),
        "peers": {"bch": bch(data), "fuzzy_extractor": fuzzy_extractor_peer()},
    }
    if options.json:
        print(json.dumps(result, indent=2))
        return
    for name, part in result.items():
        print(f"\n{name}")
        for row in part if isinstance(part, list) else [part]:
            print(
                "  " + (row if isinstance(row, str) else "\n  ".join(f"{key}: {value}" for key, value in row.items()))
            )


if __name__ == "__main__":
    main()
