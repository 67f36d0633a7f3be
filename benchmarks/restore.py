"""Restoring against plain loads and against other encrypted loads, side by side in one run.

    python benchmarks/restore.py [--json] [--size 1024] [--small 100] [--repeat 7] [--no-peers] [--folder DIR]

Everything that is compared is timed in turns, so that what else the machine does hits all alike; figures are medians,
ratios are medians of the ratios of one turn. Peers are installed into an environment of their own (``--peers DIR``).
"""

import argparse
import importlib.metadata
import json
import os
import platform
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

import unclone
from unclone.model import open_bound

PEERS = [
    "cryptotensors==0.2.3",
    "tensorizer==2.12.1",
    "torch==2.13.0",
    "safetensors",
    "cryptography>=50",
    "numpy",
    "packaging",
]
CHIP = "sim:sram?seed=7"
TENSORS = 74


def make_model(path, megabytes):
    """``TENSORS`` tensors of fp16, one of them 2 % of the file."""
    rng = np.random.default_rng(0)
    total = megabytes * 2**20 // 2
    special = total // 50 // 64 * 64
    each = (total - special) // (TENSORS - 1) // 64 * 64
    sizes = {f"layers.{number}.weight": each for number in range(TENSORS - 1)} | {"special.weight": special}
    tensors = {
        name: (rng.standard_normal(size, dtype=np.float32) * 0.02).astype(np.float16).reshape(-1, 64)
        for name, size in sizes.items()
    }
    save_file(tensors, path)


class Timings:
    """Milliseconds of each contender, turn by turn."""

    def __init__(self):
        self.ms = {}
        self.missing = {}

    def turns(self, contenders, repeat):
        """Every contender once a turn, in another order each: what runs before one leaves it quick memory, or slow."""
        order = random.Random(0)
        for turn in range(repeat + 1):
            for name, contender in order.sample(list(contenders.items()), len(contenders)):
                start = time.perf_counter()
                result = contender()
                spent = (time.perf_counter() - start) * 1e3
                if isinstance(result, dict) and set(result) <= {"ms", "missing"}:
                    if "missing" in result:
                        self.missing[name] = result["missing"]
                        continue
                    spent = result["ms"]
                del result
                if turn:  # the first warms the page cache
                    self.ms.setdefault(name, []).append(spent)

    def row(self, ours, theirs, target, *, faster=False):
        """One row: the ratio of two contenders; ``faster``: how many times faster ours is."""
        if theirs in self.missing or theirs not in self.ms:
            return {"missing": self.missing.get(theirs, "not measured"), "target": target}
        pairs = zip(self.ms[ours], self.ms[theirs], strict=True)
        ratios = sorted(b / a if faster else a / b for a, b in pairs)
        ratio = statistics.median(ratios)
        goal = {}
        if target is not None:
            goal = {"target": f">= {target}" if faster else f"<= {target}"}
            goal["met"] = ratio >= target if faster else ratio <= target
        return {
            "ratio": round(ratio, 3),
            "spread": [round(ratios[0], 3), round(ratios[-1], 3)],
            "ms": [round(statistics.median(self.ms[name]), 2) for name in (ours, theirs)],
            **goal,
        }


