"""``pkcs11:`` against SoftHSM2: encrypt, decrypt, other tokens, PINs, altered records, and licensing with it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import unclone
from unclone import canonical
from unclone.errors import MissingExtraError, ReconstructionError, RecordError, SourceError
from unclone.providers import find_provider
from unclone.records import HelperData

MODULE = Path("/usr/lib/softhsm/libsofthsm2.so")

pytest.importorskip("pkcs11")
if not MODULE.exists() or shutil.which("softhsm2-util") is None:
    pytest.skip("SoftHSM2 is not installed (Debian: apt-get install softhsm2)", allow_module_level=True)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with two tokens, ``vendor`` and ``other``, and their PIN in ``pin``."""
    folder = tmp_path_factory.mktemp("hsm")
    (folder / "tokens").mkdir()
    (folder / "conf").write_text(f"directories.tokendir = {folder / 'tokens'}\nobjectstore.backend = file\n")
    (folder / "pin").write_text("738291\n")
    with pytest.MonkeyPatch.context() as patch:
        # The library reads it when it is loaded, once for the process.
        patch.setenv("SOFTHSM2_CONF", str(folder / "conf"))
        for label in ("vendor", "other"):
            command = [
                "softhsm2-util",
                "--init-token",
                "--free",
                "--label",
                label,
                "--pin",
                "738291",
                "--so-pin",
                "1928",
            ]
            subprocess.run(command, check=True, capture_output=True, timeout=60)
        yield folder


def address(folder: Path, token: str = "vendor", **options: str) -> str:
    options = {"token": token, "pin-file": str(folder / "pin"), **options}
    return f"pkcs11:{MODULE}?" + "&".join(f"{name}={value}" for name, value in options.items())


@pytest.fixture(scope="module")
def vendor(tokens: Path) -> unclone.Device:
    return unclone.enroll(address(tokens), name="vendor", suite="hybrid")


def test_the_key_comes_back(tokens: Path, vendor: unclone.Device) -> None:
    assert (vendor.root, vendor.helper.scheme) == ("pkcs11", "pkcs11-aes-gcm-1")
    with unclone.reconstruct(vendor, address(tokens)) as one, unclone.reconstruct(vendor, address(tokens)) as two:
        assert bytes(one.secret) == bytes(two.secret)
    assert unclone.health(vendor, address(tokens)).state == "good"
    refreshed = unclone.refresh(vendor, address(tokens))
    assert refreshed.public_key == vendor.public_key
    assert refreshed.helper.fields["nonce"] != vendor.helper.fields["nonce"]


def test_the_tokens_key_stays_in_it(tokens: Path, vendor: unclone.Device) -> None:
    import pkcs11

    (token,) = pkcs11.lib(str(MODULE)).get_tokens(token_label="vendor")
    with token.open(user_pin="738291") as session:
        (found,) = session.get_objects({pkcs11.Attribute.LABEL: "unclone"})
        assert found[pkcs11.Attribute.SENSITIVE]
        assert not found[pkcs11.Attribute.EXTRACTABLE]
        with pytest.raises(pkcs11.PKCS11Error):
            found[pkcs11.Attribute.VALUE]


def test_another_token_or_key_gives_nothing(tokens: Path, vendor: unclone.Device) -> None:
    with pytest.raises(ReconstructionError, match="another token"):
        unclone.reconstruct(vendor, address(tokens, "other"))  # without a key of that label
    unclone.enroll(address(tokens, "other"))
    with pytest.raises(ReconstructionError, match="another token"):
        unclone.reconstruct(vendor, address(tokens, "other"))  # with another
    unclone.enroll(address(tokens, key="second"))
    fields = {**vendor.helper.fields, "label": "second"}
    with pytest.raises(ReconstructionError):
        unclone.reconstruct(replace(vendor, helper=HelperData(vendor.helper.scheme, fields)), address(tokens))


@pytest.mark.parametrize("name", ["nonce", "sealed"])
def test_altered_helper_data(tokens: Path, vendor: unclone.Device, name: str) -> None:
    raw = bytearray(canonical.b64decode(vendor.helper.fields[name]))
    raw[5] ^= 1
    for value, error in ((bytes(raw), ReconstructionError), (bytes(raw[1:]), RecordError)):
        fields = {**vendor.helper.fields, name: canonical.b64encode(value)}
        with pytest.raises(error):
            unclone.reconstruct(replace(vendor, helper=HelperData(vendor.helper.scheme, fields)), address(tokens))


def test_malformed_helper_data(tokens: Path, vendor: unclone.Device) -> None:
    provider = find_provider(address(tokens))
    assert provider is not None
    good = dict(vendor.helper.fields)
    for fields in ({**good, "nonce": "!"}, {**good, "odd": 1}, {**good, "label": 7}, {"label": "unclone"}):
        with pytest.raises(RecordError):
            provider.recover(HelperData(vendor.helper.scheme, fields))
    with pytest.raises(RecordError, match="another root"):
        provider.recover(HelperData("passphrase-scrypt-1", good))


def test_pins(tokens: Path, vendor: unclone.Device) -> None:
    (tokens / "wrong").write_text("111111\n")
    with pytest.raises(SourceError, match="refuses the PIN"):
        unclone.reconstruct(vendor, address(tokens, **{"pin-file": str(tokens / "wrong")}))
    (tokens / "odd").write_bytes(b"\xff\n")
    with pytest.raises(SourceError, match="UTF-8"):
        unclone.reconstruct(vendor, address(tokens, **{"pin-file": str(tokens / "odd")}))
    with pytest.raises(SourceError, match="cannot read"):
        unclone.reconstruct(vendor, address(tokens, **{"pin-file": str(tokens / "missing")}))


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("pkcs11:", "takes the path"),
        ("pkcs11:/nowhere.so", "no PKCS #11 library"),
        (f"pkcs11:{MODULE}?token=nobody", "0 tokens"),
        (f"pkcs11:{MODULE}", "2 tokens"),
        (f"pkcs11:{MODULE}?pin=738291", "pin"),
    ],
)
def test_addresses_that_lead_nowhere(tokens: Path, uri: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        unclone.enroll(uri)


def test_without_the_package(tokens: Path, vendor: unclone.Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pkcs11", None)
    with pytest.raises(MissingExtraError, match=r"unclone\[pkcs11\]"):
        unclone.reconstruct(vendor, address(tokens))


def test_a_release_licensed_with_the_token(
    tokens: Path,
    vendor: unclone.Device,
    device: unclone.Device,
    key: unclone.DeviceKey,
    model_file: Path,
    tmp_path: Path,
) -> None:
    from unclone.fleet.licensing import Plan, ReleaseKey, Target, licence_name, license_files
    from unclone.fleet.release import make_release

    header = make_release(model_file, vendor, tmp_path / "release.safetensors")
    with unclone.reconstruct(vendor, address(tokens)) as own:
        release = ReleaseKey.open(tmp_path / "release.safetensors", own)
    target = Target.of(device)
    license_files(release, [target], tmp_path, Plan())
    licence = tmp_path / licence_name(target.key, header.file_id)
    with unclone.restore(tmp_path / "release.safetensors", key, licence=licence) as restored:
        assert "layer.weight" in restored
