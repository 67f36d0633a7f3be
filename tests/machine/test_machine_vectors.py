"""The package and the second implementation on every vector of machine records; generator and schema too."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unclone.errors import PartsError, UncloneError
from unclone.machine import load_machine, parse_machine, reconstruct_machine, render_machine
from unclone.providers import Provided
from unclone.records import HelperData

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "spec"))

import check_machine

ROOT = Path(__file__).parent.parent.parent
VECTORS = ROOT / "spec" / "vectors" / "machines"
INDEX: dict[str, Any] = json.loads((VECTORS / "index.json").read_text())
(KEY,) = (entry["key"] for entry in INDEX["vectors"] if entry["file"] == "compact.json")
SCHEMA = json.loads((ROOT / "spec" / "schema" / "machine.schema.json").read_text())
STATES = {
    "altered": "share was altered",
    "forged": "share is forged",
    "another": "not the enrolled",
    "missing": "missing",
    "present": "present",
}


class Vector:
    """The key provider of the vectors' devices."""

    root = "vector"

    def __init__(self, device: str) -> None:
        self._secret = bytes.fromhex(INDEX["devices"][device]["secret"])

    def create(self) -> Provided:
        raise NotImplementedError

    def recover(self, helper: HelperData) -> bytes:
        return self._secret


def package(entry: dict[str, Any]) -> dict[str, Any]:
    try:
        with reconstruct_machine(
            VECTORS / entry["file"], {name: Vector(of) for name, of in entry["at"].items()}
        ) as key:
            return {"error": None, "exit_code": 0, "key": bytes(key.secret).hex(), "states": None}
    except UncloneError as problem:
        states = None
        if isinstance(problem, PartsError):
            states = {
                name: next(word for word, text in STATES.items() if text in state)
                for name, state in problem.parts.items()
            }
        return {"error": type(problem).__name__, "exit_code": problem.exit_code, "key": None, "states": states}


def second(entry: dict[str, Any]) -> dict[str, Any]:
    device_keys = {name: bytes.fromhex(INDEX["devices"][of]["device_key"]) for name, of in entry["at"].items()}
    try:
        found = check_machine.check((VECTORS / entry["file"]).read_bytes(), device_keys)
    except check_machine.TooFew as finding:
        states = {name: state.split()[0] for name, state in json.loads(str(finding)).items()}
        return {"error": finding.error, "exit_code": finding.exit_code, "key": None, "states": states}
    except check_machine.Finding as finding:
        return {"error": finding.error, "exit_code": finding.exit_code, "key": None, "states": None}
    return {"error": None, "exit_code": 0, "key": found["machine_key"], "states": None}


@pytest.mark.parametrize("entry", INDEX["vectors"], ids=lambda entry: entry["file"])
def test_vector(entry: dict[str, Any]) -> None:
    expected = {name: entry.get(name) for name in ("error", "exit_code", "key", "states")}
    assert second(entry) == expected, "second implementation"
    assert package(entry) == expected, "package"


def test_every_file_and_every_error_occurs() -> None:
    assert {path.name for path in VECTORS.iterdir()} == {entry["file"] for entry in INDEX["vectors"]} | {"index.json"}
    assert {entry["error"] for entry in INDEX["vectors"]} == {
        None, "RecordError", "UnsupportedError", "RecordAlteredError", "ReconstructionError", "PartsError",
    }  # fmt: skip


def test_the_generator_writes_the_same_bytes_without_the_package(tmp_path: Path) -> None:
    script = ROOT / "tools" / "make_machine_vectors.py"
    block = "import sys; sys.modules['unclone'] = None; sys.argv = sys.argv[1:]; import runpy; "
    code = block + "runpy.run_path(sys.argv[0], run_name='__main__')"
    subprocess.run([sys.executable, "-c", code, str(script), str(tmp_path)], check=True, timeout=60)
    made = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(made) == len(INDEX["vectors"]) + 2
    for path in made:
        assert (VECTORS.parent / path.relative_to(tmp_path)).read_bytes() == path.read_bytes(), path


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_no_change_of_a_byte_gives_another_key(data: st.DataObject) -> None:
    good = bytearray((VECTORS / "compact.json").read_bytes())
    place = data.draw(st.integers(0, len(good) - 1))
    good[place] ^= data.draw(st.integers(1, 255))
    exit_code = 0
    try:
        machine = parse_machine(bytes(good))
        with reconstruct_machine(machine, {"camera": Vector("b"), "drive": Vector("c")}) as key:
            assert bytes(key.secret).hex() == KEY
    except UncloneError as problem:
        exit_code = problem.exit_code
    assert exit_code in (0, 2, 3)


@given(st.binary(max_size=300))
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(UncloneError):
        parse_machine(data)


def test_what_is_read_is_written_again() -> None:
    for entry in INDEX["vectors"]:
        if entry["error"] is None:
            machine = load_machine(VECTORS / entry["file"])
            assert parse_machine(render_machine(machine)) == machine


SEEN_BY_A_READER_ONLY = {"malformed-need-1.json", "malformed-parts.0.name-3.json", "malformed-parts.0.index-2.json",
                         "malformed-parts.0.device-1.json", "malformed-parts.0.device-2.json", "device-version.json",
                         "float.json"}  # fmt: skip


NOT_JSON = {"truncated.json", "empty.json", "nested.json", "garbage.json"}


@pytest.mark.parametrize(
    "entry", [e for e in INDEX["vectors"] if e["file"] not in NOT_JSON], ids=lambda entry: entry["file"]
)
def test_schema(entry: dict[str, Any]) -> None:
    value = json.loads((VECTORS / entry["file"]).read_bytes())
    valid = jsonschema.Draft202012Validator(SCHEMA).is_valid(value)
    shape_is_wrong = entry["error"] in ("RecordError", "UnsupportedError") and entry["file"] != "duplicate.json"
    assert valid == (not shape_is_wrong or entry["file"] in SEEN_BY_A_READER_ONLY)


def test_the_second_implementation_as_a_command() -> None:
    command = [sys.executable, str(ROOT / "spec" / "check_machine.py"), str(VECTORS / "compact.json")]
    keys = {name: INDEX["devices"][of]["device_key"] for name, of in (("camera", "b"), ("drive", "c"))}
    arguments = [part for name, key in keys.items() for part in ("--device-key", f"{name}={key}")]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, json.loads(done.stdout)["machine_key"]) == (0, KEY)
    done = subprocess.run([*command, *arguments[:2]], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, json.loads(done.stdout)["error"]) == (3, "PartsError")
