"""What a person sees of the demo: a table and a picture."""

from __future__ import annotations

from pathlib import Path

from unclone.errors import MissingExtraError
from unclone.lab.demo import DemoResult

__all__ = ["draw", "render_table"]


def render_table(results: list[DemoResult]) -> str:
    """The results as an aligned table; accuracies in per cent."""
    head = [
        "network",
        "samples",
        "chance",
        "original",
        "genuine",
        "identical",
        "bound file",
        "clones",
        "key ms",
        "restore ms",
    ]
    rows = [head, *(_row(result) for result in results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def _row(result: DemoResult) -> list[str]:
    low, high = min(result.clones), max(result.clones)
    return [
        result.name,
        str(result.samples),
        *(
            f"{100 * share:.1f} %"
            for share in (result.chance, result.original, result.genuine, result.genuine_identical, result.bound_as_is)
        ),
        f"{100 * low:.1f} to {100 * high:.1f} %",
        f"{result.reconstruct_ms:.1f}",
        f"{result.restore_ms:.1f}",
    ]


def draw(results: list[DemoResult], path: Path) -> None:
    """Draw the accuracies as a PNG.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("matplotlib", "lab") from None
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    axes = figure.subplots()
    bars = [("original", "#4c72b0"), ("genuine device", "#55a868"), ("bound file as it lies", "#dd8452")]
    named: set[str] = set()

    def once(label: str) -> str:
        if label in named:
            return "_"  # matplotlib leaves such labels out of the legend
        named.add(label)
        return label

    for place, result in enumerate(results):
        heights = [result.original, result.genuine, result.bound_as_is]
        for number, ((label, colour), height) in enumerate(zip(bars, heights, strict=True)):
            axes.bar(place + (number - 1.5) * 0.2, 100 * height, 0.18, color=colour, label=once(label))
        axes.scatter(
            [place + 0.3] * len(result.clones),
            [100 * accuracy for accuracy in result.clones],
            color="#c44e52",
            marker="x",
            label=once("clones, forced open"),
            zorder=3,
        )
        chance = 100 * result.chance
        axes.hlines(chance, place - 0.42, place + 0.42, colors="black", linestyles="dotted", label=once("chance"))
    axes.set_xticks(range(len(results)), [result.name for result in results])
    axes.set_ylabel("balanced accuracy (%)")
    axes.set_ylim(0, 105)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.14), ncols=5, frameon=False, fontsize=9)
    figure.savefig(path, dpi=150)
