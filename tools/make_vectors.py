"""Write spec/vectors: small good files, files with one failure each, and an index of what a reader must say of each.

    python tools/make_vectors.py [--new-encapsulations] [FOLDER]

Deterministic. Every random byte comes from SHAKE-256 over a fixed seed: ``secrets.token_bytes`` is replaced while the
package binds, and slots are sealed by spec/hpke_base.py with an ephemeral key from the same stream, since the HPKE of
``cryptography`` draws its own; what ML-KEM drew is kept in encapsulations.json. The chunk is the smallest allowed, so
that small tensors have several. The keys in the index are test keys.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "spec"))

import hpke_base
from encapsulations import encapsulation

from unclone import keys
from unclone.errors import UncloneError
from unclone.records import Slot

ROOT = Path(__file__).resolve().parent.parent
SEED = b"unclone spec vectors, version 1"
CHUNK = 1 << 16


class Stream:
    """Bytes of SHAKE-256(seed || label), one stream for each label."""

    def __init__(self, label: str) -> None:
        self._label = label.encode()
        self._taken = 0

    def take(self, count: int | None = None) -> bytes:
        count = 32 if count is None else count
        start, self._taken = self._taken, self._taken + count
        return hashlib.shake_256(SEED + b"/" + self._label).digest(self._taken)[start:]


def seal_with(stream: Stream, suite: str, public: bytes, info: bytes, plaintext: bytes) -> bytes:
    """``enc || ciphertext`` by the second implementation, the ephemeral key from a stream."""
    ephemeral = stream.take(32)
    if suite == keys.HYBRID:
        drawn = encapsulation(public, draw_missing="--new-encapsulations" in sys.argv)
        return b"".join(hpke_base.seal_hybrid(public, info, plaintext, drawn, ephemeral))
    return b"".join(hpke_base.seal(public, info, plaintext, ephemeral))


@contextmanager
def seeded(label: str) -> Iterator[None]:
    """Inside, the package draws from ``Stream(label)`` and its chunk is ``CHUNK``."""
    stream = Stream(label)

    def seal(content_key: bytes, public: bytes, file_id: bytes, suite: str) -> Slot:
        sealed = seal_with(stream, suite, public, keys.LABELS["slot"] + file_id, content_key)
        return Slot(suite, keys.slot_hint(public, file_id), sealed)

    with (
        mock.patch.object(secrets, "token_bytes", stream.take),
        mock.patch("unclone.model.binding.seal_slot", seal),
        mock.patch("unclone.model.binding.CHUNK", CHUNK),
    ):
        yield


class Folder:
    """The vectors as they are written, and their index: one line for each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.devices: dict[str, dict[str, str]] = {}
        self.index: list[dict[str, Any]] = []

    def good(self, name: str, data: bytes, what: str, **members: Any) -> None:
        self._add(name, data, what, {"error": None, "exit_code": 0, **members})

    def bad(self, name: str, data: bytes, what: str, error: type[UncloneError], **members: Any) -> None:
        self._add(name, data, what, {"error": error.__name__, "exit_code": error.exit_code, **members})

    def _add(self, name: str, data: bytes, what: str, members: dict[str, Any]) -> None:
        if any(entry["file"] == name for entry in self.index):
            raise ValueError(f"two vectors are called {name}")
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        self.index.append({"file": name, "what": what, **members})

    def write_index(self) -> None:
        """``vectors.json``: the devices' test keys, then what a reader must say of each file."""
        devices = ",\n  ".join(f"{json.dumps(name)}: {json.dumps(keys)}" for name, keys in self.devices.items())
        vectors = ",\n  ".join(json.dumps(entry) for entry in self.index)
        text = f'{{\n "devices": {{\n  {devices}\n }},\n "vectors": [\n  {vectors}\n ]\n}}\n'
        (self.path / "vectors.json").write_bytes(text.encode("ascii"))


def make(path: Path) -> None:
    """Write all vectors and ``vectors.json`` to a folder."""
    import licence_vectors
    import model_vectors
    import record_vectors

    folder = Folder(path)
    record_vectors.make(folder)
    model_vectors.make(folder)
    licence_vectors.make(folder)
    folder.write_index()


if __name__ == "__main__":
    folders = [argument for argument in sys.argv[1:] if not argument.startswith("--")]
    make(Path(folders[0]) if folders else ROOT / "spec" / "vectors")
