"""Releases and licences in bulk: what they open, what they refuse, resuming, revoking, names, the command line."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import unclone
from unclone import keys
from unclone.cli.app import run
from unclone.errors import (
    HeaderTamperedError,
    LicenceError,
    OutputError,
    ParameterError,
    RecordError,
    RegistryError,
    SlotError,
)
from unclone.licence import Issuer, load_licence, parse_licence, render_licence, unseal
from unclone.machine import enroll_machine, save_machine
from unclone.records import Device, DeviceKey, EnrollmentReport, HelperData

pytest.importorskip("sqlalchemy")

from unclone.fleet import licensing
from unclone.fleet.licensing import Plan, ReleaseKey, Target, licence_name, license_files, license_registry
from unclone.fleet.registry import Registry, open_registry
from unclone.fleet.release import Tracing, bind_each, make_release, register_release, rekey

REPORT = EnrollmentReport(5, 8192, 500_000, 60_000, 1, 1, 1, 128, -9000)
VENDOR = DeviceKey(b"v" * 32)


def device_key(number: int) -> DeviceKey:
    return DeviceKey(number.to_bytes(32, "big"))


def record(number: int, name: str = "", suite: str = keys.SUITE) -> Device:
    public = keys.public_key(device_key(number), suite)
    return Device(name or f"press-{number}", "puf", "made up", suite, public, HelperData("none", {}), bytes(48), REPORT)


def vendor_record() -> Device:
    return Device(
        "vendor", "test", "none", keys.HYBRID, keys.public_key(VENDOR, keys.HYBRID), HelperData("none", {}), b"", REPORT
    )


@dataclass
class Shipped:
    """A model, its release, and the release opened by the vendor."""

    model: Path
    path: Path
    header: Any
    key: ReleaseKey


@pytest.fixture
def shipped(model_file: Path, tmp_path: Path) -> Shipped:
    path = tmp_path / "release.safetensors"
    header = make_release(model_file, vendor_record(), path)
    return Shipped(model_file, path, header, ReleaseKey.open(path, VENDOR))


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with open_registry(str(tmp_path / "fleet.db"), create=True) as opened:
        yield opened


def opened_by(shipped: Shipped, number: int, licence: Path) -> None:
    with unclone.restore(shipped.path, device_key(number), licence=licence) as restored:
        assert restored["layer.weight"].data.nbytes == 64 * 48 * 4


def test_licences_open_the_release_for_their_devices_alone(shipped: Shipped, tmp_path: Path) -> None:
    folder = tmp_path / "licences"
    folder.mkdir()
    targets = [Target.of(record(number, suite=suite)) for number, suite in ((1, keys.SUITE), (2, keys.HYBRID))]
    assert (
        license_files(shipped.key, targets, folder, Plan(not_after="2999-01-01T00:00:00Z", note="Linie 4")).issued == 2
    )
    one, two = (folder / licence_name(target.key, shipped.header.file_id) for target in targets)
    opened_by(shipped, 1, one)
    opened_by(shipped, 2, two)
    assert load_licence(one).note == "Linie 4"
    for number, licence in ((1, two), (2, one), (3, one)):
        with pytest.raises(LicenceError):
            unclone.restore(shipped.path, device_key(number), licence=licence)
    with pytest.raises(SlotError):
        unclone.restore(shipped.path, device_key(1))


def test_the_fast_issuer_writes_what_the_plain_one_would() -> None:
    for suite in keys.SUITES:
        for note in ("", '","sealed":"', '{"hint":"', '\\ " ü \U0001f916'):
            key = device_key(5)
            text = Issuer(b"c" * 32, bytes(16), suite, "2999-01-01T00:00:00Z", note).issue(keys.public_key(key, suite))
            assert render_licence(parse_licence(text)) == text
            assert unseal(parse_licence(text), key, bytes(16)) == b"c" * 32
            assert parse_licence(text).note == note


def test_a_run_that_was_broken_off_goes_on(shipped: Shipped, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "licences"
    folder.mkdir()
    targets = [Target.of(record(number)) for number in range(1, 13)]
    monkeypatch.setattr(licensing, "CHUNK", 5)
    place, placed = licensing._place, []

    def dies_at_seven(path: Path, text: bytes) -> None:
        if len(placed) == 7:
            raise KeyboardInterrupt
        placed.append(path)
        place(path, text)

    monkeypatch.setattr(licensing, "_place", dies_at_seven)
    with pytest.raises(KeyboardInterrupt):
        license_files(shipped.key, targets, folder, Plan())
    monkeypatch.setattr(licensing, "_place", place)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    placed[0].write_bytes(b"")  # what a power failure may leave
    placed[1].write_bytes(before[placed[1]][:-30])
    done = license_files(shipped.key, [*targets, targets[0]], folder, Plan())
    assert (done.issued, done.kept) == (7, 5)
    assert len(list(folder.iterdir())) == 12
    assert all(path.read_bytes() == data for path, data in before.items() if path not in placed[:2])
    for number, target in enumerate(targets, 1):
        opened_by(shipped, number, folder / licence_name(target.key, shipped.header.file_id))


def test_other_terms_are_made_anew(shipped: Shipped, tmp_path: Path) -> None:
    targets = [Target.of(record(1))]
    license_files(shipped.key, targets, tmp_path, Plan())
    assert license_files(shipped.key, targets, tmp_path, Plan(note="new")).issued == 1
    assert load_licence(tmp_path / licence_name(targets[0].key, shipped.header.file_id)).note == "new"


def test_registry_licences_revocation_and_resume(shipped: Shipped, registry: Registry, tmp_path: Path) -> None:
    records = [
        record(number, name) for number, name in enumerate(["../../etc/passwd", "'; DROP TABLE devices; --", "c"], 1)
    ]
    registry.add_devices(records)
    targets = [Target.of(one) for one in records]
    with pytest.raises(RegistryError, match="not in this registry"):
        license_registry(shipped.key, registry, None, Plan())
    register_release(registry, shipped.header, "press model")
    registry.revoke("device", targets[2].key, "stolen")
    folder = tmp_path / "out"
    folder.mkdir()
    done = license_registry(shipped.key, registry, None, Plan(not_after="2999-01-01T00:00:00Z"), folder=folder)
    assert (done.issued, done.revoked) == (2, ())
    names = {licence_name(target.key, shipped.header.file_id) for target in targets[:2]}
    assert {path.name for path in folder.iterdir()} == names
    opened_by(shipped, 1, folder / licence_name(targets[0].key, shipped.header.file_id))
    (folder / licence_name(targets[0].key, shipped.header.file_id)).unlink()
    again = license_registry(shipped.key, registry, targets, Plan(), folder=folder)
    assert (again.issued, again.kept, again.revoked) == (0, 2, (targets[2].key,))
    assert {path.name for path in folder.iterdir()} == names
    row = registry.licence(shipped.header.file_id, targets[0].key)
    assert row is not None
    assert row.not_after == 32472144000
    with pytest.raises(RegistryError):
        license_registry(shipped.key, registry, [Target.of(record(9))], Plan())
    replaced = license_registry(shipped.key, registry, None, Plan(note="new"), folder=folder, replace=True)
    assert replaced.issued == 2
    assert load_licence(folder / licence_name(targets[1].key, shipped.header.file_id)).note == "new"


def test_rekey_leaves_out_who_is_not_licensed_again(shipped: Shipped, registry: Registry, tmp_path: Path) -> None:
    register_release(registry, shipped.header, "press model")
    registry.add_devices([record(1), record(2)])
    one, two = Target.of(record(1)), Target.of(record(2))
    license_registry(shipped.key, registry, None, Plan(), folder=tmp_path)
    registry.revoke("device", two.key, "stolen")
    header, old = rekey(shipped.model, vendor_record(), tmp_path / "new.safetensors", of=shipped.path)
    assert old == shipped.header.file_id
    register_release(registry, header, "press model", rekeys=old)
    with pytest.raises(RegistryError, match="is revoked"):
        license_registry(shipped.key, registry, None, Plan())
    fresh = ReleaseKey.open(tmp_path / "new.safetensors", VENDOR)
    assert fresh.content_key != shipped.key.content_key
    assert license_registry(fresh, registry, None, Plan(), folder=tmp_path).issued == 1
    with unclone.restore(
        tmp_path / "new.safetensors", device_key(1), licence=tmp_path / licence_name(one.key, header.file_id)
    ):
        pass
    old_licence = tmp_path / licence_name(two.key, old)
    with pytest.raises(LicenceError):
        unclone.restore(tmp_path / "new.safetensors", device_key(2), licence=old_licence)
    opened_by(shipped, 2, old_licence)  # what revocation cannot do


def test_rekey_of_another_model(shipped: Shipped, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"other": np.ones(64, dtype=np.float32)}, tmp_path / "other.safetensors")
    with pytest.raises(ParameterError, match="another model"):
        rekey(tmp_path / "other.safetensors", vendor_record(), tmp_path / "new.safetensors", of=shipped.path)
    assert not (tmp_path / "new.safetensors").exists()
    with pytest.raises(OutputError, match="old release itself"):
        rekey(shipped.model, vendor_record(), shipped.path, of=shipped.path, force=True)


def test_one_file_for_each(shipped: Shipped, tmp_path: Path) -> None:
    folder = tmp_path / "each"
    folder.mkdir()
    targets = [Target.of(record(1)), Target.of(record(2, suite=keys.HYBRID))]
    first = list(bind_each(shipped.model, vendor_record(), targets, folder))
    assert all(each.made for each in first)
    again = list(bind_each(shipped.model, vendor_record(), targets, folder))
    assert [(each.path, each.file_id, each.made) for each in again] == [(e.path, e.file_id, False) for e in first]
    assert len({ReleaseKey.open(each.path, VENDOR).content_key for each in first}) == 2
    for number, each in enumerate(first, 1):
        with unclone.restore(each.path, device_key(number)):
            pass
        with pytest.raises(SlotError):
            unclone.restore(each.path, device_key(3 - number))
    first[0].path.write_bytes(first[1].path.read_bytes())
    with pytest.raises(OutputError, match="another device"):
        list(bind_each(shipped.model, vendor_record(), targets, folder))
    first[0].path.write_bytes(b"junk")
    with pytest.raises(OutputError, match="in the way"):
        list(bind_each(shipped.model, vendor_record(), targets, folder))


def test_what_cannot_be_licensed(shipped: Shipped, tmp_path: Path) -> None:
    with pytest.raises(SlotError):
        ReleaseKey.open(shipped.path, device_key(1))
    data = bytearray(shipped.path.read_bytes())
    data[data.index(b"vendor")] ^= 1
    (tmp_path / "altered.safetensors").write_bytes(data)
    with pytest.raises(HeaderTamperedError):
        ReleaseKey.open(tmp_path / "altered.safetensors", VENDOR)
    with pytest.raises(OutputError, match="cannot be the folder"):
        license_files(shipped.key, [], tmp_path / "no" / "where", Plan())
    with pytest.raises(RecordError, match="public key"):
        license_files(shipped.key, [Target(keys.SUITE, bytes(32))], tmp_path, Plan())
    with pytest.raises(ParameterError):
        Plan(not_after="soon")


def test_all_machines_and_none_of_their_parts(shipped: Shipped, registry: Registry) -> None:
    press = enroll_machine(
        {name: unclone.enroll(f"sim:sram?seed={seed}") for name, seed in (("a", 71), ("b", 72))}, need=2
    )
    registry.add_machine(press)
    registry.add_devices([record(1)])
    register_release(registry, shipped.header, "m")
    assert license_registry(shipped.key, registry, None, Plan(), machines=True).issued == 1
    held = [row.device for rows in registry.licences_of(shipped.key.file_id) for row in rows]
    assert held == [Target.of(press).key]
    assert license_registry(shipped.key, registry, None, Plan(), machines=True).issued == 0


def test_a_copy_without_a_fingerprint_is_not_taken_for_one_with_it(tmp_path: Path) -> None:
    targets, folder = [Target.of(record(1))], tmp_path / "each"
    model = tmp_path / "wide.safetensors"
    save_file({"w": np.random.default_rng(3).normal(size=(128, 64)).astype(np.float32)}, model)
    (plain,) = bind_each(model, vendor_record(), targets, folder)
    (traced,) = bind_each(model, vendor_record(), targets, folder, tracing=Tracing(b"t" * 32))
    assert plain.made
    assert traced.made
    assert plain.path != traced.path
    (again,) = bind_each(model, vendor_record(), targets, folder, tracing=Tracing(b"t" * 32))
    assert not again.made
    assert again.path == traced.path


def test_a_machine_is_licensed_as_a_device_is(shipped: Shipped, tmp_path: Path) -> None:
    parts = {name: unclone.enroll(f"sim:sram?seed={seed}", suite="hybrid") for name, seed in (("a", 7), ("b", 8))}
    press = enroll_machine(parts, need=2, suite="hybrid")
    save_machine(press, tmp_path / "press.json")
    target = Target.of(press)
    license_files(shipped.key, [target], tmp_path, Plan())
    licence = tmp_path / licence_name(target.key, shipped.header.file_id)
    sources = [f"--part={name}=sim:sram?seed={seed}" for name, seed in (("a", 7), ("b", 8))]
    common = ["machine", "restore", str(shipped.path), "--machine", str(tmp_path / "press.json"), *sources]
    assert run([*common, "--licence", str(licence)]) == 0
    assert run(common) == 3


def test_two_workers(shipped: Shipped, tmp_path: Path) -> None:
    targets = [Target.of(record(number)) for number in range(1, 40)]
    assert pickle.loads(pickle.dumps(shipped.key)) == shipped.key
    assert shipped.key.content_key.hex() not in repr(shipped.key)
    assert license_files(shipped.key, targets, tmp_path, Plan(workers=2)).issued == 39
    opened_by(shipped, 39, tmp_path / licence_name(targets[-1].key, shipped.header.file_id))


def test_the_command_line(tmp_path: Path, model_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pass").write_text("violet anchor seventeen marsh obelisk\n")
    source, db = f"passphrase:?file={tmp_path / 'pass'}&log_n=10", str(tmp_path / "fleet.db")
    vendor, release, folder = tmp_path / "vendor.json", tmp_path / "release.safetensors", tmp_path / "out"
    folder.mkdir()

    def call(*arguments: str) -> Any:
        assert run([*arguments, "--json"]) == 0, capsys.readouterr().err
        return json.loads(capsys.readouterr().out)

    call("enroll", source, "--suite", "hybrid", "-o", str(vendor))
    for seed in (7, 8):
        call("enroll", f"sim:sram?seed={seed}", "--name", f"press-{seed}", "-o", str(tmp_path / f"{seed}.json"))
    call("fleet", "init", "--db", db)
    call("fleet", "add", str(tmp_path / "7.json"), str(tmp_path / "8.json"), "--db", db)
    made = call("fleet", "release", str(model_file), "--vendor", str(vendor), "-o", str(release), "--db", db)
    call("fleet", "revoke", "press-8", "--db", db)
    common = ["--release", str(release), "--vendor", str(vendor), "--vendor-source", source, "--db", db]
    done = call("fleet", "license", *common, "--all", "-o", str(folder), "--not-after", "2999-01-01T00:00:00Z")
    assert (done["file_id"], done["issued"]) == (made["file_id"], 1)
    done = call("fleet", "license", *common, "--to", str(tmp_path / "8.json"))
    assert (done["issued"], len(done["revoked"])) == (0, 1)
    (licence,) = folder.iterdir()
    arguments = [str(release), "--licence", str(licence), "--device"]
    assert call("restore", *arguments, str(tmp_path / "7.json"), "--source", "sim:sram?seed=7")["verified"]
    assert run(["restore", *arguments, str(tmp_path / "8.json"), "--source", "sim:sram?seed=8"]) == 3
    rekeyed = call(
        "fleet", "rekey", str(model_file), "--of", str(release), "--vendor", str(vendor), "--db", db,
        "-o", str(tmp_path / "new.safetensors"),
    )  # fmt: skip
    assert rekeyed["rekeys"] == made["file_id"]
    each = call(
        "fleet",
        "release",
        str(model_file),
        "--vendor",
        str(vendor),
        "--per-device",
        "--all",
        "--db",
        db,
        "-o",
        str(folder),
    )
    assert (each["made"], len(each["files"])) == (1, 1)
    call("fleet", "verify", "--db", db)
    for wrong in (
        ["fleet", "license", *common[:-2], "--to", str(tmp_path / "7.json")],
        ["fleet", "license", *common],
        ["fleet", "release", str(model_file), "--vendor", str(vendor), "-o", str(folder), "--per-device", "--all"],
        ["fleet", "release", str(model_file), "--vendor", str(vendor), "-o", str(folder / "x"), "--all"],
    ):
        assert run(wrong) == 2
    capsys.readouterr()


def test_files_for_each_device_name_it_when_leaked(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    from unclone.fleet.release import Tracing
    from unclone.fleet.tracing import trace
    from unclone.runtime.safetensors import load_file as load_bound

    rng = np.random.default_rng(3)
    model, folder = tmp_path / "model.safetensors", tmp_path / "each"
    save_file({"w": rng.normal(0, 0.05, (256, 512)).astype(np.float32)}, model)
    folder.mkdir()
    targets, secret = [Target.of(record(1)), Target.of(record(2))], b"t" * 32
    files = list(bind_each(model, vendor_record(), targets, folder, tracing=Tracing(secret), workers=2))
    assert secret.hex() not in repr(Tracing(secret))
    assert repr(secret) not in repr(Tracing(secret))
    restored = [load_bound(each.path, device_key(number)) for number, each in enumerate(files, 1)]
    assert not np.array_equal(restored[0]["w"], restored[1]["w"])
    moved = np.abs(restored[0]["w"] - load_file(model)["w"])
    assert 0 < moved.max() < 0.05 * 0.05, "small steps, of the tensor's root mean square 0.05"
    save_file(restored[1], tmp_path / "leaked.safetensors")
    names = [target.key.hex() for target in targets] + [record(number).public_key.hex() for number in range(3, 60)]
    found = trace(tmp_path / "leaked.safetensors", model, DeviceKey(secret), names)
    assert [suspect.device for suspect in found.accused] == [targets[1].key.hex()]
