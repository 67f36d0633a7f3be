"""Schemes side by side: what each costs, how far a clone falls, and what the attack that knows it gets back.

    python benchmarks/attacks.py [--json] [--task digits] [--seeds 5] [--labels 50] [--effort 1] [--backend loky]

Bind and restore times are ratios to a copy of the same weights, measured in turns; the scores are means over seeds,
each attack beside training without the file, with the same labels and steps. Results of attacks are kept as
``unclone evaluate`` keeps them.
"""

import argparse
import json
import statistics
import sys
import time
from dataclasses import replace

import numpy as np

from unclone.lab.attacks import ATTACKS
from unclone.lab.contracts import LABELLESS
from unclone.lab.data import cache_folder
from unclone.lab.harness import BACKENDS, run_jobs
from unclone.lab.jobs import BASELINE, Job, TaskSource, locked_by, task_digest
from unclone.lab.schemes import SCHEMES

# The attacks that the literature, or the scheme's make, says should work; the default gets all of them.
KNOWN = {
    "paper-pad": ["repair-zero", "fine-tune"],
    "arbiter-pad": ["puf-modelling"],
    "xor-arbiter-pad": ["puf-modelling"],
    "reused-pad": ["two-time-pad"],
    "bare-helper": ["helper-data"],
    "permutation": ["public-base"],
    "row-column-permutation": ["public-base"],
    "cat-map-permutation": ["public-base", "fine-tune"],
    "column-swap": ["bitwise-recovery", "key-leak"],
    "cat-map": ["key-search", "public-base"],
    "sign-flips": ["hill-climbing", "fine-tune"],
    "few-weights": ["repair-zero", "prune"],
    "gradient-picked": ["repair-zero", "fine-tune", "position-detection"],
    "nnsplitter": ["repair-zero", "fine-tune", "position-detection"],
    "unclone-random-20": ["fine-tune", "position-detection"],
}
OURS = ("unclone-all", "unclone")
INAPPLICABLE = "does not apply"


def secret_bytes(secret):
    """Size of what must be kept secret on the device, for schemes that keep arrays or keys."""
    if isinstance(secret, np.ndarray):
        return secret.nbytes
    if isinstance(secret, dict):
        return sum(secret_bytes(value) for value in secret.values())
    if isinstance(secret, tuple | list):
        return sum(secret_bytes(value) for value in secret)
    if isinstance(secret, str):
        return len(secret)
    return len(secret) if isinstance(secret, bytes) else 2


def costs(task, name, seed, repeat=5):
    """Share of the weights that differ, secret bytes, and times of locking and unlocking over that of a copy."""
    scheme, true = SCHEMES[name], task.weights()
    spent = {"copy": [], "lock": [], "unlock": []}
    for _ in range(repeat):
        start = time.perf_counter()
        copied = {key: value.copy() for key, value in true.items()}
        copy = time.perf_counter()
        locked = locked_by(scheme, task, seed)
        lock = time.perf_counter()
        unlocked = scheme.unlock(locked)
        end = time.perf_counter()
        for key, value in zip(spent, (copy - start, lock - copy, end - lock), strict=True):
            spent[key].append(value)
    exact = all(np.array_equal(unlocked[key], copied[key]) for key in true)
    changed = sum(np.count_nonzero(locked.weights[key].view(np.uint8) != true[key].view(np.uint8)) for key in true)
    seconds = {key: statistics.median(values) for key, values in spent.items()}
    return {
        "bytes_changed": changed / sum(value.nbytes for value in true.values()),
        "secret_bytes": 32 if name.startswith("unclone") else secret_bytes(locked.secret),
        "lock_ms": round(seconds["lock"] * 1e3, 2),
        "unlock_ms": round(seconds["unlock"] * 1e3, 2),
        "unlock_over_copy": round(seconds["unlock"] / seconds["copy"], 1),
        "exact": exact,
        "cost": scheme.cost(),
    }


