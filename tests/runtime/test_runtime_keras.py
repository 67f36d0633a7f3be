"""Keras itself: what it opens, what it computes, and that no true weight reaches a disk."""

from __future__ import annotations

import importlib.util
import os
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import unclone
from unclone.errors import FormatError, MissingExtraError, SlotError, TensorTamperedError
from unclone.records import Device, DeviceKey
from unclone.runtime import keras as runtime

for package in ("keras", "torch", "h5py"):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed", allow_module_level=True)

# Keras 3.15 with numpy 2, its own affair.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module", autouse=True)
def keras(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    if "keras" not in sys.modules:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("KERAS_BACKEND", "torch")
            patch.setenv("KERAS_HOME", str(tmp_path_factory.mktemp("keras")))
            import keras
    import keras

    assert keras.backend.backend() == "torch"
    keras.utils.set_random_seed(3)
    yield keras
    keras.backend.clear_session()


def trained(keras: Any) -> Any:
    """A network with state of every kind: weights, moving averages, a seed, an optimizer."""
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(4, 3),
            keras.layers.BatchNormalization(),
            keras.layers.Flatten(),
            keras.layers.Dropout(0.2, seed=1),
            keras.layers.Dense(6, activation="relu", dtype="float16"),
            keras.layers.Dense(3, dtype="bfloat16"),
        ]
    )
    model.compile("adam", keras.losses.MeanSquaredError())
    rng = np.random.default_rng(1)
    model.train_on_batch(rng.normal(size=(16, 8, 8, 1)), rng.normal(size=(16, 3)))
    return model


def recurrent(keras: Any) -> Any:
    """Tied weights: one layer on two inputs; an embedding and a recurrent layer in a nested model."""
    inner = keras.Sequential([keras.Input((5,), dtype="int32"), keras.layers.Embedding(20, 8), keras.layers.LSTM(6)])
    a, b = keras.Input((5,), dtype="int32"), keras.Input((5,), dtype="int32")
    return keras.Model([a, b], keras.layers.Dense(2)(keras.layers.Concatenate()([inner(a), inner(b)])))


def values(model: Any) -> list[bytes]:
    """All that Keras writes into a file: it leaves the state of seed generators out."""
    from keras import ops

    variables = [*model.variables, *(model.optimizer.variables if getattr(model, "optimizer", None) else [])]
    kept = [item for item in variables if "seed_generator" not in item.path]
    return [np.asarray(ops.convert_to_numpy(ops.cast(item.value, "float64"))).tobytes() for item in kept]


def outputs(model: Any) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(2)
    if len(model.inputs) > 1:
        inputs: Any = [rng.integers(0, 20, (4, 5)) for _ in model.inputs]
    else:
        inputs = rng.normal(size=(4, *model.inputs[0].shape[1:])).astype(np.float32)
    return np.asarray(model.predict(inputs, verbose=0), dtype=np.float32)


@pytest.mark.parametrize("make", [trained, recurrent])
def test_an_archive_opens_in_keras_and_is_true_on_the_device_alone(
    make: Any, keras: Any, tmp_path: Path, device: Device, key: DeviceKey
) -> None:
    model = make(keras)
    model.save(tmp_path / "m.keras")
    header = unclone.bind(tmp_path / "m.keras", device, tmp_path / "b.keras")
    assert len(header.tensors) == len(values(model))
    with zipfile.ZipFile(tmp_path / "m.keras") as ordinary, zipfile.ZipFile(tmp_path / "b.keras") as bound:
        assert bound.testzip() is None
        assert bound.namelist() == ordinary.namelist()
        assert bound.read("config.json") == ordinary.read("config.json")
    clone = keras.saving.load_model(tmp_path / "b.keras")
    assert [v.shape for v in clone.variables] == [v.shape for v in model.variables]
    assert all(a != b for a, b in zip(values(clone), values(model), strict=True))
    expected = outputs(keras.saving.load_model(tmp_path / "m.keras"))
    assert np.isfinite(expected).all()
    assert outputs(clone).shape == expected.shape
    assert not np.array_equal(outputs(clone), expected)

    restored = runtime.load_model(tmp_path / "b.keras", key)
    assert values(restored) == values(model)
    assert np.array_equal(outputs(restored), expected)
    runtime.load_weights(clone, tmp_path / "b.keras", key)
    assert values(clone) == values(model)


