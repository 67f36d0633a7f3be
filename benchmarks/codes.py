"""Speed of the codes, beside the peers that are installed.

    python benchmarks/codes.py [--json] [--words 2000]

Polar (1024, 144) with a list of 8, in one batch and one word at a time; the codes that the design search returns, one
word at a time. Peers (komm, py-polar-codes, galois, bchlib) decode one word at a time; one that is missing is named so.
They run the code they offer that is nearest: komm and py-polar-codes the same polar code by plain successive
cancellation, no list; galois and bchlib BCH(127, 64), 10 errors, the error correction of one block of a key.
"""

import argparse
import json
import time

import numpy as np

from unclone.extractor.codes import from_spec
from unclone.extractor.design import design
from unclone.extractor.prediction import construct


def timed(call, least=0.5):
    """Median seconds of one call, after one to warm up."""
    call()
    took = []
    while sum(took) < least or len(took) < 3:
        start = time.perf_counter()
        call()
        took.append(time.perf_counter() - start)
    return float(np.median(took))


def received(code, ber, words, rng):
    sent = rng.integers(0, 2, (words, code.k), dtype=np.uint8)
    return 1 - 2 * (code.encode(sent) ^ (rng.random((words, code.n)) < ber)).astype(np.float32)


def ours(words):
    rng = np.random.default_rng(0)
    out = {}
    code, _ = construct(1024, 144, 8, 0.15)
    llr = received(code, 0.15, words, rng)
    out["polar (1024,144) list 8, batch"] = {"words": words, "keys_per_s": words / timed(lambda: code.decode(llr))}
    out["polar (1024,144) list 8, one word"] = {"ms": 1e3 * timed(lambda: code.decode(llr[:1]))}
    for ber, key in ((0.05, 128), (0.15, 128), (0.25, 128), (0.15, 256), (0.25, 256)):
        found = design(ber, key)
        made = from_spec(found.code)
        one = received(made, ber, 1, rng)
        name = f"design {key} bit, {ber:.0%}: n {made.n}, list {found.list_size}, one word"
        out[name] = {"ms": 1e3 * timed(lambda made=made, one=one: made.decode(one))}
    return out


def komm_sc():
    import komm

    code, _ = construct(1024, 144, 1, 0.15)
    info = np.unpackbits(np.frombuffer(bytes.fromhex(code.spec()["info"]), dtype=np.uint8))
    decoder = komm.SCDecoder(komm.PolarCode(10, np.flatnonzero(info == 0)), output_type="hard")
    llr = 1.7 * received(code, 0.05, 1, np.random.default_rng(1))[0].astype(float)
    return {"ms": 1e3 * timed(lambda: decoder.decode(llr))}


def py_polar_codes_sc():
    from polarcodes import Construct, Decode, PolarCode

    peer = PolarCode(1024, 144)
    Construct(peer, -1.0)
    peer.likelihoods = 1.7 * (1 - 2 * (np.random.default_rng(1).random(1024) < 0.05).astype(float))
    return {"ms": 1e3 * timed(lambda: Decode(peer))}


def galois_bch():
    import galois

    code = galois.BCH(127, 64)
    word = np.asarray(code.encode(np.zeros(64, dtype=np.uint8)))
    word[:10] ^= 1
    return {"ms": 1e3 * timed(lambda: code.decode(word))}


def bchlib_bch():
    import bchlib

    code = bchlib.BCH(t=10, m=7)
    data = bytes(8)  # 57 message bits and 7 of padding
    parity = code.encode(data[:7])

    def call():
        broken = bytearray(data[:7])
        for bit in range(10):
            broken[bit // 2] ^= 1 << (bit % 8)
        code.decode(bytes(broken), parity)

    return {"ms": 1e3 * timed(call)}


def peers():
    out = {}
    for name, call in {
        "komm polar (1024,144) SC": komm_sc,
        "py-polar-codes (1024,144) SC": py_polar_codes_sc,
        "galois BCH(127,64) t=10": galois_bch,
        "bchlib BCH(127,57) t=10": bchlib_bch,
    }.items():
        try:
            out[name] = call()
        except ImportError as problem:
            out[name] = {"missing": str(problem)}
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--words", type=int, default=2000)
    options = parser.parse_args()
    report = {"unclone": ours(options.words), "peers": peers()}
    if options.json:
        print(json.dumps(report, indent=2))
        return
    for group, rows in report.items():
        for name, figures in rows.items():
            text = ", ".join(f"{k} {v:,.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in figures.items())
            print(f"{group:8} {name:48} {text}")


if __name__ == "__main__":
    main()
