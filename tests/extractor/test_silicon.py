"""Recorded silicon: every possible reconstruction of the data in hand."""

import hashlib

import numpy as np
import pytest

from unclone import canonical, extractor


def keyed(secret, helper):
    """A stand-in for the device record: a digest over the secret and all helper data."""
    return hashlib.sha256(secret + canonical.encode(dict(helper.fields))).digest()


def failures(made, readings):
    check = keyed(made.secret, made.helper)
    found = extractor.reproduce_many(list(readings), [made.helper] * len(readings))
    return sum(all(keyed(candidate, made.helper) != check for candidate in candidates) for candidates in found)


@pytest.mark.parametrize("enrolment", [1, 3, 9])
@pytest.mark.parametrize("name", ["L45", "M39", "M42"])
def test_scum_first_readings(scum, name, enrolment):
    readings = scum[name]
    if len(readings) < enrolment:
        pytest.skip(f"{name} has {len(readings)} readings")
    made = extractor.generate(readings[:enrolment])
    assert made.report.residual_entropy_millibits >= 128_000
    assert failures(made, readings) == 0


@pytest.mark.slow
@pytest.mark.parametrize("enrolment", [1, 3, 9])
def test_scum_every_window_of_readings(scum, enrolment):
    """Enrolled on every run of consecutive readings, reconstructed from every reading of the chip; others refused."""
    tried = bad = foreign = 0
    for name, readings in scum.items():
        for start in range(len(readings) - enrolment + 1):
            made = extractor.generate(readings[start : start + enrolment])
            bad += failures(made, readings)
            tried += len(readings)
            for other, theirs in scum.items():
                if other != name:
                    assert failures(made, theirs[:1]) == 1
                    foreign += 1
    assert bad == 0
    assert tried >= 1800
    assert foreign > 90


@pytest.mark.parametrize("source", ["ambient reliability", "-1 C"])
def test_uno_down_to_the_cold(uno, source):
    tried = bad = 0
    for board in range(10):
        readings = uno["reads"][board]
        reliability = uno["reliability"][board] if source == "ambient reliability" else None
        made = extractor.generate(readings[-1:], reliability=reliability)
        assert made.report.residual_entropy_millibits >= 128_000
        bad += failures(made, readings[uno["valid"][board]])
        tried += int(uno["valid"][board].sum())
    assert (tried, bad) == (99, 0)


@pytest.mark.parametrize("every", [18, pytest.param(1, marks=pytest.mark.slow)])
def test_uno_board_over_the_whole_range(uno, every):
    """Enrolled at any of 38 temperatures from -23.5 to 70 C, read at all of them: up to 21 % of the bits differ."""
    readings = uno["board22"]
    bad = 0
    for reading in readings[::every]:
        made = extractor.generate(reading[None])
        assert made.report.residual_entropy_millibits >= 128_000
        bad += failures(made, readings)
    assert bad == 0


def test_uno_boards_do_not_open_one_another(uno):
    for board in range(0, 10, 3):
        made = extractor.generate(uno["reads"][board][-1:])
        others = np.concatenate([uno["reads"][other] for other in range(10) if other != board])
        assert failures(made, others) == len(others)


def test_uno_refresh_in_the_cold(uno):
    for board in (0, 3, 8):
        readings = uno["reads"][board][uno["valid"][board]]
        made = extractor.generate(readings[-1:])
        again = extractor.regenerate(readings[:1], made.helper, error_rate=0.1)
        assert failures(again, readings) == 0
        assert extractor.measure(readings[0], made.helper, made.secret).margin > 1