@pytest.mark.parametrize("name", ["m.weights.h5", "m.h5"])
def test_older_files_and_weights_alone(
    name: str, keras: Any, tmp_path: Path, device: Device, key: DeviceKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = recurrent(keras)
    (model.save_weights if name == "m.weights.h5" else model.save)(tmp_path / name)
    unclone.bind(tmp_path / name, device, tmp_path / f"b{name}")
    fresh = recurrent(keras)
    fresh.load_weights(tmp_path / f"b{name}")  # the clone's way
    assert all(a != b for a, b in zip(values(fresh), values(model), strict=True))
    runtime.load_weights(fresh, tmp_path / f"b{name}", key)
    assert values(fresh) == values(model)
    if name == "m.h5":
        restored = runtime.load_model(tmp_path / "bm.h5", key, compile=False)
        assert np.array_equal(outputs(restored), outputs(model))
    else:
        with pytest.raises(FormatError, match="weights alone"):
            runtime.load_model(tmp_path / "bm.weights.h5", key)


def with_assets(keras: Any) -> Any:
    @keras.saving.register_keras_serializable("unclone-tests")
    class Vocabulary(keras.layers.Layer):
        words = "none"

        def call(self, inputs: Any) -> Any:
            return inputs

        def save_assets(self, folder: str) -> None:
            (Path(folder) / "vocabulary.txt").write_text("alpha\nbeta\n")

        def load_assets(self, folder: str) -> None:
            self.words = (Path(folder) / "vocabulary.txt").read_text()

    return keras.Sequential([keras.Input((4,)), Vocabulary(), keras.layers.Dense(64)])


def test_no_true_weight_reaches_a_disk_and_assets_arrive(
    keras: Any, tmp_path: Path, device: Device, key: DeviceKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keras unpacks archives with assets; what it unpacks is looked at before it is removed."""
    model = with_assets(keras)
    model.save(tmp_path / "m.keras")
    header = unclone.bind(tmp_path / "m.keras", device, tmp_path / "b.keras")
    assert [tensor.reason for tensor in header.clear] == ["asset of a layer"]
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    true = model.layers[-1].get_weights()[0].tobytes()
    unpacked: list[Path] = []

    def look(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("shutil.rmtree", "os.remove") and watching:
            found = Path(os.fspath(arguments[0]))
            for file in [found] if found.is_file() else found.rglob("*"):
                if file.is_file() and not file.is_symlink():
                    unpacked.append(file)
                    assert true not in file.read_bytes()

    watching = True
    sys.addaudithook(look)
    try:
        restored = runtime.load_model(tmp_path / "b.keras", key)
    finally:
        watching = False
    assert "model.weights.h5" in {file.name for file in unpacked}  # else this test would see nothing
    assert restored.layers[0].words == "alpha\nbeta\n"
    assert restored.layers[-1].get_weights()[0].tobytes() == true
    assert not os.listdir(tmp_path / "scratch")


def test_a_lambda_is_carried_and_not_run(keras: Any, tmp_path: Path, device: Device, key: DeviceKey) -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Lambda(lambda x: x * 2)])
    model.save(tmp_path / "m.keras")
    unclone.bind(tmp_path / "m.keras", device, tmp_path / "b.keras")
    with pytest.raises(ValueError, match="safe_mode"):
        runtime.load_model(tmp_path / "b.keras", key)
    restored = runtime.load_model(tmp_path / "b.keras", key, safe_mode=False)
    assert np.array_equal(outputs(restored), outputs(model))


def test_another_device_and_an_altered_file(
    keras: Any, tmp_path: Path, device: Device, key: DeviceKey, other_key: DeviceKey
) -> None:
    trained(keras).save(tmp_path / "m.keras")
    unclone.bind(tmp_path / "m.keras", device, tmp_path / "b.keras")
    with pytest.raises(SlotError):
        runtime.load_model(tmp_path / "b.keras", other_key)
    region = unclone.formats.detect(tmp_path / "b.keras").layout(tmp_path / "b.keras").regions["layers/dense/vars/0"]
    content = bytearray((tmp_path / "b.keras").read_bytes())
    content[region.offset] ^= 1
    (tmp_path / "b.keras").write_bytes(content)
    with pytest.raises(TensorTamperedError, match="layers/dense/vars/0"):
        runtime.load_model(tmp_path / "b.keras", key)


def test_what_keras_cannot_take(tmp_path: Path, model_file: Path, device: Device, key: DeviceKey) -> None:
    unclone.bind(model_file, device, tmp_path / "b.safetensors")
    with pytest.raises(FormatError, match="not a model of Keras"):
        runtime.load_model(tmp_path / "b.safetensors", key)


def test_without_keras_the_extra_is_named(tmp_path: Path, key: DeviceKey, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"unclone\[keras\]"):
        runtime.load_model(tmp_path / "absent", key)
