"""kill -9 at any moment of a bind: the old file or the new one, whole."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import unclone

CHIP = "sim:sram?seed=7"


@pytest.mark.slow
def test_a_hundred_kills_at_random_moments(device: unclone.Device, key: unclone.DeviceKey, tmp_path: Path) -> None:
    weights = np.random.default_rng(0).normal(size=(3000, 3000)).astype(np.float32)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3000]) for name in "xy"]
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], [numpy_helper.from_array(weights, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.onnx.data")
    record, out = tmp_path / "d.json", tmp_path / "out.onnx"
    unclone.save_device(device, record)
    unclone.bind(tmp_path / "m.onnx", device, out)
    command = [sys.executable, "-m", "unclone", "bind", str(tmp_path / "m.onnx"), "--to", str(record), "-o", str(out)]
    start = time.monotonic()
    subprocess.run([*command, "--force"], check=True, capture_output=True)
    whole = time.monotonic() - start
    moments = random.Random(1)
    killed = 0
    for _ in range(100):
        before = unclone.inspect(out).file_id
        process = subprocess.Popen([*command, "--force"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(moments.uniform(0, 1.2 * whole))
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        restored = unclone.restore(out, key)
        assert restored["w"].data.tobytes() == weights.tobytes()
        assert killed or restored.header.file_id != before
        for left in tmp_path.glob(".~unclone-*"):  # what a kill leaves is recognisable, and nothing reads it
            os.unlink(left)
    assert killed >= 50
