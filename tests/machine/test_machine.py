"""Machines from records alone; any k parts; what is missing or wrong is named; parts are replaced and models go on."""

from __future__ import annotations

import base64
import json
import re
import shlex
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import unclone
from unclone import keys
from unclone.cli.app import run
from unclone.errors import ParameterError, PartsError, RecordError, SlotError
from unclone.machine import (
    Machine,
    enroll_machine,
    load_machine,
    reconstruct_machine,
    render_machine,
    replace_part,
    save_machine,
)
from unclone.machine.file import share_context
from unclone.machine.sharing import combine
from unclone.providers.passphrase import PassphraseProvider

NAMES = ["controller", "camera", "drive", "panel"]
CHIPS = {name: f"sim:sram?seed={number}" for number, name in enumerate(NAMES, 41)}
NEW_CHIP = "sim:sram?seed=60"


@pytest.fixture(scope="session")
def parts() -> dict[str, unclone.Device]:
    return {name: unclone.enroll(chip, name=f"board {name}") for name, chip in CHIPS.items()}


@pytest.fixture(scope="session")
def new_part() -> unclone.Device:
    return unclone.enroll(NEW_CHIP, name="spare")


@pytest.fixture(scope="session")
def press(parts: dict[str, unclone.Device]) -> Machine:
    return enroll_machine({name: parts[name] for name in NAMES[:3]}, need=2, name="press-17")


def at(*names: str, **chips: str) -> dict[str, str]:
    return {name: chips.get(name, CHIPS[name]) for name in names}


def secret_of(machine: Machine, sources: dict[str, str]) -> bytes:
    with reconstruct_machine(machine, sources) as key:
        return bytes(key.secret)


def test_any_enough_parts_give_one_key_and_fewer_do_not(parts: dict[str, unclone.Device]) -> None:
    machine = enroll_machine(parts, need=3)
    found = {secret_of(machine, at(*group)) for size in (3, 4) for group in combinations(NAMES, size)}
    assert len(found) == 1
    assert keys.public_key(unclone.DeviceKey(found.pop())) == machine.public_key
    for group in combinations(NAMES, 2):
        with pytest.raises(PartsError) as caught:
            reconstruct_machine(machine, at(*group))
        assert caught.value.parts == {name: "present" if name in group else "missing" for name in NAMES}
        assert caught.value.exit_code == 3


def test_the_error_names_each_part(press: Machine) -> None:
    sources = at("controller", "camera", "drive", camera=NEW_CHIP, drive="file:nowhere.bin")
    with pytest.raises(PartsError, match="1 of the 2 parts needed") as caught:
        reconstruct_machine(press, sources)
    assert caught.value.parts["controller"] == "present"
    assert "not the enrolled device" in caught.value.parts["camera"]
    assert "nowhere.bin" in caught.value.parts["drive"]
    assert "nowhere.bin" in str(caught.value)


def test_a_part_that_fails_does_not_matter_while_others_do_not(press: Machine) -> None:
    assert secret_of(press, at("camera", "controller", "drive", camera=NEW_CHIP)) == secret_of(
        press, at("camera", "drive")
    )


def test_a_part_whose_record_its_source_cannot_read_is_named(press: Machine) -> None:
    camera = unclone.enroll(PassphraseProvider(lambda _: "violet anchor seventeen marsh", log_n=10))
    mixed = replace_part(press, at("controller", "drive"), part="camera", device=replace(camera, root="tpm"))
    with pytest.raises(PartsError) as caught:
        reconstruct_machine(mixed, {"camera": "tpm:", **at("drive")})
    assert "enrolled with another root" in caught.value.parts["camera"]
    assert secret_of(mixed, {"camera": "tpm:", **at("drive", "controller")}) == secret_of(press, at("drive", "camera"))


def test_roots_may_be_mixed(press: Machine) -> None:
    words = PassphraseProvider(lambda _: "violet anchor seventeen marsh", log_n=10)
    mixed = replace_part(press, at("controller", "drive"), part="camera", device=unclone.enroll(words))
    with reconstruct_machine(mixed, {"camera": words, "drive": CHIPS["drive"]}) as key:
        assert keys.public_key(key) == press.public_key


