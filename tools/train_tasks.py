"""Train the victims of the lab's tasks and write src/unclone/lab/weights/NAME.safetensors.

    python tools/train_tasks.py [NAME...]

Needs the extra `lab` and the data sets (unclone.lab.data). Weights only: nothing of the data is in the files.
"""

from __future__ import annotations

import sys
import time

from unclone.lab.data import MissingDataError
from unclone.lab.tasks import TASKS
from unclone.lab.tasks.built_in import open_built_in
from unclone.lab.tasks.network_task import VICTIM_SEED, WEIGHTS_FOLDER


def main(names: list[str]) -> None:
    for name in names or [name for name in TASKS if name != "magika"]:
        try:
            task = open_built_in(name)
        except MissingDataError as problem:
            print(f"{name}: left out: {problem}")
            continue
        start = time.perf_counter()
        weights = task.fit(task.initialise(VICTIM_SEED), task.train_size, VICTIM_SEED)
        file = task.model_file(weights, WEIGHTS_FOLDER / name)
        seconds, size = time.perf_counter() - start, file.stat().st_size
        print(
            f"{name}: {task.metric} {task.score(weights):.4f}, chance {task.chance:.3f}, {size} bytes, {seconds:.0f} s"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
