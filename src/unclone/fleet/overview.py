"""The overview's figures, from the tallies alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from unclone.fleet.queries import Statistics

__all__ = ["Bucket", "Month", "overview"]

_MONTHS: Final = 36


@dataclass(frozen=True, slots=True)
class Bucket:
    """One bar: ``share`` is its length, 0 to 100, against the longest."""

    name: str
    number: int
    share: str


@dataclass(frozen=True, slots=True)
class Month:
    """What the measurements of a month found; ``margin`` is the median's bucket."""

    name: str
    measured: int
    good: int
    refresh: int
    late: int
    margin: str


def overview(statistics: Statistics) -> dict[str, Any]:
    """What the overview's template shows."""
    health, state = statistics.get("health"), statistics.get("state")
    figures = [
        ("Devices", statistics.devices),
        ("Revoked", state.get("revoked", 0)),
        ("Refresh soon", health.get("refresh", 0)),
        ("Refresh now", health.get("late", 0)),
        ("Machines", statistics.get("machines").get("all", 0)),
        ("Models", statistics.get("models").get("all", 0)),
        ("Releases", statistics.get("releases").get("all", 0)),
        ("Licences", statistics.get("licences").get("all", 0)),
    ]
    rates = {f"{int(low)} to {int(low) + 1} %": number for low, number in statistics.get("error rate").items()}
    bits = {f"{int(low)} to {int(low) + 15} bits": number for low, number in statistics.get("entropy").items()}
    return {
        "figures": figures,
        "error_rates": _bars(rates),
        "entropies": _bars(bits),
        "months": _months(statistics),
    }


def _bars(buckets: dict[str, int]) -> list[Bucket]:
    longest = max(buckets.values(), default=1)
    return [Bucket(name, number, f"{100 * number / longest:.1f}") for name, number in buckets.items()]


def _months(statistics: Statistics) -> list[Month]:
    names = sorted((facet[7:] for facet in statistics.facets if facet.startswith("health ")), reverse=True)
    return [_month(name, statistics) for name in names[:_MONTHS]]


def _month(name: str, statistics: Statistics) -> Month:
    health, margins = statistics.get(f"health {name}"), statistics.get(f"margin {name}")
    measured = sum(health.values())
    return Month(
        name=name,
        measured=measured,
        good=health.get("good", 0),
        refresh=health.get("refresh", 0),
        late=health.get("late", 0),
        margin=_median(margins),
    )


def _median(buckets: dict[str, int]) -> str:
    """The bucket, half a unit wide, that holds the median."""
    left = sum(buckets.values()) / 2
    for low, number in sorted(buckets.items()):
        left -= number
        if left <= 0:
            return f"{float(low):.1f} to {float(low) + 0.5:.1f}" if float(low) < 20 else "20 or more"
    return ""