def test_buffers_are_wiped_whatever_happens(press: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[bytearray] = []
    original = keys.open_share

    def spy(*arguments: Any) -> bytearray | None:
        share = original(*arguments)
        assert share is not None
        opened.append(share)
        return share

    monkeypatch.setattr(keys, "open_share", spy)
    reconstruct_machine(press, at("camera", "drive")).wipe()
    with pytest.raises(PartsError):
        reconstruct_machine(press, at("camera"))

    class Unplugged:
        kind = "sim:broken"

        def evaluate(self, challenge: bytes = b"") -> NDArray[np.uint8]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reconstruct_machine(press, {"camera": CHIPS["camera"], "drive": Unplugged()})
    assert len(opened) == 4
    assert not any(any(share) for share in opened)


def test_the_file_holds_no_secret(press: Machine) -> None:
    key = secret_of(press, at("camera", "drive"))
    written = render_machine(press)
    for spelled in (key.hex().encode(), base64.b64encode(key)[:-2], key):
        assert spelled not in written
    assert key.hex() not in repr(press)


def test_unknown_parts_are_refused(press: Machine) -> None:
    with pytest.raises(ParameterError, match="no part 'engine'; it has controller, camera, drive"):
        reconstruct_machine(press, {"engine": NEW_CHIP})


def test_models_go_on_after_a_part_was_replaced(
    press: Machine, new_part: unclone.Device, model_file: Path, tmp_path: Path, tensors: dict[str, np.ndarray]
) -> None:
    bound = tmp_path / "bound.safetensors"
    unclone.bind(model_file, press, bound)
    repaired = replace_part(press, at("controller", "drive"), part="camera", device=new_part)
    assert (repaired.id, repaired.public_key, repaired.revision) == (press.id, press.public_key, 2)
    with (
        reconstruct_machine(repaired, at("camera", "drive", camera=NEW_CHIP)) as key,
        unclone.restore(bound, key) as model,
    ):
        assert np.array_equal(model["layer.weight"].data, tensors["layer.weight"].view(np.uint8).ravel())
    with pytest.raises(PartsError, match="camera: this is not the enrolled device"):
        reconstruct_machine(repaired, at("camera", "drive"))


def test_old_shares_are_useless_in_the_new_record_and_beside_new_ones(press: Machine, new_part: unclone.Device) -> None:
    repaired = replace_part(press, at("controller", "drive"), part="camera", device=new_part)
    right = secret_of(press, at("controller", "drive"))

    def share(machine: Machine, name: str) -> tuple[int, bytes]:
        part = machine.part(name)
        assert part is not None
        with unclone.reconstruct(part.device, CHIPS[name]) as key:
            opened = keys.open_share(part.share, key, share_context(machine), part.index)
        assert opened is not None
        return part.index, bytes(opened)

    assert bytes(combine(dict([share(press, "camera"), share(press, "drive")]))) == right
    assert bytes(combine(dict([share(press, "camera"), share(repaired, "drive")]))) != right
    old = press.part("drive")
    assert old is not None
    with unclone.reconstruct(old.device, CHIPS["drive"]) as key:
        assert keys.open_share(old.share, key, share_context(repaired), old.index) is None


def test_replacing_needs_enough_parts_and_a_new_device(press: Machine, new_part: unclone.Device) -> None:
    with pytest.raises(PartsError):
        replace_part(press, at("drive"), part="camera", device=new_part)
    with pytest.raises(ParameterError, match="no part 'engine'"):
        replace_part(press, at("drive", "controller"), part="engine", device=new_part)
    taken = press.part("drive")
    assert taken is not None
    with pytest.raises(ParameterError, match="two parts"):
        replace_part(press, at("drive", "controller"), part="camera", device=taken.device)


def test_a_part_with_fresh_helper_data_comes_in_by_the_same_door(press: Machine) -> None:
    old = press.part("camera")
    assert old is not None
    refreshed = unclone.refresh(old.device, CHIPS["camera"])
    again = replace_part(press, at("camera", "drive"), part="camera", device=refreshed)
    assert secret_of(again, at("camera", "controller")) == secret_of(press, at("camera", "controller"))


@pytest.mark.parametrize("need", [0, 1, 5])
def test_thresholds(parts: dict[str, unclone.Device], need: int) -> None:
    with pytest.raises(ParameterError, match="needs 2 to all"):
        enroll_machine(parts, need=need)


def test_bad_machines(parts: dict[str, unclone.Device]) -> None:
    camera = parts["camera"]
    with pytest.raises(ParameterError, match="two parts"):
        enroll_machine({"a": camera, "b": camera}, need=2)
    with pytest.raises(ParameterError, match="part's name"):
        enroll_machine({"a b": camera, "c": parts["drive"]}, need=2)
    with pytest.raises(ParameterError):
        enroll_machine({"a": camera}, need=2)


def test_a_point_of_low_order_is_refused(parts: dict[str, unclone.Device]) -> None:
    with pytest.raises(RecordError, match="low order"):
        keys.seal_share(bytes(32), bytes(32), b"", 1)


def test_a_machine_and_a_device_side_by_side(
    press: Machine, device: unclone.Device, key: unclone.DeviceKey, other_key: unclone.DeviceKey, model_file: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    bound = tmp_path / "both.safetensors"
    header = unclone.bind(model_file, [device, press], bound)
    assert len({len(slot.sealed) for slot in header.slots}) == 1  # nothing tells a machine's slot from a device's
    with reconstruct_machine(press, at("camera", "drive")) as joined:
        unclone.restore(bound, joined).wipe()
    unclone.restore(bound, key).wipe()
    with pytest.raises(SlotError):
        unclone.restore(bound, other_key)


def test_files(press: Machine, tmp_path: Path) -> None:
    path = tmp_path / "press.machine.json"
    save_machine(press, path)
    assert load_machine(path) == press
    assert "share" not in repr(press)
    with pytest.raises(RecordError, match="not a machine record"):
        load_machine(__file__)
    device_path = tmp_path / "device.json"
    unclone.save_device(press.parts[0].device, device_path)
    with pytest.raises(RecordError, match="unclone-machine"):
        load_machine(device_path)


@pytest.fixture
def shop(parts: dict[str, unclone.Device], new_part: unclone.Device, model_file: Path, tmp_path: Path) -> Path:
    for name, record in {**parts, "spare": new_part}.items():
        unclone.save_device(record, tmp_path / f"{name}.json")
    return tmp_path


def test_the_verbs(shop: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(shop)
    named = [part for name in NAMES[:3] for part in ("--part", f"{name}={name}.json")]
    assert run(["machine", "enroll", "--need", "2", *named, "--name", "press-17", "-o", "press.json", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["need"], [part["name"] for part in shown["parts"]]) == (2, NAMES[:3])
    assert run(["bind", "model.safetensors", "--to", "press.json", "-o", "bound.safetensors"]) == 0
    two = ["--part", f"camera={CHIPS['camera']}", "--part", f"drive={CHIPS['drive']}"]
    assert run(["machine", "restore", "bound.safetensors", "--machine", "press.json", *two, "--json"]) == 0
    present = ["--present", f"controller={CHIPS['controller']}", "--present", f"drive={CHIPS['drive']}"]
    replace = ["machine", "replace-part", "--machine", "press.json", "--part", "camera=spare.json", *present]
    assert run([*replace, "-o", "press.json"]) == 2  # exists
    assert run([*replace, "-o", "press.json", "--force"]) == 0
    capsys.readouterr()
    assert run(["machine", "reconstruct", "--machine", "press.json", *two]) == 3
    assert "camera: this is not the enrolled device" in capsys.readouterr().err
    new = ["--part", f"camera={NEW_CHIP}", *two[2:]]
    assert run(["machine", "restore", "bound.safetensors", "--machine", "press.json", *new]) == 0
    capsys.readouterr()
    assert run(["inspect", "press.json", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["revision"] == 2
    assert run(["inspect", "spare.json"]) == 0
    assert "root" in capsys.readouterr().out


def test_the_session_and_the_python_of_the_page_run(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parent.parent.parent / "docs" / "machines.md").read_text()
    monkeypatch.chdir(shop)
    for name in NAMES[:3]:
        Path(f"{name}.json").unlink()
    blocks = re.findall(r"^```(console|python)\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    commands = [line[2:] for kind, block in blocks if kind == "console" for line in block.splitlines()]
    assert len(commands) == 9
    for command in commands:
        assert run(shlex.split(command)[1:]) == 0, command
    (code,) = (block for kind, block in blocks if kind == "python")
    exec(compile(code, "machines.md", "exec"), {})


@pytest.mark.parametrize("part", ["camera", "=x", "camera=", "camera=a.json"])
def test_bad_pairs(shop: Path, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    monkeypatch.chdir(shop)
    assert (
        run(["machine", "enroll", "--need", "2", "--part", part, "--part", "camera=camera.json", "-o", "x.json"]) == 2
    )
    assert not Path("x.json").exists()
