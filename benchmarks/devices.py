"""A thousand simulated devices: failed reconstructions at the design's noise, and foreign devices accepted."""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time

import unclone
from unclone.errors import ReconstructionError


def upper_bound(failures: int, trials: int, confidence: float = 0.95) -> float:
    """Clopper-Pearson upper bound where nothing failed; not a number otherwise."""
    return 1 - (1 - confidence) ** (1 / trials) if failures == 0 else math.nan


def opens(device: unclone.Device, source: str) -> bool:
    try:
        unclone.reconstruct(device, source)
    except ReconstructionError:
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=1000)
    parser.add_argument("--ber", type=float, default=0.15, help="bit error rate of the simulated chips")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    failed = foreign = 0
    times = []
    for number in range(arguments.devices):
        source = f"sim:sram?seed={number}&ber={arguments.ber}"
        device = unclone.enroll(source)
        start = time.perf_counter()
        failed += not opens(device, source)
        times.append(time.perf_counter() - start)
        foreign += opens(device, f"sim:sram?seed={number + arguments.devices}&ber={arguments.ber}")
    result = {
        "devices": arguments.devices,
        "bit_error_rate": arguments.ber,
        "failed_reconstructions": failed,
        "failure_upper_bound_95": upper_bound(failed, arguments.devices),
        "foreign_accepted": foreign,
        "foreign_upper_bound_95": upper_bound(foreign, arguments.devices),
        "reconstruct_ms_median": round(1e3 * statistics.median(times), 2),
    }
    if arguments.json:
        print(json.dumps(result, indent=2))
        return
    for name, value in result.items():
        print(f"{name:<26} {value}")


if __name__ == "__main__":
    main()
