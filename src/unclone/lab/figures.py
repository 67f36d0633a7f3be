"""Figures of the lab's report, as SVG text that stands in the page itself."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from unclone.errors import MissingExtraError

__all__ = ["attack_figure", "clone_figure", "noise_figure", "share_figure", "uniqueness_figure"]

_BLUE, _ORANGE, _GREY, _RED = "#20639b", "#d9822b", "#8a8f98", "#b3261e"
_COLOURS: Final = (_BLUE, _ORANGE, "#3a8f5c", "#7b4ea3", _RED)
_SETTINGS: Final = {
    "svg.hashsalt": "unclone",  # the same figures give the same bytes
    "svg.fonttype": "path",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
}


def attack_figure(rows: Sequence[Mapping[str, Any]], metric: str, original: float, chance: float) -> str:
    """Each attack beside its baseline, with the spread over seeds; attacks without labels left out of none."""
    run = [row for row in rows if row["accuracy"] is not None]
    height = 0.8 + 0.32 * len(run)
    figure, axes = _axes(8.0, height)
    places = np.arange(len(run))[::-1]
    for place, row in zip(places, run, strict=True):
        axes.plot(row["baselines"], [place - 0.13] * len(row["baselines"]), "|", color=_GREY, markersize=9)
        axes.plot(row["scores"], [place + 0.13] * len(row["scores"]), "|", color=_colour(row["verdict"]), markersize=9)
        axes.plot(row["baseline"], place - 0.13, "o", color=_GREY, markersize=5)
        axes.plot(row["accuracy"], place + 0.13, "o", color=_colour(row["verdict"]), markersize=5)
    axes.axvline(original, color=_BLUE, linewidth=1, linestyle="--")
    axes.axvline(chance, color=_GREY, linewidth=1, linestyle=":")
    axes.set_yticks(places, [f"{row['name']}, {row['labels']} labels" if row["labels"] else row["name"] for row in run])
    axes.set_ylim(-0.7, len(run) - 0.3)
    axes.set_xlabel(f"{metric}; blue or red: attack, grey: without the file; dashed: the original, dotted: chance")
    return _svg(figure, f"{len(run)} attacks and their baselines")


def share_figure(paper: Mapping[str, Any], metric: str) -> str:
    """Experiment 1: a clone's score against the share of padded words, as it is and repaired, by kind of layer."""
    figure, axes = _axes(8.0, 3.6)
    shares = np.array(paper["shares"]) * 100
    for colour, kind in zip(_COLOURS, paper["repaired"], strict=False):
        _band(axes, shares, paper["repaired"][kind], colour, f"{kind}, implausible weights zeroed", "-")
        _band(axes, shares, paper["clone"][kind], colour, f"{kind}, as it is", ":")
    axes.axhline(paper["original"], color=_BLUE, linewidth=1, linestyle="--")
    axes.axhline(paper["chance"], color=_GREY, linewidth=1, linestyle="--")
    axes.set_xscale("log")
    axes.set_xticks(shares, [f"{share:g} %" for share in shares])
    axes.minorticks_off()
    axes.set_xlabel("share of the words that are padded")
    axes.set_ylabel(metric)
    axes.legend(loc="upper left", fontsize=8, frameon=False)
    return _svg(figure, "score of a clone against the share of padded words")


def noise_figure(paper: Mapping[str, Any], metric: str) -> str:
    """Experiment 1: the right device without error correction."""
    figure, axes = _axes(8.0, 2.8)
    rates = np.array(paper["error_rates"]) * 100
    axes.set_xscale("symlog", linthresh=0.001)
    axes.set_xticks(rates, [f"{rate:g}" for rate in rates])
    axes.minorticks_off()
    for colour, share in zip(_COLOURS, paper["noisy"], strict=False):
        _band(axes, rates, paper["noisy"][share], colour, f"{float(share):.0%} of the words", "-")
    axes.set_xlabel("bit error rate of the PUF, %")
    axes.set_ylabel(metric)
    axes.legend(loc="upper left", fontsize=8, frameon=False)
    return _svg(figure, "score of the right device against the bit error rate")


def clone_figure(clones: Mapping[str, Any], original: float, chance: float, metric: str) -> str:
    """Experiment 2: how the scores of clones are distributed, beside networks that were never trained."""
    figure, axes = _axes(8.0, 2.8)
    values = [*clones["scores"], *clones["untrained"], original, chance]
    bins = np.linspace(min(values), max(values), 61).tolist()
    axes.hist(clones["scores"], bins=bins, color=_BLUE, alpha=0.8, label=f"{len(clones['scores'])} clones")
    if clones["untrained"]:
        axes.hist(clones["untrained"], bins=bins, color=_ORANGE, histtype="step", linewidth=1.4, label="untrained")
    axes.axvline(original, color=_BLUE, linewidth=1, linestyle="--", label="the original")
    axes.axvline(chance, color=_GREY, linewidth=1, linestyle=":", label="chance")
    axes.set_xlabel(metric)
    axes.set_ylabel("networks")
    axes.legend(loc="upper left", fontsize=8, frameon=False)
    return _svg(figure, "histogram of the clones' scores")


def uniqueness_figure(matrix: Sequence[Sequence[float]], metric: str) -> str:
    """Experiment 2: the file of each device on each device."""
    figure, axes = _axes(8.0, 4.8)
    image = axes.imshow(
        np.array(matrix), cmap="Blues", interpolation="nearest", vmin=0 if np.min(matrix) >= 0 else None
    )
    axes.grid(visible=False)
    axes.set_xlabel("run on device")
    axes.set_ylabel("file of device")
    figure.colorbar(image, ax=axes, label=metric, shrink=0.85)
    return _svg(figure, "score of the file of each device on each device")


def _colour(verdict: str) -> str:
    return _RED if verdict == "gains" else _BLUE


def _band(axes: Any, x: Any, runs: Sequence[Sequence[float]], colour: str, label: str, style: str) -> None:
    """Mean over the seeds, and from the least to the most."""
    values = np.array(runs)
    axes.plot(x, values.mean(axis=0), style, color=colour, label=label, marker="o", markersize=3, linewidth=1.4)
    if len(values) > 1:
        axes.fill_between(x, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.15, linewidth=0)


def _axes(width: float, height: float) -> tuple[Any, Any]:
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("matplotlib", "lab") from None
    mpl.rcParams.update(_SETTINGS)
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def _svg(figure: Any, description: str) -> str:
    """The figure as an ``<svg>`` element with a text for those who do not see it."""
    stream = io.StringIO()
    figure.savefig(stream, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    return text[text.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{description}"', 1)
