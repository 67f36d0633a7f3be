"""The paper's pad, fidelity, uniqueness; and the report drawn from them."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unclone.errors import OutputError
from unclone.lab.evaluation import evaluate
from unclone.lab.fidelity import fidelity_experiment
from unclone.lab.jobs import TaskSource
from unclone.lab.paper import ERROR_RATES, SHARES, padded, paper_experiment
from unclone.lab.report import render_report, write_report

DIGITS = TaskSource("digits")


def test_the_right_device_gets_every_bit_and_no_other_gets_anything() -> None:
    found = fidelity_experiment(DIGITS, devices=3, clones=8, backend="sequential")
    matrix = np.array(found["uniqueness"]["matrix"])
    assert found["fidelity"]["identical"] == 3
    task = DIGITS.open()
    assert np.diag(matrix) == pytest.approx(task.score(task.weights(), limit=found["matrix_samples"]), abs=1e-4)
    assert (matrix[~np.eye(3, dtype=bool)] < found["clones"]["useful_line"]).all()
    assert found["clones"]["useful"] == 0
    assert found["clones"]["bounds"][1] == pytest.approx(1 - 0.025 ** (1 / 8))
    assert len(found["clones"]["scores"]) == len(found["clones"]["untrained"]) == 8


def test_a_pad_used_twice_is_none_and_a_share_is_a_share() -> None:
    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((100, 100)).astype(np.float32), "b": np.zeros(3, dtype=np.float32)}
    order = {"w": rng.random((100, 100))}
    pad = {"w": rng.integers(1, 2**32, (100, 100), dtype=np.uint32)}
    once = padded(weights, order, ["w"], 0.2, pad)
    changed = once["w"].view(np.uint32) != weights["w"].view(np.uint32)
    assert np.array_equal(changed, order["w"] < 0.2)
    assert padded(once, order, ["w"], 0.2, pad)["w"].tobytes() == weights["w"].tobytes()
    assert once["b"] is weights["b"]


@pytest.fixture(scope="module")
def paper() -> dict[str, Any]:
    return paper_experiment(DIGITS, seeds=[0, 1], backend="sequential")


def test_the_papers_pad_collapses_and_zeroing_brings_it_back(paper: dict[str, Any]) -> None:
    at = SHARES.index(0.2)
    clone = np.mean([scores[at] for scores in paper["clone"]["all"]])
    repaired = np.mean([scores[at] for scores in paper["repaired"]["all"]])
    assert paper["target"] == [paper["original"]] * 2
    assert clone < 0.25
    assert repaired > 0.45  # no key, no data
    assert np.mean([scores[-1] for scores in paper["repaired"]["all"]]) < 0.25  # all of the weights: nothing left


def test_without_error_correction_the_right_device_fails_too(paper: dict[str, Any]) -> None:
    scores = np.mean(paper["noisy"]["1.0"], axis=0)
    assert scores[ERROR_RATES.index(0.0)] == paper["original"]
    assert scores[ERROR_RATES.index(0.05)] < 0.3


def test_the_cost_is_counted(paper: dict[str, Any]) -> None:
    weights = DIGITS.open().weights()
    assert paper["cost"]["bits_per_weight"] == 32
    assert paper["cost"]["responses"] == 8 * sum(value.nbytes for value in weights.values())


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]


def test_the_report_is_one_file_with_the_verdict_first(paper: dict[str, Any], tmp_path: Path) -> None:
    result = evaluate(
        DIGITS, profile="quick", names=["use-as-is"], command="unclone evaluate <&>", backend="sequential"
    )
    value = result.to_json()
    fidelity = fidelity_experiment(DIGITS, devices=2, clones=3, backend="sequential")
    value["experiments"] = {"paper": paper, "fidelity": fidelity}
    target = tmp_path / "report.html"
    write_report(value, target)
    text = target.read_text()
    page = _Page()
    page.feed(text)
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in page.links)
    assert not {"script", "link", "iframe", "img"} & set(page.tags)
    assert page.tags.count("svg") == 5
    assert text.index(value["verdict"][:20]) < text.index("<table")
    assert "unclone evaluate &lt;&amp;&gt;" in text
    assert "<&>" not in text
    assert re.search(r"numpy \d", text)
    assert render_report(value) == text
    with pytest.raises(OutputError):
        write_report(value, target)


def test_what_was_not_run_is_said() -> None:
    result = evaluate(DIGITS, profile="quick", names=["use-as-is"], backend="sequential").to_json()
    row = result["attacks"][0]
    row.update(accuracy=None, baseline=None, gain=None, spread=None, verdict="not run", reason="no <data>", cost={})
    result["experiments"] = {"paper": {"reason": "too many weights"}}
    text = render_report(result)
    assert "not run: no &lt;data&gt;" in text
    assert "too many weights" in text
