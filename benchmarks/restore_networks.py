"""The part of restore.py that needs ONNX Runtime and torch: sessions, modules, and inference after restoring.

    python benchmarks/restore_networks.py WHAT MODEL KEY [peak]

is what it starts for each figure, so that every load happens in a process of its own; for the peak of memory in another
one, since the thread that watches it takes time from the load.
"""

import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

WIDTH, LAYERS = 2560, 16  # 16 matrices of 25 MiB: 400 MiB of fp32


def make_onnx(path):
    """A chain of dense layers with its weights in external data."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    nodes, tensors, last = [], [], "x"
    for number in range(LAYERS):
        weights = (rng.standard_normal((WIDTH, WIDTH), dtype=np.float32) / WIDTH**0.5).astype(np.float32)
        tensors.append(numpy_helper.from_array(weights, f"w{number}"))
        nodes.append(helper.make_node("MatMul", [last, f"w{number}"], [f"m{number}"]))
        nodes.append(helper.make_node("Relu", [f"m{number}"], [f"h{number}"]))
        last = f"h{number}"
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", WIDTH]) for name in ("x", last)]
    graph = helper.make_graph(nodes, "dense", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, path, save_as_external_data=True, location=path.name + ".data")


def module(device):
    """The same network in torch."""
    import torch

    with torch.device(device):
        return torch.nn.Sequential(*[torch.nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(LAYERS)])


def resident():
    """Resident memory now, and its peak so far, in bytes, without pages of files."""
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["RssAnon"].split()[0]) * 1024


class Peak:
    """Samples the anonymous memory from a thread: the kernel's own peak counts pages of mapped files too."""

    def __enter__(self):
        import threading

        self.start, self.peak, self._on = resident(), 0, True
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self):
        while self._on:
            self.peak = max(self.peak, resident())
            time.sleep(0.001)

    def __exit__(self, *_):
        self._on = False
        self._thread.join()
        self.bytes = max(self.peak, resident()) - self.start


def measure(what, model, key, *, watched):
    """One load in this process: its peak in bytes if ``watched``, else milliseconds, and those of one inference."""
    from unclone.records import DeviceKey

    secret = DeviceKey(bytes.fromhex(key)) if key else None
    x = np.ones((1, WIDTH), dtype=np.float32)
    if what.startswith("onnx"):
        import onnxruntime

        from unclone.runtime.onnx import inference_session

        onnxruntime.set_default_logger_severity(4)
        loads = {
            "onnx plain": lambda: onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]),
            "onnx bound": lambda: inference_session(model, secret),
        }
        infer = lambda session: session.run(None, {"x": x})  # noqa: E731
    else:
        import safetensors.torch
        import torch

        from unclone.runtime.torch import load_into

        torch.set_num_threads(2)

        def plain():
            made = module("cpu")
            made.load_state_dict({name: t.clone() for name, t in safetensors.torch.load_file(model).items()})
            return made

        def bound():
            made = module("meta")
            load_into(made, model, secret)
            return made

        loads = {"torch plain": plain, "torch bound": bound}
        infer = lambda made: made(torch.from_numpy(x))  # noqa: E731
    if watched:
        with Peak() as peak:
            loads[what]()
        return {"peak": peak.bytes}
    start = time.perf_counter()
    loaded = loads[what]()
    spent = time.perf_counter() - start
    runs = []
    for _ in range(12):
        start = time.perf_counter()
        infer(loaded)
        runs.append(time.perf_counter() - start)
    return {"ms": spent * 1e3, "inference": statistics.median(runs[2:]) * 1e3}


def _row(ours, theirs, target, of="ms", unit=1.0):
    ratios = sorted(a[of] / (b[of] if isinstance(b, dict) else b) for a, b in zip(ours, theirs, strict=True))
    ratio = statistics.median(ratios)
    row = {"ratio": round(ratio, 3), "spread": [round(ratios[0], 3), round(ratios[-1], 3)]}
    if unit:
        row["ms"] = [
            round(statistics.median(r[of] for r in side), 1) for side in (ours, theirs) if isinstance(side[0], dict)
        ]
    return row | {"target": f"<= {target}", "met": ratio <= target}


def networks(device, key, repeat, parent=None):
    """Rows of the table: each pair of loads in turns, each load in a process of its own."""
    import torch
    from restore import settle
    from safetensors.torch import save_file

    import unclone

    folder = Path(tempfile.mkdtemp(prefix="restore-", dir=parent))
    try:
        make_onnx(folder / "plain.onnx")
        unclone.bind(folder / "plain.onnx", device, folder / "bound.onnx")
        torch.manual_seed(0)
        save_file(module("cpu").state_dict(), folder / "plain.safetensors")
        unclone.bind(folder / "plain.safetensors", device, folder / "bound.safetensors")
        secret = bytes(key.secret).hex()  # of a simulated chip
        jobs = {
            "onnx plain": (folder / "plain.onnx", ""),
            "onnx bound": (folder / "bound.onnx", secret),
            "torch plain": (folder / "plain.safetensors", ""),
            "torch bound": (folder / "bound.safetensors", secret),
        }
        settle(sorted(folder.iterdir()))
        found = {what: [] for what in jobs}
        order = random.Random(0)
        for turn in range(repeat + 1):
            for what, (model, given) in order.sample(list(jobs.items()), len(jobs)):
                result = _in_a_process(what, model, given)
                if turn:  # the first warms what the system keeps
                    found[what].append(result)
        peaks = {what: [_in_a_process(what, *jobs[what], "peak")] for what in ("onnx bound", "onnx plain")}
    finally:
        shutil.rmtree(folder)
    weights = [WIDTH * WIDTH * 4 * LAYERS]
    return {
        "ONNX Runtime session, 400 MB / plain session": _row(found["onnx bound"], found["onnx plain"], 1.3),
        "its peak of memory / the weights": _row(peaks["onnx bound"], weights, 2.1, "peak", 0),
        "plain session's peak / the weights": _row(peaks["onnx plain"], weights, 2.1, "peak", 0),
        "torch load_into / load_file, clone, load_state_dict": _row(found["torch bound"], found["torch plain"], 1.0),
        "inference, ONNX Runtime / plain": _row(found["onnx bound"], found["onnx plain"], 1.05, "inference"),
        "inference, torch / plain": _row(found["torch bound"], found["torch plain"], 1.05, "inference"),
    }


def _in_a_process(what, model, key, *peak):
    command = [sys.executable, __file__, what, str(model), key, *peak]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ)
    return json.loads(done.stdout)


if __name__ == "__main__":
    print(json.dumps(measure(*sys.argv[1:4], watched=len(sys.argv) > 4)))
