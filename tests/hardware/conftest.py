"""The emulated board: firmware built once, an emulator for each test."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

from emulated_device import EmulatedBoard, build

CHIP = "sim:sram?seed=7&bits=65536&noise_seed=1"


@pytest.fixture(scope="session")
def firmware(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    for program in ("arm-none-eabi-gcc", "qemu-system-arm", "make"):
        if shutil.which(program) is None:
            pytest.skip(f"no {program}: apt-get install gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm make")
    folder = tmp_path_factory.mktemp("firmware")
    return lambda board="lm3s6965evb", version=1: build(folder / str(version), board, version)


@pytest.fixture
def boards(tmp_path: Path, firmware: Callable[..., Path]) -> Iterator[Callable[..., EmulatedBoard]]:
    """Make switched-off boards; all are off at the end."""
    made: list[EmulatedBoard] = []

    def make(board: str = "lm3s6965evb", version: int = 1, chip: str = CHIP) -> EmulatedBoard:
        folder = tmp_path / f"board{len(made)}"
        folder.mkdir()
        made.append(EmulatedBoard(folder, firmware(board, version), chip, board))
        return made[-1]

    yield make
    for board in made:
        board.power_off()
