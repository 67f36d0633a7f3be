"""Write spec/vectors/extractor/: what reproduce gives, and what a reader must refuse, one failure to a file.

python tools/make_extractor_vectors.py [FOLDER]
"""

import json
import sys
from pathlib import Path

import numpy as np

from unclone import canonical, extractor
from unclone.extractor.codebook import load_code
from unclone.extractor.debias import scores
from unclone.extractor.fuzzy import parse_helper

FOLDER = Path(__file__).parents[1] / "spec" / "vectors" / "extractor"
CASES = {
    "erasure": {"bits": 4096, "debias": "erasure"},
    "erasure-punctured": {"bits": 6144, "debias": "erasure"},
    "erasure-nine-readings": {"bits": 4096, "debias": "erasure", "readings": 9},
    "pair-output": {"bits": 6144, "debias": "pair-output", "readings": 5},
    "classic": {"bits": 8192, "debias": "classic"},
    "none": {"bits": 8190, "debias": "none", "readings": 3},
    "reed-muller": {"bits": 8192, "debias": "erasure", "code": "repetition"},
}


def response(bits, seed, share=0.5):
    return (np.random.default_rng(seed).random(bits) < share).astype(np.uint8)


def enrolled(name):
    """Readings of one device (2 % of the bits differ) and its helper data."""
    options = dict(CASES[name])
    bits, readings = options.pop("bits"), options.pop("readings", 1)
    rng = np.random.default_rng(sum(name.encode()))
    truth = response(bits, len(name))
    reads = truth ^ (rng.random((readings, bits)) < 0.02)
    made = extractor.generate(reads, key_bits=64, error_rate=0.08, failure=1e-6, rng=rng, **options)
    return truth, made


def packed(readings):
    return [np.packbits(reading).tobytes().hex() for reading in np.atleast_2d(readings)]


def counts(made, readings):
    sketch = parse_helper(made.helper)
    code = load_code(sketch.code)
    message = np.unpackbits(np.frombuffer(made.secret, dtype=np.uint8))[: code.k]
    readings = np.atleast_2d(readings)
    total = readings.sum(axis=0, dtype=np.int64)
    said = scores(total, len(readings), sketch.first_cells(), sketch.layout.distance, sketch.debias)
    agree = said * (2.0 * (code.encode(message) ^ sketch.offset) - 1.0)
    alive = sketch.classes > 0
    return int((agree[alive] < 0).sum()), int((agree[alive] == 0).sum())


def accepted():
    for name in CASES:
        truth, made = enrolled(name)
        rng = np.random.default_rng(1)
        for suffix, readings in (
            ("clean", truth),
            ("noisy", truth ^ (rng.random(truth.shape) < 0.05)),
            ("three-readings", truth ^ (rng.random((3, *truth.shape)) < 0.05)),
        ):
            errors, erasures = counts(made, readings)
            yield (
                f"{name}-{suffix}",
                {
                    "helper": plain(made.helper),
                    "readings": packed(readings),
                    "expect": "secret",
                    "secret": made.secret.hex(),
                    "errors": errors,
                    "erasures": erasures,
                },
            )
        for suffix, readings in (("foreign", response(len(truth), 99)), ("other-length", truth[:-8])):
            yield (
                f"{name}-{suffix}",
                {
                    "helper": plain(made.helper),
                    "readings": packed(readings),
                    "expect": "none",
                    "secret": made.secret.hex(),
                },
            )


def plain(helper):
    return {"scheme": helper.scheme, "fields": json.loads(canonical.encode(dict(helper.fields)))}


