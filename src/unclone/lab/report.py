"""The report of an evaluation: one HTML file that needs nothing else, no network, no script."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from unclone.files import atomic_output
from unclone.lab import figures

__all__ = ["render_report", "write_report"]

_STYLE: Final = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1c2430; background: #fff; margin: 0 auto; max-width: 60rem;
       padding: 1.5rem; }
h1 { font-size: 1.5rem; margin: 0 0 .5rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .5rem; }
.verdict { padding: .9rem 1.1rem; border-left: .4rem solid; border-radius: .2rem; font-size: 1.1rem; }
.good { background: #e9f4ec; border-color: #3a8f5c; } .bad { background: #fbeae8; border-color: #b3261e; }
.open { background: #fdf3e3; border-color: #d9822b; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .875rem; width: 100%; }
th, td { text-align: left; padding: .3rem .7rem .3rem 0; border-bottom: 1px solid #dde1e7; vertical-align: top; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.gains { color: #b3261e; font-weight: 600; }
@media (max-width: 45rem) { .reference { display: none; } }
svg { width: 100%; min-width: 30rem; height: auto; }
p.note, .small { color: #4b5563; font-size: .875rem; } code { font-size: .875rem; overflow-wrap: anywhere; }
"""

_ATTACK_HEAD: Final = (
    "<th>attack</th>"
    + "".join(f'<th class="n">{name}</th>' for name in ("labels", "with the file", "without", "gain", "spread"))
    + '<th>verdict</th><th class="n">seconds</th><th class="n">queries</th><th class="reference">published</th>'
)


def write_report(value: Mapping[str, Any], path: Path, *, force: bool = False) -> None:
    """Draw the report of an evaluation.

    Args:
        value: ``Evaluation.to_json``.
        path: the HTML file.
        force: replace it if it exists.

    Raises:
        OutputError: it exists, or cannot be written.
        MissingExtraError: matplotlib is not installed.
    """
    text = render_report(value)
    with atomic_output(path, force=force) as stream:
        stream.write(text.encode())


def render_report(value: Mapping[str, Any]) -> str:
    """The page as text."""
    task = value["task"]
    parts = [
        f"<h1>{escape(task['name'])}, bound with {escape(value['scheme']['name'])}</h1>",
        f'<p class="verdict {_tone(value)}">{escape(value["verdict"])}</p>',
        _about(value),
        _attacks(value),
        *_paper(value),
        *_fidelity(value),
        _provenance(value),
    ]
    title = f"unclone: {escape(task['name'])}"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head>\n'
        f"<body>\n{chr(10).join(parts)}\n</body></html>\n"
    )


def _tone(value: Mapping[str, Any]) -> str:
    if not value["protected"]:
        return "bad"
    return "open" if any(row["verdict"] == "not run" for row in value["attacks"]) else "good"


def _about(value: Mapping[str, Any]) -> str:
    task = value["task"]
    return (
        f"<p>{task['weights']:,} weights in {task['bytes']:,} bytes; {escape(task['metric'])} of the original "
        f"{task['original']:.4f}, of the best constant answer {task['chance']:.4f}, on {task['test_size']:,} samples; "
        f"{task['train_size']:,} labelled samples to draw the attacker's from.</p>"
    )


def _attacks(value: Mapping[str, Any]) -> str:
    task = value["task"]
    if not value["attacks"]:
        return "<h2>Attacks</h2>\n<p>No attack was run.</p>"
    picture = ""
    if any(row["accuracy"] is not None for row in value["attacks"]):
        picture = _figure(figures.attack_figure(value["attacks"], task["metric"], task["original"], task["chance"]))
    note = (
        "An attack gains if it beats training without the file, with the same labels, steps and seeds, by more than "
        "the spread over the seeds, and does so again with fresh seeds. Seconds are processor time of one run."
    )
    groups = [list(rows) for _, rows in groupby(value["attacks"], key=lambda row: row["name"])]
    body = "\n".join(_attack_rows(rows) for rows in groups)
    table = f'<div class="wide"><table><thead><tr>{_ATTACK_HEAD}</tr></thead><tbody>\n{body}\n</tbody></table></div>'
    return f'<h2>Attacks</h2>\n{picture}\n{table}\n<p class="note">{note}</p>'


def _attack_rows(rows: list[Mapping[str, Any]]) -> str:
    """One attack: its name and the literature once, a line for each number of labels."""
    first = rows[0]
    name = (
        f'<td rowspan="{len(rows)}">{escape(first["name"])}'
        f'<br><span class="small reference">{escape(first["reference"])}</span></td>'
    )
    published = f'<td class="reference" rowspan="{len(rows)}">{escape(first["published"])}</td>'
    lines = [_attack_cells(row) for row in rows]
    return "\n".join(
        f"<tr>{name if not number else ''}{line}{published if not number else ''}</tr>"
        for number, line in enumerate(lines)
    )


