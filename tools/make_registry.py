"""Made-up devices for tests of scale: records that pass every check and belong to no chip.

    python tools/make_registry.py lines --devices 1000000 --output devices.jsonl
    python tools/make_registry.py registry --devices 10000 --output fleet.db

Helper data is of the size and the look of the sample's (base64 of noise, as little compressible), figures are drawn,
and public keys are random; so no key opens anything, and every row costs what a real one costs.
"""

import argparse
import base64
import hashlib
import json
import random
import sys
from pathlib import Path

import unclone
from unclone import canonical
from unclone.device_file import render_device
from unclone.fleet.bulk import batches
from unclone.fleet.registry import BATCH, open_registry
from unclone.fleet.rows import LicenceRow, ModelRow, ReleaseRow, pack_record

SITES = ("ulm", "graz", "lille", "brno")
MODELS = 20
RELEASES = 200


def sample():
    """The canonical value of a real record."""
    return json.loads(render_device(unclone.enroll("sim:sram?seed=1")))


def device_text(number, template, rng):
    """Canonical text of the record of device ``number``: the sample with another name, key, figures and noise."""
    value = {**template, "name": f"{SITES[number % 4]}-{number:08d}", "report": dict(template["report"])}
    value["public_key"] = base64.b64encode(rng.randbytes(32)).decode()
    value["sealed_key"] = base64.b64encode(rng.randbytes(48)).decode()
    fields = dict(value["helper"]["fields"])
    offset = fields["offset"]
    fields["offset"] = base64.b64encode(rng.randbytes(len(base64.b64decode(offset)))).decode()
    turn = rng.randrange(len(fields["classes"]) // 4) * 4
    fields["classes"] = fields["classes"][turn:] + fields["classes"][:turn]
    value["helper"] = {"scheme": value["helper"]["scheme"], "fields": fields}
    report = value["report"]
    report["error_rate_ppm"] = min(250_000, max(5_000, int(rng.gauss(60_000, 15_000))))
    report["ones_ppm"] = int(rng.gauss(500_000, 8_000))
    report["residual_entropy_millibits"] = 128_000 + int(abs(rng.gauss(0, 20_000)))
    report["failure_log10_milli"] = -9_000 - int(abs(rng.gauss(0, 6_000)))
    del value["digest"]
    value["digest"] = hashlib.sha256(canonical.encode(value)).hexdigest()
    return canonical.encode(value)


def device_texts(devices, seed=1):
    """Canonical records, the same for the same seed apart from the sample's own helper data."""
    rng, template = random.Random(seed), sample()
    for number in range(devices):
        yield device_text(number, template, rng)


def write_lines(path, devices, seed=1):
    """Bare records as JSON lines."""
    with Path(path).open("wb") as stream:
        stream.writelines(text + b"\n" for text in device_texts(devices, seed))


def add_business(registry, licences, seed=2):
    """Models, releases, ``licences`` licences, and measurements and revocations of one device in a hundred."""
    rng = random.Random(seed)
    for number in range(MODELS):
        registry.add_model(ModelRow(f"model-{number:02d}", "onnx"))
    files = [rng.randbytes(16) for _ in range(RELEASES)]
    registry.add_releases(
        ReleaseRow(file, f"model-{number % MODELS:02d}", "onnx", 1_760_000_000 + number * 86_400)
        for number, file in enumerate(files)
    )
    done = 0
    for rows in registry.device_keys():
        if done < licences:
            texts = ((row.key, base64.b64encode(rng.randbytes(80)).decode()) for row in rows)
            registry.add_licences(
                LicenceRow(files[row_number % RELEASES], key, text, 1_790_000_000)
                for row_number, (key, text) in enumerate(texts)
            )
            done += len(rows)
        with registry.writing() as writer:
            for row in rows[::100]:
                margin = max(100, int(rng.gauss(3_000, 900)))
                writer.measure(
                    row.key,
                    health="late" if margin < 1_000 else "refresh" if margin < 1_500 else "good",
                    error_rate_ppm=rng.randrange(20_000, 150_000),
                    margin_milli=margin,
                    at=1_750_000_000 + rng.randrange(45_000_000),
                )
            for row in rows[50::1000]:
                writer.revoke("device", row.key, "made up: stolen")


def make_registry(path, devices, licences=0):
    """A registry of made-up devices."""
    with open_registry(str(path), create=True) as registry:
        for batch in batches(device_texts(devices), BATCH):
            registry.add_packed(pack_record("device", text) for text in batch)
        add_business(registry, licences)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["lines", "registry"])
    parser.add_argument("--devices", type=int, default=10_000)
    parser.add_argument("--licences", type=int, default=0)
    parser.add_argument("--output", required=True)
    options = parser.parse_args()
    if Path(options.output).exists():
        sys.exit(f"{options.output} exists")
    if options.what == "lines":
        write_lines(options.output, options.devices)
    else:
        make_registry(options.output, options.devices, options.licences)


if __name__ == "__main__":
    main()
