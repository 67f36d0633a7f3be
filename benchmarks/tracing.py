"""Fingerprints: what they cost in accuracy, and what a thief may do to a copy that still names its device.

    python benchmarks/tracing.py [--json] [--tasks digits mnist-cnn] [--trials 10] [--innocent 100000] [--random 3]

For every thief, ``trials`` coalitions of devices are drawn. *All* and *one* are the shares of trials in which all of
the coalition, and at least one of it, is accused within 1e-6 among a fleet of 100,000 devices; *log10* is the median
of the weakest member's bound over that fleet. *Accuracy* is what the thief is left with. Innocent devices are scored
against every kind of leak: how many reach a bound of 1e-2, 1e-3 and 1e-4, and how many would be accused.
"""

import argparse
import itertools
import json
import math
import tempfile
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from unclone.fleet.tracing import STRENGTH, fingerprinted
from unclone.fleet.tracing_bound import COALITIONS, Scorer, log_chance, log_tail, weightings
from unclone.fleet.tracing_code import Carrier, codewords
from unclone.fleet.tracing_evidence import gather, open_leak
from unclone.fleet.tracing_places import find_places
from unclone.keys import trace_keys
from unclone.lab.tasks import open_task
from unclone.records import DeviceKey

FLEET = 100_000
KEY = DeviceKey(bytes(range(32)))


class Bench:
    """One task, its fingerprinted copies and a folder to write leaks to."""

    def __init__(self, name, folder, strength=STRENGTH, weights=None):
        self.task = open_task(name) if weights is None else None
        self.weights = self.task.weights() if weights is None else weights
        self.folder = folder
        self.strength = strength
        self.original = folder / f"{name}.safetensors"
        save_file(self.weights, self.original)
        self.places = find_places(self.original)
        self.keys = trace_keys(KEY, self.places.digest)
        self.carrier = Carrier(self.keys)
        self.copies = {}

    def copy(self, device):
        if device not in self.copies:
            path = self.folder / "copy.safetensors"
            fingerprinted(self.original, KEY, device, path, strength=self.strength, force=True)
            self.copies[device] = load_file(path)
        return self.copies[device]

    def evidence(self, weights):
        path = self.folder / "leak.safetensors"
        save_file({name: np.ascontiguousarray(value) for name, value in weights.items()}, path)
        return gather(self.places, open_leak(path), self.carrier, self.strength).despread(self.carrier)

    def bounds(self, weights, devices):
        """log10 of each device's bound over the fleet."""
        weighted = weightings(self.evidence(weights), self.carrier.means)
        chances = (log_chance(device, weighted, self.carrier, self.keys) for device in devices)
        return [min(0.0, chance / math.log(10) + math.log10(FLEET)) for chance in chances]


def each(function):
    """A thief who does the same to every tensor of two dimensions or more."""
    return lambda weights: {name: function(value) if value.ndim > 1 else value for name, value in weights.items()}


def mixed(function):
    """A coalition that makes one tensor of several."""
    return lambda copies: {name: function(np.stack([copy[name] for copy in copies])) for name in copies[0]}


def pruned(share):
    return each(lambda value: np.where(np.abs(value) < np.quantile(np.abs(value), share), 0, value).astype(value.dtype))


def quantised(bits):
    """Symmetric, a scale for each output channel, rounded to nearest."""

    def rounded(value):
        rows = value.reshape(len(value), -1)
        scale = np.abs(rows).max(axis=1, keepdims=True) / (2 ** (bits - 1) - 1)
        scale[scale == 0] = 1
        return (np.round(rows / scale) * scale).reshape(value.shape).astype(value.dtype)

    return each(rounded)


def noisy(share, rng):
    return each(lambda value: (value + share * value.std() * rng.standard_normal(value.shape)).astype(value.dtype))


def low_rank(share):
    def cut(value):
        rows = value.reshape(len(value), -1)
        u, s, v = np.linalg.svd(rows, full_matrices=False)
        kept = int(np.searchsorted(np.cumsum(s**2) / np.sum(s**2), share)) + 1
        return ((u[:, :kept] * s[:kept]) @ v[:kept]).reshape(value.shape).astype(value.dtype)

    return each(cut)


