"""Bind: mask every weight of a model under a fresh content key, and seal that key for each device."""

from __future__ import annotations

import math
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from unclone.errors import FormatError, NoWeightsError, OutputError, ParameterError
from unclone.files import atomic_output, check_output, flushing
from unclone.formats import Copy, Draft, HeaderPiece, Literal, Masked, Output, Weight, detect
from unclone.header import BITS, FILE_ID_BYTES, MAC_BYTES, VERSION, chunk_tag_bytes, encode_header, mac_input
from unclone.keys import ContentKeys, check_suite, content_keys, header_mac, new_content_key, seal_positions, seal_slot
from unclone.mask import ALL_BITS, CHUNK, CIPHERS, ChunkCipher, chunk_length, faster_cipher
from unclone.model.carrier import Hole, carrier_digest
from unclone.model.choosing import check_dial, choose_blocks, selection_of, word_pattern
from unclone.model.folder import bind_folder
from unclone.model.parallel import Chunk, Progress, chunks_of, for_each_batch, worker_count
from unclone.model.reading import read_into
from unclone.patterns import finite_pattern
from unclone.records import Header, MaskedTensor, Recipient
from unclone.selection import Positions

__all__ = ["bind"]

_FLUSHED_FROM: Final = 64 << 20
"""Bytes of weights; less is on disk in no time."""