def jobs_of(source, digest, options):
    every = sorted({attack for attacks in KNOWN.values() for attack in attacks})
    plan = {**KNOWN, **dict.fromkeys(OURS, every)}
    return plan, {
        (scheme, attack, seed): Job(source, digest, scheme, attack, options.labels, seed, options.effort)
        for scheme, attacks in plan.items()
        for attack in ("use-as-is", *attacks)
        for seed in range(options.seeds)
    }


def table(options, report):
    source = TaskSource(options.task)
    task = source.open()
    plan, jobs = jobs_of(source, task_digest(task), options)
    scratch = {
        (labels, seed): replace(jobs["unclone", "use-as-is", seed], attack=BASELINE, labels=labels)
        for labels in (0, options.labels)
        for seed in range(options.seeds)
    }
    results = run_jobs(
        [*jobs.values(), *scratch.values()],
        cache=cache_folder(),
        backend=options.backend,
        workers=options.workers,
        report=report,
    )
    alone = {
        labels: statistics.mean(results[scratch[labels, seed]].score for seed in range(options.seeds))
        for labels in (0, options.labels)
    }
    rows = []
    for scheme, attacks in plan.items():
        row = {"scheme": scheme, "reference": SCHEMES[scheme].reference, **costs(task, scheme, 0), "attacks": []}
        for attack in ("use-as-is", *attacks):
            found = [results[jobs[scheme, attack, seed]] for seed in range(options.seeds)]
            if any(result.score is None for result in found):
                row["attacks"].append({"attack": attack, "score": None, "note": INAPPLICABLE})
                continue
            scores = [result.score for result in found]
            own = alone[0 if ATTACKS[attack].needs in LABELLESS else options.labels]
            baseline = statistics.mean([result.detail.get("baseline", own) for result in found])
            row["attacks"].append(
                {
                    "attack": attack,
                    "score": statistics.mean(scores),
                    "spread": statistics.stdev(scores) if len(scores) > 1 else 0.0,
                    "without": max(own, baseline),
                    "queries": statistics.mean(result.queries for result in found),
                    "seconds": statistics.mean(result.seconds for result in found),
                }
            )
        row["clone"] = row["attacks"].pop(0)["score"]
        applied = [item for item in row["attacks"] if item["score"] is not None]
        row["best"] = max(applied, key=lambda item: item["score"] - item["without"])
        rows.append(row)
    return {
        "task": options.task,
        "original": task.score(task.weights()),
        "chance": task.chance,
        "labels": options.labels,
        "from_scratch": alone[options.labels],
        "seeds": options.seeds,
        "schemes": rows,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--task", default="digits")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--labels", type=int, default=50)
    parser.add_argument("--effort", type=float, default=1.0)
    parser.add_argument("--backend", default="loky", choices=BACKENDS)
    parser.add_argument("--workers", type=int, default=-1)
    options = parser.parse_args()

    def report(done, total, what):
        if sys.stderr.isatty():
            print(f"\r{done} of {total} {what:<50}", end="", file=sys.stderr, flush=True)

    result = table(options, report)
    if options.json:
        print(json.dumps(result, indent=2))
        return
    print(
        f"{result['task']}: original {result['original']:.3f}, chance {result['chance']:.3f}, "
        f"{result['labels']} labels without the file {result['from_scratch']:.3f}, {result['seeds']} seeds"
    )
    print(f"{'scheme':18} {'changed':>8} {'secret B':>9} {'unlock/copy':>12} {'clone':>6}  best attack")
    for row in result["schemes"]:
        best = row["best"]
        print(
            f"{row['scheme']:18} {row['bytes_changed']:8.1%} {row['secret_bytes']:9} {row['unlock_over_copy']:12} "
            f"{row['clone']:6.3f}  {best['attack']} {best['score']:.3f} +- {best['spread']:.3f} "
            f"(without the file {best['without']:.3f})"
        )


if __name__ == "__main__":
    main()
