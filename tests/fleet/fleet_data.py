"""What fills a small registry."""

from __future__ import annotations

from collections.abc import Callable

from unclone.fleet.registry import Registry
from unclone.fleet.rows import LicenceRow, ModelRow, ReleaseRow, key_digest
from unclone.records import Device

RELEASE = bytes(range(16))
MakeDevice = Callable[..., Device]


def fill(registry: Registry, make_device: MakeDevice) -> None:
    registry.add_devices(make_device(number) for number in range(3))
    registry.add_model(ModelRow("inspect", "onnx", notes="a note"))
    registry.add_release(ReleaseRow(RELEASE, "inspect", "onnx", 1_790_000_000, notes="first"))
    keys = [key_digest(make_device(number).public_key) for number in range(3)]
    registry.add_licences(LicenceRow(RELEASE, key, "licence text", 1_790_000_000) for key in keys[:2])
    with registry.writing() as writer:
        writer.measure(keys[0], health="refresh", error_rate_ppm=70_000, margin_milli=1_400, at=1_790_000_000)
    registry.revoke("device", keys[1], "stolen")
