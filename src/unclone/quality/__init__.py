"""Quality of PUF responses: figures of merit, health checks, and a report. Pure functions on arrays.

``check(readings)`` says what is wrong with one device, ``assess(devices)`` gives every figure of one or many, and
``report_html`` draws it. Definitions and sources of the figures: ``unclone.quality.metrics``; of the checks, with their
thresholds: ``unclone.quality.checks``.
"""

from unclone.quality.checks import Finding, check
from unclone.quality.fleet import check_fleet
from unclone.quality.html import report_html
from unclone.quality.report import DeviceQuality, FleetQuality, QualityReport, assess

__all__ = [
    "DeviceQuality",
    "Finding",
    "FleetQuality",
    "QualityReport",
    "assess",
    "check",
    "check_fleet",
    "report_html",
]
