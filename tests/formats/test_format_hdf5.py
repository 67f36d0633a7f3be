"""HDF5: every dtype, the ordinary library, links, and files meant to hurt."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import unclone
from unclone import canonical
from unclone.errors import AlreadyBoundError, FormatError, NoWeightsError, TamperedError, UncloneError, UnsupportedError
from unclone.formats import hdf5_child, hdf5_tree
from unclone.formats.hdf5 import Hdf5
from unclone.formats.hdf5_block import FIXED_BYTES, MAGIC, SIGNATURE, block_size
from unclone.records import Device, DeviceKey

h5py = pytest.importorskip("h5py", reason="h5py is not installed")

DTYPES = ["<f2", "<f4", "<f8", "|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<c8", "<c16"]


def random_array(dtype: str, shape: tuple[int, ...], seed: int) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(seed)
    kind = np.dtype(dtype)
    count = int(np.prod(shape))
    if kind.kind in "fc":
        values = rng.normal(0, 0.1, count) + (1j * rng.normal(0, 0.1, count) if kind.kind == "c" else 0)
        return values.astype(kind).reshape(shape)
    return np.frombuffer(rng.bytes(count * kind.itemsize), dtype=kind).reshape(shape)


def every_dtype(path: Path, libver: str = "earliest") -> dict[str, np.ndarray[Any, Any]]:
    arrays = {f"layers/{dtype[1:]}/vars/0": random_array(dtype, (5, 7), n) for n, dtype in enumerate(DTYPES)}
    arrays["optimizer/vars/0"] = np.array(17, dtype="<i8")
    with h5py.File(path, "w", libver=libver) as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array)
        file["layers"].attrs["note"] = ["ü", "text"]
        file.attrs["keras_version"] = "3"
        file.create_dataset("flags", data=np.array([True, False, True]))
        file.create_dataset("vocabulary", data=["alpha", "beta"])
        file.create_dataset("fixed", data=np.array([b"abc", b"def"]))
        file.create_dataset("none", data=np.zeros((0, 3), "<f4"))
        file.create_dataset("unwritten", (3,), "<f4")
        file.create_dataset("null", shape=None, dtype="<f4")
    return arrays


def made(path: Path, build: Callable[[Any], None]) -> Path:
    with h5py.File(path, "w") as file:
        build(file)
    return path


@pytest.mark.parametrize("bits", ["finite", "all"])
@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_every_dtype_is_masked_and_restored_to_the_bit(
    libver: str, bits: str, tmp_path: Path, device: Device, key: DeviceKey
) -> None:
    true = every_dtype(tmp_path / "m.h5", libver)
    bound = tmp_path / "b.h5"
    header = unclone.bind(tmp_path / "m.h5", device, bound, bits=bits)
    assert {tensor.name: tensor.reason for tensor in header.clear} == {
        "flags": "boolean",
        "vocabulary": "text",
        "fixed": "text",
        "none": "empty",
        "unwritten": "never written: it reads as its fill value",
        "null": "empty",
    }
    restored = unclone.restore(bound, key)
    assert {name: tensor.data.tobytes() for name, tensor in restored.items() if name != "flags"} == {
        name: array.tobytes() for name, array in true.items()
    }
    with h5py.File(tmp_path / "m.h5") as ordinary, h5py.File(bound) as opened:
        names: list[str] = []
        ordinary.visit(names.append)
        for name in names:
            a, b = ordinary[name], opened[name]
            assert type(a) is type(b)
            assert {key: str(value) for key, value in a.attrs.items()} == {k: str(v) for k, v in b.attrs.items()}
            if isinstance(a, h5py.Dataset):
                assert (a.shape, a.dtype) == (b.shape, b.dtype)
                if name in true and a.size > 1:
                    # A clear byte at the top of a float stays; of a whole array the value never does.
                    assert a[()].tobytes() != b[()].tobytes()
                    if bits == "finite" and a.dtype.kind in "fc":
                        assert np.isfinite(b[()]).all()
                elif name not in true:
                    assert repr(a[()]) == repr(b[()])


def test_the_ordinary_file_follows_its_user_block_unchanged(tmp_path: Path, device: Device) -> None:
    every_dtype(tmp_path / "m.h5")
    header = unclone.bind(tmp_path / "m.h5", device, tmp_path / "b.h5")
    before, after = (tmp_path / "m.h5").read_bytes(), (tmp_path / "b.h5").read_bytes()
    block = len(after) - len(before)
    assert block >= 512
    assert block & (block - 1) == 0
    masked = np.zeros(len(before), dtype=bool)
    regions = Hdf5().layout(tmp_path / "m.h5").regions
    for tensor in header.tensors:
        masked[regions[tensor.name].offset :][: tensor.nbytes] = True
    a, b = (np.frombuffer(data, dtype=np.uint8) for data in (before, after[block:]))
    assert np.array_equal(a[~masked], b[~masked])


@settings(max_examples=15, deadline=None)
@given(
    st.dictionaries(
        st.text("abc/ü ", min_size=1, max_size=6).filter(lambda name: all(part.strip() for part in name.split("/"))),
        st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 4), max_size=4)),
        min_size=1,
        max_size=5,
    )
)
def test_any_names_and_shapes_survive(
    tmp_path_factory: pytest.TempPathFactory, device: Device, key: DeviceKey, plan: dict[str, tuple[str, list[int]]]
) -> None:
    folder = tmp_path_factory.mktemp("round")
    arrays = {}
    with h5py.File(folder / "m.h5", "w") as file:
        for number, (name, (dtype, shape)) in enumerate(plan.items()):
            with contextlib.suppress(
                ValueError, TypeError
            ):  # a dataset stands where this name needs a group, or the reverse
                file.create_dataset(name, data=random_array(dtype, tuple(shape), number))
                arrays[name] = random_array(dtype, tuple(shape), number)
    if not any(array.nbytes for array in arrays.values()):
        with pytest.raises(NoWeightsError):
            unclone.bind(folder / "m.h5", device, folder / "b.h5")
        return
    unclone.bind(folder / "m.h5", device, folder / "b.h5")
    restored = unclone.restore(folder / "b.h5", key)
    with h5py.File(folder / "b.h5") as opened:
        for name, array in arrays.items():
            assert opened[name].shape == array.shape
            if array.nbytes:
                assert restored[name].data.tobytes() == array.tobytes()
                assert restored[name].shape == array.shape


def test_what_has_several_names_is_masked_once(tmp_path: Path, device: Device, key: DeviceKey) -> None:
    weight = random_array("<f4", (4, 4), 1)

    def build(file: Any) -> None:
        file.create_dataset("a/w", data=weight)
        file["b"] = file["a/w"]
        file["a/self"] = file["/a"]
        file["a/root"] = file["/"]
        file["soft"] = h5py.SoftLink("/a/w")
        file["dangling"] = h5py.SoftLink("/nowhere")

    header = unclone.bind(made(tmp_path / "m.h5", build), device, tmp_path / "b.h5")
    assert len(header.tensors) == 1
    assert unclone.restore(tmp_path / "b.h5", key)[header.tensors[0].name].data.tobytes() == weight.tobytes()
    with h5py.File(tmp_path / "b.h5") as opened:
        masked = opened["a/w"][()]
        assert np.array_equal(masked, opened["b"][()])
        assert np.array_equal(masked, opened["soft"][()])
        assert not np.array_equal(masked, weight)


def test_types_that_numpy_has_not(tmp_path: Path, device: Device, key: DeviceKey) -> None:
    raw = random_array("|u1", (12,), 3)

    def build(file: Any) -> None:
        file.create_dataset("bf", data=raw[:8].view("V2")).attrs["dtype"] = "bfloat16"  # as Keras writes it
        file.create_dataset("f8", data=raw.view("V1"))
        file.create_dataset("blob", data=raw.view("V6"))
        file.create_dataset("array", (1,), np.dtype(("<f4", (3,))))[...] = raw.view("<f4").reshape(1, 3)

    path = made(tmp_path / "m.h5", build)
    header = unclone.bind(path, device, tmp_path / "b.h5")
    assert {tensor.name: (tensor.dtype, tensor.shape) for tensor in header.tensors} == {
        "bf": ("bfloat16", (4,)),
        "f8": ("uint8", (12,)),
        "blob": ("uint8", (2, 6)),
        "array": ("float32", (1, 3)),
    }
    restored = unclone.restore(tmp_path / "b.h5", key)
    assert restored["blob"].data.tobytes() == raw.tobytes()
    assert restored["bf"].data.tobytes() == raw[:8].tobytes()


def test_a_bound_file_needs_no_library(tmp_path: Path, device: Device, key: DeviceKey) -> None:
    """Nothing is given to the HDF5 library before it is verified: restoring works where it cannot be imported."""
    every_dtype(tmp_path / "m.h5")
    unclone.bind(tmp_path / "m.h5", device, tmp_path / "b.h5")
    script = (
        "import sys; sys.modules['h5py'] = None\n"
        "import unclone\n"
        "unclone.restore(sys.argv[1], unclone.DeviceKey(bytes(range(32))))\n"
        "try: unclone.inspect(sys.argv[2])\n"
        "except unclone.errors.MissingExtraError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "b.h5", tmp_path / "m.h5"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "unclone[keras]" in done.stdout


def test_a_bound_file_is_not_bound_again(tmp_path: Path, device: Device) -> None:
    every_dtype(tmp_path / "m.h5")
    unclone.bind(tmp_path / "m.h5", device, tmp_path / "b.h5")
    with pytest.raises(AlreadyBoundError):
        unclone.bind(tmp_path / "b.h5", device, tmp_path / "c.h5")


def external(file: Any) -> None:
    file.create_dataset("w", (4,), "<f4", external=[("/etc/passwd", 0, 16)])


def virtual(file: Any) -> None:
    layout = h5py.VirtualLayout((4,), "<f4")
    layout[:] = h5py.VirtualSource("other.h5", "w", (4,))
    file.create_virtual_dataset("w", layout)


def compact(file: Any) -> None:
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_layout(h5py.h5d.COMPACT)
    h5py.h5d.create(file.id, b"w", h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple((3,)), creation)


def deep(file: Any) -> None:
    group = file
    for _ in range(400):
        group = group.create_group("g")
    group["w"] = np.ones(3)


REFUSED: dict[str, tuple[Callable[[Any], None], str]] = {
    "an external link": (lambda f: f.__setitem__("w", h5py.ExternalLink("o.h5", "/w")), "'w' is an external link"),
    "external storage": (external, "'w' keeps its values in other files"),
    "a virtual dataset": (virtual, "'w' keeps its values in other files"),
    "chunks": (
        lambda f: f.create_dataset("w", data=np.ones((8, 8)), chunks=(4, 4)),
        "'w' is stored in chunks.*h5repack",
    ),
    "a filter": (lambda f: f.create_dataset("w", data=np.ones(99), compression="gzip"), "'w' is stored in chunks"),
    "compact storage": (compact, "'w' is stored within its object header.*h5repack"),
    "big-endian": (lambda f: f.create_dataset("w", data=np.ones(3, ">f4")), "'w' is big-endian"),
    "long double": (lambda f: f.create_dataset("w", data=np.ones(3, np.longdouble)), "TypeFloatID of 16 bytes"),
    "a table": (lambda f: f.create_dataset("w", data=np.zeros(3, [("a", "<f4"), ("b", "<i4")])), "table of records"),
    "references": (lambda f: f.create_dataset("r", data=f.ref, dtype=h5py.ref_dtype), "'r' holds object references"),
    "a reference in an attribute": (lambda f: f.attrs.create("r", f.ref, dtype=h5py.ref_dtype), "attribute 'r'.*refer"),
    "lists of numbers": (lambda f: f.create_dataset("w", (2,), h5py.vlen_dtype("<f4")), "'w' has a datatype"),
    "weights in an attribute": (
        lambda f: f.attrs.__setitem__("w", np.ones(100)),
        "attribute 'w' of '/' holds an array",
    ),
    "a pandas table": (lambda f: f.create_group("df").attrs.__setitem__("pandas_type", "frame"), "written by pandas"),
    "400 groups in each other": (deep, "nest deeper than 256"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_masked_is_refused_by_name(name: str, tmp_path: Path) -> None:
    build, message = REFUSED[name]
    path = made(tmp_path / "m.h5", build)
    for read in (Hdf5().draft, Hdf5().layout):
        with pytest.raises(FormatError, match=message):
            read(path)


def test_a_user_block_of_someone_else_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "m.h5", "w", userblock_size=8192) as file:
        file["w"] = np.ones(3)
    with pytest.raises(UnsupportedError, match=r"user block of 8192 bytes.*h5unjam"):
        unclone.formats.detect(tmp_path / "m.h5").draft(tmp_path / "m.h5")


def test_two_datasets_on_the_same_bytes_are_refused(tmp_path: Path) -> None:
    def build(file: Any) -> None:
        file["a"], file["b"] = np.arange(64.0), np.arange(64.0) + 1

    path = made(tmp_path / "m.h5", build)
    places = Hdf5().layout(path).regions
    content = path.read_bytes()
    a, b = (places[name].offset.to_bytes(8, "little") for name in "ab")
    assert content.count(b) == 1
    path.write_bytes(content.replace(b, a))
    with pytest.raises(FormatError, match="shares bytes"):
        Hdf5().draft(path)
    path.write_bytes(content.replace(b, (len(content) - 8).to_bytes(8, "little")))
    with pytest.raises(FormatError):
        Hdf5().draft(path)


def test_metadata_is_read_up_to_a_limit_and_weights_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = made(tmp_path / "m.h5", lambda file: file.create_dataset("w", data=np.ones(1 << 20)))
    for limit in (1 << 15, 256):
        monkeypatch.setattr(hdf5_tree, "_READ_LIMIT", limit)
        with path.open("rb") as stream:
            view = hdf5_tree.View(stream.fileno(), 0, path.stat().st_size)
            if limit == 256:
                with pytest.raises(FormatError, match="more than 256 bytes of HDF5 metadata"):
                    hdf5_tree.tree_of(path, view)
            else:
                assert hdf5_tree.tree_of(path, view).datasets[0].nbytes == 8 << 20


def test_a_file_on_which_the_library_loops_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One byte of a local heap makes its list of free blocks a cycle, which release 2.0 follows for ever."""
    monkeypatch.setattr(hdf5_child, "_MEMORY_LIMIT", 512 << 20)  # the sooner it is over
    path = made(tmp_path / "m.h5", lambda file: file.create_dataset("group/w", data=np.ones(4)))
    assert len(Hdf5().draft(path).weights) == 1
    content = bytearray(path.read_bytes())
    for place in range(len(content) - 32):
        if content[place : place + 4] == b"HEAP":
            free, data = (int.from_bytes(content[place + n : place + n + 8], "little") for n in (16, 24))
            content[data + free : data + free + 8] = free.to_bytes(8, "little")
    path.write_bytes(content)
    with pytest.raises(FormatError, match="damaged"):
        Hdf5().draft(path)