def with_bit(text, bit):
    data = bytearray(canonical.b64decode(text))
    data[bit // 8] ^= 128 >> bit % 8
    return canonical.b64encode(bytes(data))


def refused():
    """One thing wrong in each."""
    base = {
        name: plain(enrolled(name)[1].helper)["fields"] for name in ("erasure", "pair-output", "none", "reed-muller")
    }
    fields, pair = base["erasure"], base["pair-output"]
    code, simple = fields["code"], base["reed-muller"]["code"]
    n = code["n"]
    classes = np.unpackbits(np.frombuffer(canonical.b64decode(fields["classes"]), dtype=np.uint8))
    punctured = plain(enrolled("erasure-punctured")[1].helper)["fields"]
    lost = (1 << punctured["code"]["m"]) - punctured["code"]["n"]
    moved = np.unpackbits(np.frombuffer(bytes.fromhex(punctured["code"]["info"]), dtype=np.uint8))
    moved[np.flatnonzero(moved)[0]] = 0
    moved[lost - 1] = 1
    retained_ones = np.unpackbits(np.frombuffer(canonical.b64decode(pair["retained"]), dtype=np.uint8))
    for name, changed in {
        "bits-zero": {**fields, "bits": 0},
        "bits-huge": {**fields, "bits": (1 << 26) + 1},
        "bits-boolean": {**fields, "bits": True},
        "bits-too-few-for-code": {**fields, "bits": 2048, "distance": 512},
        "debias-unknown": {**fields, "debias": "von-neumann"},
        "distance-zero-for-pairs": {**fields, "distance": 0},
        "distance-for-single-cells": {**base["none"], "distance": 64},
        "distance-beyond-half": {**fields, "distance": fields["bits"] // 2 + 1},
        "levels-empty": {**fields, "levels": []},
        "levels-not-from-zero": {**fields, "levels": [1, 30]},
        "levels-not-rising": {**fields, "levels": [0, 30, 30]},
        "levels-too-high": {**fields, "levels": [0, 256]},
        "levels-too-many": {**fields, "levels": list(range(9))},
        "classes-short": {**fields, "classes": fields["classes"][4:]},
        "classes-beyond-levels": {**pair, "levels": [*pair["levels"][:4], 250][: len(pair["levels"]) - 1]},
        "offset-long": {**fields, "offset": "AAAA" + fields["offset"]},
        "offset-base64-spelling": {**fields, "offset": fields["offset"].replace("=", "")},
        "offset-of-erased-symbol": {
            **fields,
            "offset": with_bit(fields["offset"], int(np.flatnonzero(classes[:n] == 0)[0])),
        },
        "retained-padding": {**base["none"], "retained": with_bit(base["none"]["retained"], base["none"]["bits"])},
        "retained-missing": {key: value for key, value in pair.items() if key != "retained"},
        "retained-surplus": {**fields, "retained": "AAAA"},
        "retained-one-too-many": {
            **pair,
            "retained": with_bit(pair["retained"], int(np.flatnonzero(retained_ones == 0)[0])),
        },
        "member-unknown": {**fields, "comment": "none"},
        "member-missing": {key: value for key, value in fields.items() if key != "levels"},
        "code-unknown": {**fields, "code": {**code, "name": "turbo"}},
        "code-member-unknown": {**fields, "code": {**code, "rate": 1}},
        "code-k-contradicts-info": {**fields, "code": {**code, "k": code["k"] + 1}},
        "code-info-short": {**fields, "code": {**code, "info": code["info"][2:]}},
        "code-info-upper-case": {**fields, "code": {**code, "info": code["info"].upper()}},
        "code-info-lost-by-puncturing": {
            **punctured,
            "code": {**punctured["code"], "info": np.packbits(moved).tobytes().hex()},
        },
        "code-list-not-a-power-of-two": {**fields, "code": {**code, "list": 12}},
        "code-list-too-large": {**fields, "code": {**code, "list": 2048}},
        "code-drop-unknown": {**fields, "code": {**code, "drop": "middle"}},
        "code-simple-n-contradicts": {**base["reed-muller"], "code": {**simple, "n": simple["n"] - 1}},
        "code-simple-blocks-zero": {**base["reed-muller"], "code": {**simple, "blocks": 0}},
    }.items():
        yield f"refuse-{name}", {"helper": {"scheme": "code-offset-1", "fields": changed}, "refuse": True}
    yield "refuse-scheme-unknown", {"helper": {"scheme": "code-offset-2", "fields": fields}, "refuse": True}


def main(folder):
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.json"):
        old.unlink()
    for name, value in (*accepted(), *refused()):
        text = json.dumps({"title": name.replace("-", " "), **value}, indent=1, sort_keys=True)
        (folder / f"{name}.json").write_text(text + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
