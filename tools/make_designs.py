"""Search for codes and measure how often they fail; writes src/unclone/extractor/designs.json.

    python tools/make_designs.py [--list 32] [--key 128] [--failure 1e-9] [--ber 0.15 ...] [--words 300] [--runs 4]

For each bit error rate a polar code just long enough for the failure target is searched, then measured by splitting
(``unclone.extractor.prediction``) at that rate and at rates where it fails between 1e-2 and about 1e-13. Codes already
in the file for the same goal are kept, so the table grows over several calls. Minutes per code.
"""

import argparse
import json
import math
from pathlib import Path

from unclone.extractor.bounds import finite_length_bound
from unclone.extractor.codes import PolarCode
from unclone.extractor.prediction import construct, rare_failure

TABLE = Path(__file__).parents[1] / "src/unclone/extractor/designs.json"
SLACK = 0.3  # decades below the target, for the error of the estimate
POINTS = (1e-2, 1e-4, 1e-6, 1e-14)


def rate_for(n, k, failure, gap):
    """The bit error rate at which a code that is ``gap`` times longer than the bound fails that often."""
    low, high = 1e-4, 0.45
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if gap * finite_length_bound(k, failure, middle) < n else (low, middle)
    return low


def search(k, ber, failure, list_size, words, runs):
    """The shortest code found whose failure lies below the target by two standard errors; its gap and its point."""
    goal = math.log10(failure)
    aim, best = goal - SLACK, None
    gap = 1.02 + 0.105 * k / 128  # as seen: a list of 32 helps long messages less
    for step in range(6):
        n = math.ceil(gap * finite_length_bound(k, 10**aim, ber))
        if best and n >= best[0].n:
            break
        code, _ = construct(n, k, list_size, ber)
        found = rare_failure(code, ber, words=words, runs=runs, seed=100 + step, least=1e-20)
        upper = found.log10 + 2 * found.error
        gap = n / finite_length_bound(k, 10**found.log10, ber)
        print(f"  n {n}: 1e{found.log10:.2f} at most 1e{upper:.2f}, gap {gap:.3f}", flush=True)
        if upper <= goal:
            best = code, gap, point(ber, found)
            if upper > goal - 0.35:
                break
        else:
            aim -= max(0.1, upper - found.log10 - SLACK)
    if best is None:
        raise SystemExit("no code found")
    return best


def point(rate, found):
    return [round(rate, 5), round(found.log10, 3), round(found.error, 3)]


def measure(code, rates, words, runs):
    points = []
    for rate in sorted(rates):
        points.append(point(rate, rare_failure(code, rate, words=words, runs=runs, seed=1, least=1e-20)))
        print("   ", points[-1], flush=True)
    return points


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--list", type=int, default=32)
    parser.add_argument("--key", type=int, default=128)
    parser.add_argument("--failure", type=float, default=1e-9)
    parser.add_argument("--ber", type=float, nargs="*", default=[1, 2, 3, 5, 8, 10, 12, 15, 18, 20, 22, 25])
    parser.add_argument("--words", type=int, default=300)
    parser.add_argument("--runs", type=int, default=4)
    options = parser.parse_args()
    for percent in options.ber:
        ber = percent / 100 if percent >= 1 else percent
        table = json.loads(TABLE.read_text()) if TABLE.exists() else {"version": 1, "codes": []}
        goal = [ber, options.key, f"{options.failure:.0e}", options.list]
        if any(entry["goal"] == goal for entry in table["codes"]):
            continue
        print(goal, flush=True)
        code, gap, found = search(options.key, ber, options.failure, options.list, options.words, options.runs)
        rates = {rate_for(code.n, code.k, failure, gap) for failure in POINTS}
        points = sorted([found, *measure(code, rates, options.words, -(-options.runs // 2))])
        assert PolarCode.from_spec(code.spec()).spec() == code.spec()
        table["codes"].append({"goal": goal, "points": points, "code": code.spec()})
        table["codes"].sort(key=lambda entry: (entry["code"]["k"], entry["code"]["n"], entry["code"]["list"]))
        text = ",\n".join(json.dumps(entry) for entry in table["codes"])
        TABLE.write_text(f'{{"version": 1, "codes": [\n{text}\n]}}\n')


if __name__ == "__main__":
    main()
