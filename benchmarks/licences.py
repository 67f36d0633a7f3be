"""Licences per second against the bare HPKE seal, and how they scale: ``python benchmarks/licences.py [--json]``.

The bare seal is ``cryptography``'s HPKE with the public key loaded beforehand. The two take turns, so that a busy
machine slows both. ``--per-device N`` also binds a model of N MiB for several devices, in MB/s and core.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from unclone import keys
from unclone.fleet.bulk import cores, in_parallel
from unclone.fleet.licensing import CHUNK, WINDOW, ReleaseKey, Target, _run, _Work, license_files
from unclone.fleet.licensing import Plan as Terms
from unclone.fleet.release import bind_each
from unclone.licence import Issuer
from unclone.records import Device, DeviceKey, EnrollmentReport, HelperData

RELEASE = ReleaseKey(bytes(range(16)), b"c" * 32)
ROUNDS, CALLS = 15, 1000


def seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def against_the_bare_seal(suite_name: str) -> dict[str, float]:
    """Medians of rounds in which both take turns, on one core."""
    suite = keys.SUITES[suite_name]
    public = keys.public_key(DeviceKey(bytes(32)), suite_name)
    loaded, info = suite.load(public), bytes(50)
    issuer = Issuer(RELEASE.content_key, RELEASE.file_id, suite_name, "2999-01-01T00:00:00Z", "a note")

    def bare() -> None:
        for _ in range(CALLS):
            suite.hpke.encrypt(RELEASE.content_key, loaded, info)

    def licences() -> None:
        for _ in range(CALLS):
            issuer.issue(public)

    times = [(seconds(bare), seconds(licences)) for _ in range(ROUNDS)]
    return {
        "bare_seals_per_s": round(CALLS / statistics.median(bare_s for bare_s, _ in times)),
        "licences_per_s": round(CALLS / statistics.median(licence_s for _, licence_s in times)),
        "ratio": round(statistics.median(bare_s / licence_s for bare_s, licence_s in times), 3),
    }


def made_up(count: int) -> list[Target]:
    return [
        Target(keys.SUITE, keys.public_key(DeviceKey(number.to_bytes(32, "big")))) for number in range(1, count + 1)
    ]


def _bare(count: int) -> None:
    suite = keys.SUITES[keys.SUITE]
    loaded = suite.load(keys.public_key(DeviceKey(bytes(32))))
    for _ in range(count):
        suite.hpke.encrypt(RELEASE.content_key, loaded, bytes(50))


def scaling(count: int) -> dict[str, float]:
    """Licences in memory, and as files, by one process and by one for each core; workers warm, in turns.

    Bare seals in as many processes, which share nothing, say what the machine gave at that time.
    """
    targets, workers = made_up(count), cores()
    plain = [(target.suite, target.public_key) for target in targets]
    chunks = [_Work(RELEASE, "", "", tuple(plain[start : start + CHUNK])) for start in range(0, count, CHUNK)]

    def run(number: int) -> float:
        return seconds(lambda: [None for _ in in_parallel(_run, chunks, workers=number, window=WINDOW)])

    def bare(number: int) -> float:
        return seconds(lambda: list(in_parallel(_bare, [count // number] * number, workers=number)))

    run(workers)
    times = [(run(1), run(workers), bare(1), bare(workers)) for _ in range(9)]
    alone, together, bare_alone, bare_together = (np.array(column) for column in zip(*times, strict=True))
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as all_cores:
        files = seconds(lambda: license_files(RELEASE, targets, Path(one), Terms()))
        files_all = seconds(lambda: license_files(RELEASE, targets, Path(all_cores), Terms(workers=workers)))
        again = seconds(lambda: license_files(RELEASE, targets, Path(one), Terms()))
    return {
        "devices": count,
        "workers": workers,
        "licences_per_s_1": round(count / np.median(alone)),
        f"licences_per_s_{workers}": round(count / np.median(together)),
        "scaling": round(float(np.median(alone / together)), 2),
        "scaling_best": round(float(alone.min() / together.min()), 2),
        "scaling_of_bare_seals": round(float(np.median(bare_alone / bare_together)), 2),
        "scaling_of_bare_seals_best": round(float(bare_alone.min() / bare_together.min()), 2),
        "files_per_s_1": round(count / files),
        f"files_per_s_{workers}": round(count / files_all),
        "files_kept_per_s": round(count / again),
    }


def per_device(mebibytes: int, devices: int) -> dict[str, float]:
    """A file of its own for each device."""
    from safetensors.numpy import save_file

    report = EnrollmentReport(0, 0, 0, 0, 0, 0, 0, 0, 0)
    vendor = Device("", "", "", keys.SUITE, keys.public_key(DeviceKey(bytes(32))), HelperData("", {}), b"", report)
    rng = np.random.default_rng(1)
    with tempfile.TemporaryDirectory() as folder:
        model, out = Path(folder) / "model.safetensors", Path(folder) / "out"
        save_file({f"w{i}": rng.standard_normal((1024, 256), dtype=np.float32) for i in range(mebibytes)}, model)
        size = model.stat().st_size * devices / 1e6
        rates = {}
        for workers in (1, cores()):
            out.mkdir()
            list(in_parallel(abs, range(workers), workers=workers))  # the workers start before the clock does
            taken = seconds(lambda n=workers: list(bind_each(model, vendor, made_up(devices), out, workers=n)))
            rates[workers] = size / taken
            for path in out.iterdir():
                path.unlink()
            out.rmdir()
    return {
        "model_mib": mebibytes,
        "devices": devices,
        "mb_per_s_1": round(rates[1]),
        f"mb_per_s_{cores()}": round(rates[cores()]),
        "mb_per_s_and_core": round(rates[cores()] / cores()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--devices", type=int, default=40_000)
    parser.add_argument("--per-device", type=int, default=64, metavar="MIB")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    found = {short: against_the_bare_seal(name) for short, name in keys.SHORT_NAMES.items()}
    everything: dict[str, Any] = {
        **found,
        "bulk": scaling(options.devices),
        "per_device": per_device(options.per_device, 8),
    }
    if options.json:
        print(json.dumps(everything, indent=2))
        return
    for group, values in everything.items():
        print(group)
        for name, value in values.items():
            print(f"  {name:22} {value:>12,}")


if __name__ == "__main__":
    main()
