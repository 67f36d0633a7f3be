"""A board on QEMU whose SRAM wakes up with a fresh noisy pattern each time: to try the verbs without a board.

    tools/emulated_device.py run [--folder FOLDER] [--chip URI]     build, start, print the port, wait
    tools/emulated_device.py power-cycle [--folder FOLDER]          what a power hook calls
    tools/emulated_device.py power-off [--folder FOLDER]

The port is a symbolic link to the pseudo-terminal of the emulator that runs now.
"""

from __future__ import annotations

import argparse
import os
import re
import select
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from unclone.puf import open_source

ROOT = Path(__file__).resolve().parent.parent
WINDOW = 0x20008000
WINDOW_BYTES = 8192
MARKER = 0x20000800
MACHINES = {"lm3s6965evb": ("lm3s6965evb", []), "nucleo-f401re": ("netduinoplus2", ["-serial", "null"])}
"""QEMU's machine for a board; for the STM32F401 one with an STM32F405: USART2 and SRAM at the same addresses."""


def build(out: Path, board: str = "lm3s6965evb", version: int = 1) -> Path:
    """The firmware's ELF file."""
    command = ["make", "-s", "-C", str(ROOT / "firmware"), f"BOARD={board}", f"OUT={out}", f"VERSION={version}"]
    subprocess.run(command, check=True)
    return out / f"{board}.elf"


class EmulatedBoard:
    """A chip on an emulated board; every ``power_on`` draws a fresh reading of ``chip`` into the SRAM."""

    def __init__(self, folder: Path, elf: Path, chip: str, board: str = "lm3s6965evb") -> None:
        self.folder = folder
        self.port = folder / "port"
        self.starts = 0
        self._elf = elf
        self._chip = open_source(chip)
        self._board = board
        self._process: subprocess.Popen[bytes] | None = None
        self._memory = folder / "sram.bin"

    def power_on(self, *, fresh: bool = True, kept: Path | None = None) -> None:
        """Start the emulator; with ``fresh=False`` on the same pattern, with an image ``kept`` of the marker."""
        if fresh:
            bits = self._chip.evaluate()
            self._memory.write_bytes(np.packbits(np.resize(bits, min(bits.size, 8 * WINDOW_BYTES))).tobytes())
        machine, serials = MACHINES[self._board]
        command = ["qemu-system-arm", "-M", machine, "-display", "none", "-monitor", "none", *serials, "-serial", "pty"]
        # The ELF file names all its RAM, and QEMU refuses a marker there; the plain image names none.
        command += ["-kernel", str(self._elf.with_suffix(".bin") if kept is not None else self._elf)]
        command += ["-device", f"loader,file={self._memory},addr={WINDOW:#x},force-raw=on"]
        if kept is not None:
            command += ["-device", f"loader,file={kept},addr={MARKER:#x},force-raw=on"]
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
        )
        self._link(self._pty())
        self.starts += 1

    def _pty(self) -> str:
        """The pseudo-terminal's name, as the emulator says it."""
        assert self._process is not None
        assert self._process.stdout is not None
        said = b""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            if select.select([self._process.stdout], [], [], 0.2)[0]:
                piece = os.read(self._process.stdout.fileno(), 4096)
                said += piece
                if found := re.search(rb"redirected to (/dev/pts/\d+)", said):
                    return found[1].decode()
                if not piece:
                    break
        raise RuntimeError(f"the emulator did not start: {said.decode(errors='replace')}")

    def _link(self, target: str) -> None:
        beside = self.folder / "port.new"
        beside.unlink(missing_ok=True)
        beside.symlink_to(target)
        beside.replace(self.port)

    def power_off(self) -> None:
        """Stop the emulator; the port goes away."""
        self.port.unlink(missing_ok=True)
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None

    def power_cycle(self) -> None:
        self.power_off()
        self.power_on()


def serve(board: EmulatedBoard) -> None:
    """Take ``power-cycle`` and ``power-off`` over a socket in the folder until a signal comes."""
    path = board.folder / "control"
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        while True:
            connection, _ = listening.accept()
            with connection:
                asked = connection.recv(64)
                board.power_cycle() if asked == b"power-cycle" else board.power_off()
                connection.sendall(b"done")


def control(folder: Path, action: str) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(folder / "control"))
        connection.sendall(action.encode())
        if connection.recv(16) != b"done":
            sys.exit("the emulated device did not answer")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["run", "power-cycle", "power-off"])
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "emulated-device")
    parser.add_argument("--chip", default="sim:sram?seed=7&bits=65536", help="the source whose readings the SRAM gets")
    parser.add_argument("--board", default="lm3s6965evb", choices=sorted(MACHINES))
    given = parser.parse_args()
    if given.action != "run":
        control(given.folder, given.action)
        return
    given.folder.mkdir(parents=True, exist_ok=True)
    board = EmulatedBoard(given.folder, build(given.folder / "firmware", given.board), given.chip, given.board)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    board.power_on()
    hook = shlex.join([sys.executable, str(Path(__file__).resolve()), "power-cycle", "--folder", str(given.folder)])
    print(f"port    {board.port}")
    print(f"source  serial:{board.port}?power={hook.replace(' ', '+')}")
    print("Ctrl-C ends it.", flush=True)
    try:
        serve(board)
    except KeyboardInterrupt:
        pass
    finally:
        board.power_off()


if __name__ == "__main__":
    main()
