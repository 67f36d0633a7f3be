import numpy as np
import pytest

from unclone.extractor import debias
from unclone.extractor.accounting import account_cells, account_pairs, fairness
from unclone.extractor.entropy import estimate_entropy
from unclone.extractor.layout import Layout, stride_of
from unclone.extractor.soft import field_log_odds


def taken(counts, readings, layout, mode=debias.ERASURE):
    return debias.symbols(counts.astype(np.int64), field_log_odds(readings, 0.05, 0.15), layout, mode)


@pytest.mark.parametrize(("bits", "distance"), [(64, 0), (64, 16), (100, 7), (8192, 1024), (8192, 1000)])
def test_layout_uses_every_cell_at_most_once(bits, distance):
    layout = Layout(bits, distance)
    first = layout.first_cells()
    cells = first if distance == 0 else np.concatenate([first, first + distance])
    assert len(first) == layout.units
    assert len(np.unique(cells)) == len(cells)
    assert cells.min() >= 0
    assert cells.max() < bits
    assert layout.first_cells(5).tolist() == first[:5].tolist()


@pytest.mark.parametrize("units", range(1, 200))
def test_stride_visits_all_units(units):
    assert np.gcd(stride_of(units), units) == 1


@pytest.mark.parametrize("mode", [debias.CLASSIC, debias.PAIR_OUTPUT, debias.ERASURE])
@pytest.mark.parametrize("readings", [1, 4, 9])
def test_swapping_the_cells_of_a_pair_flips_the_symbol_and_nothing_that_is_published(chip, mode, readings):
    """The premise of theorem 1, executed: what is public is the same for both, bit for bit."""
    layout = Layout(4096, 512)
    counts = chip(4096, 0.08, ones=0.7, seed=2).read(readings).sum(axis=0)
    first = layout.first_cells()
    swapped = counts.copy()
    swapped[first], swapped[first + 512] = counts[first + 512], counts[first]
    one, two = taken(counts, readings, layout, mode), taken(swapped, readings, layout, mode)
    assert np.array_equal(one.strength, two.strength)
    assert np.array_equal(debias.quantise(one.strength)[0], debias.quantise(two.strength)[0])
    assert debias.quantise(one.strength)[1] == debias.quantise(two.strength)[1]
    alive = one.strength > 0
    assert alive.sum() > 500
    assert np.array_equal(one.values[alive], 1 - two.values[alive])


@pytest.mark.parametrize("readings", [1, 2, 9])
def test_symbols_and_weights_are_independent_in_a_biased_memory(chip, readings, not_above):
    """A weight for each cell would tell here; the weight of the pair does not."""
    unit = chip(1 << 18, 0.08, ones=0.75, seed=6)
    counts = unit.read(readings).sum(axis=0)
    layout = Layout(1 << 18, 1024)
    symbols = taken(counts, readings, layout)
    classes, _ = debias.quantise(symbols.strength)
    for label in range(1, classes.max() + 1):
        values = symbols.values[classes == label]
        assert not_above(int(values.sum()), len(values), 0.5)
        assert not_above(int((1 - values).sum()), len(values), 0.5)
    if readings > 2:  # the tempting alternative: the first cell's own reliability
        first = counts[layout.first_cells()]
        sure = ((first == 0) | (first == readings)) & (symbols.strength > 0)
        shares = symbols.values[sure].mean(), symbols.values[~sure & (symbols.strength > 0)].mean()
        assert abs(shares[0] - shares[1]) > 0.05


@pytest.mark.parametrize("period", [1, 16, 64])
def test_lane_biased_memory_gives_fair_symbols(lane_shares, period, not_above):
    shares = lane_shares(65536, period) if period > 1 else 0.8
    response = (np.random.default_rng(4).random(65536) < shares).astype(np.uint8)
    layout = Layout(65536, 1024)
    symbols = taken(response, 1, layout)
    values = symbols.values[symbols.strength > 0]
    assert len(values) > 0.3 * layout.units
    assert not_above(int(values.sum()), len(values), 0.5)
    test = fairness(symbols, layout)
    assert test.fair
    accounting = account_pairs(
        estimate_entropy(response), test, layout, np.flatnonzero(symbols.strength > 0)[:1500], 144
    )
    assert accounting.residual == 144
    assert accounting.debiased == 1500
    assert accounting.raw < 2 * 1500 * 0.4


