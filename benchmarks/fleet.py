"""A registry of a million made-up devices against one of ten thousand: import, sizes, pages, verbs, checks, kills.

    python benchmarks/fleet.py [--json] [--devices 1000000] [--small 10000] [--kills 100] [--workers 0] [--folder DIR]

Every page is asked of ``unclone fleet serve`` over loopback, at random places of the fleet; the figure is the slowest
of the repetitions. Import is of whole records as JSON lines (8.4 kB each), with every check on.
"""

import argparse
import contextlib
import io
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tools"))

import httpx
import make_registry
import registry_kills

from unclone.cli.app import run
from unclone.fleet.importing import import_path
from unclone.fleet.queries import list_licences, list_releases
from unclone.fleet.registry import open_registry
from unclone.fleet.verify import verify_registry

REPEAT = 20
TARGETS = {"import_s": 300.0, "slowest_page_ms": 100.0, "lost_or_doubled": 0}


def imported(folder, devices, workers):
    """A registry of so many devices, imported from JSON lines, and how long that took."""
    lines, path = folder / f"{devices}.jsonl", folder / f"{devices}.db"
    start = time.perf_counter()
    make_registry.write_lines(lines, devices)
    made = time.perf_counter() - start
    with open_registry(str(path), create=True) as registry:
        before, start = os.times(), time.perf_counter()
        counts = import_path(registry, lines, workers=workers).total
        elapsed, after = time.perf_counter() - start, os.times()
        if counts.added != devices:
            raise SystemExit(f"{counts} instead of {devices} devices")
        make_registry.add_business(registry, devices // 10)
    size = lines.stat().st_size
    lines.unlink()
    return path, {
        "lines_mb": round(size / 1e6, 1),
        "made_s": round(made, 1),
        "import_s": round(elapsed, 1),
        "import_own_cpu_s": round(after.user + after.system - before.user - before.system, 1),
        "records_per_s": round(devices / elapsed),
        "load_average": round(os.getloadavg()[0], 1),
    }


def timed(work, repeat=REPEAT):
    """Milliseconds of ``work(n)``: the median and the slowest."""
    times = []
    for number in range(repeat):
        start = time.perf_counter()
        work(number)
        times.append(1e3 * (time.perf_counter() - start))
    return {"median_ms": round(statistics.median(times), 2), "slowest_ms": round(max(times), 2)}


def addresses(registry, devices, rng):
    """Where each page is, at a random place of the fleet."""
    some = [rng.randrange(devices) for _ in range(REPEAT)]
    names = [f"{make_registry.SITES[number % 4]}-{number:08d}" for number in some]
    rows = list_licences(registry, limit=1000)
    files = [release.file_id.hex() for release, _ in list_releases(registry)]
    keys = [row.device.hex() for row in rows]
    return {
        "overview": lambda _: "/",
        "devices, first page": lambda _: "/devices",
        "devices, deep page": lambda n: f"/devices?after={some[n]}",
        "devices by name": lambda n: f"/devices?name={names[n][:-2]}",
        "devices by half a name": lambda n: f"/devices?name={names[n][:4]}",
        "devices by key": lambda _: f"/devices?key={rng.randbytes(2).hex()}",
        "devices revoked": lambda n: f"/devices?state=revoked&after={some[n]}",
        "devices to refresh": lambda _: "/refresh",
        "device": lambda n: f"/devices/{keys[n % len(keys)]}",
        "releases": lambda _: "/releases",
        "release": lambda n: f"/releases/{files[n % len(files)]}",
        "licences": lambda _: f"/licences?after={rows[-1].id}",
        "log": lambda n: f"/events?before={some[n] + 2}",
    }


def pages(path, devices):
    """Times of every page."""
    command = [sys.executable, "-m", "unclone", "fleet", "serve", "--db", str(path), "--port", "0", "--json"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        address = json.loads("".join(server.stdout.readline() for _ in range(4)))["address"]
        with httpx.Client(base_url=address) as client, open_registry(str(path)) as registry:
            where = addresses(registry, devices, random.Random(3))
            client.get("/")
            return {
                name: timed(lambda number, of=of: client.get(of(number)).raise_for_status())
                for name, of in where.items()
            }
    finally:
        server.terminate()
        server.wait()
        server.stdout.close()


def verbs(path, devices):
    """Times of verbs, in this process: what a verb costs beside starting Python."""
    rng = random.Random(4)
    commands = {
        "list": lambda _: ["list"],
        "list --name": lambda _: ["list", "--name", f"ulm-{4 * rng.randrange(devices // 4):08d}"],
        "list --after": lambda _: ["list", "--after", str(rng.randrange(devices))],
        "show": lambda _: ["show", f"ulm-{4 * rng.randrange(devices // 4):08d}"],
        "stats": lambda _: ["stats"],
    }
    found = {}
    for name, arguments in commands.items():

        def work(number, arguments=arguments):
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                if run(["fleet", *arguments(number), "--db", str(path)]):
                    raise SystemExit(f"{arguments(number)} failed")

        found[name] = timed(work)
    return found


def measure(folder, devices, workers):
    """Everything about one size."""
    path, figures = imported(folder, devices, workers)
    figures["size_mb"] = round(path.stat().st_size / 1e6, 1)
    figures["bytes_per_device"] = round(path.stat().st_size / devices)
    figures["pages"] = pages(path, devices)
    figures["verbs"] = verbs(path, devices)
    start = time.perf_counter()
    with open_registry(str(path)) as registry:
        verify_registry(registry)
    figures["verify_s"] = round(time.perf_counter() - start, 1)
    path.unlink()
    return figures


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--devices", type=int, default=1_000_000)
    parser.add_argument("--small", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        sizes = {number: measure(folder, number, options.workers) for number in (options.small, options.devices)}
        kills = registry_kills.killed_imports(folder, options.kills)
    small, large = sizes[options.small], sizes[options.devices]
    result = {
        "sizes": {str(number): figures for number, figures in sizes.items()},
        "kills": kills,
        "targets": TARGETS,
        "import_s": large["import_s"],
        "slowest_page_ms": max(page["slowest_ms"] for page in large["pages"].values()),
        "lost_or_doubled": kills["lost_or_doubled"],
        "flat": {
            name: round(large[kind][name]["median_ms"] / small[kind][name]["median_ms"], 2)
            for kind in ("pages", "verbs")
            for name in large[kind]
        },
    }
    result["met"] = {name: result[name] <= limit for name, limit in TARGETS.items()}
    if options.json:
        print(json.dumps(result, indent=2))
        return
    for number, figures in sizes.items():
        print(f"{number:,} devices: import {figures['import_s']} s, verify {figures['verify_s']} s")
        for name, times in {**figures["pages"], **figures["verbs"]}.items():
            print(f"  {name:<24} median {times['median_ms']:>8.2f} ms, slowest {times['slowest_ms']:>8.2f} ms")
    print(f"kills: {kills}")
    print("targets met:", ", ".join(f"{name} {'yes' if met else 'NO'}" for name, met in result["met"].items()))


if __name__ == "__main__":
    main()