def bfloat16(value):
    bits = value.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32).astype(value.dtype)


def shuffled(rng, *, rescaled):
    """Every row and column moved; with ``rescaled``, by random factors and signs too. Not the same network any more."""

    def move(value):
        value = value[rng.permutation(len(value))][:, rng.permutation(value.shape[1])]
        if rescaled:
            for axis in (0, 1):
                shape = [1] * value.ndim
                shape[axis] = value.shape[axis]
                value = value * (np.exp(0.5 * rng.standard_normal(shape)) * rng.choice([-1, 1], shape))
        return value.astype(np.float32)

    return each(move)


def tuned(bench, steps, rate):
    from unclone.lab.tasks.training import Recipe, train

    recipe = Recipe(epochs=0, least_steps=steps, rate=rate)
    return lambda weights: train(bench.task.network, weights, bench.task.train_data(), 7, recipe)


def fp16(value):
    return value.astype(np.float16).astype(value.dtype)


def single_thieves(bench, rng, steps_of_tuning):
    """Name, and what one thief does to one copy."""
    yield "copied as it is", lambda weights: weights
    yield "fp16", each(fp16)
    yield "bf16", each(bfloat16)
    for bits in (8, 6, 4):
        yield f"int{bits}", quantised(bits)
    for share in (0.1, 0.3, 0.5, 0.7, 0.9):
        yield f"pruned {share:.0%}", pruned(share)
    for share in (0.01, 0.05, 0.1, 0.3):
        yield f"noise {share:.0%}", noisy(share, rng)
    yield "low rank, 99 % of the energy", low_rank(0.99)
    yield "low rank, 90 % of the energy", low_rank(0.9)
    yield "rows and columns permuted", shuffled(rng, rescaled=False)
    yield "permuted, rescaled, negated", shuffled(rng, rescaled=True)
    for steps, rate in itertools.product(steps_of_tuning, (1e-4, 1e-3, 5e-3)):
        yield f"fine-tuned {steps} steps at {rate:g}", tuned(bench, steps, rate)
    tune, prune = tuned(bench, 1000, 1e-3), pruned(0.5)
    yield "pruned 50 %, fine-tuned, fp16", lambda weights: each(fp16)(tune(prune(weights)))


def coalitions(rng):
    for size in (2, 3, 5, 10):
        yield size, "average", mixed(lambda parts: parts.mean(axis=0))
        yield size, "minimum", mixed(lambda parts: parts.min(axis=0))
        yield (
            size,
            "maximum and minimum in turn",
            mixed(lambda parts: np.where(rng.random(parts[0].shape) < 0.5, parts.min(axis=0), parts.max(axis=0))),
        )
        yield size, "middle (majority)", mixed(lambda parts: np.median(parts, axis=0).astype(parts.dtype))
        yield (
            size,
            "each weight from one at random",
            mixed(lambda parts: np.take_along_axis(parts, rng.integers(0, len(parts), parts[:1].shape), axis=0)[0]),
        )
        yield size, "middle of the extremes", mixed(lambda parts: (parts.min(axis=0) + parts.max(axis=0)) / 2)


def judged(bench, size, mix, trials, rng):
    found, bounds, scores = [], [], []
    for _ in range(trials):
        devices = [f"device-{number}" for number in rng.choice(FLEET, size, replace=False)]
        leak = mix([bench.copy(device) for device in devices])
        each_bound = bench.bounds(leak, devices)
        found.append([bound <= -6 for bound in each_bound])
        bounds.append(max(each_bound))
        if bench.task:
            scores.append(bench.task.score(leak))
    return {
        "all": float(np.mean([all(row) for row in found])),
        "one": float(np.mean([any(row) for row in found])),
        "log10": round(float(np.median(bounds)), 1),
        "accuracy": round(float(np.mean(scores)), 4) if scores else None,
    }


