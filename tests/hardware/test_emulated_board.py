"""A microcontroller on QEMU with the real firmware, over a pseudo-terminal: the whole way, and the faults."""

from __future__ import annotations

import os
import shlex
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from emulated_device import MACHINES, EmulatedBoard

import unclone
from recorded_data import data_folder
from unclone.errors import ReconstructionError, SourceError
from unclone.puf.serial import SerialSRAM

pytest.importorskip("serial")
Boards = Callable[..., EmulatedBoard]


def sram(board: EmulatedBoard) -> np.ndarray:
    return np.unpackbits(np.frombuffer((board.folder / "sram.bin").read_bytes(), dtype=np.uint8))


@pytest.mark.parametrize("name", sorted(MACHINES))
def test_the_window_arrives_bit_by_bit_at_every_power_up(boards: Boards, name: str) -> None:
    board = boards(name)
    board.power_on()
    source = SerialSRAM(str(board.port), board.power_cycle)
    first = source.evaluate()
    assert np.array_equal(first, sram(board))
    second = source.evaluate()
    assert np.array_equal(second, sram(board))
    assert board.starts == 2
    assert 0.03 < np.mean(first != second) < 0.09


def test_enrol_bind_restore(boards: Boards, model_file: Path, tmp_path: Path) -> None:
    board = boards()
    board.power_on()
    source = SerialSRAM(str(board.port), board.power_cycle, length=4096)
    device = unclone.enroll(source, readings=5)
    assert board.starts == 5
    assert device.source == "serial:sram"
    unclone.bind(model_file, to=[device], output=tmp_path / "bound.safetensors")
    restored = unclone.restore(tmp_path / "bound.safetensors", unclone.reconstruct(device, source))
    from safetensors.numpy import load_file

    for name, tensor in load_file(model_file).items():
        assert restored[name].data.tobytes() == tensor.tobytes()

    other = boards(chip="sim:sram?seed=8&bits=65536&noise_seed=1")
    other.power_on()
    with pytest.raises(ReconstructionError):
        unclone.reconstruct(device, SerialSRAM(str(other.port), length=4096))


def test_recorded_silicon_in_the_emulated_chip(boards: Boards, model_file: Path, tmp_path: Path) -> None:
    recording = data_folder() / "puf" / "sram_scum.npz"
    if not recording.is_file():
        pytest.skip(f"{recording} is not here: github.com/Sara-Fa/SRAM-PUF-key-generation has the readings")
    with np.load(recording) as data:
        names = sorted(name for name in data.files if data[name].ndim == 2)
    board, other = (boards(chip=f"file:{recording}?array={name}") for name in names[:2])
    board.power_on()
    source = SerialSRAM(str(board.port), board.power_cycle, length=4096)
    device = unclone.enroll(source, readings=5)
    unclone.bind(model_file, to=[device], output=tmp_path / "bound.safetensors")
    for _ in range(5):  # each a power-up with the next reading of the chip
        unclone.restore(tmp_path / "bound.safetensors", unclone.reconstruct(device, source)).wipe()
    other.power_on()
    with pytest.raises(ReconstructionError):
        unclone.reconstruct(device, SerialSRAM(str(other.port), length=4096))


@pytest.mark.parametrize("wipe", [True, False])
def test_a_pattern_is_read_once_also_by_another_program(boards: Boards, wipe: bool) -> None:
    board = boards()
    board.power_on()
    SerialSRAM(str(board.port), wipe=wipe).evaluate()
    with pytest.raises(SourceError, match=r"not switched off since .* power=COMMAND"):
        SerialSRAM(str(board.port)).evaluate()


def test_the_same_pattern_after_a_power_cycle_is_refused(boards: Boards) -> None:
    board = boards()
    board.power_on()

    def too_briefly() -> None:
        board.power_off()
        board.power_on(fresh=False)

    source = SerialSRAM(str(board.port), too_briefly)
    source.evaluate()
    with pytest.raises(SourceError, match="same bit by bit"):
        source.evaluate()


def test_another_version_of_the_protocol_is_named(boards: Boards) -> None:
    board = boards(version=2)
    board.power_on()
    with pytest.raises(SourceError, match=r"speaks version 2 .* this release version 1"):
        SerialSRAM(str(board.port)).evaluate()


def test_a_second_reader_is_told(boards: Boards) -> None:
    import serial

    board = boards()
    board.power_on()
    with serial.Serial(str(board.port), exclusive=True), pytest.raises(SourceError, match="in use by another program"):
        SerialSRAM(str(board.port)).evaluate()
    assert SerialSRAM(str(board.port)).evaluate().size == 65536


