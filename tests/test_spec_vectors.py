"""The package and the second reader, on every vector; and the vectors as the generator makes them."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import unclone
from unclone import keys
from unclone.device_file import load_device, seal_context
from unclone.errors import ReconstructionError, TensorTamperedError, UncloneError

sys.path.insert(0, str(Path(__file__).parent.parent / "spec"))

import check_model
import check_record

ROOT = Path(__file__).parent.parent
SPEC = ROOT / "spec"
VECTORS = SPEC / "vectors"
INDEX: dict[str, Any] = json.loads((VECTORS / "vectors.json").read_text())
MODELS = [entry for entry in INDEX["vectors"] if entry["file"].startswith("models/")]
RECORDS = [entry for entry in INDEX["vectors"] if entry["file"].startswith("records/")]


def _name(entry: dict[str, Any]) -> str:
    return str(entry["file"])


def _device_keys(entry: dict[str, Any]) -> list[bytes]:
    return [bytes.fromhex(INDEX["devices"][name]["device_key"]) for name in entry["devices"]]


def _secrets(entry: dict[str, Any]) -> list[bytes]:
    return [bytes.fromhex(INDEX["devices"][name]["secret"]) for name in entry["candidates"]]


def _outcome(entry: dict[str, Any]) -> dict[str, Any]:
    return {name: entry.get(name) for name in ("error", "exit_code", "tensor", "sha256")}


def _package_model(path: Path, key: bytes) -> dict[str, Any]:
    try:
        with unclone.restore(path, unclone.DeviceKey(key)) as model:
            digests = {name: hashlib.sha256(tensor.data.tobytes()).hexdigest() for name, tensor in model.items()}
    except UncloneError as problem:
        tensor = problem.tensor if isinstance(problem, TensorTamperedError) else None
        return {"error": type(problem).__name__, "exit_code": problem.exit_code, "tensor": tensor, "sha256": None}
    return {"error": None, "exit_code": 0, "tensor": None, "sha256": digests}


def _second_model(path: Path, key: bytes) -> dict[str, Any]:
    try:
        found = check_model.check(path, key)
    except check_model.Finding as finding:
        return {"error": finding.error, "exit_code": finding.exit_code, "tensor": finding.tensor, "sha256": None}
    return {"error": None, "exit_code": 0, "tensor": None, "sha256": found["sha256"]}


def _package_record(path: Path, candidates: list[bytes]) -> dict[str, Any]:
    try:
        device = load_device(path)
        context, public = seal_context(device), device.public_key
        opened = keys.open_device_key(device.sealed_key, candidates, context, public, device.suite)
        if opened is None:
            raise ReconstructionError("no candidate")
    except UncloneError as problem:
        return {"error": type(problem).__name__, "exit_code": problem.exit_code, "key": None}
    return {"error": None, "exit_code": 0, "key": bytes(opened[0].secret).hex()}


def _second_record(path: Path, candidates: list[bytes]) -> dict[str, Any]:
    try:
        found = check_record.check(path.read_bytes(), candidates)
    except check_record.Finding as finding:
        return {"error": finding.error, "exit_code": finding.exit_code, "key": None}
    return {"error": None, "exit_code": 0, "key": found["device_key"]}


@pytest.mark.parametrize("entry", MODELS, ids=_name)
def test_model(entry: dict[str, Any]) -> None:
    for key in _device_keys(entry):
        assert _second_model(VECTORS / entry["file"], key) == _outcome(entry), "second reader"
        assert _package_model(VECTORS / entry["file"], key) == _outcome(entry), "package"


@pytest.mark.parametrize("entry", RECORDS, ids=_name)
def test_record(entry: dict[str, Any]) -> None:
    key = INDEX["devices"][entry["candidates"][-1]]["device_key"] if entry["error"] is None else None
    expected = {"error": entry["error"], "exit_code": entry["exit_code"], "key": key}
    assert _second_record(VECTORS / entry["file"], _secrets(entry)) == expected, "second reader"
    assert _package_record(VECTORS / entry["file"], _secrets(entry)) == expected, "package"


def test_every_file_is_in_the_index() -> None:
    folders = ("licences", "models", "records")
    files = {str(path.relative_to(VECTORS)) for folder in folders for path in (VECTORS / folder).iterdir()}
    assert files == {entry["file"] for entry in INDEX["vectors"]}


def test_every_error_and_both_ciphers_occur() -> None:
    assert {entry["error"] for entry in MODELS} == {None, *check_model.EXIT_CODES}
    assert {entry["error"] for entry in RECORDS} == {None, *check_record.EXIT_CODES}
    good = [VECTORS / entry["file"] for entry in MODELS if entry["error"] is None]
    headers = [unclone.inspect(path) for path in good]
    assert {(header.cipher, header.bits) for header in headers} >= {
        (cipher, bits) for cipher in ("aes-256-gcm", "chacha20-poly1305") for bits in ("finite", "all")
    }


def test_the_generator_writes_the_same_bytes(tmp_path: Path) -> None:
    script = str(ROOT / "tools" / "make_vectors.py")
    subprocess.run([sys.executable, script, str(tmp_path)], check=True, timeout=120)
    made = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert len(made) == len(INDEX["vectors"]) + 1
    for path, data in made.items():
        assert (VECTORS / path).read_bytes() == data, path


def _run(script: str, *arguments: str) -> tuple[int, Any]:
    command = [sys.executable, str(SPEC / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, json.loads(done.stdout)


def test_the_second_reader_as_a_command() -> None:
    press = INDEX["devices"]["press-17"]
    good = str(VECTORS / "models" / "base.safetensors")
    code, found = _run("check_model.py", good, "--device-key", press["device_key"])
    assert code == 0
    assert found["masked"] == ["layer.weight", "layer.bias", "other.bias"]
    altered = str(VECTORS / "models" / "weights-second.safetensors")
    code, found = _run("check_model.py", altered, "--device-key", press["device_key"])
    assert (code, found["error"], found["tensor"]) == (4, "TensorTamperedError", "layer.bias")
    record = str(VECTORS / "records" / "plain.json")
    code, found = _run("check_record.py", record, "--secret", press["secret"])
    assert (code, found["device_key"]) == (0, press["device_key"])
    code, found = _run("check_record.py", record, "--secret", "00")
    assert (code, found["error"]) == (3, "ReconstructionError")