def robustness(bench, trials, steps_of_tuning):
    rng = np.random.default_rng(1)
    rows = {}
    for name, thief in single_thieves(bench, rng, steps_of_tuning):
        count = min(trials, 3) if "tuned" in name else trials
        rows[f"1: {name}"] = judged(bench, 1, lambda copies, thief=thief: thief(copies[0]), count, rng)
    for size, name, mix in coalitions(rng):
        rows[f"{size}: {name}"] = judged(bench, size, mix, trials, rng)
    mix, tune = mixed(lambda parts: parts.mean(axis=0)), tuned(bench, 1000, 1e-3)
    rows["5: average, fine-tuned, fp16"] = judged(bench, 5, lambda c: each(fp16)(tune(mix(c))), min(trials, 3), rng)
    return rows


def random_model(folder, trials):
    """What two million random weights survive beyond a small network: no accuracy, only the trace."""
    rng = np.random.default_rng(4)
    weights = {f"layer.{i}": (0.03 * rng.standard_normal((512, 512))).astype(np.float32) for i in range(8)}
    bench = Bench("random", folder, weights=weights)
    rows = {}
    for share in (0.3, 1.0, 2.0):
        rows[f"1: noise {share:.0%}"] = judged(bench, 1, lambda c, s=share: noisy(s, rng)(c[0]), trials, rng)
    harsh = [pruned(0.5), noisy(0.3, rng), each(fp16)]
    rows["1: pruned 50%, noise 30%, fp16"] = judged(bench, 1, lambda c: applied(harsh, c[0]), trials, rng)
    rows["1: low rank, 90 % of the energy"] = judged(bench, 1, lambda c: low_rank(0.9)(c[0]), trials, rng)
    average = mixed(lambda parts: parts.mean(axis=0))
    extremes = mixed(lambda parts: np.where(rng.random(parts[0].shape) < 0.5, parts.min(axis=0), parts.max(axis=0)))
    for size in (10, 20, 40):
        rows[f"{size}: extremes at random"] = judged(bench, size, extremes, max(1, trials // 3), rng)
        noisy_average = lambda c: noisy(0.1, rng)(average(c))  # noqa: E731
        rows[f"{size}: average, noise 10%"] = judged(bench, size, noisy_average, max(1, trials // 3), rng)
        bench.copies.clear()
    return rows


def applied(thieves, weights):
    for thief in thieves:
        weights = thief(weights)
    return weights


def accuracy(name, folder, copies):
    """Score of the original, and of fingerprinted copies: mean, spread, lowest, and share of the same answers."""
    rows = {}
    for strength in (0.0025, 0.005, 0.01, 0.02, 0.05):
        bench = Bench(name, folder, strength)
        inputs = bench.task.test_data()[0]
        before, answers = bench.task.score(bench.weights), bench.task.outputs(bench.weights, inputs).argmax(axis=1)
        scores, same = [], []
        for number in range(copies):
            copy = bench.copy(f"device-{number}")
            scores.append(bench.task.score(copy))
            same.append(float(np.mean(bench.task.outputs(copy, inputs).argmax(axis=1) == answers)))
        rows[str(strength)] = {
            "original": round(before, 5),
            "mean": round(float(np.mean(scores)), 5),
            "deviation": round(float(np.std(scores)), 5),
            "lowest": round(min(scores), 5),
            "same_answers": round(float(np.mean(same)), 5),
            "test_samples": len(inputs),
        }
    return rows


def innocent(bench, count):
    """Devices without a part in a leak: how many reach a bound of 1e-2 ... and how many would be accused."""
    rng = np.random.default_rng(2)
    leaks = {
        "copied": bench.copy("guilty-0"),
        "noise 30%": noisy(0.3, rng)(bench.copy("guilty-0")),
        "minimum of 10": mixed(lambda parts: parts.min(axis=0))([bench.copy(f"guilty-{i}") for i in range(10)]),
        "pruned 90%": pruned(0.9)(bench.copy("guilty-0")),
    }
    rows = {}
    means = bench.carrier.means
    for name, leak in leaks.items():
        weighted = weightings(bench.evidence(leak), means)
        scorers = [Scorer(chips, means) for chips in weighted]
        scores = [[] for _ in scorers]
        for start in range(0, count, 64):
            devices = [f"innocent-{number}" for number in range(start, min(start + 64, count))]
            words = codewords(bench.keys, devices, bench.carrier.shares)
            for row, scorer in zip(scores, scorers, strict=True):
                row += scorer.scores(words).tolist()
        for size, chips, row in zip(COALITIONS, weighted, scores, strict=True):
            found = np.array(row) * np.abs(chips).max()
            levels = {f"{p:g}": int(np.sum(found >= least_score(chips, means, p))) for p in (1e-2, 1e-3, 1e-4)}
            top = min(0.0, (log_tail(chips, means, found.max()) + math.log(len(weighted))) / math.log(10))
            fleet = min(0.0, top + math.log10(count))
            rows[f"{name}, weighted for {size}"] = {
                "devices": count,
                "reached": levels,
                "best_log10_fleet": round(fleet, 2),
                "accused": int(fleet <= -6),
            }
    return rows


def least_score(chips, means, level):
    """The least score whose bound is within ``level``."""
    low, high = 0.0, 20 * float(np.linalg.norm(chips))
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if log_tail(chips, means, middle) > math.log(level) else (low, middle)
    return high


def large(millions, folder, devices=FLEET):
    """Cost at scale: a random model in bfloat16, and a trace among many devices."""
    from unclone.fleet.tracing import trace

    rng = np.random.default_rng(3)
    rows = millions * 250
    path, copy = folder / "large.safetensors", folder / "large-copy.safetensors"
    block = bfloat16((0.02 * rng.standard_normal((rows, 4000))).astype(np.float32)).view(np.uint16)[:, 1::2]
    header = json.dumps({"w": {"dtype": "BF16", "shape": [rows, 4000], "data_offsets": [0, block.size * 2]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + np.ascontiguousarray(block).tobytes())
    start = time.perf_counter()
    fingerprinted(path, KEY, "device-77", copy, force=True)
    embedded = time.perf_counter() - start
    start = time.perf_counter()
    trace(copy, path, KEY, ["device-77"])
    one = time.perf_counter() - start
    start = time.perf_counter()
    found = trace(copy, path, KEY, (f"device-{number}" for number in range(devices)))
    many = time.perf_counter() - start
    return {
        "weights": block.size,
        "bytes": path.stat().st_size,
        "fingerprint_s": round(embedded, 2),
        "fingerprint_MB_per_s": round(path.stat().st_size / embedded / 1e6),
        "trace_one_device_s": round(one, 2),
        "microseconds_per_device": round((many - one) / devices * 1e6, 1),
        "accused": [suspect.device for suspect in found.accused],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--tasks", nargs="*", default=["digits", "mnist-cnn"])
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--copies", type=int, default=20, help="copies whose accuracy is measured")
    parser.add_argument("--steps", type=int, nargs="*", default=[100, 1000, 5000], help="of fine-tuning")
    parser.add_argument("--innocent", type=int, default=100_000)
    parser.add_argument("--random", type=int, default=3, metavar="TRIALS", help="on two million random weights")
    parser.add_argument("--large", type=int, default=50, metavar="MILLIONS")
    options = parser.parse_args()
    result = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for task in options.tasks:
            bench = Bench(task, folder)
            result[task] = {
                "weights": sum(place.count for place in bench.places.places),
                "accuracy": accuracy(task, folder, options.copies) if options.trials else {},
                "robustness": robustness(Bench(task, folder), options.trials, options.steps) if options.trials else {},
            }
        if options.innocent and options.tasks:
            result["innocent"] = innocent(Bench(options.tasks[0], folder), options.innocent)
        if options.random:
            result["random weights"] = random_model(folder, options.random)
        if options.large:
            result["large"] = large(options.large, folder)
    if options.json:
        print(json.dumps(result, indent=2))
        return
    for part, rows in result.items():
        print(f"\n{part}")
        for name, row in rows.items():
            if isinstance(row, dict) and row and isinstance(next(iter(row.values())), dict):
                print(f"  {name}")
                for inner, values in row.items():
                    print(f"    {inner:36} {values}")
            else:
                print(f"  {name:38} {row}")


if __name__ == "__main__":
    main()