def test_a_window_that_is_too_short(boards: Boards) -> None:
    board = boards()
    board.power_on()
    with pytest.raises(SourceError, match="has 8192 bytes"):
        SerialSRAM(str(board.port), offset=8000, length=200).evaluate()


def test_unplugged_board(boards: Boards) -> None:
    board = boards()
    with pytest.raises(SourceError, match=r"there is no .*plugged in"):
        SerialSRAM(str(board.port)).evaluate()


def test_unplugged_in_the_middle_then_back(boards: Boards, monkeypatch: pytest.MonkeyPatch) -> None:
    from unclone.puf.serial_link import Link

    board = boards()
    board.power_on()
    ask = Link._ask
    count = 0

    def pulled(link: Link, kind: int, payload: bytes = b"") -> bytes:
        nonlocal count
        count += 1
        if count == 20:
            board.power_off()
        return ask(link, kind, payload)

    monkeypatch.setattr(Link, "_ask", pulled)
    source = SerialSRAM(str(board.port), timeout=1.0)
    with pytest.raises(SourceError, match=r"plugged in|no answer"):
        source.evaluate()
    board.power_on()
    assert np.array_equal(source.evaluate(), sram(board))


def test_garbage_in_both_directions_and_a_slow_line(boards: Boards) -> None:
    """A proxy between two pseudo-terminals adds noise between frames, damages some frames and delays all bytes."""
    import serial

    board = boards()
    board.power_on()
    master, slave = os.openpty()
    port = os.ttyname(slave)
    noise = np.random.default_rng(5)
    stop = threading.Event()

    def damaged(data: bytes) -> bytes:
        if noise.random() < 0.02:
            at = int(noise.integers(len(data)))
            data = data[:at] + bytes([data[at] ^ (1 << int(noise.integers(8)))]) + data[at + 1 :]
        return (noise.bytes(5) if noise.random() < 0.1 else b"") + data

    with serial.Serial(str(board.port), timeout=0) as line:
        import tty

        tty.setraw(slave)
        os.set_blocking(master, False)

        def carry() -> None:
            while not stop.is_set():
                try:
                    asked = os.read(master, 64)
                except BlockingIOError:
                    asked = b""
                if asked:
                    line.write(damaged(asked))
                if said := line.read(64):
                    os.write(master, damaged(said))
                time.sleep(0.002)

        worker = threading.Thread(target=carry)
        worker.start()
        try:
            bits = SerialSRAM(port, timeout=0.3, length=2048).evaluate()
        finally:
            stop.set()
            worker.join()
    os.close(master)
    os.close(slave)
    assert np.array_equal(bits, sram(board)[: 8 * 2048])


def test_the_tool_and_its_power_hook(boards: Boards, tmp_path: Path) -> None:
    """What ``make emulated-device`` prints is an address that works."""
    from emulated_device import serve

    from unclone.puf.base import SourceURI
    from unclone.puf.serial import open_serial

    board = boards()
    board.power_on()
    threading.Thread(target=serve, args=[board], daemon=True).start()
    tool = Path(__file__).parents[2] / "tools" / "emulated_device.py"
    hook = shlex.join([sys.executable, str(tool), "power-cycle", "--folder", str(board.folder)])
    source = open_serial(SourceURI.parse(f"serial:{board.port}?length=1024&power={hook.replace(' ', '+')}"))
    patterns = [source.evaluate() for _ in range(3)]
    assert board.starts == 3
    assert not np.array_equal(patterns[0], patterns[1])


MARKER = "9E3779B9 7F4A7C15 61C88646 80B583EA F39CC060 5CEDC834 0C633F9F A31237CB"
"""As in firmware/startup.c."""


@pytest.mark.parametrize(("damaged", "refused"), [(0, True), (40, True), (80, False)])
def test_memory_that_kept_its_content_is_noticed(boards: Boards, tmp_path: Path, damaged: int, refused: bool) -> None:
    """A reset, a short power-off that flipped 40 of 256 bits, and one that flipped 80."""
    bits = np.unpackbits(np.array([int(word, 16) for word in MARKER.split()], dtype="<u4").view(np.uint8))
    bits[np.random.default_rng(3).permutation(256)[:damaged]] ^= 1
    (tmp_path / "marker.bin").write_bytes(np.packbits(bits).tobytes())
    board = boards()
    board.power_on(kept=tmp_path / "marker.bin")
    if refused:
        with pytest.raises(SourceError, match=f"kept {256 - damaged} of 256 marked bits"):
            SerialSRAM(str(board.port)).evaluate()
    else:
        assert np.array_equal(SerialSRAM(str(board.port)).evaluate(), sram(board))
