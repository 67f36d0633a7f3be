"""Memory regions, programs, SPI memories, power hooks, and a plug-in package."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from unclone.errors import SourceError
from unclone.puf.base import SourceURI, list_sources, open_source
from unclone.puf.memory import open_memory
from unclone.puf.power import power_hook
from unclone.puf.program import ProgramSource, open_program
from unclone.puf.serial import open_serial
from unclone.puf.spi import SerialRAM, open_spi

ROOT = Path(__file__).parents[2]
DUMP = np.random.default_rng(1).bytes(256)


def bits(data: bytes) -> np.ndarray:
    return np.unpackbits(np.frombuffer(data, dtype=np.uint8))


def memory(text: str) -> np.ndarray:
    return open_memory(SourceURI.parse(text)).evaluate()


def test_a_dump_and_its_bounds(tmp_path: Path) -> None:
    path = tmp_path / "sram.bin"
    path.write_bytes(DUMP)
    assert np.array_equal(memory(f"mem:{path}"), bits(DUMP))
    assert np.array_equal(memory(f"mem:{path}?offset=0x10&length=32"), bits(DUMP[16:48]))
    for wrong in ("offset=256", "offset=250&length=7", "length=257"):
        with pytest.raises(SourceError, match="has 256 bytes"):
            memory(f"mem:{path}?{wrong}")
    for wrong in ("offset=-1", "offset=0xzz", "length=99999999999", "size=3"):
        with pytest.raises(SourceError):
            memory(f"mem:{path}?{wrong}")
    assert path.read_bytes() == DUMP


def test_one_start_up_gives_one_reading(tmp_path: Path) -> None:
    path = tmp_path / "sram.bin"
    path.write_bytes(DUMP)
    source = open_memory(SourceURI.parse(f"mem:{path}"))
    source.evaluate()
    with pytest.raises(SourceError, match="one start-up gives one reading"):
        source.evaluate()
    path.write_bytes(DUMP[::-1])
    assert np.array_equal(source.evaluate(), bits(DUMP[::-1]))


def test_what_is_no_memory(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo"):
        with pytest.raises(SourceError, match="neither a file nor"):
            memory(f"mem:{path}?length=1")
    with pytest.raises(SourceError, match="No such file"):
        memory(f"mem:{tmp_path}/none")
    with pytest.raises(SourceError, match="give length="):
        memory("mem:/dev/zero")
    assert not memory("mem:/dev/zero?offset=5&length=4097").any()


def test_permission_and_strict_devmem_are_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(SourceError, match="CONFIG_STRICT_DEVMEM"):
        memory("mem:/dev/mem?offset=0x100000&length=16")
    with pytest.raises(SourceError, match=r"udev rule$"):
        memory("mem:/dev/uio0?length=16")


def program(code: str, timeout: float = 20.0) -> ProgramSource:
    return ProgramSource([sys.executable, "-S", "-c", code], timeout=timeout)


def answer(value: object) -> str:
    return f"print({json.dumps(value)!r})"


def test_a_program_is_asked_and_answers() -> None:
    code = (
        "import json, base64; q = json.loads(input()); assert q['protocol'] == 1 and q['request'] == 'evaluate'; "
        "print(json.dumps({'protocol': 1, 'bits': 12, "
        "'response': base64.b64encode(bytes.fromhex(q['challenge'])).decode()}))"
    )
    assert np.array_equal(program(code).evaluate(b"\xab\xf0"), bits(b"\xab\xf0")[:12])


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("", "ended without an answer line; status 0"),
        ("raise SystemExit(7)", "status 7"),
        ("print('hello')", "something else than a line of JSON"),
        ("print('[' * 100000)", "something else than a line of JSON"),
        (answer({"response": "q/A="}), "does not speak protocol 1"),
        (answer({"protocol": 1, "error": "no unread dump"}), "reports: 'no unread dump'"),
        (answer({"protocol": 1, "response": ""}), "no .response."),
        (answer({"protocol": 1, "response": "*"}), "no .response."),
        (answer({"protocol": 1, "response": "q/A=", "bits": 17}), "no .response."),
        (answer({"protocol": 1, "response": "q/A=", "bits": 8}), "no .response."),
        ("print('x' * ((1 << 24) + 70000))", "more than 16777216 bytes"),
    ],
)
def test_what_a_program_may_do_wrong(code: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        program(code).evaluate()


def test_a_program_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    child = "import os, time; open(r'{}', 'w').write(str(os.getpid())); time.sleep(60)".format(tmp_path / "pid")
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', {child!r}])"
    begun = time.monotonic()
    with pytest.raises(SourceError, match="no answer within 2 s"):
        program(code, timeout=2).evaluate()
    assert time.monotonic() - begun < 15
    pid = int((tmp_path / "pid").read_text())
    for _ in range(100):
        try:
            if "Z" in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]:
                break
        except (FileNotFoundError, ProcessLookupError):
            break
        time.sleep(0.05)
    else:
        pytest.fail("the child lives on")


def test_no_shell_and_no_program(tmp_path: Path) -> None:
    for address, message in (
        ("cmd:", "the command is empty"),
        ("cmd:'a", "cannot split"),
        (f"cmd:{tmp_path}/none;echo x", "does not start"),
    ):
        with pytest.raises(SourceError, match=message):
            open_program(SourceURI.parse(address)).evaluate()


def test_the_example_program(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.bin").write_bytes(name.encode() * 8)
    source = open_program(SourceURI.parse(f"cmd:{sys.executable} {ROOT}/examples/lab_source.py {tmp_path}"))
    assert np.array_equal(source.evaluate(), bits(b"a" * 8))
    assert np.array_equal(source.evaluate(), bits(b"b" * 8))
    with pytest.raises(SourceError, match="power the board on again"):
        source.evaluate()


class FakeRAM:
    """A serial SRAM on a bus: an instruction, an address of three bytes, data in sequential mode."""

    def __init__(self) -> None:
        self.chip = np.random.default_rng(4)
        self.content = bytes(131072)
        self.closed = 0

    def cycle(self) -> None:
        self.content = self.chip.bytes(131072)

    def xfer2(self, data: list[int]) -> list[int]:
        assert len(data) <= 4096
        assert data[0] == 0x03
        at = int.from_bytes(bytes(data[1:4]), "big")
        count = len(data) - 4
        return [0xFF] * 4 + list((self.content + self.content)[at : at + count])

    def close(self) -> None:
        self.closed += 1


def test_an_spi_memory_is_power_cycled_for_each_reading() -> None:
    ram = FakeRAM()
    source = SerialRAM(lambda: ram, ram.cycle, length=5000, offset=100)
    first = source.evaluate()
    assert np.array_equal(first, bits(ram.content[100:5100]))
    assert not np.array_equal(source.evaluate(), first)
    assert ram.closed == 2


def test_an_spi_memory_that_kept_its_power_or_is_not_there() -> None:
    ram = FakeRAM()
    ram.cycle()
    source = SerialRAM(lambda: ram, lambda: None, length=64)
    source.evaluate()
    with pytest.raises(SourceError, match="kept its content"):
        source.evaluate()
    ram.content = b"\xff" * 131072
    with pytest.raises(SourceError, match="check wiring"):
        source.evaluate()

    def broken() -> FakeRAM:
        raise FileNotFoundError(2, "No such file or directory")

    with pytest.raises(SourceError, match="bus failed"):
        SerialRAM(broken, lambda: None).evaluate()


@pytest.mark.parametrize(
    "address",
    [
        "spi:",
        "spi:/dev/spidev0",
        "spi:/dev/spidev0.0",
        "spi:/dev/spidev0.0?pin=/dev/gpiochip0/17&power=true",
        "spi:/dev/spidev0.0?pin=gpio17",
        "spi:/dev/spidev0.0?pin=/dev/gpiochip0/17&low=maybe",
        "spi:/dev/spidev0.0?pin=/dev/gpiochip0/17&address_bytes=2&length=65537",
        "spi:/dev/spidev0.0?pin=/dev/gpiochip0/17&mode=3",
    ],
)
def test_spi_addresses_that_are_refused(address: str) -> None:
    with pytest.raises(SourceError):
        open_spi(SourceURI.parse(address))


@pytest.mark.parametrize(
    "address", ["serial:", "serial:/dev/x?baud=1", "serial:/dev/x?wipe=2", "serial:/dev/x?speed=3"]
)
def test_serial_addresses_that_are_refused(address: str) -> None:
    with pytest.raises(SourceError):
        open_serial(SourceURI.parse(address))


def test_power_hooks(tmp_path: Path) -> None:
    assert power_hook("", "it", 1) is None
    for command, limit, message in (
        ("false", 20, "failed with status 1"),
        (f"{tmp_path}/none", 20, "does not start"),
        ("sleep 60", 0.2, "took more than 0.2 s"),
    ):
        hook = power_hook(command, "it", limit)
        assert hook is not None
        with pytest.raises(SourceError, match=message):
            hook()


def test_a_plug_in_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package of examples/source_plugin as an installer would lay it out."""
    example = ROOT / "examples" / "source_plugin"
    shutil.copy(example / "src" / "unclone_source_example.py", tmp_path)
    about = tmp_path / "unclone_source_example-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: unclone-source-example\nVersion: 1.0\n")
    import tomllib

    points = tomllib.loads((example / "pyproject.toml").read_text())["project"]["entry-points"]["unclone.sources"]
    (about / "entry_points.txt").write_text(
        "[unclone.sources]\n" + "".join(f"{name} = {value}\n" for name, value in points.items())
    )
    monkeypatch.syspath_prepend(tmp_path)
    table = np.random.default_rng(2).integers(0, 2, (3, 64))
    np.save(tmp_path / "table.npy", table)
    source = open_source(f"rows:{tmp_path}/table.npy?first=1")
    assert np.array_equal(source.evaluate(), table[1])
    with pytest.raises(SourceError, match="unknown option"):
        open_source(f"rows:{tmp_path}/table.npy?second=1")
    assert [entry.state for entry in list_sources() if entry.scheme == "rows"] == ["usable"]


def test_the_states_of_the_built_in_sources() -> None:
    states = {entry.scheme: entry.state for entry in list_sources()}
    assert states.keys() >= {"cmd", "file", "mem", "serial", "sim", "spi"}
    assert not [state for state in states.values() if state.startswith("not usable")]
