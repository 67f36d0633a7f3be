"""PyTorch checkpoints: every dtype and kind of tensor, torch's own loader, and files meant to hurt."""

from __future__ import annotations

import argparse
import collections
import contextlib
import io
import pickle
import random as rng
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import unclone
from unclone.errors import (
    AlreadyBoundError,
    FormatError,
    NoWeightsError,
    ParameterError,
    UncloneError,
    UnsupportedError,
)
from unclone.formats.torch_zip import TorchZip
from unclone.records import Device, DeviceKey, Header

torch = pytest.importorskip("torch", reason="torch is not installed")

from unclone.runtime.torch import load, object_of  # noqa: E402

FLOATS = ["float16", "bfloat16", "float32", "float64", "float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu"]
INTEGERS = ["int8", "uint8", "int16", "int32", "int64", "uint16", "uint32", "uint64"]
COMPLEX = ["complex64", "complex128"]
DTYPES = [*FLOATS, "float8_e4m3fnuz", "float8_e5m2fnuz", *INTEGERS, *COMPLEX]


def random(dtype: str, shape: tuple[int, ...] = (4, 6), seed: int = 1) -> Any:
    generator = torch.Generator().manual_seed(seed)
    if dtype in INTEGERS:
        item = getattr(torch, dtype).itemsize
        return torch.randint(0, 256, (*shape, item), dtype=torch.uint8, generator=generator).view(
            getattr(torch, dtype)
        )[..., 0]
    if dtype in COMPLEX:
        return torch.randn(shape, dtype=torch.complex64, generator=generator).to(getattr(torch, dtype))
    return (torch.randn(shape, generator=generator) * 0.1).to(getattr(torch, dtype))


def raw(tensor: Any) -> bytes:
    return bytes(tensor.detach().clone().contiguous().reshape(-1).view(torch.uint8).numpy()) if tensor.numel() else b""


