"""Sharded safetensors: one header for all shards, and folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

import unclone
from unclone import Device, DeviceKey
from unclone.errors import (
    AlreadyBoundError,
    FormatError,
    HeaderTamperedError,
    InputError,
    NotBoundError,
    OutputError,
    ParameterError,
    TamperedError,
    TensorTamperedError,
    UncloneError,
    UnsupportedError,
)

INDEX = "model.safetensors.index.json"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(4)
    folder = tmp_path / "plain"
    folder.mkdir()
    halves: list[dict[str, np.ndarray[Any, Any]]] = [
        {"embed": rng.normal(size=(64, 16)).astype(np.float32), "mask": np.ones(4, dtype=bool)},
        {"head": rng.normal(size=(16, 9)).astype(np.float16), "empty": np.zeros((0, 3), dtype=np.float32)},
    ]
    for name, tensors in zip(SHARDS, halves, strict=True):
        save_file(tensors, folder / name, metadata={"format": "pt"})
    placed = {tensor: name for name, half in zip(SHARDS, halves, strict=True) for tensor in half}
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 4388}, "weight_map": placed, "odd": [1]}))
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "vocab.txt").write_text("a b c")
    return folder


def everything(folder: Path) -> dict[str, np.ndarray[Any, Any]]:
    index = json.loads((folder / INDEX).read_text())
    return {name: load_file(folder / shard)[name] for name, shard in index["weight_map"].items()}


@pytest.fixture
def bound(folder: Path, device: Device, tmp_path: Path) -> Path:
    unclone.bind(folder, device, tmp_path / "bound")
    return tmp_path / "bound"


def test_a_folder_round_trip(folder: Path, bound: Path, key: DeviceKey) -> None:
    plain, masked = everything(folder), everything(bound)
    assert {name: (v.shape, v.dtype) for name, v in plain.items()} == {
        name: (v.shape, v.dtype) for name, v in masked.items()
    }
    assert (masked["embed"] != plain["embed"]).mean() > 0.99
    assert (masked["head"] != plain["head"]).mean() > 0.9
    assert np.isfinite(masked["embed"]).all()
    for path in (bound, bound / INDEX):
        restored = unclone.restore(path, key)
        assert {name: restored[name].data.tobytes() for name in restored} == {n: v.tobytes() for n, v in plain.items()}
    index = json.loads((bound / INDEX).read_text())
    assert index["odd"] == [1]
    assert index["metadata"].pop("unclone")
    assert index["metadata"] == {"total_size": 4388}
    assert (bound / "tokenizer" / "vocab.txt").read_text() == "a b c"
    assert sorted(item.name for item in bound.iterdir()) == sorted(
        ["config.json", "tokenizer", INDEX, *set(index["weight_map"].values())]
    )
    header = unclone.inspect(bound)
    assert header.format == "safetensors-index"
    assert [(item.name, item.reason) for item in header.clear] == [("mask", "boolean")]


def test_every_byte_of_every_file_is_authenticated(bound: Path, key: DeviceKey) -> None:
    rng = np.random.default_rng(2)
    for path in sorted(bound.glob("model*")):
        data = path.read_bytes()
        for position in rng.choice(len(data), 60, replace=False):
            altered = bytearray(data)
            altered[position] ^= 1 << int(rng.integers(8))
            path.write_bytes(altered)
            with pytest.raises(UncloneError) as caught:
                unclone.restore(bound, key)
            assert isinstance(caught.value, InputError | TamperedError) or caught.value.exit_code == 3
        path.write_bytes(data)
    unclone.restore(bound, key)


def test_shards_of_another_binding(folder: Path, bound: Path, device: Device, key: DeviceKey, tmp_path: Path) -> None:
    unclone.bind(folder, device, tmp_path / "again")
    mine, theirs = (json.loads((place / INDEX).read_text())["weight_map"] for place in (bound, tmp_path / "again"))
    shutil.copy(tmp_path / "again" / theirs["head"], bound / mine["head"])
    with pytest.raises(TensorTamperedError, match="head"):
        unclone.restore(bound, key)
    (bound / mine["head"]).unlink()
    with pytest.raises(FormatError, match="missing"):
        unclone.restore(bound, key)


def test_swapped_places(bound: Path, key: DeviceKey) -> None:
    text = (bound / INDEX).read_text()
    (bound / INDEX).write_text(text.replace('"total_size": 4388', '"total_size": 4389'))
    with pytest.raises(HeaderTamperedError):
        unclone.restore(bound, key)


def edit(folder: Path, change: Any) -> None:
    index = json.loads((folder / INDEX).read_text())
    change(index)
    (folder / INDEX).write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda i: i["weight_map"].update(ghost=SHARDS[0]), "disagree on tensor 'ghost'"),
        (lambda i: i["weight_map"].pop("head"), "disagree on tensor 'head'"),
        (lambda i: i["weight_map"].update(head=SHARDS[0]), "disagree"),
        (lambda i: i["weight_map"].update(head="../model.safetensors"), "no plain file name"),
        (lambda i: i["weight_map"].update(head="/etc/passwd"), "no plain file name"),
        (lambda i: i["weight_map"].update(head=".."), "no plain file name"),
        (lambda i: i["weight_map"].update(head="gone.safetensors"), "missing"),
        (lambda i: i["weight_map"].update(head="tokenizer"), "no ordinary file"),
        (lambda i: i["weight_map"].update(head=7), "no text"),
        (lambda i: i.update(weight_map={}), "needs 'weight_map'"),
        (lambda i: i.update(weight_map=[1]), "needs 'weight_map'"),
        (lambda i: i.update(metadata=[1]), "needs 'weight_map'"),
    ],
)
def test_hostile_indices(folder: Path, device: Device, tmp_path: Path, change: Any, said: str) -> None:
    edit(folder, change)
    with pytest.raises(FormatError, match=said):
        unclone.bind(folder / INDEX, device, tmp_path / INDEX)
    assert not (tmp_path / INDEX).exists()


def test_hostile_texts(folder: Path, device: Device, tmp_path: Path) -> None:
    for text in ('{"weight_map":{"a":"b","a":"c"}}', "{", '{"a":' + "[" * 100_000, '{"weight_map":{"\\ud800":"b"}}'):
        (folder / INDEX).write_text(text)
        with pytest.raises(FormatError):
            unclone.bind(folder / INDEX, device, tmp_path / INDEX)


def test_links_out_of_the_folder(folder: Path, device: Device, tmp_path: Path) -> None:
    (folder / SHARDS[0]).rename(tmp_path / "elsewhere")
    (folder / SHARDS[0]).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FormatError, match="leads elsewhere"):
        unclone.bind(folder / INDEX, device, tmp_path / INDEX)
    (folder / SHARDS[0]).unlink()
    (folder / SHARDS[0]).symlink_to(folder / SHARDS[0])
    with pytest.raises(FormatError, match="missing"):
        unclone.bind(folder / INDEX, device, tmp_path / INDEX)


def test_what_is_bound_or_not(folder: Path, bound: Path, device: Device, key: DeviceKey, tmp_path: Path) -> None:
    with pytest.raises(AlreadyBoundError):
        unclone.bind(bound, device, tmp_path / "twice")
    with pytest.raises(NotBoundError):
        unclone.restore(folder, key)
    unclone.bind(folder / SHARDS[0], device, tmp_path / "shard.safetensors")
    shutil.copy(tmp_path / "shard.safetensors", folder / SHARDS[0])
    with pytest.raises(AlreadyBoundError, match="by itself"):
        unclone.bind(folder, device, tmp_path / "third")


def test_where_a_bound_index_goes(folder: Path, device: Device, key: DeviceKey, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="another folder"):
        unclone.bind(folder / INDEX, device, folder / "b.safetensors.index.json")
    with pytest.raises(ParameterError, match=r"index\.json"):
        unclone.bind(folder / INDEX, device, tmp_path / "b.safetensors")
    out = tmp_path / "out"
    out.mkdir()
    for _ in range(2):  # the second replaces the index last; older shards stay under their own names
        unclone.bind(folder / INDEX, device, out / INDEX, force=True)
        unclone.restore(out, key)
    assert len(list(out.glob("*.safetensors"))) == 4


def test_folders_that_are_refused(folder: Path, device: Device, tmp_path: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(UnsupportedError, match=r"pytorch_model\.bin"):
        unclone.bind(folder, device, tmp_path / "out")
    (folder / "pytorch_model.bin").unlink()
    (folder / "link").symlink_to("/etc/passwd")
    with pytest.raises(FormatError, match="link"):
        unclone.bind(folder, device, tmp_path / "out")
    (folder / "link").unlink()
    shutil.copy(folder / SHARDS[0], folder / "model.safetensors")
    with pytest.raises(FormatError, match="several models"):
        unclone.bind(folder, device, tmp_path / "out")
    (folder / "model.safetensors").unlink()
    for output in (folder, folder / "inside", tmp_path):
        with pytest.raises(OutputError):
            unclone.bind(folder, device, output, force=True)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FormatError, match="is a folder"):
        unclone.bind(tmp_path / "empty", device, tmp_path / "out")
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="is a file"):
        unclone.bind(folder, device, tmp_path / "file", force=True)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["empty", "file", "plain"]


def test_a_folder_replaces_a_folder(folder: Path, bound: Path, device: Device, key: DeviceKey, tmp_path: Path) -> None:
    (bound / "old").write_text("x")
    with pytest.raises(OutputError, match="--force"):
        unclone.bind(folder, device, bound)
    before = unclone.inspect(bound).file_id
    unclone.bind(folder, device, bound, force=True, share=0.5)
    assert unclone.inspect(bound).file_id != before
    assert not (bound / "old").exists()
    unclone.restore(bound, key)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["bound", "plain"]


def test_a_single_file_in_a_folder(folder: Path, device: Device, key: DeviceKey, tmp_path: Path) -> None:
    single = tmp_path / "single"
    single.mkdir()
    shutil.copy(folder / SHARDS[0], single / "model.safetensors")
    unclone.bind(single, device, tmp_path / "out")
    assert unclone.inspect(tmp_path / "out").format == "safetensors"
    assert (
        unclone.restore(tmp_path / "out", key)["embed"].data.tobytes()
        == load_file(folder / SHARDS[0])["embed"].tobytes()
    )


@given(st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_indices(bound: Path, key: DeviceKey, data: st.DataObject) -> None:
    text = (bound / INDEX).read_bytes()
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 40)))
    altered = text[:start] + data.draw(st.binary(max_size=6)) + text[end:]
    try:
        (bound / INDEX).write_bytes(altered)
        if altered != text:
            with pytest.raises(UncloneError):
                unclone.restore(bound, key)
    finally:
        (bound / INDEX).write_bytes(text)


@pytest.mark.parametrize(
    "name", ["model.onnx_data", "old.safetensors.bak", "all.zip", "weights", "w.pdparams", "x.part"]
)
def test_what_may_be_weights_is_not_copied(folder: Path, device: Device, tmp_path: Path, name: str) -> None:
    shutil.copy(folder / SHARDS[0], folder / "tokenizer" / name)
    with pytest.raises(UnsupportedError, match=name):
        unclone.bind(folder, device, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_hidden_folders_are_not_copied(folder: Path, device: Device, tmp_path: Path) -> None:
    for place in (".git/lfs/objects/ab/abcdef", ".cache/huggingface/download/x.incomplete"):
        (folder / place).parent.mkdir(parents=True)
        shutil.copy(folder / SHARDS[0], folder / place)
    (folder / ".gitattributes").write_text("*.safetensors filter=lfs")
    unclone.bind(folder, device, tmp_path / "out")
    assert {item.name for item in (tmp_path / "out").iterdir() if item.name.startswith(".")} == {".gitattributes"}


def test_linked_folders_are_refused(folder: Path, device: Device, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (folder / "more").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FormatError, match="link"):
        unclone.bind(folder, device, tmp_path / "out")


def test_force_replaces_no_foreign_folder(folder: Path, device: Device, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.txt").write_text("x")
    with pytest.raises(OutputError, match="no folder of a bound model"):
        unclone.bind(folder, device, home, force=True)
    shutil.copytree(folder, tmp_path / "ordinary")
    with pytest.raises(OutputError, match="no folder of a bound model"):
        unclone.bind(folder, device, tmp_path / "ordinary", force=True)
    assert (home / "thesis.txt").read_text() == "x"
    assert (tmp_path / "ordinary" / SHARDS[0]).read_bytes() == (folder / SHARDS[0]).read_bytes()


def test_an_index_may_start_with_a_blank(folder: Path, device: Device, key: DeviceKey, tmp_path: Path) -> None:
    (folder / INDEX).write_text("\n " + (folder / INDEX).read_text())
    unclone.bind(folder, device, tmp_path / "out")
    assert set(unclone.restore(tmp_path / "out", key)) == set(everything(folder))