def test_pairs_across_lanes_are_found_unfair(lane_shares):
    shares = lane_shares(16384, 32)
    distance = next(d for d in range(1, 32) if (shares[:32] != shares[d : d + 32]).mean() > 0.6)
    response = (np.random.default_rng(4).random(16384) < shares).astype(np.uint8)
    layout = Layout(16384, distance)
    symbols = taken(response, 1, layout)
    test = fairness(symbols, layout)
    assert not test.fair
    assert "modulo" in test.reason
    used = np.flatnonzero(symbols.strength > 0)[:2000]
    assert account_pairs(estimate_entropy(response), test, layout, used, 144).residual < 64


def test_dependent_symbols_are_found_unfair():
    rng = np.random.default_rng(2)
    response = rng.integers(0, 2, 16384, dtype=np.uint8)
    response[1::2] = response[::2]  # every cell twice
    layout = Layout(16384, 1024)
    test = fairness(taken(response, 1, layout), layout)
    assert not test.fair
    assert "distance 1" in test.reason


def test_false_alarms_of_the_fairness_test_are_rare(not_above):
    layout = Layout(8192, 1024)
    alarms = 0
    for seed in range(300):
        response = (np.random.default_rng(seed).random(8192) < 0.5 + 0.001 * seed).astype(np.uint8)
        alarms += not fairness(taken(response, 1, layout), layout).fair
    assert not_above(alarms, 300, 1e-4)


def test_silicon_gives_fair_symbols(scum, uno):
    for response in [x[0] for x in scum.values()] + [x[-1] for x in uno["reads"]]:
        layout = Layout(len(response), 1024)
        assert fairness(taken(response, 1, layout), layout).fair


def test_half_a_row_apart_scum_is_unfair(scum):
    """A finding: the columns 512 bits apart of one chip differ in bias; hence 1024 as the usual distance."""
    layout = Layout(262144, 512)
    assert not fairness(taken(scum["L45"][0], 1, layout), layout).fair


def test_single_cells_are_charged_for_bias_and_for_published_weights(chip):
    unit = chip(32768, 0.08, ones=0.7, seed=3)
    counts = unit.read(9).sum(axis=0).astype(np.int64)
    layout = Layout(32768, 0)
    symbols = taken(counts, 9, layout, debias.NONE)
    reference = (counts > 4).astype(np.uint8)
    classes, _ = debias.quantise(symbols.strength)
    used = np.flatnonzero(classes)[:1024]
    raw = estimate_entropy(reference)
    told = account_cells(raw, reference, layout, classes, used, 900)
    silent = account_cells(raw, reference, layout, (classes > 0).astype(np.uint8), used, 900)
    assert told.residual < silent.residual
    assert silent.residual < 900 - 1024 * (1 - raw.most_common_value)


@pytest.mark.parametrize("count", [2, 7, 8, 40])
def test_quantised_levels_rise_and_classes_name_them(count):
    strength = np.concatenate([[0.0, 0.2], np.linspace(0.5, 20.0, count)])
    classes, levels = debias.quantise(strength)
    assert levels[0] == 0
    assert levels == sorted(set(levels))
    assert len(levels) <= debias.MAX_CLASSES
    assert classes[:2].tolist() == [0, 0]
    assert np.all(np.diff(classes[2:].astype(int)) >= 0)
    assert classes[-1] == len(levels) - 1


@pytest.mark.parametrize("ones", [0.5, 0.7, "lanes"])
@pytest.mark.parametrize("readings", [1, 5])
def test_predicted_erasures_and_errors_are_those_of_the_field(chip, lane_shares, ones, readings):
    """Also in biased lanes, where the rarer value flips more often."""
    bits, period = 1 << 18, 32 if ones == "lanes" else 1
    unit = chip(bits, 0.08, ones=lane_shares(bits, 32) if ones == "lanes" else ones, seed=3)
    counts, field = unit.read(readings).sum(axis=0).astype(np.int64), unit.read(1)[0].astype(int)
    rate = float((unit.read(1) != unit.read(1)).mean())
    layout = Layout(bits, 1024)
    symbols = debias.symbols(counts, field_log_odds(readings, rate, rate), layout, debias.ERASURE, period)
    alive = symbols.strength > 0.25
    first = layout.first_cells()[alive]
    said = (field[first] - field[first + 1024]) * (2 * symbols.values[alive].astype(int) - 1)
    assert (said == 0).mean() == pytest.approx((1 - symbols.decisive[alive]).mean(), rel=0.12)
    wrong = (symbols.decisive * (1 - symbols.agree))[alive].mean()
    assert (said < 0).mean() <= 1.2 * wrong
