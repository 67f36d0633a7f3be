"""The vectors of spec/extractor.md: this package and the independent reader agree on all of them."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from unclone import extractor
from unclone.errors import RecordError
from unclone.records import HelperData

ROOT = Path(__file__).parents[2]
VECTORS = sorted((ROOT / "spec" / "vectors" / "extractor").glob("*.json"))


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
def test_vector(path):
    vector = json.loads(path.read_text())
    helper = HelperData(vector["helper"]["scheme"], vector["helper"]["fields"])
    reading = np.zeros((1, 64), dtype=np.uint8)
    if vector.get("refuse"):
        with pytest.raises(RecordError):
            extractor.reproduce(reading, helper)
        return
    rows = [np.unpackbits(np.frombuffer(bytes.fromhex(text), dtype=np.uint8)) for text in vector["readings"]]
    bits = vector["helper"]["fields"]["bits"]
    if bits <= len(rows[0]) < bits + 8:
        rows = [row[:bits] for row in rows]
    candidates = extractor.reproduce(np.stack(rows), helper)
    assert (bytes.fromhex(vector["secret"]) in candidates) == (vector["expect"] == "secret")


def test_there_are_vectors_of_both_sorts():
    assert len([path for path in VECTORS if path.stem.startswith("refuse-")]) >= 30
    assert len([path for path in VECTORS if not path.stem.startswith("refuse-")]) >= 30


def test_the_independent_reader_agrees():
    program = ROOT / "spec" / "check_extractor.py"
    run = subprocess.run([sys.executable, program, *VECTORS], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout
    assert f"{len(VECTORS)} vectors, 0 failed" in run.stdout


def test_the_independent_reader_can_fail(tmp_path):
    program = ROOT / "spec" / "check_extractor.py"
    vector = json.loads(next(path for path in VECTORS if path.stem == "erasure-clean").read_text())
    vector["secret"] = "00" * (len(vector["secret"]) // 2)
    (tmp_path / "wrong.json").write_text(json.dumps(vector))
    run = subprocess.run(
        [sys.executable, program, tmp_path / "wrong.json"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 1


def test_the_independent_reader_imports_the_standard_library_alone():
    tree = ast.parse((ROOT / "spec" / "check_extractor.py").read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in names} <= sys.stdlib_module_names


def test_the_vectors_are_what_the_tool_makes(tmp_path):
    subprocess.run([sys.executable, ROOT / "tools" / "make_extractor_vectors.py", tmp_path], check=True)
    made = {path.name: path.read_text() for path in tmp_path.glob("*.json")}
    assert made == {path.name: path.read_text() for path in VECTORS}
