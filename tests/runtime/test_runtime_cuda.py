"""Kernels for a card, in Triton's interpreter: the processor's own path is the reference."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import unclone
from unclone.errors import FormatError, MissingExtraError, ResourceError, TensorTamperedError
from unclone.mask import CIPHERS
from unclone.records import Device, DeviceKey

torch: Any = pytest.importorskip("torch")
save_file: Any = pytest.importorskip("safetensors.numpy").save_file
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported, for good


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> str:
    """A device for the kernels: a card where there is one, the interpreter elsewhere."""
    pytest.importorskip("triton", reason="triton is not installed")
    from unclone.runtime import card_kernels

    monkeypatch.setattr(card_kernels, "BLOCKS", 16)
    return "cuda" if torch.cuda.is_available() else "cpu"


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from unclone.runtime import card_kernels

data = {"data": "*u8", "nbytes": "i64", "step": "i32", "pattern": "*u8", "period": "i32"}
last = {"tensor": "i32", "BLOCKS": "constexpr"}
more = {card_kernels.chacha20: {"key": "*u32"}, card_kernels.aes256: {"keys": "*u32", "table": "*u32"}}
for kernel, keys in more.items():
    signature = {**data, **keys, **last}
    source = ASTSource(kernel, signature=signature, constexprs={(len(signature) - 1,): card_kernels.BLOCKS})
    assert triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["cubin"]
"""


def test_the_kernels_compile_for_a_card() -> None:
    """The interpreter takes more than the compiler does."""
    pytest.importorskip("triton", reason="triton is not installed")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    subprocess.run([sys.executable, "-c", COMPILE], check=True, env=environment, timeout=200)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    rng = np.random.default_rng(1)
    save_file(
        {
            "a": rng.standard_normal((37, 11)).astype(np.float32),
            "b": rng.standard_normal(500).astype(np.float16),
            "c": rng.integers(-128, 128, 1001, dtype=np.int8),
            "empty": np.empty((0, 3), dtype=np.float32),
        },
        tmp_path / "m.safetensors",
    )
    return tmp_path / "m.safetensors"


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the interpreter's words wrap round
@pytest.mark.parametrize("cipher", CIPHERS)
@pytest.mark.parametrize("bits", ["finite", "all"])
def test_a_card_restores_what_the_processor_does(
    tmp_path: Path, model: Path, device: Device, key: DeviceKey, card: str, cipher: str, bits: str
) -> None:
    from unclone.runtime.cuda import load_file

    unclone.bind(model, device, tmp_path / "b.safetensors", bits=bits, cipher=cipher)
    found = load_file(tmp_path / "b.safetensors", key, card)
    with unclone.restore(tmp_path / "b.safetensors", key) as restored:
        assert set(found) == set(restored)
        for name, tensor in restored.items():
            assert tuple(found[name].shape) == tensor.shape
            assert found[name].cpu().numpy().tobytes() == tensor.data.tobytes()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_nothing_is_handed_out_before_the_tags_hold(
    tmp_path: Path, model: Path, device: Device, key: DeviceKey, card: str
) -> None:
    from unclone.runtime.cuda import load_file

    bound = tmp_path / "b.safetensors"
    unclone.bind(model, device, bound)
    content = bytearray(bound.read_bytes())
    content[-40] ^= 1
    bound.write_bytes(content)
    with pytest.raises(TensorTamperedError):
        load_file(bound, key, card)


def test_in_part_masked_models_come_by_the_processor(
    tmp_path: Path, model: Path, device: Device, key: DeviceKey, card: str
) -> None:
    from unclone.runtime.cuda import load_file

    unclone.bind(model, device, tmp_path / "b.safetensors", share=0.5, select="random")
    found = load_file(tmp_path / "b.safetensors", key, card)
    with unclone.restore(tmp_path / "b.safetensors", key) as restored:
        assert all(found[name].cpu().numpy().tobytes() == tensor.data.tobytes() for name, tensor in restored.items())


def test_without_a_card_or_triton_it_says_so(
    tmp_path: Path, model: Path, device: Device, key: DeviceKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unclone.runtime.cuda import load_file

    unclone.bind(model, device, tmp_path / "b.safetensors")
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(MissingExtraError, match="triton"):
        load_file(tmp_path / "b.safetensors", key, "cpu")
    monkeypatch.setitem(sys.modules, "triton", torch)  # anything that can be imported
    with pytest.raises(ResourceError, match="no device"):
        load_file(tmp_path / "b.safetensors", key, "cuda:99")


def test_other_formats_are_refused(tmp_path: Path, device: Device, key: DeviceKey, card: str) -> None:
    from unclone.runtime.cuda import load_file

    np.savez(tmp_path / "m.npz", w=np.ones(9))
    unclone.bind(tmp_path / "m.npz", device, tmp_path / "b.npz")
    with pytest.raises(FormatError, match="safetensors"):
        load_file(tmp_path / "b.npz", key, card)
