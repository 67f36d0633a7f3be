"""Successive-cancellation list decoding of polar codes, many words at once, in numpy alone.

The decoder walks the code tree. Three things make it fast without compiled code:

* arrays are laid out ``(position, path, word)``, so the two halves of a node are contiguous blocks;
* a subtree that is wholly frozen costs one reduction, and a small subtree with a few message bits is decided in
  one step: all its codewords are correlated with the log-likelihood ratios by one matrix product;
* a node returns the permutation of its paths, and its parent moves only what it still needs (no copies of states).

With the min-sum rule the penalty of a node is the sum of the magnitudes on which the path disagrees, at every level
of the tree, so deciding a whole subtree at once loses nothing: it only prunes later than bit by bit would.

Sources: I. Tal and A. Vardy, "List decoding of polar codes", IEEE Trans. Inf. Theory 61(5), 2015;
A. Balatsoukas-Stimming et al., "LLR-based SCL decoding of polar codes", IEEE Trans. Signal Process. 63(19), 2015;
S. A. Hashemi et al., "Fast and flexible SCL decoders for polar codes", IEEE Trans. Signal Process. 65(21), 2017.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unclone.extractor.codes.transform import polar_transform

__all__ = ["ListDecoder"]

_F = NDArray[np.float32]
_I = NDArray[np.intp]

# A subtree with at most this many message bits and positions is decided in one step.
_LEAF_BITS = 4
_LEAF_SIZE = 64


def _chunk(state: int) -> int:
    """Words decoded together: enough to amortise numpy's calls, few enough for the second-level cache."""
    return max(1, (1 << 18) // state, min(16, (1 << 21) // state))


@dataclass(frozen=True)
class _Node:
    """One subtree: its size, number of message bits, and either children or the signs of all its codewords."""

    size: int
    bits: int
    left: _Node | None = None
    right: _Node | None = None
    signs: _F | None = None  # (size, 2**bits), +1 for bit 0


def _build(info: NDArray[np.bool_]) -> _Node:
    size, bits = info.size, int(info.sum())
    if bits == 0:
        return _Node(size, 0)
    if size == 1 or (bits <= _LEAF_BITS and size <= _LEAF_SIZE):
        u = np.zeros((1 << bits, size), dtype=np.uint8)
        u[:, info] = (np.arange(1 << bits)[:, None] >> np.arange(bits)) & 1
        signs = 1.0 - 2.0 * polar_transform(u).T.astype(np.float32)
        return _Node(size, bits, signs=np.ascontiguousarray(signs, dtype=np.float32))
    half = size // 2
    return _Node(size, bits, _build(info[:half]), _build(info[half:]))


class ListDecoder:
    """List decoder of the polar code of length ``info.size`` (a power of two) with message positions ``info``.

    At least one position must be set.

    Args:
        info: ``bool``, shape ``(N,)``.
        list_size: number of paths kept, a power of two.
    """

    def __init__(self, info: NDArray[np.bool_], list_size: int) -> None:
        self._size = info.size
        self._positions = np.flatnonzero(info)
        self._list = list_size
        self._root = _build(info)

    def decode(self, llr: _F) -> tuple[NDArray[np.uint8], _F]:
        """Decode.

        Args:
            llr: ``float32``, shape ``(words, N)``; positive where 0 is likelier, 0 where nothing is known.

        Returns:
            The messages, ``uint8`` of shape ``(words, paths, k)``, best first, and their penalties, ``float32`` of
            shape ``(words, paths)``; ``paths`` is the list size or the number of messages, the smaller.
        """
        words = llr.shape[0]
        paths = min(self._list, 1 << min(self._root.bits, 30))
        out = np.empty((words, paths, self._positions.size), dtype=np.uint8)
        penalties = np.empty((words, paths), dtype=np.float32)
        chunk = _chunk(self._size * paths)
        for start in range(0, words, chunk):
            part = slice(start, min(words, start + chunk))
            alpha = np.ascontiguousarray(llr[part].T, dtype=np.float32)[:, None, :]
            run = Run(self._list, alpha.shape[2])
            beta, _ = run.visit(self._root, alpha)
            order = np.argsort(run.penalty, axis=0, kind="stable")
            penalties[part] = np.take_along_axis(run.penalty, order, axis=0).T
            message = polar_transform((beta < 0).view(np.uint8), axis=0)[self._positions]
            out[part] = np.take_along_axis(message, order[None], axis=1).transpose(2, 1, 0)
        return out, penalties

    def margins(self, llr: _F, rng: np.random.Generator) -> _F:
        """How narrowly the all-zero word, standing for any word sent, stays in the list.

        Args:
            llr: as in :meth:`decode`; integers.
            rng: decides between candidates of equal penalty. :meth:`decode` keeps those of smaller index, which would
                favour the all-zero word over a random one.

        Returns:
            ``float32``, shape ``(words,)``: over all prunings, the least penalty by which the best path thrown away was
            worse than the all-zero path; negative where that itself was thrown away, infinite where nothing was.
        """
        out = np.empty(llr.shape[0], dtype=np.float32)
        chunk = _chunk(self._size * self._list)
        for start in range(0, llr.shape[0], chunk):
            alpha = np.ascontiguousarray(llr[start : start + chunk].T, dtype=np.float32)[:, None, :]
            run = _Watch(self._list, alpha.shape[2], rng)
            run.visit(self._root, alpha)
            out[start : start + chunk] = np.where(run.where < 0, np.float32(-1), run.margin)
        return out


class Run:
    """The decoding of one chunk of words: the penalties of all paths, shape ``(paths, words)``."""

    def __init__(self, list_size: int, words: int) -> None:
        self.limit = list_size
        self.words = words
        self.column = np.arange(words, dtype=np.intp)
        self.penalty: _F = np.zeros((1, words), dtype=np.float32)

    def visit(self, node: _Node, alpha: _F) -> tuple[_F, _I | None]:
        """Decide one subtree that holds message bits.

        Returns the signs ``(size, paths, words)`` and, for each path now alive, the flat index of its ancestor among
        the paths alive on entry (None: every path is its own ancestor).
        """
        if node.left is None or node.right is None:
            assert node.signs is not None  # noqa: S101 - a node has children or signs
            return self._leaf(node.signs, alpha)
        half = node.size // 2
        upper, lower = alpha[:half], alpha[half:]
        if node.left.bits == 0:
            if self.penalty.shape[0] > 1:  # with one path alive a penalty compares with nothing
                self.freeze(_check(upper, lower))
            beta_r, moved = self.visit(node.right, upper + lower)
            return np.concatenate([beta_r, beta_r]), moved
        beta_l, moved = self.visit(node.left, _check(upper, lower))
        if moved is not None and alpha.shape[1] > 1:
            both = _take(alpha, moved)
            upper, lower = both[:half], both[half:]
        known: _F = upper * beta_l
        known += lower
        if node.right.bits == 0:
            self.freeze(known)
            return np.concatenate([beta_l, np.ones_like(beta_l)]), moved
        beta_r, moved_r = self.visit(node.right, known)
        if moved_r is not None:
            beta_l = _take(beta_l, moved_r)
            moved = moved_r if moved is None else moved.reshape(-1).take(moved_r)
        beta: _F = np.empty((node.size, *beta_r.shape[1:]), dtype=np.float32)
        np.multiply(beta_l, beta_r, out=beta[:half])
        beta[half:] = beta_r
        return beta, moved

    def freeze(self, alpha: _F) -> None:
        """Charge every path for the positions in which it is frozen to 0 against the evidence."""
        self.penalty = self.penalty - np.minimum(alpha, 0).sum(axis=0)

    def select(self, metric: _F) -> _I:
        """The candidates to keep, ``(limit, words)``; ``metric`` has shape ``(candidates, words)``."""
        rows = np.ascontiguousarray(metric.T)
        return np.argpartition(rows, self.limit - 1, axis=1)[:, : self.limit].T

    def _leaf(self, signs: _F, alpha: _F) -> tuple[_F, _I | None]:
        size, paths, words = alpha.shape
        count = signs.shape[1]
        flat = alpha.reshape(size, paths * words)
        total = np.abs(flat).sum(axis=0).reshape(paths, words)
        total += self.penalty * 2
        each = (signs.T @ flat).reshape(count, paths, words)
        np.subtract(total, each, out=each)
        each *= 0.5
        metric: _F = each.reshape(count * paths, words)
        if count * paths <= self.limit:
            self.penalty = metric
            chosen = np.repeat(np.arange(count * paths, dtype=np.intp)[:, None], words, axis=1)
        else:
            chosen = self.select(metric)
            self.penalty = metric[chosen, self.column]
        word, path = np.divmod(chosen, paths)
        beta = signs.take(word.reshape(-1), axis=1).reshape(size, -1, words)
        return beta, path * self.words + self.column


class _Watch(Run):
    """A run that knows that the all-zero word was sent, for the estimation of rare failures."""

    def __init__(self, list_size: int, words: int, rng: np.random.Generator) -> None:
        super().__init__(list_size, words)
        self.rng = rng
        self.where: _I = np.zeros(words, dtype=np.intp)  # place of the all-zero path, -1 when lost
        self.margin: _F = np.full(words, np.inf, dtype=np.float32)

    def select(self, metric: _F) -> _I:
        # Penalties of integer ratios are integers: less than one changes no order, and breaks ties evenly.
        metric = metric + self.rng.random(metric.shape, dtype=np.float32) * np.float32(0.5)
        # The all-zero continuation is candidate 0 of its leaf, so its index is that of its path.
        order = np.argpartition(np.ascontiguousarray(metric.T), self.limit, axis=1).T
        chosen = order[: self.limit]
        spare = metric[order[self.limit], self.column] - metric[self.where, self.column]
        self.margin = np.minimum(self.margin, spare)
        same = chosen == self.where
        self.where = np.where(same.any(axis=0) & (self.where >= 0), same.argmax(axis=0), -1)
        return chosen


def _check(a: _F, b: _F) -> _F:
    """The min-sum check rule, sign(a) sign(b) min(|a|, |b|), in four passes."""
    low = np.minimum(a, b)
    high = np.maximum(a, b)
    np.negative(high, out=high)
    return np.maximum(low, high, out=low)


def _take(values: _F, flat: _I) -> _F:
    """``values[:, path, word]`` by flat index ``path * words + word``, shape of ``flat`` for the last two axes."""
    size = values.shape[0]
    return values.reshape(size, -1).take(flat.reshape(-1), axis=1).reshape(size, *flat.shape)
