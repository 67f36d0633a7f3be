"""What several test files share: a chip, its record and key, small models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import unclone

CHIP = "sim:sram?seed=7"
OTHER_CHIP = "sim:sram?seed=8"


@pytest.fixture(scope="session")
def device() -> unclone.Device:
    return unclone.enroll(CHIP, name="press-17")


@pytest.fixture(scope="session")
def key(device: unclone.Device) -> unclone.DeviceKey:
    return unclone.reconstruct(device, CHIP)


@pytest.fixture(scope="session")
def other_device() -> unclone.Device:
    return unclone.enroll(OTHER_CHIP)


@pytest.fixture(scope="session")
def other_key(other_device: unclone.Device) -> unclone.DeviceKey:
    return unclone.reconstruct(other_device, OTHER_CHIP)


@pytest.fixture
def tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {
        "layer.weight": rng.normal(0, 0.05, (64, 48)).astype(np.float32),
        "layer.bias": rng.normal(0, 0.5, 48).astype(np.float16),
        "codes": rng.integers(-128, 128, (32, 32)).astype(np.int8),
        "norm": rng.uniform(0.5, 3.0, 48),
        "empty": np.zeros((0, 4), dtype=np.float32),
        "scalar": np.array(0.25, dtype=np.float32),
    }


@pytest.fixture
def model_file(tmp_path: Path, tensors: dict[str, np.ndarray]) -> Path:
    from safetensors.numpy import save_file

    path = tmp_path / "model.safetensors"
    save_file(tensors, path, metadata={"author": "vendor"})
    return path
