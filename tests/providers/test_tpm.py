"""``tpm:`` against the emulator swtpm: seal, unseal, boot state, other TPMs, and what the TPM refuses."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

import unclone
from unclone.cli.app import run
from unclone.errors import MissingExtraError, ReconstructionError, RecordError, SourceError
from unclone.records import HelperData

pytest.importorskip("tpm2_pytss")
if shutil.which("swtpm") is None:
    pytest.skip("swtpm is not installed (Debian: apt-get install swtpm)", allow_module_level=True)


def free_ports() -> int:
    """A port of which the next one is free too: swtpm's control channel is there."""
    for _ in range(50):
        with socket.socket() as one, socket.socket() as two:
            one.bind(("127.0.0.1", 0))
            port = int(one.getsockname()[1])
            try:
                two.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port
    raise OSError("no two ports")


def answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def emulated(state: Path) -> Iterator[str]:
    """A TPM that is powered on, as a ``tcti`` option; the same folder is the same chip."""
    state.mkdir(exist_ok=True)
    process, port = started(state)
    with process:
        try:
            yield f"tcti=swtpm:port={port}"
        finally:
            process.kill()


def started(state: Path) -> tuple[subprocess.Popen[bytes], int]:
    """An emulator that answers, and its port; another port where somebody was faster to take one."""
    for _ in range(10):
        port = free_ports()
        command = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={state}", "--flags", "not-need-init,startup-clear",
                   "--server", f"type=tcp,port={port}", "--ctrl", f"type=tcp,port={port + 1}"]  # fmt: skip
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        # The server channel takes one connection and ends with it, so only the control channel is asked.
        while process.poll() is None:
            if answers(port + 1):
                return process, port
            time.sleep(0.02)
    raise OSError("swtpm does not start")


@pytest.fixture
def tpm(tmp_path: Path) -> Iterator[str]:
    with emulated(tmp_path / "chip") as tcti:
        yield tcti


def extend(tcti: str, pcr: int) -> None:
    from tpm2_pytss import ESAPI
    from tpm2_pytss.constants import ESYS_TR
    from tpm2_pytss.types import TPM2B_EVENT

    with ESAPI(tcti.removeprefix("tcti=")) as session:
        session.pcr_event(ESYS_TR(int(ESYS_TR.PCR0) + pcr), TPM2B_EVENT(b"another boot loader"))


def clear(tcti: str) -> None:
    from tpm2_pytss import ESAPI
    from tpm2_pytss.constants import ESYS_TR

    with ESAPI(tcti.removeprefix("tcti=")) as session:
        session.clear(ESYS_TR.LOCKOUT)


def secret_of(device: unclone.Device, source: str) -> bytes:
    with unclone.reconstruct(device, source) as key:
        return bytes(key.secret)


def test_the_key_outlives_a_power_cycle(tmp_path: Path) -> None:
    with emulated(tmp_path / "chip") as tcti:
        device = unclone.enroll(f"tpm:?{tcti}", name="gateway")
        first = secret_of(device, f"tpm:?{tcti}")
    assert (device.root, device.report.key_bits) == ("tpm", 256)
    assert "not a PUF" in device.report.notes[0]
    with emulated(tmp_path / "chip") as tcti:
        assert secret_of(device, f"tpm:?{tcti}") == first


def test_many_times_in_one_tpm_leave_no_objects_behind(tpm: str) -> None:
    device = unclone.enroll(f"tpm:?{tpm}&pcrs=0,7")
    assert len({secret_of(device, f"tpm:?{tpm}") for _ in range(8)}) == 1


def test_another_tpm_gives_nothing(tpm: str, tmp_path: Path) -> None:
    device = unclone.enroll(f"tpm:?{tpm}")
    with emulated(tmp_path / "other") as other, pytest.raises(ReconstructionError, match="another TPM"):
        unclone.reconstruct(device, f"tpm:?{other}")


def test_a_cleared_tpm_gives_nothing(tpm: str) -> None:
    device = unclone.enroll(f"tpm:?{tpm}")
    clear(tpm)
    with pytest.raises(ReconstructionError, match="a cleared one"):
        unclone.reconstruct(device, f"tpm:?{tpm}")


def test_the_boot_state_is_part_of_the_key_on_request(tpm: str) -> None:
    bound, free = unclone.enroll(f"tpm:?{tpm}&pcrs=7,0"), unclone.enroll(f"tpm:?{tpm}")
    assert bound.helper.fields["pcrs"] == [0, 7]
    extend(tpm, 4)
    before = secret_of(bound, f"tpm:?{tpm}")
    moved = unclone.refresh(bound, f"tpm:?{tpm}")  # before an update: to no PCR
    extend(tpm, 7)
    with pytest.raises(ReconstructionError, match=r"boot state changed \(PCRs \[0, 7\]\)"):
        unclone.reconstruct(bound, f"tpm:?{tpm}")
    secret_of(free, f"tpm:?{tpm}")
    again = unclone.refresh(moved, f"tpm:?{tpm}&pcrs=0,7")  # and to the new state
    assert secret_of(again, f"tpm:?{tpm}") == before


