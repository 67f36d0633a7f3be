"""Second reader of helper data: plain Python, standard library only, from extractor.md alone.

    python spec/check_extractor.py vectors/extractor/*.json

reads each vector, refuses what has to be refused, and otherwise finds the secret without any decoder: where the reading
is right in all decisive symbols, it solves the linear equations that they give; in any case it encodes the secret that
the vector claims and counts the symbols that disagree. Shares no code with the package. Exit code 1 if a vector fails.
"""

from __future__ import annotations

import base64
import json
import math
import sys
from pathlib import Path
from typing import Any


class Refused(Exception):
    """The helper data is malformed."""


def need(condition: bool, what: str) -> None:
    if not condition:
        raise Refused(what)


def number(value: Any, low: int, high: int, what: str) -> int:
    need(type(value) is int and low <= value <= high, what)
    return value


def bits_of(data: bytes) -> list[int]:
    return [byte >> (7 - i) & 1 for byte in data for i in range(8)]


def blob(value: Any, count: int, what: str) -> list[int]:
    """``count`` bits from base64, padding 0."""
    size = (count + 7) // 8
    need(isinstance(value, str) and len(value) == (size + 2) // 3 * 4, what)
    try:
        data = base64.b64decode(value, validate=True)
    except ValueError:
        raise Refused(what) from None
    need(base64.b64encode(data).decode() == value and len(data) == size, what)
    bits = bits_of(data)
    need(not any(bits[count:]), what + " padding")
    return bits[:count]


# Codes, section 4: n, k and, for each symbol, the set of message bits that add up to it (a bit mask).


def polar(code: dict[str, Any]) -> tuple[int, int, list[int]]:
    need(set(code) == {"name", "n", "k", "m", "drop", "info", "list"}, "code members")
    m = number(code["m"], 1, 16, "m")
    n = number(code["n"], (1 << m - 1) + 1, 1 << m, "n")
    k = number(code["k"], 1, min(n, 4096), "k")
    paths = number(code["list"], 1, 1024, "list")
    need(paths & (paths - 1) == 0 and paths << m <= 1 << 22, "list")
    need(code["drop"] in ("first", "last"), "drop")
    text = code["info"]
    need(isinstance(text, str) and len(text) == 2 * ((1 << m) + 7 >> 3), "info")
    need(set(text) <= set("0123456789abcdef"), "info")
    info = bits_of(bytes.fromhex(text))
    need(not any(info[1 << m :]) and sum(info) == k, "info")
    lost = (1 << m) - n
    need(not any(info[:lost] if code["drop"] == "first" else info[n : 1 << m]), "info is lost")
    row = [0] * (1 << m)
    for number_of, position in enumerate(i for i in range(1 << m) if info[i]):
        row[position] = 1 << number_of
    for level in range(m):  # x_i = sum of u_j over j that contain i
        for i in range(1 << m):
            if not i >> level & 1:
                row[i] ^= row[i | 1 << level]
    return n, k, row[lost:] if code["drop"] == "first" else row[:n]


def reed_muller(code: dict[str, Any]) -> tuple[int, int, list[int]]:
    need(set(code) == {"name", "n", "k", "m", "repeat", "blocks"}, "code members")
    m = number(code["m"], 1, 10, "m")
    repeat = number(code["repeat"], 1, 255, "repeat")
    blocks = number(code["blocks"], 1, 65536, "blocks")
    n, k = (blocks << m) * repeat, blocks * (m + 1)
    need(n <= 65536, "n")
    need(type(code["n"]) is int and code["n"] == n and type(code["k"]) is int and code["k"] == k, "n and k")
    row = []
    for block in range(blocks):
        for i in range(1 << m):
            mask = 1 << block * (m + 1)
            for bit in range(m):
                if i >> bit & 1:
                    mask |= 1 << block * (m + 1) + 1 + bit
            row += [mask] * repeat
    return n, k, row


def read_code(code: Any) -> tuple[int, int, list[int]]:
    need(isinstance(code, dict), "code")
    readers = {"polar": polar, "repetition-reed-muller": reed_muller}
    need(isinstance(code.get("name"), str) and code["name"] in readers, "code name")
    return readers[code["name"]](code)


def read_helper(helper: dict[str, Any]) -> dict[str, Any]:
    """Section 2: everything checked, everything unpacked."""
    need(helper["scheme"] == "code-offset-1", "scheme")
    fields = helper["fields"]
    debias = fields.get("debias")
    need(debias in ("none", "classic", "pair-output", "erasure"), "debias")
    members = {"bits", "classes", "code", "debias", "distance", "levels", "offset"}
    need(set(fields) == members | (set() if debias == "erasure" else {"retained"}), "members")
    bits = number(fields["bits"], 1, 1 << 26, "bits")
    distance = number(fields["distance"], 0, bits // 2, "distance")
    need((distance == 0) == (debias == "none"), "distance")
    units = bits if distance == 0 else bits // (2 * distance) * distance
    n, k, rows = read_code(fields["code"])
    need(n <= units, "n")
    levels = fields["levels"]
    need(isinstance(levels, list) and 2 <= len(levels) <= 8, "levels")
    need(all(type(level) is int for level in levels), "levels")
    need(levels[0] == 0 and levels[-1] <= 255 and sorted(set(levels)) == levels, "levels")
    width = (len(levels) - 1).bit_length()
    packed = blob(fields["classes"], n * width, "classes")
    classes = [int("".join(map(str, packed[j * width : (j + 1) * width])), 2) for j in range(n)]
    need(max(classes) < len(levels), "classes")
    offset = blob(fields["offset"], n, "offset")
    need(not any(bit and not label for bit, label in zip(offset, classes, strict=True)), "offset of an erased symbol")
    steps = list(range(n))
    if debias != "erasure":
        retained = blob(fields["retained"], units, "retained")
        need(sum(retained) == n, "retained")
        steps = [step for step in range(units) if retained[step]]
    stride = max(1, 618 * units // 1000)
    while math.gcd(stride, units) != 1:
        stride += 1
    walk = [step * stride % units for step in steps]
    cells = [u if distance == 0 else 2 * distance * (u // distance) + u % distance for u in walk]
    return {
        "bits": bits, "debias": debias, "distance": distance, "levels": levels, "classes": classes, "offset": offset,
        "cells": cells, "k": k, "rows": rows,
    }  # fmt: skip


def soft_values(helper: dict[str, Any], readings: list[list[int]]) -> list[float]:
    """L_j of section 5."""
    count = len(readings)
    if any(len(reading) != helper["bits"] for reading in readings):
        return [0.0] * len(helper["cells"])

    def score(cell: int) -> float:
        ones = sum(reading[cell] for reading in readings)
        return math.log((ones + 0.125) / (count - ones + 0.125)) / math.log(9)

    out = []
    for cell, label, bit in zip(helper["cells"], helper["classes"], helper["offset"], strict=True):
        value = score(cell)
        if helper["debias"] in ("pair-output", "erasure"):
            value = (value - score(cell + helper["distance"])) / 2
        out.append(value * helper["levels"][label] / 16 * (2 * bit - 1))
    return out


def solve(helper: dict[str, Any], soft: list[float]) -> int | None:
    """The only message that fits the signs of all decisive symbols; ``None`` if none fits or several do."""
    pivots: dict[int, int] = {}
    for value, row in zip(soft, helper["rows"], strict=True):
        if value == 0:
            continue
        equation = row | (value < 0) << helper["k"]  # the highest bit is the right-hand side
        for pivot, other in pivots.items():
            if equation >> pivot & 1:
                equation ^= other
        left = equation & ((1 << helper["k"]) - 1)
        if left:
            pivot = left.bit_length() - 1
            for place in pivots:
                if pivots[place] >> pivot & 1:
                    pivots[place] ^= equation
            pivots[pivot] = equation
        elif equation:
            return None
    if len(pivots) < helper["k"]:
        return None
    return sum((row >> helper["k"] & 1) << pivot for pivot, row in pivots.items())


def message_of(secret: bytes, k: int) -> int:
    bits = bits_of(secret)
    need(len(bits) - k in range(8) and not any(bits[k:]), "secret")
    return sum(bit << i for i, bit in enumerate(bits[:k]))


def check(vector: dict[str, Any]) -> str:
    """Empty if the vector holds, else what is wrong."""
    try:
        helper = read_helper(vector["helper"])
    except Refused as reason:
        return "" if vector.get("refuse") else f"refused ({reason})"
    if vector.get("refuse"):
        return "not refused"
    readings = [bits_of(bytes.fromhex(text)) for text in vector["readings"]]
    size = helper["bits"]
    if all(size <= len(reading) < size + 8 for reading in readings):
        readings = [reading[:size] for reading in readings]
    soft = soft_values(helper, readings)
    message = message_of(bytes.fromhex(vector["secret"]), helper["k"])
    word = [(row & message).bit_count() & 1 for row in helper["rows"]]
    alive = [j for j, label in enumerate(helper["classes"]) if label]
    errors = sum(1 for j in alive if (soft[j] < 0) != word[j] and soft[j] != 0)
    erasures = sum(1 for j in alive if soft[j] == 0)
    solved = solve(helper, soft)
    if vector["expect"] == "none":
        return (
            "the secret fits a foreign reading" if solved == message or 3 * errors + erasures < len(alive) // 2 else ""
        )
    if (errors, erasures) != (vector["errors"], vector["erasures"]):
        return f"{errors} errors and {erasures} erasures"
    if errors == 0 and solved != message:
        return "the equations give another message"
    return ""


def main(paths: list[str]) -> int:
    failed = 0
    for path in paths:
        problem = check(json.loads(Path(path).read_text()))
        failed += bool(problem)
        if problem:
            print(f"{path}: {problem}")
    print(f"{len(paths)} vectors, {failed} failed")
    return 1 if failed or not paths else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
