"""Imports killed at random moments and started again: is anything lost or doubled?

python tools/registry_kills.py --kills 100
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import make_registry
import sqlalchemy as sa

from unclone.fleet.registry import open_registry
from unclone.fleet.schema import devices, events, records
from unclone.fleet.verify import verify_registry

IMPORT = """
import sys
from pathlib import Path
from unclone.fleet import importing, registry
print("begun", flush=True)
with registry.open_registry(sys.argv[1]) as opened:
    importing.import_path(opened, Path(sys.argv[2]), batch=50)
"""


def killed_imports(folder, kills, *, devices_=2000, seed=5):
    """Kill ``kills`` imports with SIGKILL at random moments, going on each time; hold the registry against its log.

    When an import has come to its end the next one begins with an empty registry, so that kills fall everywhere.

    Returns:
        ``kills``, ``interrupted`` (the import had not ended), ``lost_or_doubled``, ``registries`` that were filled.
    """
    rng, folder = random.Random(seed), Path(folder)
    lines = folder / "killed.jsonl"
    make_registry.write_lines(lines, devices_)
    counts = {"kills": kills, "interrupted": 0, "lost_or_doubled": 0, "registries": 0}
    done = filled = 0
    span = None
    while done < kills or filled == 0:
        path = folder / f"killed-{counts['registries']}.db"
        open_registry(str(path), create=True).close()
        while True:
            start = time.monotonic()
            child = subprocess.Popen([sys.executable, "-c", IMPORT, str(path), str(lines)], stdout=subprocess.PIPE)
            child.stdout.readline()
            if span is None or done >= kills:
                child.wait()
                span = span or (time.monotonic() - start)
            else:
                time.sleep(rng.uniform(0, span / 4))
                child.send_signal(signal.SIGKILL)
                child.wait()
                done += 1
            child.stdout.close()
            if child.returncode == -signal.SIGKILL:
                counts["interrupted"] += 1
            counts["lost_or_doubled"] += not consistent(path)
            if child.returncode == 0:
                break
        filled += 1
        counts["registries"] += 1
        with open_registry(str(path)) as registry, registry.reading() as connection:
            for table in (devices, records, events):
                number = connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
                counts["lost_or_doubled"] += abs(number - devices_)
        path.unlink()
    return counts


def consistent(path):
    """Whether every row is what the log says and no event lacks its row."""
    with open_registry(str(path)) as registry:
        verify_registry(registry)
    return True


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--devices", type=int, default=2000)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        print(json.dumps(killed_imports(folder, options.kills, devices_=options.devices)))


if __name__ == "__main__":
    main()
