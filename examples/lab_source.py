#!/usr/bin/env python3
"""A program source (spec/program-protocol.md): hands out one by one the memory dumps of a folder.

unclone enroll "cmd:examples/lab_source.py dumps" --readings 9 -o bench.device.json

Each call hands out one dump and renames it to NAME.read, so no start-up pattern is given twice.
"""

import base64
import json
import sys
from pathlib import Path


def main() -> None:
    request = json.loads(sys.stdin.readline())
    if request.get("protocol") != 1 or request.get("request") != "evaluate":
        print(json.dumps({"protocol": 1, "error": "this program knows evaluate of protocol 1"}))
        return
    dumps = sorted(Path(sys.argv[1]).glob("*.bin"))
    if not dumps:
        print(json.dumps({"protocol": 1, "error": "no unread dump; power the board on again"}))
        return
    data = dumps[0].read_bytes()
    dumps[0].rename(dumps[0].with_suffix(".read"))
    print(json.dumps({"protocol": 1, "bits": 8 * len(data), "response": base64.b64encode(data).decode()}))


if __name__ == "__main__":
    main()
