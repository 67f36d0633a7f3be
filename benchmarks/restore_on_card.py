"""Restoring on a CUDA card beside a bare copy of the same bytes to it, in turns; needs torch with CUDA, and Triton."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from restore import CHIP, make_model
from safetensors.torch import load_file as plain_load_file

import unclone
from unclone.mask import CIPHERS
from unclone.runtime.cuda import load_file


def seconds(call: Callable[[], object]) -> float:
    torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--size", type=int, default=1024, metavar="MIB")
    parser.add_argument("--repeat", type=int, default=7)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("torch finds no CUDA card here; docs/performance.md says what was checked without one", file=sys.stderr)
        return
    device = unclone.enroll(CHIP)
    with tempfile.TemporaryDirectory() as folder, unclone.reconstruct(device, CHIP) as key:
        model = Path(folder, "model.safetensors")
        make_model(model, options.size)
        size = model.stat().st_size
        pinned = torch.empty(size, dtype=torch.uint8, pin_memory=True)
        contenders: dict[str, Callable[[], object]] = {
            "copy from pinned memory": lambda: pinned.to("cuda"),
            "safetensors load_file": lambda: plain_load_file(model, device="cuda"),
        }
        for cipher in CIPHERS:
            for bits in ("finite", "all"):
                bound = Path(folder, f"{cipher}-{bits}.safetensors")
                unclone.bind(model, device, bound, bits=bits, cipher=cipher)
                contenders[f"{cipher}, {bits}"] = lambda bound=bound: load_file(bound, key)
        spent: dict[str, list[float]] = {name: [] for name in contenders}
        for turn in range(options.repeat + 1):
            for name, call in contenders.items():
                taken = seconds(call)
                if turn:  # the first compiles
                    spent[name].append(taken)
    medians = {name: statistics.median(values) for name, values in spent.items()}
    bare = medians["copy from pinned memory"]
    rows = {name: {"gb_per_s": size / value / 1e9, "times_the_copy": value / bare} for name, value in medians.items()}
    result = {"card": torch.cuda.get_device_name(), "mebibytes": options.size, "rows": rows}
    if options.json:
        print(json.dumps(result, indent=2))
        return
    for name, row in rows.items():
        print(f"{name:28} {row['gb_per_s']:6.1f} GB/s  {row['times_the_copy']:5.2f} x the copy")


if __name__ == "__main__":
    main()
