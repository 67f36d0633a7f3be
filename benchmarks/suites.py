"""Size and time of the HPKE suites, side by side: ``python benchmarks/suites.py [--json]``.

One thread; medians of rounds, the suites taking turns so that a busy machine slows all of them alike.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

from unclone import keys
from unclone.records import DeviceKey

ROUNDS, CALLS = 15, 200


def rate(call: Callable[[], Any]) -> float:
    """Calls per second in one round."""
    start = time.perf_counter()
    for _ in range(CALLS):
        call()
    return CALLS / (time.perf_counter() - start)


def measure() -> dict[str, dict[str, float]]:
    """Bytes, and calls per second, by the suite's short name."""
    key, content_key, file_id = DeviceKey(bytes(range(32))), bytes(32), bytes(16)
    rates: dict[str, dict[str, list[float]]] = {}
    found: dict[str, dict[str, float]] = {}
    for _ in range(ROUNDS):
        for short, name in keys.SHORT_NAMES.items():
            public = keys.public_key(key, name)
            slot = keys.seal_slot(content_key, public, file_id, name)
            calls = {
                "public_keys_per_s": lambda name=name: keys.public_key(key, name),
                "seals_per_s": lambda name=name, public=public: keys.seal_slot(content_key, public, file_id, name),
                "opens_per_s": lambda slot=slot: keys.open_slot((slot,), key, file_id),
            }
            for what, call in calls.items():
                rates.setdefault(short, {}).setdefault(what, []).append(rate(call))
            found[short] = {"public_key_bytes": len(public), "sealed_bytes": len(slot.sealed)}
    for short, measured in rates.items():
        found[short] |= {what: round(statistics.median(values)) for what, values in measured.items()}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    as_json = parser.parse_args().json
    found = measure()
    if as_json:
        print(json.dumps(found, indent=2))
        return
    for what in next(iter(found.values())):
        print(f"{what:20}", *(f"{short} {values[what]:>8,}" for short, values in found.items()), sep="  ")


if __name__ == "__main__":
    main()