def test_a_file_cut_anywhere_is_refused(tmp_path: Path, device: Device) -> None:
    path, bound = tmp_path / "m.h5", tmp_path / "b.h5"
    made(path, lambda file: file.create_dataset("a/w", data=np.arange(40.0)))
    unclone.bind(path, device, bound)
    for file in (path, bound):
        content = file.read_bytes()
        for length in range(0, len(content), 501):
            file.write_bytes(content[:length])
            with pytest.raises(FormatError):
                Hdf5().layout(file)


def block(header_nbytes: int, index: Any, *, index_nbytes: int | None = None, behind: bytes = b"") -> bytes:
    data = index if isinstance(index, bytes) else canonical.encode(index)
    length = len(data) if index_nbytes is None else index_nbytes
    start = MAGIC + header_nbytes.to_bytes(8, "little") + length.to_bytes(8, "little")
    start += b"{" * min(header_nbytes, 1000) + data
    return start + bytes(block_size(len(start)) - len(start)) + (behind or SIGNATURE + bytes(4096))


BLOCKS: dict[str, tuple[bytes, str]] = {
    "only the magic": (MAGIC, "truncated"),
    "a header of 2^63": (block(1 << 63, []), "longer than"),
    "an index of 2^63": (block(2, [], index_nbytes=1 << 63), "longer than"),
    "an index that is not there": (block(2, [], index_nbytes=1 << 20), "no HDF5 file"),
    "no HDF5 behind it": (block(2, [], behind=bytes(99)), "no HDF5 file"),
    "an index that is no JSON": (block(2, b"[[["), "malformed"),
    "an index that is not canonical": (block(2, b"[ ]"), "malformed"),
    "an index that is no list": (block(2, {}), "no list"),
    "an entry too short": (block(2, [["w", "float32"]]), "malformed entry"),
    "a negative offset": (block(2, [["w", "float32", [1], -8, 4]]), "malformed entry"),
    "a negative size": (block(2, [["w", "float32", [1], 64, -4]]), "malformed entry"),
    "a boolean size": (block(2, [["w", "float32", [True], 64, 4]]), "malformed entry"),
    "a shape that overflows": (block(2, [["w", "float32", [1 << 40, 1 << 40], 64, 4]]), "malformed entry"),
    "a name twice": (block(2, [["w", "float32", [1], 64, 4], ["w", "float32", [1], 96, 4]]), "twice"),
    "an overlap": (block(2, [["w", "float32", [1], 64, 4], ["v", "float32", [1], 66, 4]]), "overlaps"),
    "the superblock": (block(2, [["w", "float32", [1], 0, 4]]), "overlaps"),
    "an offset behind the end": (block(2, [["w", "float32", [1], 1 << 50, 4]]), "truncated"),
    "a size behind the end": (block(2, [["w", "float32", [1 << 50], 64, 1 << 52]]), "truncated"),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_a_hostile_user_block_is_refused_with_what_is_wrong(name: str, tmp_path: Path) -> None:
    content, message = BLOCKS[name]
    (tmp_path / "b.h5").write_bytes(content)
    with pytest.raises(FormatError, match=message):
        Hdf5().layout(tmp_path / "b.h5")


def test_any_altered_byte_of_a_bound_file_is_noticed(tmp_path: Path, device: Device, key: DeviceKey) -> None:
    made(tmp_path / "m.h5", lambda file: file.create_dataset("w", data=np.arange(9.0)))
    bound = tmp_path / "b.h5"
    unclone.bind(tmp_path / "m.h5", device, bound)
    content = bytearray(bound.read_bytes())
    places = [*range(0, len(content), 97), *range(len(MAGIC), FIXED_BYTES + 40), len(content) - 1]
    for place in places:
        content[place] ^= 1
        bound.write_bytes(content)
        content[place] ^= 1
        with pytest.raises((FormatError, TamperedError, unclone.errors.KeyMaterialError)):
            unclone.restore(bound, key)


@settings(max_examples=25, deadline=None)  # each starts a process
@given(data=st.data(), libver=st.sampled_from(["earliest", "latest"]))
def test_damage_never_escapes_the_error_tree(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, libver: str
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "m.h5"
    every_dtype(path, libver)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place : place + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    path.write_bytes(content)
    with contextlib.suppress(UncloneError):
        Hdf5().draft(path)


@pytest.fixture(scope="module")
def bound_content(tmp_path_factory: pytest.TempPathFactory, device: Device) -> bytes:
    folder = tmp_path_factory.mktemp("bound")
    made(folder / "m.h5", lambda file: file.create_dataset("w", data=np.arange(9.0)))
    unclone.bind(folder / "m.h5", device, folder / "b.h5")
    return (folder / "b.h5").read_bytes()


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_damage_to_a_user_block_never_escapes_the_error_tree(
    tmp_path_factory: pytest.TempPathFactory, bound_content: bytes, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "b.h5"
    content = bytearray(bound_content)
    spans = [(len(MAGIC), FIXED_BYTES + 8), (len(content) // 8, len(content) // 4), (0, len(content) // 2)]
    for _ in range(data.draw(st.integers(1, 4))):
        low, high = data.draw(st.sampled_from(spans))
        place = data.draw(st.integers(low, high))
        content[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    if not content.startswith(MAGIC):  # an ordinary file then, which is tested above
        return
    path.write_bytes(content)
    with contextlib.suppress(UncloneError):
        Hdf5().layout(path)


def test_the_named_folder_and_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="cannot read"):
        Hdf5().draft(tmp_path / "absent.h5")
    assert not os.listdir(tmp_path)