def _attack_cells(row: Mapping[str, Any]) -> str:
    labels = f'<td class="n">{row["labels"] or "none"}</td>'
    if row["accuracy"] is None:
        return f'{labels}<td colspan="7">not run: {escape(row["reason"])}</td>'
    numbers = [f"{row['accuracy']:.3f}", f"{row['baseline']:.3f}", f"{row['gain']:+.3f}", f"{row['spread']:.3f}"]
    cost = [f"{row['cost']['seconds']:.1f}", f"{row['cost']['queries']:.0f}"]
    verdict = f"<td{' class=gains' if row['verdict'] == 'gains' else ''}>{escape(row['verdict'])}</td>"
    before, after = ("".join(f'<td class="n">{cell}</td>' for cell in cells) for cells in (numbers, cost))
    return f"{labels}{before}{verdict}{after}"


def _paper(value: Mapping[str, Any]) -> Iterable[str]:
    paper = value["experiments"].get("paper")
    if paper is None:
        return
    yield "<h2>The paper's pad on some of the weights</h2>"
    if "reason" in paper:
        yield f"<p>Not run: {escape(paper['reason'])}.</p>"
        return
    metric, cost = value["task"]["metric"], paper["cost"]
    yield (
        "<p>A one-time pad straight from the responses of a simulated arbiter PUF, XORed to whole words drawn at "
        "random (arXiv 2603.10753). Dotted: a clone that unpads with its own responses. Solid: the same clone after "
        "it zeroed every weight that is no number or beyond 2, which takes neither key nor data. An output that is no "
        "number counts as wrong, so a score may lie below chance.</p>"
    )
    yield _figure(figures.share_figure(paper, metric))
    yield "<p>The right device, without error correction:</p>"
    yield _figure(figures.noise_figure(paper, metric))
    yield (
        f"<p>Cost: {cost['bits_per_weight']} responses a weight, {cost['responses']:,} for all of them; simulating a "
        f"million takes {cost['seconds_per_million']:.2f} s.{_sram(paper['sram'])}</p>"
    )


def _sram(sram: Mapping[str, Any]) -> str:
    if "reason" in sram:
        return ""
    return (
        f" A recorded memory of {sram['bytes']:,} bytes pads {sram['share_reached']:.1%} of the weights once; two "
        f"readings of it differ in {sram['error_rate']:.1%} of the bits, and the right device then "
        f"scores {sram['target']:.3f}."
    )


def _fidelity(value: Mapping[str, Any]) -> Iterable[str]:
    found = value["experiments"].get("fidelity")
    if found is None:
        return
    metric, clones, unique = value["task"]["metric"], found["clones"], found["uniqueness"]
    yield "<h2>Fidelity and uniqueness</h2>"
    yield (
        f"<p>{found['fidelity']['identical']} of {found['fidelity']['devices']} devices got their weights back bit "
        f"for bit. Files of other devices scored {_number(unique['foreign'])} on average and "
        f"{_number(unique['foreign_max'])} at most, on {found['matrix_samples']:,} samples.</p>"
    )
    yield _figure(figures.uniqueness_figure(unique["matrix"], metric))
    low, high = clones["bounds"]
    yield (
        f"<p>Of {len(clones['scores']):,} clones that force the file open with their own key, {clones['useful']} score "
        f"more than {clones['useful_line']:.3f}, half of the way from chance to the original: with 95 % confidence "
        f"{low:.2%} to {high:.2%} of all clones (exact binomial bounds). Mean {clones['mean']:.3f}, most "
        f"{clones['max']:.3f}; networks that were never trained: mean {_number(clones['untrained_mean'])}, most "
        f"{_number(clones['untrained_max'])}.</p>"
    )
    yield _figure(figures.clone_figure(clones, found["original"], found["chance"], metric))


def _figure(svg: str) -> str:
    """On a narrow screen a figure scrolls rather than shrinks beyond reading."""
    return f'<div class="wide">{svg}</div>'


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"


def _provenance(value: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{escape(name)} {escape(version)}" for name, version in value["versions"].items())
    rows = [
        ["command", f"<code>{escape(value['command'])}</code>"],
        ["profile", escape(value["profile"])],
        ["seeds", escape(", ".join(str(seed) for seed in value["seeds"]))],
        ["scheme", f"{escape(value['scheme']['name'])}: {escape(value['scheme']['cost'])}"],
        ["versions", versions],
    ]
    return f"<h2>How this was made</h2>\n{_table(rows)}"


def _table(rows: Iterable[list[str]]) -> str:
    body = "\n".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><tbody>\n{body}\n</tbody></table></div>'