def test_the_verbs_end_to_end_and_a_machine_with_a_tpm(
    tpm: str, tmp_path: Path, model_file: Path, device: unclone.Device, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway, press, bound = (str(tmp_path / name) for name in ("gateway.json", "press.json", "bound.safetensors"))
    chip = str(tmp_path / "chip.json")
    unclone.save_device(device, chip)
    source = f"tpm:?{tpm}"
    assert run(["enroll", source + "&pcrs=7", "-o", gateway]) == 0
    assert "tpm, not a PUF" in capsys.readouterr().out
    assert (
        run(["machine", "enroll", "--need", "2", "--part", f"gateway={gateway}", "--part", f"chip={chip}", "-o", press])
        == 0
    )
    assert run(["bind", str(model_file), "--to", gateway, "--to", press, "-o", bound]) == 0
    alone = ["restore", bound, "--device", gateway, "--source", source]
    together = [
        "machine",
        "restore",
        bound,
        "--machine",
        press,
        "--part",
        f"gateway={source}",
        "--part",
        "chip=sim:sram?seed=7",
    ]
    assert [run(alone), run(together)] == [0, 0]
    assert run(["health", "--device", gateway, "--source", source]) == 0
    extend(tpm, 7)
    capsys.readouterr()
    assert [run(alone), run(together)] == [3, 3]
    assert "gateway: the TPM did not release the key" in capsys.readouterr().err


def altered(device: unclone.Device, **fields: object) -> unclone.Device:
    return replace(device, helper=HelperData(device.helper.scheme, {**device.helper.fields, **fields}))


def test_altered_records(tpm: str) -> None:
    source = f"tpm:?{tpm}"
    device, other = unclone.enroll(source), unclone.enroll(source + "&pcrs=0")
    fields = other.helper.fields
    for change in (
        {"private": fields["private"]},
        {"public": fields["public"]},
        {"public": fields["public"], "private": fields["private"], "pcrs": [0]},
        {"public": fields["public"], "private": fields["private"]},
        {"pcrs": [3]},
        {"parent": fields["public"]},
    ):
        with pytest.raises(ReconstructionError):
            unclone.reconstruct(altered(device, **change), source)
    for nonsense in (
        {"private": ""}, {"public": "AAAA"}, {"private": "A" * 8}, {"public": "A" * 2000}, {"pcrs": [24]},
        {"pcrs": [7, 0]}, {"pcrs": [True]}, {"pcrs": 7}, {"odd": 1}, {"parent": 7}, {"public": "?"},
    ):  # fmt: skip
        with pytest.raises((RecordError, ReconstructionError)):
            unclone.reconstruct(altered(device, **nonsense), source)
    secret_of(device, source)  # and the TPM is none the worse


def test_the_bus_does_not_see_the_secret(tpm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # A recording relay between the library and the TPM: what a probe on the bus would see.
    from unclone.providers import tpm as module

    sealed: list[bytes] = []
    original = module._seal

    def spy(session: object, parent: object, secret: bytes, pcrs: tuple[int, ...]) -> tuple[bytes, bytes]:
        sealed.append(secret)
        return original(session, parent, secret, pcrs)

    monkeypatch.setattr(module, "_seal", spy)
    with relay(int(tpm.rpartition("=")[2])) as (port, seen):
        source = f"tpm:?tcti=swtpm:port={port}"
        device = unclone.enroll(source)
        secret_of(device, source)
    (secret,) = sealed
    assert len(seen) > 1000
    assert secret not in bytes(seen)


@contextmanager
def relay(target: int) -> Iterator[tuple[int, bytearray]]:
    """Forwards two consecutive ports (commands, control) to a TPM, and keeps a copy of what went by."""
    import threading

    seen, port, stop = bytearray(), free_ports(), threading.Event()
    listeners = [socket.create_server(("127.0.0.1", port + offset)) for offset in (0, 1)]
    threads: list[threading.Thread] = []

    def pump(source: socket.socket, sink: socket.socket) -> None:
        while data := source.recv(4096):
            seen.extend(data)
            sink.sendall(data)
        with suppress(OSError):  # the other end may be gone already
            sink.shutdown(socket.SHUT_WR)

    def serve(listener: socket.socket, to: int) -> None:
        listener.settimeout(0.1)
        while not stop.is_set():
            try:
                client, _ = listener.accept()
            except TimeoutError:
                continue
            client.settimeout(None)
            with client, socket.create_connection(("127.0.0.1", to)) as server:
                back = threading.Thread(target=pump, args=(server, client))
                back.start()
                pump(client, server)
                back.join()

    for offset, listener in enumerate(listeners):
        threads.append(threading.Thread(target=serve, args=(listener, target + offset)))
        threads[-1].start()
    try:
        yield port, seen
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        for listener in listeners:
            listener.close()


def test_no_tpm(tpm: str) -> None:
    device = unclone.enroll(f"tpm:?{tpm}")
    for source in ("tpm:?tcti=swtpm:port=1", "tpm:?tcti=device:/dev/nowhere", "tpm:?tcti=nonsense"):
        with pytest.raises(SourceError, match="no TPM answers"):
            unclone.reconstruct(device, source)


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tpm2_pytss", None)
    with pytest.raises(MissingExtraError, match=r"unclone\[tpm\]"):
        unclone.enroll("tpm:")


@pytest.mark.parametrize(
    "address", ["tpm:?pcrs=24", "tpm:?pcrs=a", "tpm:?pcrs=0,0", "tpm:?pcrs=-1", "tpm:/dev/tpm0", "tpm:?odd=1"]
)
def test_bad_addresses(address: str) -> None:
    with pytest.raises(SourceError):
        unclone.enroll(address)