class Worker:
    """The peers' process."""

    def __init__(self, environment, folder, model):
        python = environment / "bin" / "python"
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
            subprocess.run([str(python), "-m", "pip", "install", "--quiet", *PEERS], check=True, stdout=sys.stderr)
        script = Path(__file__).with_name("restore_peers.py")
        self._process = subprocess.Popen(
            [str(python), str(script), str(folder), str(model)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Every turn is a first load: memory comes fresh from the system, as in a program that has just started.
            env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072"},
        )

    def __call__(self, name):
        self._process.stdin.write(f"{name}\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self):
        self._process.stdin.close()
        self._process.wait()


def settle(paths):
    """The page cache as after a start: read from disk in order. How a file was written decides over its huge pages."""
    for path in paths:
        with path.open("rb", buffering=0) as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            while file.read(1 << 20):
                pass


def plain_loads(path):
    """preadv into a fresh buffer, and a copy between warm ones."""
    size = path.stat().st_size
    descriptor = os.open(path, os.O_RDONLY)

    def preadv():
        buffer, done = np.empty(size, dtype=np.uint8), 0
        while done < size:
            done += os.preadv(descriptor, [buffer.data[done:]], done)
        return buffer

    source, target = preadv(), np.zeros(size, dtype=np.uint8)
    target[:] = 1
    return {"preadv": preadv, "memcpy": lambda: np.copyto(target, source)}


def restoring(folder, model, device, key, repeat, worker):
    bound = {}
    timings = Timings()
    options = {"all": {"bits": "all"}, "finite": {}, "blocks": {"share": 0.01, "select": "blocks"}}
    for name, chosen in options.items():
        bound[name] = folder / f"{name}.safetensors"
        unclone.bind(model, device, bound[name], force=True, **chosen)
    settle([model, *bound.values()])
    opened = open_bound(bound["all"], key)
    contenders = {
        **plain_loads(model),
        "all": lambda: unclone.restore(bound["all"], key),
        "finite": lambda: unclone.restore(bound["finite"], key),
        "blocks": lambda: touch(unclone.restore(bound["blocks"], key)),
        "blocks, masked alone verified": lambda: touch(unclone.restore(bound["blocks"], key, verify="masked")),
        "one tensor": lambda: opened.restore(["special.weight"]),
        "one tensor, opened": lambda: unclone.restore(bound["all"], key, tensors=["special.weight"]),
    }
    if worker:
        for name in ("load_file, touched", "load_file, cloned", "cryptotensors", "tensorizer", "aesgcm"):
            contenders[name] = lambda name=name: worker(name)
    timings.turns(contenders, repeat)
    if worker:  # seconds each: fewer turns, against as many of ours
        slow = Timings()
        pipes = {name: lambda name=name: worker(name) for name in ("openssl", "age", "gpg")}
        slow.turns({"all": contenders["all"], **pipes}, max(2, repeat // 3))
    rows = {
        "all / preadv, 1 thread": timings.row("all", "preadv", 0.8),
        "all / memcpy, warm": timings.row("all", "memcpy", 1.8),
        "finite / all": timings.row("finite", "all", 1.7),
        "one tensor of 2 % / all": timings.row("one tensor", "all", 0.04),
        "one tensor of 2 %, opening included / all": timings.row("one tensor, opened", "all", 0.04),
    }
    if worker:
        mapped = "load_file, touched"
        rows["share 0.01 of blocks, touched / load_file, touched"] = timings.row("blocks", mapped, 1.5)
        label = "the same with verify='masked' / load_file, touched"
        rows[label] = timings.row("blocks, masked alone verified", mapped, 1.5)
        for theirs, target in [("cryptotensors", 3), ("tensorizer", 5), ("load_file, cloned", 2), ("aesgcm", 10)]:
            rows[f"all, times faster than {theirs}"] = timings.row("all", theirs, target, faster=True)
        for theirs in pipes:
            rows[f"all, times faster than {theirs} in a pipe"] = slow.row("all", theirs, 10, faster=True)
    opened.close()
    return rows


def touch(restored):
    for tensor in restored.values():
        tensor.data[::4096].sum()
    return restored


def binding(folder, model, device, repeat):
    rows = {}
    size = model.stat().st_size
    for bits in ("finite", "all"):
        spent = []
        for _ in range(max(3, repeat // 2)):
            output = folder / "again.safetensors"
            output.unlink(missing_ok=True)
            start = time.perf_counter()
            unclone.bind(model, device, output, bits=bits)
            spent.append(time.perf_counter() - start)
        rate = size / statistics.median(spent) / 1e9
        rows[f"bind --bits {bits}, GB/s"] = {"ratio": round(rate, 3), "target": ">= 1", "met": rate >= 1}
    return rows


def dial(folder, model, device, key, repeat):
    """Restoring time over that of everything, for shares from 0.01 % to all."""
    bound = {}
    for select in ("blocks", "random"):
        for share in (0.0001, 0.001, 0.01, 0.1, 0.5):
            bound[f"{select} {share:g}"] = folder / f"{select}-{share}.safetensors"
            unclone.bind(model, device, bound[f"{select} {share:g}"], share=share, select=select, force=True)
    bound["1"] = folder / "1.safetensors"
    unclone.bind(model, device, bound["1"], force=True)
    timings = Timings()
    timings.turns({n: lambda p=p: touch(unclone.restore(p, key)) for n, p in bound.items()}, max(3, repeat // 2))
    return {f"share {name} / share 1": timings.row(name, "1", None) for name in bound if name != "1"}


def machine():
    packages = ("unclone", "numpy", "cryptography", "safetensors", "torch", "onnxruntime")
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if "model name" in line), "?")
    flags = next((line for line in lines if line.startswith("flags")), "")
    versions = {}
    for name in packages:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "processor": model,
        "aes": " aes" in flags,
        "threads": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "versions": versions,
        "load": os.getloadavg()[0],
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--size", type=int, default=1024, metavar="MIB")
    parser.add_argument("--small", type=int, default=100, metavar="MIB")
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--no-peers", action="store_true", help="only what needs no other package")
    parser.add_argument("--no-networks", action="store_true", help="leave out ONNX Runtime and torch")
    parser.add_argument("--peers", type=Path, default=Path(".venv-peers"), metavar="DIR")
    parser.add_argument("--folder", type=Path, help="where the models go; a temporary folder by default")
    options = parser.parse_args()
    device = unclone.enroll(CHIP)
    key = unclone.reconstruct(device, CHIP)
    result = {}
    for size in filter(None, (options.size, options.small)):
        folder = Path(tempfile.mkdtemp(prefix="restore-", dir=options.folder))
        try:
            model = folder / "model.safetensors"
            make_model(model, size)
            worker = None if options.no_peers else Worker(options.peers, folder, model)
            rows = restoring(folder, model, device, key, options.repeat, worker)
            if worker:
                worker.close()
            rows |= binding(folder, model, device, options.repeat)
            if size <= 256 or not options.small:
                rows |= dial(folder, model, device, key, options.repeat)
            result[f"{size} MiB of fp16"] = rows
        finally:
            shutil.rmtree(folder)
    if not options.no_networks:
        from restore_networks import networks

        result["networks"] = networks(device, key, options.repeat, options.folder)
    result["machine"] = machine()
    if options.json:
        print(json.dumps(result, indent=2))
        return
    for name, rows in result.items():
        print(f"\n{name}")
        for label, row in rows.items():
            print(f"  {label:60} {row if not isinstance(row, dict) else ' '.join(f'{k}={v}' for k, v in row.items())}")


if __name__ == "__main__":
    main()
