"""``unclone exec``: programs that know nothing of us get the true weights, and nothing lies on a disk."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import unclone
from unclone import Device, DeviceKey
from unclone.cli.app import run
from unclone.errors import ParameterError, SlotError, UnsupportedError
from unclone.runtime.program import bound_arguments, run_program

READER = """
import os, sys
from safetensors.numpy import load_file
tensors = load_file(sys.argv[1])
print(sorted(tensors), os.path.basename(sys.argv[1]), float(abs(tensors["layer.weight"]).sum()))
sys.exit(int(sys.argv[2]))
"""


@pytest.fixture
def bound(model_file: Path, device: Device) -> Path:
    unclone.bind(model_file, device, model_file.parent / "bound.safetensors")
    return model_file.parent / "bound.safetensors"


def run_cli(arguments: list[str], program: list[str]) -> subprocess.CompletedProcess[str]:
    # A process of its own: core dumps and signals of this one stay as they are.
    command = [sys.executable, "-m", "unclone", *arguments, *program]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_program_reads_the_true_weights(
    bound: Path, model_file: Path, device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unclone.save_device(device, tmp_path / "d.json")
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    done = run_cli(
        ["exec", "--device", str(tmp_path / "d.json"), "--source", "sim:sram?seed=7", "--"],
        [sys.executable, "-c", READER, str(bound), "3"],
    )
    assert done.returncode == 3, done.stderr
    expected = float(abs(load_file(model_file)["layer.weight"]).sum())
    assert "bound.safetensors" in done.stdout
    assert done.stdout.split()[-1] == str(expected)
    assert not list(folder.iterdir())


def test_json_and_a_foreign_chip(bound: Path, device: Device, tmp_path: Path) -> None:
    unclone.save_device(device, tmp_path / "d.json")
    start = ["exec", "--device", str(tmp_path / "d.json"), "--json", "--source"]
    done = run_cli([*start, "sim:sram?seed=7", "--"], ["test", "-f", str(bound)])
    assert (done.returncode, json.loads(done.stdout)) == (0, {"program": "test", "exit_code": 0})
    assert run_cli([*start, "sim:sram?seed=8", "--"], ["cat", str(bound)]).returncode == 3


def test_what_is_refused(bound: Path, model_file: Path, key: DeviceKey, other_key: DeviceKey) -> None:
    with pytest.raises(ParameterError, match="after --"):
        run_program([], key)
    with pytest.raises(ParameterError, match="none of the arguments"):
        run_program(["cat", str(model_file)], key)
    with pytest.raises(ParameterError, match="no program"):
        run_program(["no-such-program", str(bound)], key)
    with pytest.raises(SlotError):
        run_program(["cat", str(bound)], other_key, core_dumps=True)


def test_which_arguments_are_models(bound: Path, model_file: Path) -> None:
    assert bound_arguments(["cat", str(model_file), str(bound), "-x", str(bound.parent)]) == [2]


def test_the_file_in_memory_is_sealed_and_whole(bound: Path, key: DeviceKey) -> None:
    script = """
import os, sys
path = sys.argv[1]
assert os.readlink(path).startswith("/proc/self/fd/")
assert os.path.getsize(path) == int(sys.argv[2])
try:
    os.pwrite(int(os.readlink(path).rsplit("/", 1)[1]), b"x", 0)
except PermissionError:
    sys.exit(7)
"""
    size = str(bound.stat().st_size)
    assert run_program([sys.executable, "-c", script, str(bound), size], key, core_dumps=True) == 7


def test_signals_are_handed_on(bound: Path, device: Device, tmp_path: Path) -> None:
    unclone.save_device(device, tmp_path / "d.json")
    script = "import sys, time; print('up', flush=True); time.sleep(60)"
    command = ["exec", "--device", str(tmp_path / "d.json"), "--source", "sim:sram?seed=7", "--"]
    with subprocess.Popen(
        [sys.executable, "-m", "unclone", *command, sys.executable, "-c", script, str(bound)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        time.sleep(0.2)  # past the moment between the start and the handler
        process.terminate()
        assert process.wait(20) == 128 + 15


@pytest.mark.parametrize("share", [1.0, 0.3])
def test_every_array_is_there(tensors: dict[str, np.ndarray], model_file: Path, device: Device, share: float) -> None:
    bound = model_file.parent / "b.safetensors"
    unclone.bind(model_file, device, bound, share=share)
    key = unclone.reconstruct(device, "sim:sram?seed=7")
    script = """
import sys
from safetensors.numpy import load_file
a, b = load_file(sys.argv[1]), load_file(sys.argv[2])
sys.exit(0 if all((a[name] == b[name]).all() for name in a) and len(a) == len(b) else 1)
"""
    assert run_program([sys.executable, "-c", script, str(bound), str(model_file)], key, core_dumps=True) == 0


def test_the_verb_needs_a_program(capsys: pytest.CaptureFixture[str], tmp_path: Path, device: Device) -> None:
    unclone.save_device(device, tmp_path / "d.json")
    assert run(["exec", "--device", str(tmp_path / "d.json"), "--source", "sim:sram?seed=7"]) == 2


def test_formats_that_no_path_in_memory_serves(key: DeviceKey, device: Device, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file["layer/kernel"] = np.ones((8, 8), dtype=np.float32)
    unclone.bind(tmp_path / "m.h5", device, tmp_path / "b.h5")
    with pytest.raises(UnsupportedError, match=r"runtime\.keras"):
        run_program(["cat", str(tmp_path / "b.h5")], key, core_dumps=True)
