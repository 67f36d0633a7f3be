"""Each thing that can be wrong is found, clean chips are not accused, and measured silicon shows what it has."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from recorded_data import data_folder
from unclone.puf.simulated import SimulatedSRAM
from unclone.quality import Finding, check, check_fleet

RNG = np.random.default_rng(5)


def chip(seed: int = 1, readings: int = 9, **options: float) -> np.ndarray:
    source = SimulatedSRAM(seed, noise_seed=seed + 1, **options)  # type: ignore[arg-type]
    return np.stack([source.evaluate() for _ in range(readings)])


def codes(findings: list[Finding], severity: str | None = None) -> set[str]:
    return {item.code for item in findings if severity in (None, item.severity)}


@pytest.mark.parametrize("readings", [1, 2, 3, 9])
@pytest.mark.parametrize("bits", [512, 8192, 16384])
@pytest.mark.parametrize("ber", [0.0, 0.02, 0.06, 0.25])
def test_clean_chips_are_not_accused(readings: int, bits: int, ber: float) -> None:
    for seed in range(8):
        assert check(chip(seed, readings, bits=bits, ber=ber)) == []


def test_biased_and_lane_biased_chips_are_warned_of_and_no_more() -> None:
    for seed in range(8):
        assert codes(check(chip(seed, bias=0.68))) == {"bias"}
        assert codes(check(chip(seed, bias=0.68)), "fatal") == set()
        assert codes(check(chip(seed, lanes=32, lane_bias=0.4))) == {"lane_bias"}
        assert codes(check(chip(seed, lanes=32, lane_bias=0.4)), "fatal") == set()


def constant(r: np.ndarray) -> np.ndarray:
    return np.ones_like(r)


def dead(r: np.ndarray) -> np.ndarray:
    return np.vstack([r[:4], np.zeros_like(r[:1]), r[4:]])


def block(r: np.ndarray) -> np.ndarray:
    r[:, 4096:4608] = 0
    return r


def aliased(r: np.ndarray) -> np.ndarray:
    return np.tile(r[:, : r.shape[1] // 4], (1, 4))


def small_alias(r: np.ndarray) -> np.ndarray:
    r[:, 9000:9256] = r[:, 1000:1256]
    return r


def loose_copy(r: np.ndarray) -> np.ndarray:
    half = r.shape[1] // 2
    return np.hstack([r[:, :half], r[:, :half] ^ (RNG.random(half) < 0.3).astype(np.uint8)])


def old_data(r: np.ndarray) -> np.ndarray:
    r[0] = np.where(RNG.random(r.shape[1]) < 0.4, RNG.integers(0, 2, r.shape[1]), r[0])
    return r


def old_block(r: np.ndarray) -> np.ndarray:
    r[0, 2048:2560] = 0
    return r


def old_region(r: np.ndarray) -> np.ndarray:
    r[0, 2048:3072] = RNG.integers(0, 2, 1024)
    return r


def all_ones_first(r: np.ndarray) -> np.ndarray:
    r[0] = 1
    return r


def other_chip_once(r: np.ndarray) -> np.ndarray:
    r[5] = chip(99, 1)[0]
    return r


def bad_transfer(r: np.ndarray) -> np.ndarray:
    r[5] = np.roll(r[5], 3)
    return r


def bad_half(r: np.ndarray) -> np.ndarray:
    r[5, 8192:] = np.roll(r[5, 8192:], 8)
    return r


def strangers(r: np.ndarray) -> np.ndarray:
    return np.vstack([chip(seed, 1) for seed in range(9)])


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (constant, "constant"),
        (dead, "dead_reading"),
        (all_ones_first, "dead_reading"),
        (block, "constant_block"),
        (aliased, "repeated_block"),
        (small_alias, "repeated_block"),
        (loose_copy, "repetition"),
        (old_data, "remanence"),
        (old_block, "remanence"),
        (old_region, "remanence"),
        (other_chip_once, "outlier_reading"),
        (bad_transfer, "outlier_reading"),
        (bad_half, "outlier_reading"),
        (strangers, "not_one_device"),
    ],
)
def test_damage_is_found_and_fatal(damage: Callable[[np.ndarray], np.ndarray], code: str) -> None:
    for seed in range(5):
        findings = check(damage(chip(seed)))
        assert codes(findings, "fatal") == {code}
        assert findings[0].severity == "fatal"
        assert findings[0].message


@pytest.mark.parametrize(("damage", "reading"), [(dead, 4), (old_data, 0), (old_region, 0), (other_chip_once, 5)])
def test_the_reading_at_fault_is_named(damage: Callable[[np.ndarray], np.ndarray], reading: int) -> None:
    assert [item.reading for item in check(damage(chip())) if item.severity == "fatal"] == [reading]


@pytest.mark.parametrize("damage", [block, aliased, small_alias])
def test_one_reading_suffices_for_what_repeats(damage: Callable[[np.ndarray], np.ndarray]) -> None:
    assert codes(check(damage(chip(readings=1))), "fatal")


def test_a_small_foreign_stretch_in_a_later_reading_is_a_warning() -> None:
    readings = chip()
    readings[4, 0:512] = RNG.integers(0, 2, 512)
    (found,) = check(readings)
    assert (found.code, found.severity, found.reading) == ("foreign_region", "warning", 4)
    readings[4, 0:2048] = RNG.integers(0, 2, 2048)
    (found,) = check(readings)
    assert (found.code, found.severity) == ("foreign_region", "fatal")


def test_the_same_reading_twice_is_a_warning() -> None:
    readings = chip()
    readings[6] = readings[2]
    (found,) = check(readings)
    assert (found.code, found.severity, found.reading) == ("repeated_reading", "warning", 6)


def test_drift_is_a_warning_and_no_outlier() -> None:
    readings = np.vstack([chip(1, 1, ber=0.02, temperature=t) for t in range(-20, 80, 10)])
    assert codes(check(readings)) == {"drift"}
    assert codes(check(readings), "fatal") == set()


def test_swapped_labels_and_devices_given_twice() -> None:
    fleet = {f"chip-{seed}": chip(seed, 5) for seed in range(6)}
    assert check_fleet(fleet) == []
    swapped = {name: readings.copy() for name, readings in fleet.items()}
    swapped["chip-1"][2], swapped["chip-4"][2] = fleet["chip-4"][2], fleet["chip-1"][2]
    found = check_fleet(swapped)
    assert {(item.code, item.device, item.reading) for item in found} == {
        ("swapped_label", "chip-1", 2),
        ("swapped_label", "chip-4", 2),
    }
    assert "chip-4" in found[0].message
    again = SimulatedSRAM(3, noise_seed=77)
    twice = {**fleet, "chip-9": np.stack([again.evaluate() for _ in range(5)])}
    (item,) = check_fleet(twice)
    assert (item.code, item.device) == ("same_device", "chip-3")
    assert "chip-9" in item.message


def test_a_dead_reading_is_no_swapped_label() -> None:
    fleet = {f"chip-{seed}": chip(seed, 5, bias=0.65) for seed in range(4)}
    fleet["chip-2"][1] = 1
    fleet["chip-3"][1] = RNG.integers(0, 2, 16384)
    assert check_fleet(fleet) == []


def test_devices_of_different_lengths_are_left_apart() -> None:
    assert check_fleet({"a": chip(1, 2, bits=512), "b": chip(1, 2, bits=1024), "c": chip(2, 2, bits=512)}) == []


def silicon(name: str) -> dict[str, np.ndarray]:
    path = data_folder() / "puf" / name
    if not path.exists():
        pytest.skip(f"no recorded silicon at {path} (UNCLONE_DATA)")
    with np.load(path, allow_pickle=False) as archive:
        return {key: archive[key] for key in archive.files}


def test_scum_silicon_is_clean() -> None:
    arrays = silicon("sram_scum.npz")
    fleet = {name: np.unpackbits(arrays[name], axis=1) for name in ("L45", "M39", "M42")}
    for name, readings in fleet.items():
        assert codes(check(readings)) == ({"lane_bias"} if name == "L45" else set())
    assert check_fleet(fleet) == []


def test_uno_silicon_shows_its_bad_captures() -> None:
    arrays = silicon("sram_uno_temperature.npz")
    fleet = {str(b): np.unpackbits(r, axis=1) for b, r in zip(arrays["boards"], arrays["reads"], strict=True)}
    fatal = {
        (name, item.code, item.reading) for name, r in fleet.items() for item in check(r) if item.severity == "fatal"
    }
    # The data set's own mask marks exactly this capture.
    assert fatal == {("46", "outlier_reading", 5)}
    assert np.argwhere(~arrays["valid"]).tolist() == [[9, 5]]
    stretches = {
        (name, item.reading) for name, r in fleet.items() for item in check(r) if item.code == "foreign_region"
    }
    assert stretches == {("20", 4), ("31", 1), ("41", 3)}
    for board, reading in stretches:  # 26 bytes that were sent twice
        raw = arrays["reads"][list(arrays["boards"]).index(int(board)), reading]
        assert np.array_equal(raw[:26], raw[26:52])
    assert check_fleet(fleet) == []
    golden = np.unpackbits(arrays["board22_golden38"], axis=1)
    (same,) = check_fleet({**fleet, "golden": golden})
    assert (same.code, same.device) == ("same_device", "22")
    assert codes(check(golden)) == {"drift", "bias"}
