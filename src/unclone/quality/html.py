"""The quality report as one HTML file: tables and pictures, nothing fetched from anywhere."""

from __future__ import annotations

import base64
import io
import os
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from unclone.errors import MissingExtraError
from unclone.files import atomic_output
from unclone.quality import metrics
from unclone.quality.report import DeviceQuality, QualityReport
from unclone.quality.structure import autocorrelation

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["report_html"]

DRAWN: Final = 24
"""Devices that get pictures of their own; the tables hold all of them."""
_MAP_CELLS: Final = 1 << 18
_LAGS: Final = 1024

_STYLE: Final = """
body{font:16px/1.5 system-ui,sans-serif;margin:0 auto;max-width:72rem;padding:1rem;color:#1b1b1b;background:#fff}
h1{font-size:1.6rem}h2{font-size:1.25rem;margin-top:2rem}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:.25rem .6rem;text-align:right;border-bottom:1px solid #ddd;white-space:nowrap}
th:first-child,td:first-child{text-align:left}
.grid{display:grid;gap:1rem;grid-template-columns:repeat(auto-fit,minmax(min(26rem,100%),1fr))}
figure{margin:0}img{width:100%;height:auto}figcaption{font-size:.875rem;color:#555}
li.fatal b{color:#a40000}li.warning b{color:#8a5a00}
"""


def report_html(report: QualityReport, path: str | os.PathLike[str], *, force: bool = False) -> None:
    """Draw a report into one self-contained HTML file.

    Args:
        report: from ``assess``.
        path: the file.
        force: replace it if it exists.

    Raises:
        MissingExtraError: matplotlib is not installed (extra ``lab``).
        OutputError: the file exists, or cannot be written.
    """
    try:
        import matplotlib.figure  # noqa: F401 - fail before any work
    except ImportError:
        raise MissingExtraError("matplotlib", "lab") from None
    with atomic_output(Path(path), force=force) as stream:
        stream.write(_page(report).encode())


def _page(report: QualityReport) -> str:
    count = len(report.devices)
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width,initial-scale=1'>",
        f"<title>PUF quality: {count} device{'s' * (count > 1)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>PUF quality: {count} device{'s' * (count > 1)}</h1>",
        "<h2>Findings</h2>",
        _findings(report),
        "<h2>Devices</h2>",
        _device_table(report),
    ]
    if report.fleet or report.entropy:
        parts += ["<h2>Between devices</h2>", _fleet_table(report)]
    parts += ["<h2>Distances</h2><div class='grid'>", _distances(report), _aliasing(report), "</div>"]
    for device in report.devices[:DRAWN]:
        parts += [f"<h2>{escape(device.name)}</h2><div class='grid'>", *_pictures(report, device), "</div>"]
    if count > DRAWN:
        parts.append(f"<p>Pictures of the first {DRAWN} devices; the tables hold all {count}.</p>")
    return "\n".join([*parts, "</body></html>\n"])


def _findings(report: QualityReport) -> str:
    if not report.findings:
        return "<p>Nothing looks wrong.</p>"
    rows = [
        f"<li class='{escape(item.severity)}'><b>{escape(item.severity)}</b> {escape(item.device)} "
        f"<code>{escape(item.code)}</code>: {escape(item.message)}</li>"
        for item in report.findings
    ]
    return f"<ul>{''.join(rows)}</ul>"


