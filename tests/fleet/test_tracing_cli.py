"""``unclone fleet trace``, from a list of devices and from a registry."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import unclone
from unclone.cli.app import run
from unclone.fleet.tracing import fingerprinted

VENDOR = "sim:sram?seed=99"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vendor's trace key, a model, a registry of two devices, and a copy that leaked from one of them."""
    found = tmp_path_factory.mktemp("trace")
    rng = np.random.default_rng(12)
    save_file({"w": rng.standard_normal((120, 100)).astype(np.float32)}, found / "model.safetensors")
    vendor = unclone.enroll(VENDOR, name="trace key")
    unclone.save_device(vendor, found / "vendor.json")
    for number in (1, 2):
        device = unclone.enroll(f"sim:sram?seed={number}", name=f"press-{number}")
        unclone.save_device(device, found / f"press-{number}.json")
    with unclone.reconstruct(vendor, VENDOR) as key:
        name = digest(found / "press-2.json")
        fingerprinted(found / "model.safetensors", key, name, found / "leaked.safetensors")
    return found


def digest(record: Path) -> str:
    return hashlib.sha256(unclone.load_device(record).public_key).hexdigest()


def arguments(folder: Path, *more: str) -> list[str]:
    options = ["--original", str(folder / "model.safetensors"), "--trace-key", str(folder / "vendor.json")]
    return ["fleet", "trace", str(folder / "leaked.safetensors"), *options, "--source", VENDOR, *more]


def test_a_registry_names_the_device(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sqlalchemy")
    db = str(folder / "fleet.db")
    assert run(["fleet", "init", "--db", db]) == 0
    assert run(["fleet", "add", str(folder / "press-1.json"), str(folder / "press-2.json"), "--db", db]) == 0
    assert run(["fleet", "revoke", "press-2", "--db", db]) == 0  # a stolen device is the first to suspect
    capsys.readouterr()
    assert run(arguments(folder, "--db", db, "--json")) == 0
    value = json.loads(capsys.readouterr().out)
    guilty = digest(folder / "press-2.json")
    assert value["accused"] == [guilty]
    assert value["devices"] == 2
    assert value["suspects"][0]["name"] == "press-2"
    assert value["suspects"][0]["log10_fleet"] < -100
    assert not value["suspects"][1]["accused"]
    assert run(arguments(folder, "--db", db)) == 0
    text = capsys.readouterr().out
    assert guilty in text
    assert "press-2" in text
    assert "press-1" not in text


def test_a_list_names_the_device_or_nobody(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "ids").write_text(f"somebody\n\n  {digest(folder / 'press-2.json')}\nelse\n")
    assert run(arguments(folder, "--devices", str(folder / "ids"))) == 0
    assert "compared          3 devices on 12,000 weights" in capsys.readouterr().out
    (folder / "others").write_text("somebody\nelse\n")
    assert run(arguments(folder, "--devices", str(folder / "others"), "--json")) == 0
    assert json.loads(capsys.readouterr().out)["accused"] == []
    assert run(arguments(folder, "--devices", str(folder / "others"))) == 0
    assert "none" in capsys.readouterr().out


def test_a_release_for_each_device_leaks_its_name(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("joblib")
    from unclone.fleet.licensing import Target
    from unclone.fleet.release import Tracing, bind_each
    from unclone.fleet.tracing import trace

    records = [unclone.load_device(folder / f"press-{number}.json") for number in (1, 2)]
    vendor = unclone.load_device(folder / "vendor.json")
    model = folder / "model.safetensors"
    with unclone.reconstruct(vendor, VENDOR) as key:
        tracing = Tracing(bytes(key.secret))
        made = list(bind_each(model, vendor, [Target.of(record) for record in records], tmp_path, tracing=tracing))
        with (
            unclone.reconstruct(records[0], "sim:sram?seed=1") as device,
            unclone.restore(made[0].path, device) as restored,
        ):
            leaked = restored["w"].data.view(np.float32).reshape(120, 100).copy()
        save_file({"w": leaked}, tmp_path / "leaked.safetensors")
        names = [hashlib.sha256(record.public_key).hexdigest() for record in records]
        found = trace(tmp_path / "leaked.safetensors", model, key, names)
    assert [suspect.device for suspect in found.accused] == names[:1]


def test_what_cannot_be_used_is_an_error(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "empty").write_text("\n")
    assert run(arguments(folder, "--devices", str(folder / "empty"))) == 2
    assert "devices" in capsys.readouterr().err
    (folder / "binary").write_bytes(b"\xff\xfe\x00")
    assert run(arguments(folder, "--devices", str(folder / "binary"))) == 2
    assert "UTF-8" in capsys.readouterr().err
    wrong = ["sim:sram?seed=98" if part == VENDOR else part for part in arguments(folder, "--devices", "none")]
    assert run(wrong) == 3
