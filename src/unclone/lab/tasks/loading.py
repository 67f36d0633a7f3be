"""Data of the built-in tasks as arrays: (training data, test data), inputs scaled for training."""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from unclone.errors import MissingExtraError
from unclone.lab.contracts import Data
from unclone.lab.data import data_file

__all__ = [
    "FRAMES",
    "MELS",
    "SENSORS",
    "VOCABULARY",
    "colour_images",
    "digits",
    "grey_images",
    "review_words",
    "spoken_digits",
    "turbofan_windows",
]

RATE = 8000
FRAMES, MELS = 40, 24
_WINDOW, _HOP, _FFT = 256, 160, 256
VOCABULARY, _WORDS = 3000, 30
_REVIEWS_TEST = 1066
SENSORS = 14
_CYCLES, _STRIDE, _MOST_LIFE = 30, 4, 125
_LIVE = (2, 3, 4, 7, 8, 9, 11, 12, 13, 14, 15, 17, 20, 21)  # the sensors of FD001 that are not constant


def digits() -> tuple[Data, Data]:
    """scikit-learn's 8 by 8 digits, 0..1, shape ``(samples, 1, 8, 8)``, halved into training and test data.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise MissingExtraError("scikit-learn", "lab") from None
    data = load_digits()
    images = (data.images / 16).astype(np.float32)[:, None]
    labels = data.target.astype(np.int64)
    order = np.random.default_rng(0).permutation(len(labels))
    train, test = order[: len(order) // 2], order[len(order) // 2 :]
    return (images[train], labels[train]), (images[test], labels[test])


def grey_images(name: str) -> tuple[Data, Data]:
    """MNIST or Fashion-MNIST, 0..1, shape ``(samples, 1, 28, 28)``."""
    with np.load(data_file(name)) as data:
        arrays = {key: data[key] for key in ("x_train", "y_train", "x_test", "y_test")}

    def part(kind: str) -> Data:
        return (arrays[f"x_{kind}"].astype(np.float32) / 255)[:, None], arrays[f"y_{kind}"].astype(np.int64)

    return part("train"), part("test")


def colour_images() -> tuple[Data, Data]:
    """CIFAR-10, standardised, shape ``(samples, 3, 32, 32)``."""
    with np.load(data_file("cifar10")) as data:
        arrays = {key: data[key] for key in ("x_train", "y_train", "x_test", "y_test")}

    def part(kind: str) -> Data:
        images = (arrays[f"x_{kind}"].astype(np.float32) / 255 - 0.47) / 0.25
        return np.ascontiguousarray(images.transpose(0, 3, 1, 2)), arrays[f"y_{kind}"].astype(np.int64)

    return part("train"), part("test")


def spoken_digits() -> tuple[Data, Data]:
    """Log-mel frames of spoken digits, shape ``(samples, 40, 24)``; takes 0 to 4 of each speaker are the test data."""
    with np.load(data_file("fsdd")) as data:
        samples, offsets = data["samples"], data["offsets"]
        labels, takes = data["label"].astype(np.int64), data["speaker_take"]
    bank = _mel_bank()
    clips = [_log_mel(samples[start:end], bank) for start, end in pairwise(offsets)]
    frames = np.stack(clips)
    held_out = np.array([int(str(take).rsplit("_", 1)[1]) < 5 for take in takes])
    frames = (frames - frames[~held_out].mean()) / frames[~held_out].std()
    frames = frames.astype(np.float32)
    return (frames[~held_out], labels[~held_out]), (frames[held_out], labels[held_out])


def _log_mel(clip: NDArray[np.int16], bank: NDArray[np.float64]) -> NDArray[np.float64]:
    signal = clip.astype(np.float64) / 32768
    signal = np.pad(signal, (0, max(0, _WINDOW + (FRAMES - 1) * _HOP - len(signal))))
    windows = np.lib.stride_tricks.sliding_window_view(signal, _WINDOW)[::_HOP][:FRAMES]
    power = np.abs(np.fft.rfft(windows * np.hanning(_WINDOW), _FFT)) ** 2
    return np.log(power @ bank + 1e-6)


def _mel_bank() -> NDArray[np.float64]:
    """Triangular filters, evenly spaced in mel (O'Shaughnessy's formula), shape ``(bins, MELS)``."""
    top = 2595 * np.log10(1 + RATE / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, MELS + 2) / 2595) - 1)
    bins = np.fft.rfftfreq(_FFT, 1 / RATE)[:, None]
    rising = (bins - edges[:-2]) / np.diff(edges)[:-1]
    falling = (edges[2:] - bins) / np.diff(edges)[1:]
    return np.maximum(0, np.minimum(rising, falling))


def review_words() -> tuple[Data, Data]:
    """Word numbers of movie reviews, shape ``(samples, 30)``, 0 for none and 1 for a rare word; 1 is a good review.

    The vocabulary is that of the training part.
    """
    texts, labels = [], []
    for name, label in (("reviews-positive", 1), ("reviews-negative", 0)):
        lines = data_file(name).read_text("latin-1").splitlines()
        texts += [re.findall(r"[a-z']+", line) for line in lines]
        labels += [label] * len(lines)
    order = np.random.default_rng(0).permutation(len(texts))
    train, test = order[_REVIEWS_TEST:], order[:_REVIEWS_TEST]
    counts = Counter(word for index in train for word in texts[index])
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    numbers = {word: rank + 2 for rank, word in enumerate(ranked[: VOCABULARY - 2])}
    words = np.zeros((len(texts), _WORDS), dtype=np.int64)
    for row, text in zip(words, texts, strict=True):
        row[: len(text)] = [numbers.get(word, 1) for word in text[:_WORDS]]
    classes = np.array(labels, dtype=np.int64)
    return (words[train], classes[train]), (words[test], classes[test])


def turbofan_windows() -> tuple[Data, Data]:
    """Sensors of C-MAPSS's FD001 (Saxena et al., PHM 2008) in windows of 30 cycles, shape ``(windows, 30, 14)``.

    The label is the remaining life, at most 125 cycles as is usual (Heimes, PHM 2008), over 125. Every fourth window of
    each engine; the test engines are others.
    """
    train, test = (np.loadtxt(data_file(f"turbofan-{part}")) for part in ("train", "test"))
    rest = np.loadtxt(data_file("turbofan-rest"))
    columns = [4 + number for number in _LIVE]
    mean, spread = train[:, columns].mean(axis=0), train[:, columns].std(axis=0)

    def part(rows: NDArray[np.float64], left: NDArray[np.float64]) -> Data:
        windows, lives = [], []
        for engine in np.unique(rows[:, 0]):
            values = ((rows[rows[:, 0] == engine][:, columns] - mean) / spread).astype(np.float32)
            ends = np.arange(len(values), _CYCLES - 1, -_STRIDE)[::-1]
            windows += [values[end - _CYCLES : end] for end in ends]
            lives.append(np.minimum(len(values) - ends + left[int(engine) - 1], _MOST_LIFE) / _MOST_LIFE)
        return np.stack(windows), np.concatenate(lives).astype(np.float32)

    return part(train, np.zeros(int(train[:, 0].max()))), part(test, rest)
