"""Outputs appear whole or not at all."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from unclone.errors import OutputError, RecordError
from unclone.files import atomic_output, flushing, read_bounded


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".~unclone")]


def test_an_output_appears_whole(tmp_path: Path) -> None:
    with atomic_output(tmp_path / "out") as stream:
        stream.write(b"whole")
        assert not (tmp_path / "out").exists()
    assert (tmp_path / "out").read_bytes() == b"whole"
    assert not leftovers(tmp_path)


def test_a_failed_block_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), atomic_output(tmp_path / "out", force=True) as stream:
        stream.write(b"half")
        raise KeyboardInterrupt
    assert (tmp_path / "out").read_bytes() == b"old"
    assert not leftovers(tmp_path)


def test_an_existing_output_is_refused_without_force(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"old")
    with pytest.raises(OutputError, match="--force"), atomic_output(tmp_path / "out"):
        pytest.fail("the block ran")
    with atomic_output(tmp_path / "out", force=True) as stream:
        stream.write(b"new")
    assert (tmp_path / "out").read_bytes() == b"new"


def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="exists"), atomic_output(tmp_path / "out") as stream:
        stream.write(b"mine")
        (tmp_path / "out").write_bytes(b"theirs")
    assert (tmp_path / "out").read_bytes() == b"theirs"
    assert not leftovers(tmp_path)


def test_file_systems_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with atomic_output(tmp_path / "out") as stream:
        stream.write(b"whole")
    assert (tmp_path / "out").read_bytes() == b"whole"
    assert not leftovers(tmp_path)


def test_missing_folder_and_folder_as_output(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="does not exist"), atomic_output(tmp_path / "no" / "out"):
        pytest.fail("the block ran")
    with pytest.raises(OutputError, match="is a folder"), atomic_output(tmp_path, force=True):
        pytest.fail("the block ran")


def test_a_full_disk_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No space left"), atomic_output(tmp_path / "out") as stream:
        stream.write(b"x")
        raise OSError(28, "No space left on device")
    assert not leftovers(tmp_path)


def test_a_killed_process_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"old")
    code = (
        "import os, sys; from pathlib import Path; from unclone.files import atomic_output\n"
        "with atomic_output(Path(sys.argv[1]), force=True) as s:\n    s.write(b'half'); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "out")], check=False)
    assert done.returncode == -9
    assert (tmp_path / "out").read_bytes() == b"old"


def test_bounded_reads(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"12345")
    assert read_bounded(tmp_path / "in", 5, RecordError) == b"12345"
    with pytest.raises(RecordError, match="longer than 4 bytes"):
        read_bounded(tmp_path / "in", 4, RecordError)
    with pytest.raises(RecordError, match="cannot read"):
        read_bounded(tmp_path / "none", 4, RecordError)


def test_a_disk_that_fails_while_it_is_flushed_leaves_no_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = threading.Event()

    def full(_: int) -> None:
        failed.set()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fdatasync", full)
    target = tmp_path / "out"
    with pytest.raises(OutputError, match="No space left"), atomic_output(target) as stream:  # noqa: SIM117
        with flushing([stream.fileno()]):
            stream.write(b"much")
            assert failed.wait(10)
    assert list(tmp_path.iterdir()) == []


def test_flushing_ends_with_its_block_and_lets_errors_pass(tmp_path: Path) -> None:
    before = threading.active_count()
    with pytest.raises(ZeroDivisionError), (tmp_path / "f").open("wb") as stream, flushing([stream.fileno()]):
        raise ZeroDivisionError
    assert threading.active_count() == before
