"""The report: figures as JSON, text and one self-contained HTML file."""

from __future__ import annotations

import base64
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from unclone.errors import MissingExtraError, OutputError, ParameterError
from unclone.puf.simulated import SimulatedSRAM
from unclone.quality import QualityReport, assess, metrics, report_html


def chip(seed: int, readings: int = 4, bits: int = 2048) -> np.ndarray:
    source = SimulatedSRAM(seed, bits=bits, noise_seed=1)
    return np.stack([source.evaluate() for _ in range(readings)])


@pytest.fixture(scope="module")
def report() -> QualityReport:
    devices = {"a<b>": chip(1), "second": chip(2), "single": chip(3, 1), "short": chip(4, 3, 777)}
    devices["second"][2] = 1
    return assess(
        devices,
        {"a<b>": {"most_common_value": 0.9, "bound": 0.8}, "all devices": {"alias": 0.5}},
        conditions={"a<b>": [-20.0, 0.0, 25.0, 70.0]},
    )


def test_the_figures_are_those_of_the_metrics(report: QualityReport) -> None:
    first, _, single, short = report.devices
    assert first.bit_error_rate == metrics.bit_error_rate(chip(1))
    assert first.steadiness == metrics.steadiness(chip(1))
    assert first.uniformity == chip(1).mean()
    assert (single.bit_error_rate, single.reliability, single.error_by_reading) == (None, None, ())
    assert (short.readings, short.bits) == (3, 777)
    (group,) = report.fleet
    assert group.devices == ("a<b>", "second", "single")
    references = np.stack([metrics.reference_of(report.responses[name]) for name in group.devices])
    assert group.uniqueness == metrics.uniqueness(references)
    assert [(item.code, item.device, item.reading) for item in report.findings] == [("dead_reading", "second", 2)]


def test_json_is_plain_and_complete(report: QualityReport) -> None:
    value = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert [device["name"] for device in value["devices"]] == ["a<b>", "second", "single", "short"]
    assert value["devices"][1]["findings"] == ["dead_reading"]
    assert value["devices"][0]["entropy"]["bound"] == 0.8
    assert value["entropy"] == {"all devices": {"alias": 0.5}}
    assert value["fleet"][0]["alias_entropy_fair"] == pytest.approx(metrics.alias_entropy_fair(3))
    assert value["findings"][0]["severity"] == "fatal"


def test_text_names_every_device_and_finding(report: QualityReport) -> None:
    text = report.to_text()
    for word in ("a<b>", "second", "single", "short", "uniqueness", "fatal: second: reading 2 is constant"):
        assert word in text
    assert "nothing looks wrong" in assess({"a": chip(1)}).to_text()


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.images: list[dict[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action")]
        if tag == "img":
            self.images.append(dict(attrs))


def test_html_stands_alone(report: QualityReport, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "report.html"
    report_html(report, path)
    text = path.read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    assert not {"script", "link", "iframe", "object", "b>"} & set(page.tags)
    assert page.addresses
    assert all(address.startswith("data:image/png;base64,") for address in page.addresses)
    for address in page.addresses:
        assert base64.b64decode(address.partition(",")[2], validate=True).startswith(b"\x89PNG")
    assert all(image["alt"] for image in page.images)
    assert not re.search(r"https?:|url\(|@import", text)
    assert "a&lt;b&gt;" in text
    assert "<a<b>" not in text
    assert "width=device-width" in text  # and a grid of columns that fold, for narrow windows
    assert "auto-fit" in text


def test_html_is_not_replaced_without_force(report: QualityReport, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "report.html"
    path.write_text("mine")
    with pytest.raises(OutputError, match="--force"):
        report_html(report, path)
    assert path.read_text() == "mine"
    report_html(report, path, force=True)
    assert path.read_text().startswith("<!doctype html>")


def test_html_without_matplotlib_names_the_extra(
    report: QualityReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=re.escape("unclone[lab]")):
        report_html(report, tmp_path / "report.html")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "devices",
    [
        {"constant": np.zeros((3, 256), dtype=np.uint8)},
        {"one bit": np.ones((1, 1), dtype=np.uint8)},
        {"tiny": np.array([[0, 1, 1]], dtype=np.uint8)},
        {"lanes": np.resize(np.array([0, 1], dtype=np.uint8), (2, 512))},
        {"a": np.ones((2, 64), dtype=np.uint8), "b": np.ones((2, 64), dtype=np.uint8)},
    ],
)
def test_degenerate_devices_still_give_a_report(devices: dict[str, np.ndarray], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    report = assess(devices)
    json.dumps(report.to_json(), allow_nan=False)
    assert report.to_text()
    report_html(report, tmp_path / "report.html")


def test_bad_arguments() -> None:
    with pytest.raises(ParameterError, match="at least one"):
        assess({})
    with pytest.raises(ParameterError, match="4 readings, and conditions for 3"):
        assess({"a": chip(1)}, conditions={"a": [1.0, 2.0, 3.0]})
    with pytest.raises(ParameterError, match="uint8"):
        assess({"a": chip(1).astype(np.int64)})