def bind(
    path: str | os.PathLike[str],
    to: Recipient | Iterable[Recipient],
    output: str | os.PathLike[str],
    *,
    bits: str = "finite",
    cipher: str = "auto",
    share: float = 1.0,
    select: str = "blocks",
    saliency: Mapping[str, Any] | None = None,
    force: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Header:
    """Bind a model file to one or many devices.

    Streams: memory stays small whatever the model's size. The output appears whole or not at all.

    Args:
        path: an ordinary model, of a format that ``unclone.formats`` knows, or a folder that holds a safetensors model
            beside its configuration; never altered.
        to: record or records of devices or machines. No PUF and no secret of a device is needed.
        output: where the bound model goes; a valid file of the same format, or a folder for a folder.
        bits: ``"finite"`` keeps every masked float finite, ``"all"`` masks every bit.
        cipher: ``"aes-256-gcm"``, ``"chacha20-poly1305"``, or ``"auto"``: the faster one on this processor.
        share: part of the weights' bytes to mask. Less than 1 costs protection: docs/security.md has the price.
        select: which part, with ``share`` below 1: ``"blocks"`` (of 64 KiB, of 256 KiB from 512 MiB of weights on) or
            words at ``"random"``, pages of largest ``"magnitude"``, the ``"first-layers"``, or the pages of largest
            ``"saliency"``.
        saliency: for ``select="saliency"``: how much each weight matters, by tensor name, of the tensor's shape.
        force: replace ``output`` if it exists.
        threads: one for each processor by default.
        progress: called with (bytes done, bytes in all).

    Returns:
        The header, as ``inspect`` gives it.

    Raises:
        FormatError: the model cannot be read, or holds something this release does not understand.
        AlreadyBoundError: it is bound already.
        NoWeightsError: nothing in it would be masked.
        ParameterError: no device, one device twice, or an unknown option.
        OutputError: ``output`` exists or cannot be written.
    """
    source, target = Path(path), Path(output)
    devices = list(to) if isinstance(to, Iterable) else [to]
    _check_options(devices, bits, cipher)
    check_dial(share, select, saliency)
    if source.is_dir():
        options: dict[str, Any] = {"bits": bits, "cipher": cipher, "share": share, "select": select}
        options |= {"saliency": saliency, "threads": threads, "progress": progress}
        return bind_folder(source, target, force=force, bind=lambda one, out: bind(one, devices, out, **options))
    check_output(target, force=force)
    if target.exists() and source.exists() and target.samefile(source):
        raise OutputError(f"{target} is the model itself; binding never replaces its input")
    found = detect(source)
    draft = found.draft(source)
    if not any(weight.nbytes for weight in draft.weights):
        raise NoWeightsError(f"no weight found in {source}: nothing would be masked")
    content_key, file_id = new_content_key(), secrets.token_bytes(FILE_ID_BYTES)
    with ExitStack() as stack:
        reader = _Reader(draft, stack)
        header = Header(
            version=VERSION,
            file_id=file_id,
            format=found.name,
            cipher=faster_cipher() if cipher == "auto" else cipher,
            bits=bits,
            chunk=CHUNK,
            selection=selection_of(share, select, sum(weight.nbytes for weight in draft.weights)),
            tensors=(),
            clear=tuple(draft.clear),
            slots=tuple(seal_slot(content_key, device.public_key, file_id, device.suite) for device in devices),
            mac=bytes(MAC_BYTES),
        )
        keys = content_keys(content_key, file_id)
        header = _with_tensors(header, draft.weights, reader, keys, saliency)
        outputs = draft.outputs(target, encode_header(header), file_id[:4].hex())
        # Side files are renamed before the model that names them: the model enters last and leaves first.
        streams = [stack.enter_context(atomic_output(item.path, force=force)) for item in outputs]
        writer = _Writer(draft, outputs, streams, header, keys, reader)
        return writer.run(threads, progress)


def _check_options(devices: Sequence[Recipient], bits: str, cipher: str) -> None:
    if not devices:
        raise ParameterError("bind needs at least one device record")
    if len({device.public_key for device in devices}) != len(devices):
        raise ParameterError("a device is named twice")
    for device in devices:
        check_suite(device.suite)
    if bits not in BITS:
        raise ParameterError(f"bits is {' or '.join(BITS)}, not {bits!r}")
    if cipher not in ("auto", *CIPHERS):
        raise ParameterError(f"cipher is auto, {' or '.join(CIPHERS)}, not {cipher!r}")


class _Reader:
    """The bytes of the weights, wherever the format left them."""

    def __init__(self, draft: Draft, stack: ExitStack) -> None:
        self._weights = draft.weights
        self.descriptors: list[int] = []
        for file in draft.sources:
            try:
                descriptor = os.open(file, os.O_RDONLY)
            except OSError as problem:
                raise FormatError(f"cannot read {file}: {problem.strerror}") from None
            stack.callback(os.close, descriptor)
            self.descriptors.append(descriptor)

    def read(self, weight: Weight, offset: int, out: NDArray[np.uint8]) -> None:
        if weight.data is not None:
            out[:] = np.frombuffer(weight.data, dtype=np.uint8, count=out.size, offset=offset)
        else:
            read_into(self.descriptors[weight.source], out, weight.offset + offset)

    def pieces(self, weight: Weight, step: int) -> Iterator[NDArray[np.uint8]]:
        scratch = np.empty(min(step, weight.nbytes), dtype=np.uint8)
        for offset in range(0, weight.nbytes, step):
            block = scratch[: min(step, weight.nbytes - offset)]
            self.read(weight, offset, block)
            yield block


def _with_tensors(
    header: Header, weights: Sequence[Weight], reader: _Reader, keys: ContentKeys, saliency: Mapping[str, Any] | None
) -> Header:
    """The header with its tensors (tags still zero) and, for the dial, the sealed positions."""
    with ThreadPoolExecutor(worker_count(None)) as pool:
        entries = pool.map(lambda weight: _unmasked_entry(weight, header, reader), weights)
    header = replace(header, tensors=tuple(entries))
    if not header.selection.block:
        return header
    bitmap = choose_blocks(header, weights, reader.pieces, saliency)
    return replace(header, selection=replace(header.selection, positions=seal_positions(keys, bitmap)))


def _unmasked_entry(weight: Weight, header: Header, reader: _Reader) -> MaskedTensor:
    """The header entry of a weight, with zero tags."""
    pattern = ALL_BITS
    if header.bits == "finite":
        pattern = weight.pattern or finite_pattern(weight.dtype, reader.pieces(weight, CHUNK))
    if header.selection.select == "random":
        pattern = word_pattern(pattern, weight.dtype)
    tags = bytes(chunk_tag_bytes(header.selection) * math.ceil(weight.nbytes / chunk_length(CHUNK, pattern)))
    return MaskedTensor(weight.name, weight.dtype, weight.shape, weight.nbytes, pattern, tags)


class _Writer:
    """Writes the outputs of one binding: everything at its final place, weights on several threads."""

    def __init__(
        self,
        draft: Draft,
        outputs: Sequence[Output],
        streams: Sequence[BinaryIO],
        header: Header,
        keys: ContentKeys,
        reader: _Reader,
    ) -> None:
        self._draft = draft
        self._outputs = outputs
        self._streams = streams
        self._header = header
        self._keys = keys
        self._reader = reader
        self._cipher = ChunkCipher(keys, header.cipher)
        self._positions = Positions(header, keys)
        self._places: dict[int, Hole] = {}
        self._header_place = Hole(-1, 0, 0)
        self._tags = [bytearray(tensor.tags) for tensor in header.tensors]

    def run(self, threads: int | None, progress: Progress | None) -> Header:
        for number, output in enumerate(self._outputs):
            self._write_carrier(number, output)
        if len(self._places) != len(self._draft.weights) or self._header_place.file < 0:
            raise FormatError("the format left a weight or the header out of its outputs")
        chunks = chunks_of(self._header.tensors, range(len(self._header.tensors)), self._header.chunk)
        large = sum(weight.nbytes for weight in self._draft.weights) >= _FLUSHED_FROM
        with flushing([stream.fileno() for stream in self._streams]) if large else nullcontext():
            for_each_batch(chunks, self._mask, threads, progress)
        self._draft.finish(self._streams)
        return self._write_header()

    def _write_carrier(self, number: int, output: Output) -> None:
        stream = self._streams[number]
        position = 0
        for piece in output.pieces:
            match piece:
                case Literal(data):
                    write_at(stream.fileno(), data, position)
                    position += len(data)
                case Copy(source, offset, nbytes):
                    self._copy(source, offset, nbytes, stream.fileno(), position)
                    position += nbytes
                case Masked(weight):
                    nbytes = self._draft.weights[weight].nbytes
                    self._places[weight] = Hole(number, position, nbytes)
                    position += nbytes
                case HeaderPiece(placeholder):
                    self._header_place = Hole(number, position, len(placeholder))
                    position += len(placeholder)
        if position:
            os.posix_fallocate(stream.fileno(), 0, position)  # a full disk is found now, not after the work

    def _copy(self, source: int, offset: int, nbytes: int, target: int, position: int) -> None:
        scratch = np.empty(min(CHUNK, nbytes), dtype=np.uint8)
        for done in range(0, nbytes, CHUNK):
            block = scratch[: min(CHUNK, nbytes - done)]
            read_into(self._reader.descriptors[source], block, offset + done)
            write_at(target, block.data, position + done)

    def _mask(self, batch: Sequence[Chunk]) -> None:
        scratch = np.empty(max(chunk.nbytes for chunk in batch), dtype=np.uint8)
        for chunk in batch:
            block = scratch[: chunk.nbytes]
            self._reader.read(self._draft.weights[chunk.tensor], chunk.offset, block)
            tile, spans = self._positions.of(chunk.tensor, chunk.index, chunk.nbytes)
            tag = self._cipher.mask(chunk.tensor, chunk.index, tile, block, spans)
            self._tags[chunk.tensor][chunk.index * len(tag) : (chunk.index + 1) * len(tag)] = tag
            place = self._places[chunk.tensor]
            write_at(self._streams[place.file].fileno(), block.data, place.offset + chunk.offset)

    def _write_header(self) -> Header:
        tensors = zip(self._header.tensors, self._tags, strict=True)
        header = replace(self._header, tensors=tuple(replace(tensor, tags=bytes(tags)) for tensor, tags in tensors))
        descriptors = [stream.fileno() for stream in self._streams]
        digest = carrier_digest(descriptors, [*self._places.values(), self._header_place])
        header = replace(header, mac=header_mac(self._keys, mac_input(header), digest))
        encoded = self._draft.encode_header(encode_header(header))
        if len(encoded) != self._header_place.nbytes:
            raise FormatError("the format changed the header's length")
        write_at(descriptors[self._header_place.file], encoded, self._header_place.offset)
        return header


def write_at(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of ``data`` at ``offset``."""
    view = memoryview(data)
    while view:
        count = os.pwrite(descriptor, view, offset)
        view, offset = view[count:], offset + count
