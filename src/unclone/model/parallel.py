"""Chunks spread over threads: the ciphers, the XOR and the reads all release the interpreter lock."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from unclone.mask import chunk_length
from unclone.records import MaskedTensor

__all__ = ["Chunk", "Progress", "chunks_of", "for_each_batch", "worker_count"]

_BATCH_BYTES = 32 << 20
_BATCH_CHUNKS = 256
_BATCHES_EACH = 4

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all) as work goes on."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """One chunk of one tensor: ``offset`` counts from the tensor's first byte."""

    tensor: int
    index: int
    offset: int
    nbytes: int


def worker_count(threads: int | None) -> int:
    """The number of threads: ``threads``, or one for each processor this process may use."""
    return threads or len(os.sched_getaffinity(0))


def chunks_of(
    tensors: Sequence[MaskedTensor],
    wanted: Iterable[int],
    chunk: int,
    among: Callable[[int], Iterable[int]] | None = None,
) -> Iterator[Chunk]:
    """The chunks of the tensors with indices ``wanted``, in order; of each all, or those that ``among`` numbers."""
    for number in wanted:
        tensor = tensors[number]
        step = chunk_length(chunk, tensor.pattern)
        for index in among(number) if among else range(-(-tensor.nbytes // step)):
            yield Chunk(number, index, index * step, min(step, tensor.nbytes - index * step))


def for_each_batch(
    chunks: Iterable[Chunk], work: Callable[[Sequence[Chunk]], None], threads: int | None, progress: Progress | None
) -> None:
    """Call ``work`` on batches of chunks, on several threads; the first error, in file order, is raised."""
    everything = list(chunks)
    total = sum(chunk.nbytes for chunk in everything)
    # Long batches, for the interpreter's sake, but enough of them that no thread waits for the last.
    batches = list(_batches(everything, min(_BATCH_BYTES, total // (_BATCHES_EACH * worker_count(threads)))))
    done = 0
    workers = min(worker_count(threads), len(batches))
    if workers <= 1:
        for batch in batches:
            work(batch)
            done = _report(progress, done, batch, total)
        return
    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(work, batch) for batch in batches]
        try:
            for future, batch in zip(futures, batches, strict=True):
                future.result()
                done = _report(progress, done, batch, total)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _report(progress: Progress | None, done: int, batch: Sequence[Chunk], total: int) -> int:
    done += sum(chunk.nbytes for chunk in batch)
    if progress is not None:
        progress(done, total)
    return done


def _batches(chunks: Iterable[Chunk], nbytes: int) -> Iterator[list[Chunk]]:
    batch: list[Chunk] = []
    size = 0
    for chunk in chunks:
        batch.append(chunk)
        size += chunk.nbytes
        if size >= nbytes or len(batch) >= _BATCH_CHUNKS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