def same(a: Any, b: Any) -> bool:
    """Same types, shapes, bytes, flags, in the same containers."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return (a.dtype, a.shape, a.stride(), a.requires_grad, raw(a)) == (
            b.dtype, b.shape, b.stride(), b.requires_grad, raw(b),
        )  # fmt: skip
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[name], b[name]) for name in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def bind(folder: Path, value: Any, device: Device, **options: Any) -> Header:
    torch.save(value, folder / "m.pt")
    return unclone.bind(folder / "m.pt", device, folder / "b.pt", **options)


@pytest.mark.parametrize("bits", ["finite", "all"])
def test_every_dtype_is_masked_and_restored_to_the_bit(
    bits: str, tmp_path: Path, device: Device, key: DeviceKey
) -> None:
    tensors = {f"layer.{name}": random(name) for name in DTYPES} | {"flags": torch.arange(9) % 2 == 0}
    header = bind(tmp_path, tensors, device, bits=bits)
    assert {tensor.name for tensor in header.clear} == {"flags"}
    assert {tensor.name for tensor in header.tensors} == set(tensors) - {"flags"}
    assert all(tensor.shape == (4, 6) for tensor in header.tensors)
    masked = torch.load(tmp_path / "b.pt", weights_only=True)
    assert list(masked) == list(tensors)
    for name, tensor in tensors.items():
        assert (masked[name].dtype, masked[name].shape) == (tensor.dtype, tensor.shape)
        assert (raw(masked[name]) == raw(tensor)) == (name == "flags")
        if bits == "finite" and name.split(".")[-1] in ("float16", "bfloat16", "float32", "float64", *COMPLEX):
            assert masked[name].isfinite().all()
    assert same(load(tmp_path / "b.pt", key), tensors)
    with pytest.raises(AlreadyBoundError):
        unclone.bind(tmp_path / "b.pt", device, tmp_path / "c.pt")


def network() -> Any:
    torch.manual_seed(3)
    return torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.BatchNorm1d(8), torch.nn.ReLU(), torch.nn.Linear(8, 3))


def checkpoint() -> dict[str, Any]:
    """What a training script saves: state, optimizer, schedule, and things beside tensors."""
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model(torch.randn(4, 6)).sum().backward()
    optimizer.step()
    return {
        "epoch": 7,
        "state_dict": collections.OrderedDict(("module." + name, item) for name, item in model.state_dict().items()),
        "optimizer": optimizer.state_dict(),
        "loss": [0.5, 0.25],
        "history": [n / 7 for n in range(500)],
        "args": {"lr": 1e-3, "names": ("a", None, True), "ü": {1: "x"}, "size": torch.Size([2, 3])},
        "seen": {1, 2},
        "z": complex(1, 2),
        "blob": b"\x00\xff",
        "dtype": torch.bfloat16,
    }


def test_a_training_checkpoint_comes_back_as_it_was(tmp_path: Path, device: Device, key: DeviceKey) -> None:
    value = checkpoint()
    header = bind(tmp_path, value, device)
    names = {tensor.name for tensor in header.tensors}
    assert "state_dict/module.0.weight" in names
    assert "optimizer/state/0/exp_avg" in names
    assert {(tensor.name, tensor.reason) for tensor in header.clear} == {
        ("state_dict/module.1.num_batches_tracked", "index or counter, by its name"),
        ("history", "numbers in the pickle"),
    }
    assert same(load(tmp_path / "b.pt", key), torch.load(tmp_path / "m.pt", weights_only=True))
    masked = torch.load(tmp_path / "b.pt", weights_only=True)
    assert masked["args"] == value["args"]
    assert raw(masked["optimizer"]["state"][0]["exp_avg"]) != raw(value["optimizer"]["state"][0]["exp_avg"])


def test_tied_weights_and_views_stay_tied(tmp_path: Path, device: Device, key: DeviceKey) -> None:
    base = torch.randn(6, 8)
    parameter = torch.nn.Parameter(torch.randn(4))
    value = {
        "head": base,
        "embedding": base,
        "transposed": base.T,
        "slice": base[2:5, ::2],
        "parameter": parameter,
        "alias": parameter,
        "tail": torch.randn(10)[3:],
        "list": [base[0]],
    }
    header = bind(tmp_path, value, device)
    assert [(tensor.name, tensor.shape) for tensor in header.tensors] == [
        ("head", (6, 8)),
        ("parameter", (4,)),
        ("tail", (10,)),
    ]
    loaded = load(tmp_path / "b.pt", key)
    assert same(loaded, value)
    assert isinstance(loaded["parameter"], torch.nn.Parameter)
    assert loaded["alias"] is loaded["parameter"]
    loaded["head"].zero_()
    assert not any(loaded[name].any() for name in ("embedding", "transposed", "slice"))
    masked = torch.load(tmp_path / "b.pt", weights_only=True)
    assert masked["head"].data_ptr() == masked["embedding"].data_ptr()


def test_tensors_of_other_kinds(tmp_path: Path, device: Device, key: DeviceKey) -> None:
    tagged = torch.nn.Parameter(torch.randn(3))
    tagged.tag = "kept"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch, of quantised and compressed layouts
        value = {
            "sparse": torch.sparse_coo_tensor([[0, 2], [1, 3]], torch.randn(2), (3, 4)),
            "csr": torch.randn(4, 4).to_sparse_csr(),
            "q": torch.quantize_per_tensor(torch.randn(5), 0.1, 3, torch.quint8),
            "channels": torch.quantize_per_channel(
                torch.randn(2, 5), torch.tensor([0.1, 0.2]), torch.tensor([1, 2]), 0, torch.qint8
            ),
            "tagged": tagged,
            "empty": torch.zeros(0, 3),
            "scalar": torch.tensor(2.5),
            "storage": torch.randn(3).untyped_storage(),
            "conj": torch.randn(3, dtype=torch.complex64).conj(),
            "meta": torch.empty(3, device="meta"),
        }
        header = bind(tmp_path, value, device)
        loaded = load(tmp_path / "b.pt", key)
        plain = torch.load(tmp_path / "m.pt", weights_only=True)
        masked = torch.load(tmp_path / "b.pt", weights_only=True)
    reasons = {tensor.name: tensor.reason for tensor in header.clear}
    assert reasons == {
        "sparse/indices0": "positions of a sparse tensor",
        "csr/indices0": "positions of a sparse tensor",
        "csr/indices1": "positions of a sparse tensor",
        "channels/scales": "scale of a quantised tensor",
        "channels/zero_points": "zero point of a quantised tensor",
    }
    assert torch.equal(loaded["sparse"].to_dense(), plain["sparse"].to_dense())
    assert torch.equal(loaded["csr"].to_dense(), plain["csr"].to_dense())
    assert not torch.equal(masked["csr"].to_dense(), plain["csr"].to_dense())
    assert torch.equal(masked["csr"].col_indices(), plain["csr"].col_indices())
    for name in ("q", "channels"):
        assert torch.equal(loaded[name].int_repr(), plain[name].int_repr())
        assert not torch.equal(masked[name].int_repr(), plain[name].int_repr())
        assert torch.isfinite(masked[name].dequantize()).all()
    assert loaded["tagged"].tag == "kept"
    assert same(loaded["tagged"], plain["tagged"])
    assert same(loaded["empty"], value["empty"])
    assert same(loaded["scalar"], value["scalar"])
    assert torch.equal(loaded["conj"], value["conj"])
    assert loaded["meta"].is_meta
    assert bytes(loaded["storage"]) == bytes(value["storage"]) != bytes(masked["storage"])


def cuda_checkpoint(path: Path) -> None:
    """A checkpoint as a machine with a card writes it: the locations in its pickle say cuda:0."""
    torch.save({"w": torch.arange(6.0)}, path)
    out = io.BytesIO()
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(out, "w") as target:
        for name in archive.namelist():
            data = archive.read(name)
            if name.endswith("data.pkl"):
                data = data.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0")
            target.writestr(name, data)
    path.write_bytes(out.getvalue())


def test_saved_on_a_card(tmp_path: Path, device: Device, key: DeviceKey) -> None:
    cuda_checkpoint(tmp_path / "m.pt")
    unclone.bind(tmp_path / "m.pt", device, tmp_path / "b.pt")
    assert load(tmp_path / "b.pt", key, map_location="cpu")["w"].tolist() == [0, 1, 2, 3, 4, 5]
    assert load(tmp_path / "b.pt", key, map_location="meta")["w"].is_meta
    if not torch.cuda.is_available():
        with pytest.raises(ParameterError, match="map_location"):
            load(tmp_path / "b.pt", key)


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(
        st.one_of(st.text(max_size=8), st.integers(-9, 9)),
        st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 4), max_size=4), st.integers(0, 2)),
        min_size=1,
        max_size=5,
    )
)
def test_any_names_shapes_and_nesting_survive(
    tmp_path_factory: pytest.TempPathFactory, device: Device, key: DeviceKey, plan: dict[Any, Any]
) -> None:
    folder = tmp_path_factory.mktemp("round")
    value: dict[Any, Any] = {}
    for number, (name, (dtype, shape, depth)) in enumerate(plan.items()):
        item: Any = random(dtype, tuple(shape), number)
        for _ in range(depth):
            item = {str(name): item}
        value[name] = item
    torch.save(value, folder / "m.pt")
    leaves = [item for item in _leaves(value) if item.numel()]
    if not leaves:
        with pytest.raises(NoWeightsError):
            unclone.bind(folder / "m.pt", device, folder / "b.pt")
        return
    unclone.bind(folder / "m.pt", device, folder / "b.pt")
    assert same(load(folder / "b.pt", key), value)
    torch.load(folder / "b.pt", weights_only=True)


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in _leaves(item)]
    return [value]


def test_data_stays_aligned_and_every_other_byte_in_its_place(tmp_path: Path, device: Device) -> None:
    bind(tmp_path, checkpoint(), device)
    ordinary, bound = TorchZip().layout(tmp_path / "m.pt"), TorchZip().layout(tmp_path / "b.pt")
    assert ordinary.regions == bound.regions
    assert all(region.offset % 64 == 0 for region in bound.regions.values())
    with zipfile.ZipFile(tmp_path / "b.pt") as archive, zipfile.ZipFile(tmp_path / "m.pt") as plain:
        assert archive.testzip() is None
        assert archive.namelist() == plain.namelist()


class _Owned:
    def __reduce__(self) -> Any:
        return (exec, ("raise SystemExit('code was executed')",))


def pickled(value: Any) -> bytes:
    return pickle.dumps(value, protocol=2)


def tensor_pickle(storage: bytes = b"", size: bytes = b"K\x02\x85", stride: bytes = b"K\x01\x85") -> bytes:
    storage = storage or b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x02tQ"
    call = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00" + size + stride + b"\x89)tR"
    return b"\x80\x02}X\x01\x00\x00\x00w" + call + b"s."


def write(path: Path, pickle_bytes: bytes, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", pickle_bytes)
        for name, data in ({"data/0": bytes(8)} | members).items():
            archive.writestr("a/" + name, data)
    return path


def storage_of(
    kind: bytes = b"torch\nFloatStorage", key: bytes = b"X\x01\x00\x00\x000", numel: bytes = b"K\x02"
) -> bytes:
    return b"(X\x07\x00\x00\x00storagec" + kind + b"\n" + key + b"X\x03\x00\x00\x00cpu" + numel + b"tQ"


HOSTILE: dict[str, tuple[bytes, type[Exception], str]] = {
    "code": (pickled({"w": _Owned()}), UnsupportedError, "exec"),
    "a class": (pickled({"args": argparse.Namespace(a=1)}), UnsupportedError, "argparse.Namespace"),
    "another storage class": (tensor_pickle(storage_of(b"os\nsystem")), UnsupportedError, "os.system"),
    "a function as storage": (tensor_pickle(storage_of(b"torch\nSize")), FormatError, "malformed"),
    "a storage elsewhere": (tensor_pickle(storage_of(key=b"X\x05\x00\x00\x00../x0")), FormatError, "not in the arch"),
    "a storage of another size": (tensor_pickle(storage_of(numel=b"K\x03")), FormatError, "bytes instead of"),
    "a negative size": (tensor_pickle(size=b"J\xff\xff\xff\xff\x85"), FormatError, "malformed"),
    "beyond the storage": (tensor_pickle(size=b"K\x03\x85"), FormatError, "leaves its storage"),
    "a stride beyond the storage": (tensor_pickle(stride=b"K\x09\x85"), FormatError, "leaves its storage"),
    "a huge size": (tensor_pickle(size=b"\x8a\x09" + b"\xff" * 8 + b"\x00\x85"), FormatError, "malformed"),
    "two types of one storage": (
        tensor_pickle()[:-2] + b"X\x01\x00\x00\x00vctorch._utils\n_rebuild_tensor_v2\n("
        + storage_of(b"torch\nHalfStorage") + b"K\x00K\x02\x85K\x01\x85\x89)tRu."[:-2] + b"s.",
        FormatError,
        "malformed|two types",
    ),
    "an unknown opcode": (b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00\x00}.", UnsupportedError, "FRAME"),
    "no end": (b"\x80\x02}", FormatError, "pickle"),
    "nothing": (b"", FormatError, "pickle"),
    "an empty stack": (b"\x80\x02.", FormatError, "malformed"),
    "a mark alone": (b"\x80\x02(.", FormatError, "malformed"),
    "an unknown memo": (b"\x80\x02h\x07.", FormatError, "malformed"),
    "tuples in tuples": (b"\x80\x02)" + b"\x85" * 200_000 + b".", FormatError, "nested"),
    "a bomb of tuples": (
        b"\x80\x02)" + b"".join(b"q" + bytes([n]) + b"h" + bytes([n]) + b"\x86" for n in range(200)) + b".",
        FormatError,
        "nested",
    ),
    "a bomb of calls": (
        b"\x80\x02ccollections\nCounter\nq\x00}(" + b"NN" * 3000 + b"u\x85Rq\x01"
        + b"h\x00h\x01\x85Rq\x01" * 1500 + b".",
        FormatError,
        "steps",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_pickles_are_refused_and_never_run(what: str, tmp_path: Path, device: Device) -> None:
    content, kind, message = HOSTILE[what]
    path = write(tmp_path / "m.pt", content)
    with pytest.raises(kind, match=message):
        unclone.bind(path, device, tmp_path / "b.pt")
    assert not (tmp_path / "b.pt").exists()


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_bit_flips_in_the_pickle(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("flips", numbered=True)
    content = bytearray(tensor_pickle())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with contextlib.suppress(UncloneError):
        TorchZip().draft(write(folder / "m.pt", bytes(content)))


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"constants.pkl": b"", "code/x.py": b""}, "TorchScript"),
        ({"archive_format": b"pt2"}, "torch.export"),
        ({".data/extern_modules": b""}, "torch.package"),
        ({"byteorder": b"big"}, "big-endian"),
        ({"data/1": bytes(8)}, "belongs to no tensor"),
        ({"extra.bin": bytes(8)}, "nothing that torch.save writes"),
    ],
)
def test_other_archives_are_refused_by_name(
    members: dict[str, bytes], message: str, tmp_path: Path, device: Device
) -> None:
    path = write(tmp_path / "m.pt", tensor_pickle(), **members)
    with pytest.raises(UnsupportedError, match=message):
        unclone.bind(path, device, tmp_path / "b.pt")


def test_a_real_torchscript_archive(tmp_path: Path, device: Device) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(tmp_path / "m.pt"))
    with pytest.raises(UnsupportedError, match="TorchScript"):
        unclone.bind(tmp_path / "m.pt", device, tmp_path / "b.pt")


def test_files_of_before_1_6_and_whole_models(tmp_path: Path, device: Device) -> None:
    torch.save({"w": torch.ones(3)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(UnsupportedError, match="pickle"):
        unclone.bind(tmp_path / "old.pt", device, tmp_path / "b.pt")
    torch.save(network(), tmp_path / "whole.pt")
    with pytest.raises(UnsupportedError, match="state dict"):
        unclone.bind(tmp_path / "whole.pt", device, tmp_path / "b.pt")


def test_a_restored_image_is_the_ordinary_file_to_torch(tmp_path: Path, device: Device, key: DeviceKey) -> None:
    value = checkpoint()
    bind(tmp_path, value, device)
    restored = unclone.restore(tmp_path / "b.pt", key)
    with (tmp_path / "b.pt").open("r+b") as stream:
        for name, tensor in restored.items():
            stream.seek(restored.layout.regions[name].offset)
            stream.write(tensor.data.tobytes())
        stream.flush()
        TorchZip().mend(restored.layout, [stream])
    assert same(torch.load(tmp_path / "b.pt", weights_only=True), torch.load(tmp_path / "m.pt", weights_only=True))


def test_flipped_bits_of_a_bound_file_are_found(tmp_path: Path, device: Device, key: DeviceKey) -> None:
    bind(tmp_path, {"w": torch.ones(20), "step": 3}, device)
    content = (tmp_path / "b.pt").read_bytes()
    for bit in rng.Random(3).sample(range(8 * len(content)), 200):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << (bit % 8)
        (tmp_path / "c.pt").write_bytes(changed)
        with pytest.raises(UncloneError):
            load(tmp_path / "c.pt", key)


def test_a_checkpoint_needs_every_tensor(tmp_path: Path, device: Device, key: DeviceKey) -> None:
    bind(tmp_path, {"a": torch.ones(3), "b": torch.ones(3)}, device)
    with pytest.raises(FormatError, match="'b' was not restored"):
        object_of(unclone.restore(tmp_path / "b.pt", key, tensors=["a"]))
    restored = unclone.restore(tmp_path / "b.pt", key)
    (tmp_path / "b.pt").unlink()
    with pytest.raises(FormatError, match="cannot read"):
        object_of(restored)


def test_keys_that_look_alike(tmp_path: Path, device: Device, key: DeviceKey) -> None:
    value = {
        "a/b": torch.ones(3),
        "a": {"b": torch.ones(4)},
        1: torch.ones(5),
        "1": torch.ones(6),
        (1, 2): torch.ones(7),
        (3,): torch.ones(8),
        "\ud800": torch.ones(9),
        "": torch.ones(2),
        None: [torch.ones(1)],
    }
    header = bind(tmp_path, value, device)
    assert [tensor.name for tensor in header.tensors] == [
        "a/b", "a/b#1", "1", "1#3", "<tuple>", "<tuple>#5", "\\ud800", "", "<NoneType>/0",
    ]  # fmt: skip
    assert same(load(tmp_path / "b.pt", key), value)
    ambiguous = {"1#3": torch.ones(3), "x": torch.ones(1), 1: torch.ones(5), "1": torch.ones(6)}
    with pytest.raises(FormatError, match="two storages would be called '1#3'"):
        bind(tmp_path, ambiguous, device, force=True)


def test_a_cycle_ends(tmp_path: Path, device: Device, key: DeviceKey) -> None:
    value: dict[str, Any] = {"w": torch.ones(3)}
    value["self"] = value
    bind(tmp_path, value, device)
    loaded = load(tmp_path / "b.pt", key)
    assert loaded["self"] is loaded
    assert torch.equal(loaded["w"], value["w"])
