"""The page: what it shows, what it escapes, whom it answers."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest
from fleet_data import RELEASE, MakeDevice

from unclone.errors import ParameterError, RegistryError
from unclone.fleet.queries import PAGE
from unclone.fleet.registry import Registry
from unclone.fleet.rows import LicenceRow, ModelRow, ReleaseRow, key_digest
from unclone.fleet.web import make_app, serve

TOKEN = "a-token-of-some-length"
PAGES = ["/", "/devices", "/refresh", "/releases", "/licences", "/events", f"/releases/{RELEASE.hex()}", "/style.css"]


def get(
    registry: Registry, address: str, *, token: str = "", host: str = "localhost", **options: object
) -> httpx.Response:
    import asyncio

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app=make_app(registry, token=token), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url=f"http://{host}") as client:
            return await client.request(str(options.pop("method", "GET")), address, **options)  # type: ignore[arg-type]

    return asyncio.run(ask())


@pytest.mark.parametrize("address", PAGES)
def test_every_page_answers_and_loads_nothing_from_elsewhere(fleet: Registry, address: str) -> None:
    answer = get(fleet, address)
    assert answer.status_code == 200
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert answer.headers["Cache-Control"] == "no-store"
    assert not re.search(r"https?://|<script|javascript:|@import|url\(", answer.text)


def test_the_pages_of_an_empty_registry(registry: Registry) -> None:
    for address in ("/", "/devices", "/refresh", "/releases", "/licences", "/events"):
        assert get(registry, address).status_code == 200


def test_what_the_pages_show(fleet: Registry, make_device: MakeDevice) -> None:
    overview = get(fleet, "/").text
    assert re.search(r"Devices</dt><dd>3<", overview)
    assert re.search(r"Revoked</dt><dd>1<", overview)
    assert re.search(r"Refresh soon</dt><dd>1<", overview)
    assert "2026-09" in overview
    assert "1.0 to 1.5" in overview
    keys = [key_digest(make_device(number).public_key).hex() for number in range(3)]
    refresh = get(fleet, "/refresh").text
    assert keys[0] in refresh
    assert keys[2] not in refresh
    device = get(fleet, f"/devices/{keys[1]}").text
    assert "revoked stolen" in device
    assert RELEASE.hex() in device
    assert "press-0002" in get(fleet, "/devices?name=press-0002").text
    assert "press-0002" not in get(fleet, "/devices?name=press-0001").text
    assert "press-0001" in get(fleet, "/devices?state=revoked").text
    assert "press-0000" in get(fleet, f"/devices?key={keys[0][:10].upper()}").text


def test_paging_shows_every_device_once(registry: Registry, make_device: MakeDevice) -> None:
    number = 2 * PAGE + 7
    registry.add_devices(make_device(index, f"line-{index % 3}") for index in range(number))
    for start in ("/devices", "/devices?name=line-", "/devices?state=active", "/devices?health=unknown"):
        address, seen = start, []
        while address:
            text = get(registry, address).text
            seen += re.findall(r'href="/devices/([0-9a-f]{64})"', text)
            found = re.search(r'rel="next" href="([^"]+)"', text)
            address = found.group(1).replace("&amp;", "&") if found else ""
        assert len(seen) == len(set(seen)) == number, start


def test_names_are_escaped(registry: Registry, make_device: MakeDevice) -> None:
    evil = '"><script>alert(1)</script>{{ 7919*7907 }}'
    registry.add_device(make_device(1, evil))
    key = key_digest(make_device(1).public_key)
    registry.add_model(ModelRow(evil, "onnx"))
    registry.add_release(ReleaseRow(RELEASE, evil, "onnx", 1, notes=evil))
    registry.add_licence(LicenceRow(RELEASE, key, evil, 1))
    registry.record_event("note", "own", b"", {"text": evil})
    registry.revoke("device", key, evil)
    for address in [*PAGES[:-1], f"/devices/{key.hex()}"]:
        assert "<script" not in get(registry, address).text, address
        assert "62615533" not in get(registry, address).text
    answer = get(registry, "/devices", params={"name": evil, "key": ""})
    assert "<script" not in answer.text
    answer = get(registry, "/devices", params={"key": evil})
    assert answer.status_code == 400
    assert "<script" not in answer.text


@pytest.mark.parametrize(
    ("address", "status"),
    [
        ("/none", 404),
        ("/devices/zz", 404),
        ("/devices/" + "00" * 32, 404),
        ("/releases/" + "00" * 16, 404),
        ("/devices/..%2f..%2fetc%2fpasswd", 404),
        ("/..%2fweb.py", 404),
        ("/devices?after=x", 422),
        ("/devices?name=%00", 200),
        ("/devices?name='%20OR%201=1", 200),
        ("/devices?after=999999", 200),
        ("/docs", 404),
        ("/openapi.json", 404),
    ],
)
def test_addresses_that_lead_nowhere(fleet: Registry, address: str, status: int) -> None:
    assert get(fleet, address).status_code == status


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_it_is_read_only(fleet: Registry, method: str) -> None:
    assert get(fleet, "/devices", method=method).status_code == 405


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    "given",
    [
        "",
        "Bearer",
        "Bearer ",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN.upper()}",
        f"Basic {TOKEN}",
        basic(TOKEN),
        basic(f"user:{TOKEN[:-1]}"),
        "Basic !!!!",
        "Basic /w==",
        f"Digest {TOKEN}",
        "Bearer \u00e4",
    ],
)
def test_a_guessed_token_opens_nothing(fleet: Registry, given: str) -> None:
    for address in (*PAGES, "/none"):
        answer = get(fleet, address, token=TOKEN, headers={"Authorization": given.encode("latin-1")})
        assert answer.status_code == 401
        assert answer.text == "a token is needed"


@pytest.mark.parametrize("given", [f"Bearer {TOKEN}", f"bearer {TOKEN}", basic(f"anyone:{TOKEN}")])
def test_the_token_opens(fleet: Registry, given: str) -> None:
    answer = get(fleet, "/", token=TOKEN, host="fleet.example", headers={"Authorization": given})
    assert answer.status_code == 200


def test_without_a_token_no_other_name_reaches_it(fleet: Registry) -> None:
    assert get(fleet, "/", host="127.0.0.1:8765").status_code == 200
    assert get(fleet, "/", host="rebound.example").status_code == 400


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "fleet.example", ""])
def test_other_addresses_than_loopback_need_a_token(fleet: Registry, host: str) -> None:
    with pytest.raises(ParameterError, match="token"):
        serve(fleet, host=host, port=0, token="", ready=lambda address: None)


def test_weak_tokens_and_taken_ports_are_refused(fleet: Registry) -> None:
    import socket

    with pytest.raises(ParameterError, match="16"):
        make_app(fleet, token="short")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(RegistryError, match="listen"):
            serve(fleet, host="127.0.0.1", port=taken.getsockname()[1], token="", ready=lambda address: None)


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no Chromium")
def test_a_browser_shows_it(registry: Registry, make_device: MakeDevice, tmp_path: Path) -> None:
    from PIL import Image

    registry.add_devices(make_device(number) for number in range(60))
    with registry.writing() as writer:
        for number in range(12):
            key = key_digest(make_device(number).public_key)
            writer.measure(
                key, health="good", error_rate_ppm=60_000, margin_milli=2500, at=1_780_000_000 + number * 2_000_000
            )
    database = str(registry.engine.url.database)
    command = [sys.executable, "-m", "unclone", "fleet", "serve", "--db", database, "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        address = server.stdout.readline().split()[-1]
        picture = tmp_path / "page.png"
        chromium = [
            "chromium",
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={tmp_path / 'profile'}",
        ]
        subprocess.run(
            [*chromium, f"--screenshot={picture}", "--window-size=1200,900", address],
            check=True,
            capture_output=True,
            timeout=120,
        )
    finally:
        server.terminate()
        server.wait()
        if server.stdout is not None:
            server.stdout.close()
    pixels = np.asarray(Image.open(picture).convert("RGB")).reshape(-1, 3)
    assert (pixels == (0x2B, 0x6C, 0xB0)).all(axis=1).sum() > 2000  # the bars, in the style sheet's colour
    assert len(np.unique(pixels, axis=0)) > 20  # and text