def _table(head: list[str], rows: list[list[str]]) -> str:
    titles = "".join(f"<th scope='col'>{escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<div class='scroll'><table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _device_table(report: QualityReport) -> str:
    head = ["device", "readings", "bits", "uniformity", "bit error rate", "largest intra-distance", "reliability"]
    head += ["steadiness", "correctness", "randomness", "diffuseness", "stable cells", "period"]
    estimators = sorted({name for device in report.devices for name in device.entropy})
    rows = []
    for device in report.devices:
        figures = [device.uniformity, device.bit_error_rate, device.intra_distance_max, device.reliability]
        figures += [device.steadiness, device.correctness, device.randomness, device.diffuseness, device.stable_cells]
        rows.append(
            [device.name, str(device.readings), f"{device.bits:,}", *map(_number, figures), str(device.period)]
            + [_number(device.entropy.get(name)) for name in estimators]
        )
    return _table(head + [f"entropy: {name.replace('_', ' ')}" for name in estimators], rows)


def _fleet_table(report: QualityReport) -> str:
    head = ["devices", "uniqueness", "smallest distance", "largest", "uniqueness (Hori)", "alias entropy", "fair cells"]
    figures = ["uniqueness", "inter_distance_min", "inter_distance_max", "uniqueness_hori"]
    figures += ["alias_entropy", "alias_entropy_fair"]
    rows = [[str(len(group.devices)), *(_number(getattr(group, name)) for name in figures)] for group in report.fleet]
    extra = [[name, estimator, _number(value)] for name, e in report.entropy.items() for estimator, value in e.items()]
    return (_table(head, rows) if rows else "") + (
        _table(["entropy", "estimator", "bits a cell"], extra) if extra else ""
    )


def _figure(height: float = 3.0) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # no pyplot: no global state, no window system

    figure = Figure(figsize=(6.4, height), dpi=110, layout="constrained")
    return figure, figure.add_subplot()


def _embed(figure: Any, caption: str) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    picture = base64.b64encode(buffer.getvalue()).decode("ascii")
    text = escape(caption, quote=True)
    return f"<figure><img alt='{text}' src='data:image/png;base64,{picture}'><figcaption>{text}</figcaption></figure>"


def _distances(report: QualityReport) -> str:
    intra = [metrics.intra_distances(r) for r in report.responses.values() if len(r) > 1]
    inter = []
    for group in report.fleet:
        inter.append(
            metrics.inter_distances(np.stack([metrics.reference_of(report.responses[n]) for n in group.devices]))
        )
    if not intra and not inter:
        return "<p>One reading of one device: no distances.</p>"
    figure, axes = _figure()
    for label, parts, colour in (("intra", intra, "#0b6e99"), ("inter", inter, "#c2500a")):
        if parts:
            values = np.concatenate(parts)
            axes.hist(values, bins=np.linspace(0, max(0.6, values.max()), 121), label=label, color=colour, density=True)
    axes.set(xlabel="fractional Hamming distance", ylabel="density")
    axes.legend(loc="upper right")
    return _embed(figure, "Distances of two readings of one device (intra) and of two devices (inter, ideal 0.5).")


def _aliasing(report: QualityReport) -> str:
    if not report.fleet:
        return ""
    group = max(report.fleet, key=lambda item: len(item.devices))
    share = metrics.bit_aliasing(np.stack([metrics.reference_of(report.responses[name]) for name in group.devices]))
    figure, axes = _figure()
    axes.hist(share, bins=(np.arange(len(group.devices) + 2) - 0.5) / len(group.devices), color="#4a7a29")
    axes.set(xlabel="share of devices in which a cell is 1", ylabel="cells")
    return _embed(figure, f"Bit aliasing over {len(group.devices)} devices.")


def _pictures(report: QualityReport, device: DeviceQuality) -> list[str]:
    readings = report.responses[device.name]
    drawn = [_start_up_map(readings)]
    if len(readings) > 1:
        drawn += [_errors(device), _one_probability(readings)]
    return [*drawn, _correlation(readings, device.period), _lanes(device)]


def _start_up_map(readings: NDArray[np.uint8]) -> str:
    share = readings[:, :_MAP_CELLS].mean(axis=0)
    width = max(8, 1 << round(np.log2(max(share.size, 1)) / 2 + 0.5))
    rows = -(-share.size // width)
    cells = np.full(rows * width, np.nan)
    cells[: share.size] = share
    figure, axes = _figure(3.6)
    image = axes.imshow(
        cells.reshape(rows, width), cmap="cividis", vmin=0, vmax=1, interpolation="nearest", aspect="auto"
    )
    axes.set(xlabel="cell within row", ylabel="row")
    figure.colorbar(image, label="share of ones")
    left_out = f", first {_MAP_CELLS:,} cells" if readings.shape[1] > _MAP_CELLS else ""
    return _embed(figure, f"Start-up map: share of ones of each cell, {width} cells a row{left_out}.")


def _errors(device: DeviceQuality) -> str:
    figure, axes = _figure()
    where = device.conditions or tuple(range(device.readings))
    axes.plot(where, 100 * np.array(device.error_by_reading), "o" if device.conditions else "o-", color="#0b6e99", ms=4)
    axes.set(
        xlabel="condition" if device.conditions else "reading",
        ylabel="errors, %",
        ylim=(0, 115 * max(device.error_by_reading) or 1),
    )
    return _embed(figure, "Bit error rate of each reading against the majority of the others.")


def _one_probability(readings: NDArray[np.uint8]) -> str:
    figure, axes = _figure()
    ones = np.bincount(readings.sum(axis=0, dtype=np.int64), minlength=len(readings) + 1)
    axes.bar(np.arange(len(ones)), ones, width=0.9, color="#0b6e99")
    axes.set(xlabel=f"ones in {len(readings)} readings", ylabel="cells (logarithmic)", yscale="log")
    return _embed(figure, "One-probability of the cells: stable cells at both ends.")


def _correlation(readings: NDArray[np.uint8], period: int) -> str:
    coefficients, limit = autocorrelation(metrics.reference_of(readings), period)
    figure, axes = _figure()
    shown = coefficients[:_LAGS]
    axes.plot(np.arange(1, shown.size + 1), shown, lw=0.7, color="#4a7a29")
    for side in (-limit, limit):
        axes.axhline(side, color="#a40000", lw=0.8, ls="--")
    axes.set(xlabel="lag, cells", ylabel="correlation")
    return _embed(figure, "Autocorrelation without the periodic bias; dashed: significant at 1e-9 over all lags.")


def _lanes(device: DeviceQuality) -> str:
    if device.period == 1:
        return "<p>No periodic bias up to 512 cells.</p>"
    figure, axes = _figure()
    axes.bar(np.arange(device.period), device.phase_shares, width=0.9, color="#c2500a")
    axes.axhline(0.5, color="#1b1b1b", lw=0.8)
    axes.set(xlabel=f"cell modulo {device.period}", ylabel="share of ones", ylim=(0, 1))
    return _embed(figure, "Lane bias: share of ones of each phase of the period.")
