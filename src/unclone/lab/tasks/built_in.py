"""The built-in tasks: which network, which data, how trained."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from unclone.lab.contracts import Task
from unclone.lab.tasks import loading, networks
from unclone.lab.tasks.network_task import NetworkTask
from unclone.lab.tasks.training import ModuleNetwork, Recipe

__all__ = ["open_built_in"]

_IMAGES: Final = Recipe(epochs=10, least_steps=300)

_SEQUENTIAL: Final = {
    "digits": networks.convolutional(8, (16, 32), 64, 10),
    "mnist-cnn": networks.convolutional(28, (12, 24), 48, 10),
}

_MAKERS: Final[dict[str, Callable[[], NetworkTask]]] = {
    "digits": lambda: NetworkTask(
        "digits",
        ModuleNetwork(_SEQUENTIAL["digits"]),
        loading.digits,
        Recipe(epochs=30, least_steps=250, batch=32, rate=5e-3),
    ),
    "mnist-dense": lambda: NetworkTask(
        "mnist-dense", ModuleNetwork(networks.dense(784, 96, 48, 10)), partial(loading.grey_images, "mnist"), _IMAGES
    ),
    "mnist-cnn": lambda: NetworkTask(
        "mnist-cnn",
        ModuleNetwork(_SEQUENTIAL["mnist-cnn"]),
        partial(loading.grey_images, "mnist"),
        Recipe(epochs=8, least_steps=300, rate=5e-3),
    ),
    "fashion-mnist": lambda: NetworkTask(
        "fashion-mnist",
        ModuleNetwork(networks.convolutional(28, (12, 24), 48, 10)),
        partial(loading.grey_images, "fashion-mnist"),
        Recipe(epochs=8, least_steps=300, rate=5e-3),
    ),
    "cifar10-resnet": lambda: NetworkTask(
        "cifar10-resnet",
        ModuleNetwork(networks.ResidualNetwork),
        loading.colour_images,
        Recipe(epochs=20, least_steps=300, rate=5e-3, decay=1e-2),
    ),
    "digits-rnn": lambda: NetworkTask(
        "digits-rnn",
        ModuleNetwork(networks.recurrent(loading.MELS, 96, 10)),
        loading.spoken_digits,
        Recipe(epochs=15, least_steps=250, batch=32, rate=4e-3),
    ),
    "reviews-rnn": lambda: NetworkTask(
        "reviews-rnn",
        ModuleNetwork(networks.reviews(loading.VOCABULARY, 24, 48)),
        loading.review_words,
        Recipe(epochs=5, least_steps=200, rate=4e-3, decay=1e-2),
    ),
    "turbofan": lambda: NetworkTask(
        "turbofan",
        ModuleNetwork(networks.recurrent(loading.SENSORS, 48, 1)),
        loading.turbofan_windows,
        Recipe(epochs=20, least_steps=300, rate=4e-3),
        metric="mae",
    ),
}


def open_built_in(name: str) -> Task:
    """The task of a name in ``unclone.lab.tasks.TASKS``."""
    return _MORE[name]() if name in _MORE else _MAKERS[name]()


def _magika() -> Task:
    """A network from a package, scored on files of this machine; the attacker's labels are files, too."""
    from unclone.lab.filetypes import load_file_types
    from unclone.lab.tasks.onnx_task import OnnxTask

    found = load_file_types()
    return OnnxTask(found.model, (found.inputs, found.labels), "balanced-accuracy", "magika")


def _ccexam() -> Task:
    from unclone.lab.tasks.packaged import ccexam

    return ccexam()


def _fracast(quantised: bool) -> Task:
    from unclone.lab.tasks.packaged import fracast

    return fracast(quantised)


def _minilm() -> Task:
    from unclone.lab.tasks.sentences import minilm

    return minilm()


def _int8(name: str) -> Task:
    from unclone.lab.tasks.quantised import quantised

    task = _MAKERS[name]()
    return quantised(task, _SEQUENTIAL[name]())


_MORE: Final[dict[str, Callable[[], Task]]] = {
    "ccexam": _ccexam,
    "fracast": partial(_fracast, False),
    "fracast-int8": partial(_fracast, True),
    "minilm-int8": _minilm,
    "digits-int8": partial(_int8, "digits"),
    "mnist-cnn-int8": partial(_int8, "mnist-cnn"),
    "magika": _magika,
}
