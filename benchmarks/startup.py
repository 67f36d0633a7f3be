"""Start-up: `import unclone` and `unclone --help` beside `python -c pass` and `import numpy`, interleaved."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "import numpy": [sys.executable, "-c", "import numpy"],
    "import unclone": [sys.executable, "-c", "import unclone"],
    "import unclone, use bind": [sys.executable, "-c", "import unclone; unclone.bind"],
    "unclone --help": [str(Path(sys.executable).parent / "unclone"), "--help"],
}


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for run in range(arguments.runs + 1):
        for name, command in COMMANDS.items():
            taken = seconds(command)
            if run:  # the first round warms the page cache
                times[name].append(taken)
    medians = {name: statistics.median(values) for name, values in times.items()}
    peer = medians["import numpy"]
    rows = {name: {"ms": round(1e3 * value, 1), "of_numpy": round(value / peer, 2)} for name, value in medians.items()}
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    for name, row in rows.items():
        print(f"{name:<26} {row['ms']:7.1f} ms   {row['of_numpy']:.2f} x import numpy")


if __name__ == "__main__":
    main()
