"""``passphrase:``: scrypt as hashlib has it, prompts that do not echo, nothing secret in addresses or records."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import pty
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import unclone
from unclone.cli.app import run
from unclone.device_file import parse_device, render_device
from unclone.errors import EnrollmentError, ReconstructionError, RecordError, SourceError, UnsupportedError
from unclone.providers import KeyProvider, find_provider, list_providers
from unclone.providers.passphrase import PassphraseProvider, WeakPassphraseWarning, strength_bits
from unclone.records import HelperData

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "spec"))

import check_record

VECTORS = Path(__file__).parent.parent.parent / "spec" / "vectors"
STRONG = "violet anchor seventeen marsh óbelisk"


@pytest.fixture(scope="session")
def bench() -> unclone.Device:
    return unclone.enroll(saying(STRONG), name="bench")


def saying(text: str) -> PassphraseProvider:
    return PassphraseProvider(lambda _: text, log_n=10)


def test_the_key_comes_back_with_the_passphrase_alone(bench: unclone.Device) -> None:
    with unclone.reconstruct(bench, saying(STRONG)) as key, unclone.reconstruct(bench, saying(STRONG)) as again:
        assert bytes(key.secret) == bytes(again.secret)
    for wrong in (STRONG + " ", STRONG.upper(), ""):
        with pytest.raises(ReconstructionError, match="passphrase is not the one"):
            unclone.reconstruct(bench, saying(wrong))


def test_composed_and_decomposed_characters_are_the_same(bench: unclone.Device) -> None:
    unclone.reconstruct(bench, saying(STRONG.replace("ó", "ó"))).wipe()


def test_the_second_reader_with_another_scrypt(bench: unclone.Device) -> None:
    fields = bench.helper.fields
    cost = 1 << int(fields["log_n"])
    secret = hashlib.scrypt(STRONG.encode(), salt=base64.b64decode(fields["salt"]), n=cost, r=8, p=1, dklen=32)
    found = check_record.check(render_device(bench), [secret])
    with unclone.reconstruct(bench, saying(STRONG)) as key:
        assert found["device_key"] == bytes(key.secret).hex()


def test_the_vector_with_both_readers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = json.loads((VECTORS / "vectors.json").read_text())["devices"]["bench"]
    with unclone.reconstruct(VECTORS / "records" / "passphrase.json", saying(index["passphrase"])) as key:
        assert bytes(key.secret).hex() == index["device_key"]
    path = tmp_path / "secret"
    for text, code in ((index["passphrase"], 0), (index["passphrase"] + "?", 3)):
        path.write_text(text + "\n")
        assert check_record.main([str(VECTORS / "records" / "passphrase.json"), "--passphrase-file", str(path)]) == code
    path.write_text("x")
    assert check_record.main([str(VECTORS / "records" / "plain.json"), "--passphrase-file", str(path)]) == 3


def test_the_record_says_what_it_is(bench: unclone.Device) -> None:
    assert (bench.root, bench.source, bench.report.key_bits) == ("passphrase", "passphrase", 0)
    assert "not a PUF" in bench.report.notes[0]
    assert parse_device(render_device(bench)) == bench
    assert STRONG.encode() not in render_device(bench)


def test_two_enrolments_share_nothing(bench: unclone.Device) -> None:
    other = unclone.enroll(saying(STRONG))
    assert other.helper.fields["salt"] != bench.helper.fields["salt"]
    assert other.public_key != bench.public_key


def test_health_and_refresh_with_a_new_passphrase(bench: unclone.Device) -> None:
    report = unclone.health(bench, saying(STRONG))
    assert (report.state, report.root, report.correction) == ("good", "passphrase", None)
    changed = unclone.refresh(bench, PassphraseProvider(lambda new: STRONG + " new" if new else STRONG, log_n=10))
    with (
        unclone.reconstruct(changed, saying(STRONG + " new")) as key,
        unclone.reconstruct(bench, saying(STRONG)) as old,
    ):
        assert bytes(key.secret) == bytes(old.secret)
    with pytest.raises(ReconstructionError):
        unclone.reconstruct(changed, saying(STRONG))


def test_roots_do_not_mix(bench: unclone.Device, device: unclone.Device) -> None:
    with pytest.raises(SourceError, match="root is 'passphrase'"):
        unclone.reconstruct(bench, "sim:sram?seed=7")
    with pytest.raises(SourceError, match="root is 'puf'"):
        unclone.reconstruct(device, saying(STRONG))
    with pytest.raises(SourceError, match="root is 'passphrase'"):
        unclone.health(bench, "tpm:")


@pytest.mark.parametrize(
    ("change", "error"),
    [({"log_n": 30}, UnsupportedError), ({"log_n": 9}, UnsupportedError), ({"r": 16}, UnsupportedError),
     ({"p": 2}, UnsupportedError), ({"log_n": True}, RecordError), ({"salt": "?"}, RecordError),
     ({"salt": "AAAA"}, RecordError), ({"odd": 1}, RecordError), ({"log_n": "17"}, RecordError),
     ({"log_n": 11}, ReconstructionError), ({"salt": "A" * 22 + "=="}, ReconstructionError)],
)  # fmt: skip
def test_altered_helper_data(bench: unclone.Device, change: dict[str, Any], error: type[Exception]) -> None:
    altered = replace(bench, helper=HelperData(bench.helper.scheme, {**bench.helper.fields, **change}))
    with pytest.raises(error):
        unclone.reconstruct(altered, saying(STRONG))


def test_another_scheme_is_refused(bench: unclone.Device) -> None:
    with pytest.raises(RecordError, match="another root"):
        unclone.reconstruct(replace(bench, helper=HelperData("tpm2-sealed-1", {})), saying(STRONG))


def test_weak_and_empty_passphrases() -> None:
    for weak in ("hunter2", "aaaaaaaaaaaaaaaaaaaaaaaa", "123456789012345", "p"):
        with pytest.warns(WeakPassphraseWarning, match="random words"):
            unclone.enroll(saying(weak))
    with pytest.raises(EnrollmentError, match="empty"):
        unclone.enroll(saying(""))
    assert strength_bits(STRONG) > 64


def test_a_file_and_a_descriptor(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text(STRONG + "\r\nnot this line\n", newline="")
    device = unclone.enroll(f"passphrase:?file={path}&log_n=10")
    unclone.reconstruct(device, saying(STRONG)).wipe()
    reader, writer = os.pipe()
    os.write(writer, f"{STRONG}\n{STRONG} new\n".encode())
    os.close(writer)
    changed = unclone.refresh(device, f"passphrase:?fd={reader}&log_n=10")
    unclone.reconstruct(changed, saying(STRONG + " new")).wipe()
    with pytest.raises(SourceError, match="ended before"):
        unclone.reconstruct(device, f"passphrase:?fd={reader}")
    os.close(reader)
    with pytest.raises(SourceError, match="cannot be read"):
        unclone.reconstruct(device, f"passphrase:?fd={reader}")


def test_the_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    said = iter([STRONG, STRONG, STRONG, STRONG, "other"])
    monkeypatch.setattr("getpass.getpass", lambda prompt: next(said))
    device = unclone.enroll("passphrase:?log_n=10")
    unclone.reconstruct(device, "passphrase:").wipe()
    with pytest.raises(SourceError, match="differ"):
        unclone.enroll("passphrase:?log_n=10")


def test_no_terminal_is_an_error_and_nothing_is_echoed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import getpass

    monkeypatch.setattr("getpass.getpass", getpass.fallback_getpass)
    with pytest.raises(SourceError, match="no terminal"):
        unclone.enroll("passphrase:")


def test_a_real_terminal_is_asked_and_echoes_nothing(tmp_path: Path) -> None:
    record = tmp_path / "bench.json"
    enroll = [sys.executable, "-m", "unclone", "enroll", "passphrase:?log_n=10", "-o", str(record)]
    terminal, inner = pty.openpty()
    with subprocess.Popen(enroll, stdin=inner, stdout=inner, stderr=inner, start_new_session=True) as child:
        os.close(inner)
        shown = b""
        for prompt in (b"New passphrase: ", b"Again: "):
            while prompt not in shown:
                shown += os.read(terminal, 4096)
            os.write(terminal, STRONG.encode() + b"\n")
        with suppress(OSError):  # a pseudo-terminal ends with EIO
            while data := os.read(terminal, 4096):
                shown += data
    os.close(terminal)
    assert child.returncode == 0
    assert b"not a PUF" in shown
    assert STRONG.encode() not in shown
    unclone.reconstruct(record, saying(STRONG)).wipe()


@pytest.mark.parametrize(
    "address",
    ["passphrase:secret", "passphrase:?passphrase=x", "passphrase:?file=a&fd=3", "passphrase:?log_n=40",
     "passphrase:?file=", "passphrase:?file=nowhere"],
)  # fmt: skip
def test_bad_addresses(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("getpass.getpass", lambda prompt: "")
    with pytest.raises((SourceError, EnrollmentError)):
        unclone.enroll(address)


@given(st.text(max_size=30))
@settings(max_examples=200, deadline=None)
def test_strength_is_finite_and_grows_with_length(text: str) -> None:
    assert 0 <= strength_bits(text) <= strength_bits(text + text + "xY7!")


def test_the_verbs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record, path = tmp_path / "bench.json", tmp_path / "secret"
    path.write_text("hunter2\n")
    source = f"passphrase:?file={path}&log_n=10"
    assert run(["enroll", source, "-o", str(record)]) == 0
    printed = capsys.readouterr()
    assert "not a PUF" in printed.out
    assert "weak" in printed.err
    assert "hunter2" not in printed.out + printed.err + record.read_text()
    for command in (["inspect", str(record)], ["health", "--device", str(record), "--source", source]):
        assert run(command) == 0
        assert "not a PUF" in capsys.readouterr().out
    path.write_text("hunter3\n")
    assert run(["health", "--device", str(record), "--source", source]) == 3
    assert run(["sources"]) == 0
    assert "not a PUF" in capsys.readouterr().out


def test_providers_are_listed_and_found() -> None:
    assert {"passphrase", "tpm"} <= {entry.scheme for entry in list_providers()}
    assert isinstance(find_provider("passphrase:"), KeyProvider)
    assert find_provider("sim:sram?seed=1") is None
