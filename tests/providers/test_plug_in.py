"""A key provider from a plug-in package, as docs/sources.md says: an entry point of the group ``unclone.providers``."""

from __future__ import annotations

from pathlib import Path

import pytest

import unclone
from unclone.errors import ReconstructionError, SourceError
from unclone.providers import find_provider, list_providers

CODE = """
import hashlib
from unclone.providers import Provided
from unclone.records import EnrollmentReport, HelperData

class Vault:
    root = "vault"

    def __init__(self, drawer):
        self._drawer = drawer

    def create(self):
        report = EnrollmentReport(0, 0, 0, 0, 256000, 256000, 256000, 256, 0, ("root vault: not a PUF",))
        return Provided(HelperData("vault-1", {}), self.recover(None), report)

    def recover(self, helper):
        return hashlib.sha256(self._drawer.encode()).digest()

def open_vault(address):
    drawer = address.text_option("drawer", "top")
    address.finish(("drawer",))
    if drawer == "stuck":
        raise OSError("it does not open")
    return Vault(drawer)

def open_nothing(address):
    return object()

def open_liar(address):
    vault = Vault("top")
    vault.root = "puf"
    return vault
"""
ENTRIES = """[unclone.providers]
vault = vault_plug_in:open_vault
hollow = vault_plug_in:open_nothing
liar = vault_plug_in:open_liar
gone = vault_plug_in:open_gone
tpm = vault_plug_in:open_vault
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "vault_plug_in.py").write_text(CODE)
    info = tmp_path / "vault_plug_in-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vault-plug-in\nVersion: 1\n")
    (info / "entry_points.txt").write_text(ENTRIES)
    monkeypatch.syspath_prepend(str(tmp_path))


def test_a_plug_in_keys_a_device(installed: None) -> None:
    device = unclone.enroll("vault:")
    assert (device.root, device.source) == ("vault", "vault")
    unclone.reconstruct(device, "vault:").wipe()
    with pytest.raises(ReconstructionError):
        unclone.reconstruct(device, "vault:?drawer=bottom")


def test_what_is_wrong_with_a_plug_in_is_said(installed: None) -> None:
    with pytest.raises(SourceError, match="it does not open"):
        find_provider("vault:?drawer=stuck")
    with pytest.raises(SourceError, match="unknown option odd"):
        find_provider("vault:?odd=1")
    with pytest.raises(SourceError, match="without root, create and recover"):
        find_provider("hollow:")
    with pytest.raises(SourceError, match="calls itself a PUF"):
        find_provider("liar:")
    with pytest.raises(SourceError, match="open_gone"):
        find_provider("gone:")
    states = {entry.scheme: entry.state for entry in list_providers()}
    assert states["vault"] == "usable; not a PUF"
    assert states["gone"].startswith("not usable")


def test_no_plug_in_takes_a_built_in_s_place(installed: None) -> None:
    assert type(find_provider("tpm:")).__module__ == "unclone.providers.tpm"
