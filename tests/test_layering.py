"""The layers of docs/architecture.md: who may import whom."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "unclone"

BASE = {"errors", "records", "canonical", "files", "hardening", "_version"}
DEVICE_HALF = {
    "puf",
    "extractor",
    "quality",
    "record_file",
    "device_file",
    "enrollment",
    "assessment",
    "providers",
    "machine",
}
MODEL_HALF = {"licence", "mask", "patterns", "header", "selection", "formats", "model"}
ALLOWED = {
    "errors": set(),
    "_version": set(),
    "canonical": set(),
    "hardening": {"errors"},
    "records": {"errors", "hardening"},
    "files": {"errors"},
    "quality": BASE,
    "keys": BASE,
    "puf": BASE,
    "extractor": BASE,
    "formats": BASE,
    "mask": BASE | {"keys"},
    "patterns": BASE | {"mask"},
    "header": BASE | {"keys", "mask"},
    "selection": BASE | {"keys", "mask", "header"},
    "record_file": BASE,
    "device_file": BASE | {"keys", "record_file"},
    "providers": BASE | {"keys", "puf"},
    "enrollment": BASE | {"keys", "quality", "puf", "providers", "extractor", "device_file"},
    "machine": BASE | {"keys", "record_file", "device_file", "enrollment"},
    "assessment": BASE | {"quality", "puf", "extractor", "enrollment"},
    "licence": BASE | {"keys"},
    "model": BASE | {"keys", "licence", "mask", "patterns", "header", "selection", "formats"},
    "runtime": BASE | {"licence", "model", "formats"},
}
PUBLIC = BASE | set(ALLOWED) | {"unclone"}
ALLOWED["fleet"] = PUBLIC
ALLOWED["lab"] = PUBLIC | {"fleet"}
ALLOWED["cli"] = PUBLIC | {"fleet", "lab"}
ALLOWED["__main__"] = {"cli"}
ALLOWED["__init__"] = {"_version", "device_file", "enrollment", "errors", "model", "puf", "records"}

LIGHT = {"numpy", "cryptography"}
EXTRAS = {
    "torch",
    "onnx",
    "onnxruntime",
    "sqlalchemy",
    "matplotlib",
    "serial",
    "safetensors",
    "ml_dtypes",
    "sklearn",
    "tpm2_pytss",
}


def modules() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def layer_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(path: Path, *, top_level_only: bool = False) -> set[str]:
    """Dotted names of everything a file imports."""
    tree = ast.parse(path.read_text())
    found = set()
    nodes = list(ast.walk(tree))
    if top_level_only:
        inner = {
            id(node) for f in nodes if isinstance(f, ast.FunctionDef | ast.AsyncFunctionDef) for node in ast.walk(f)
        }
        nodes = [node for node in nodes if id(node) not in inner]
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {
                f"{node.module}.{alias.name}" if node.module == "unclone" else node.module or "" for alias in node.names
            }
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_file_imports_only_the_layers_below_it(path: Path) -> None:
    layer = layer_of(path)
    for name in imports(path):
        if name.split(".")[0] == "unclone":
            other = name.split(".")[1] if "." in name else "unclone"
            other = other if (SOURCE / other).exists() or (SOURCE / f"{other}.py").exists() else "unclone"
            assert other == layer or other in ALLOWED[layer], f"{layer} may not import {other}"


def test_the_two_halves_meet_in_the_key_alone() -> None:
    for layer in DEVICE_HALF:
        assert not ALLOWED[layer] & MODEL_HALF
    for layer in MODEL_HALF:
        assert not ALLOWED[layer] & DEVICE_HALF


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_the_core_loads_extras_inside_functions_only(path: Path) -> None:
    if layer_of(path) in {"lab", "cli", "runtime", "fleet"}:
        return
    loaded = {name.split(".")[0] for name in imports(path, top_level_only=True)}
    assert not loaded & EXTRAS


def test_only_keys_derives_or_seals() -> None:
    for path in modules():
        if path.name != "keys.py" and layer_of(path) != "lab":
            assert not any("kdf" in name or "hpke" in name or "x25519" in name for name in imports(path)), path
