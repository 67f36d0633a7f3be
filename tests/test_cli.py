"""The command line as a user meets it: output, streams, exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

CHIP = "sim:sram?seed=7"


def unclone(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "unclone", *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import numpy as np
    from safetensors.numpy import save_file

    folder = tmp_path_factory.mktemp("session")
    save_file({"w": np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)}, folder / "model.safetensors")
    assert unclone("enroll", CHIP, "-o", folder / "device.json", "--name", "press-17").returncode == 0
    bind = unclone(
        "bind", folder / "model.safetensors", "--to", folder / "device.json", "-o", folder / "bound.safetensors"
    )
    assert bind.returncode == 0, bind.stderr
    return folder


def restore(folder: Path, source: str = CHIP, *more: str) -> subprocess.CompletedProcess[str]:
    return unclone(
        "restore", folder / "bound.safetensors", "--device", folder / "device.json", "--source", source, *more
    )


def test_the_genuine_device_restores_and_writes_nothing(folder: Path) -> None:
    before = sorted(folder.iterdir())
    done = restore(folder)
    assert done.returncode == 0, done.stderr
    assert "restored and verified" in done.stdout
    assert done.stderr == ""
    assert sorted(folder.iterdir()) == before


def test_another_chip_is_refused_with_3(folder: Path) -> None:
    done = restore(folder, "sim:sram?seed=8")
    assert done.returncode == 3
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_an_altered_model_is_refused_with_4(folder: Path, tmp_path: Path) -> None:
    data = bytearray((folder / "bound.safetensors").read_bytes())
    data[-1] ^= 1
    altered = tmp_path / "altered.safetensors"
    altered.write_bytes(data)
    done = unclone("restore", altered, "--device", folder / "device.json", "--source", CHIP)
    assert done.returncode == 4
    assert "'w'" in done.stderr


def test_an_altered_record_is_refused_with_3(folder: Path, tmp_path: Path) -> None:
    record = json.loads((folder / "device.json").read_text())
    record["name"] = "press-18"
    altered = tmp_path / "device.json"
    altered.write_text(json.dumps(record))
    done = unclone("restore", folder / "bound.safetensors", "--device", altered, "--source", CHIP)
    assert done.returncode == 3
    assert unclone("bind", folder / "model.safetensors", "--to", altered, "-o", tmp_path / "out").returncode == 3


@pytest.mark.parametrize(
    "arguments",
    [
        ["restore"],
        ["bind", "missing.onnx", "--to", "missing.json", "-o", "out"],
        ["enroll", "nonsense", "-o", "out.json"],
        ["enroll", "sim:sram?sed=7", "-o", "out.json"],
        ["inspect", "/dev/null"],
        ["no-such-verb"],
    ],
)
def test_bad_input_is_refused_with_2(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = unclone(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_outputs_are_not_replaced_without_force(folder: Path) -> None:
    before = (folder / "device.json").read_bytes()
    done = unclone("enroll", "sim:sram?seed=9", "-o", folder / "device.json")
    assert done.returncode == 2
    assert "--force" in done.stderr
    assert (folder / "device.json").read_bytes() == before


def test_json_on_every_verb(folder: Path, tmp_path: Path) -> None:
    enrolled = json.loads(unclone("enroll", CHIP, "-o", tmp_path / "d.json", "--json").stdout)
    assert enrolled["report"]["residual_entropy_millibits"] >= 128_000
    inspected = json.loads(unclone("inspect", folder / "bound.safetensors", "--json").stdout)
    assert [tensor["name"] for tensor in inspected["tensors"]] == ["w"]
    restored = json.loads(restore(folder, CHIP, "--json").stdout)
    assert restored["verified"] is True


def test_inspect_says_what_is_masked(folder: Path) -> None:
    done = unclone("inspect", folder / "bound.safetensors")
    assert done.returncode == 0
    for word in ("safetensors", "finite", "aes-256-gcm", "slots", "16,384 bytes"):
        assert word in done.stdout


def test_secrets_never_show(folder: Path) -> None:
    import unclone as package

    with package.reconstruct(folder / "device.json", CHIP) as key:
        assert key.secret.hex() not in repr(key)
        with pytest.raises(TypeError, match="not pickled"):
            __import__("pickle").dumps(key)
        secret = bytes(key.secret)
    for path in folder.iterdir():
        assert secret not in path.read_bytes()
        assert secret.hex() not in path.read_text(errors="ignore")
