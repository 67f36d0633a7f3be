"""Polar codes against their definition, exhaustive maximum likelihood, a naive decoder and a peer."""

import itertools

import numpy as np
import pytest

from unclone.errors import ParameterError
from unclone.extractor.codes import PolarCode, from_spec, listdecoder
from unclone.extractor.codes.transform import polar_transform
from unclone.extractor.prediction import construct


def code(n=24, k=10, list_size=8, drop="first", p=0.1):
    return construct(n, k, list_size, p, drop=drop)[0]


def messages(k):
    return np.array(list(itertools.product((0, 1), repeat=k)), dtype=np.uint8)


def check(a, b):
    return np.sign(a) * np.sign(b) * min(abs(a), abs(b))


def ratio(llr, known, i):
    """The log-likelihood ratio of u[i] given u[:i], straight from the recursion of the definition."""
    if len(llr) == 1:
        return llr[0]
    half = len(llr) // 2
    if i < half:
        return ratio([check(a, b) for a, b in zip(llr[:half], llr[half:], strict=True)], known, i)
    left = polar_transform(np.array(known[:half], dtype=np.uint8))
    lower = [b + (a if bit == 0 else -a) for a, b, bit in zip(llr[:half], llr[half:], left, strict=True)]
    return ratio(lower, known[half:], i - half)


def naive(llr, info, list_size):
    """List decoding bit by bit, in plain Python: messages with their penalties, best first."""
    paths = [(0.0, [])]
    for i, message in enumerate(info):
        grown = []
        for penalty, known in paths:
            value = ratio(list(llr), known, i)
            for bit in (0, 1) if message else (0,):
                wrong = (value < 0) != bit
                grown.append((penalty + abs(value) * wrong, [*known, bit]))
        paths = sorted(grown, key=lambda path: path[0])[:list_size]
    return [([b for b, m in zip(known, info, strict=True) if m], penalty) for penalty, known in paths]


def test_encoder_is_the_kronecker_power():
    g = np.array([[1]], dtype=np.uint8)
    for _ in range(5):
        g = np.kron(g, np.array([[1, 0], [1, 1]], dtype=np.uint8))
    u = np.random.default_rng(0).integers(0, 2, (50, 32), dtype=np.uint8)
    np.testing.assert_array_equal(polar_transform(u), (u @ g) % 2)
    np.testing.assert_array_equal(polar_transform(polar_transform(u)), u)
    np.testing.assert_array_equal(polar_transform(u.T.reshape(32, 5, 10), axis=0).reshape(32, 50).T, (u @ g) % 2)


def test_normative_vector():
    # Positions 3, 5, 6, 7 of 8, two symbols punctured: rows 11110000, 11001100, 10101010, 11111111 without two symbols.
    made = PolarCode([0, 0, 0, 1, 0, 1, 1, 1], 6, 2)
    np.testing.assert_array_equal(
        made.encode(np.eye(4, dtype=np.uint8)),
        [[1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0], [1, 0, 1, 0, 1, 0], [1, 1, 1, 1, 1, 1]],
    )
    assert made.spec() == {"name": "polar", "n": 6, "k": 4, "m": 3, "drop": "first", "info": "17", "list": 2}


@pytest.mark.parametrize("drop", ["first", "last"])
@pytest.mark.parametrize("n", [17, 24, 32])
def test_linear_and_noiseless_round_trip(n, drop):
    made = from_spec(code(n, 10, drop=drop).spec())
    rng = np.random.default_rng(n)
    a, b = rng.integers(0, 2, (2, 40, 10), dtype=np.uint8)
    np.testing.assert_array_equal(made.encode(a ^ b), made.encode(a) ^ made.encode(b))
    assert not made.encode(np.zeros(10, dtype=np.uint8)).any()
    found = made.decode(1 - 2 * made.encode(a).astype(np.float32))
    assert found.shape == (40, 8, 10)
    np.testing.assert_array_equal(found[:, 0], a)


def test_shortened_symbols_are_zero():
    made = code(20, 8, drop="last")
    mother = np.zeros((256, 32), dtype=np.uint8)
    mother[:, np.unpackbits(np.frombuffer(bytes.fromhex(made.spec()["info"]), dtype=np.uint8)) == 1] = messages(8)
    assert not polar_transform(mother)[:, 20:].any()


@pytest.mark.parametrize(("n", "k", "drop"), [(8, 4, "first"), (7, 3, "first"), (11, 5, "first"), (11, 5, "last")])
def test_full_list_is_maximum_likelihood_on_every_error_pattern(n, k, drop):
    made = code(n, k, 1 << k, drop)
    patterns = messages(n)
    found = made.decode(1 - 2 * patterns.astype(np.float32))
    assert found.shape == (1 << n, 1 << k, k)
    reached = (made.encode(found) ^ patterns[:, None]).sum(axis=2)
    least = (made.encode(messages(k))[None] ^ patterns[:, None]).sum(axis=2).min(axis=1)
    np.testing.assert_array_equal(reached[:, 0], least)
    assert (np.diff(reached.astype(int), axis=1) >= 0).all(), "best first"
    assert all(len(np.unique(words, axis=0)) == 1 << k for words in found)


@pytest.mark.parametrize("leaf", [1, 4])
@pytest.mark.parametrize(("n", "k", "size"), [(32, 16, 4), (27, 12, 8), (25, 9, 2)])
def test_same_as_naive_list_decoding(monkeypatch, leaf, n, k, size):
    monkeypatch.setattr(listdecoder, "_LEAF_BITS", leaf)  # 1: one message bit at a time, the textbook's decoder
    info = np.unpackbits(np.frombuffer(bytes.fromhex(code(n, k, size).spec()["info"]), dtype=np.uint8))
    llr = (1.0 + 1.5 * np.random.default_rng(7).normal(size=(30, 32))).astype(np.float32)
    llr[:, : 32 - n] = 0
    found, penalties = listdecoder.ListDecoder(info == 1, size).decode(llr)
    for row, candidates, cost in zip(llr, found, penalties, strict=True):
        reference = naive(row, info, size)
        if leaf == 1:
            assert candidates.tolist() == [bits for bits, _ in reference]
            np.testing.assert_allclose(cost - cost[0], [c - reference[0][1] for _, c in reference], atol=1e-4)
        else:  # pruning later can only keep a better best path
            assert likelihood(row, candidates[0], info) >= likelihood(row, reference[0][0], info) - 1e-3


def likelihood(llr, message, info):
    u = np.zeros(info.size, dtype=np.uint8)
    u[info == 1] = message
    return (llr * (1 - 2 * polar_transform(u).astype(float))).sum()


@pytest.mark.parametrize("soft", [False, True])
def test_words_do_not_depend_on_each_other_nor_on_scale(soft):
    made = code(300, 60, 8, p=0.08)
    rng = np.random.default_rng(3)
    llr = 1 - 2 * (rng.random((70, 300)) < 0.12).astype(np.float32)
    if soft:
        llr *= rng.choice(np.array([0.3, 1.1, 4.7], dtype=np.float32), (70, 300))
    together = made.decode(llr)
    np.testing.assert_array_equal(together, np.concatenate([made.decode(llr[i : i + 1]) for i in range(70)]))
    np.testing.assert_array_equal(together, made.decode(llr * 1024))


@pytest.mark.parametrize("drop", ["first", "last"])
def test_margins_tell_who_is_lost(drop):
    made = code(200, 80, 4, drop, p=0.05)
    llr = 1 - 2 * (np.random.default_rng(5).random((2000, 200)) < 0.12).astype(np.float32)
    llr *= np.random.default_rng(6).choice(np.array([1, 2.13, 3.77], dtype=np.float32), llr.shape)
    kept = (made.decode(llr) == 0).all(axis=2).any(axis=1)
    assert 0.02 < 1 - kept.mean() < 0.9
    # Integer ratios tie now and then, and ties are broken differently.
    assert ((made.margins(llr, np.random.default_rng(7)) >= 0) == kept).mean() > 0.99


def test_a_longer_list_fails_less():
    rng = np.random.default_rng(6)
    llr = 1 - 2 * (rng.random((1500, 256)) < 0.14).astype(np.float32)
    failed = [(code(256, 64, size, p=0.1).margins(llr, rng) < 0).mean() for size in (1, 4, 16)]
    assert failed[0] > failed[1] > failed[2]


def test_message_position_before_a_frozen_half():
    made = PolarCode([0, 1, 0, 0, 1, 1, 0, 0], 8, 8)
    a = messages(3)
    np.testing.assert_array_equal(made.decode(1 - 2 * made.encode(a).astype(np.float32))[:, 0], a)


def test_empty_batch():
    assert code().decode(np.zeros((0, 24), dtype=np.float32)).shape == (0, 8, 10)
    assert code().encode(np.zeros((0, 10), dtype=np.uint8)).shape == (0, 24)


@pytest.mark.parametrize(
    ("info", "n", "size", "drop"),
    [
        ([0, 1, 1], 3, 1, "first"),
        ([0, 0, 0, 0], 4, 1, "first"),
        ([0, 1, 1, 1], 2, 1, "first"),
        ([0, 1, 1, 1], 5, 1, "first"),
        ([0, 1, 1, 1], 4, 3, "first"),
        ([0, 1, 1, 1], 4, 0, "first"),
        ([0, 1, 1, 1], 4, 2048, "first"),
        ([1, 1, 1, 1], 3, 1, "first"),
        ([0, 1, 1, 1], 3, 1, "last"),
        ([0, 1, 1, 1], 4, 1, "middle"),
        ([[0, 1], [1, 1]], 4, 1, "first"),
    ],
)
def test_refuses_impossible_codes(info, n, size, drop):
    with pytest.raises(ParameterError):
        PolarCode(info, n, size, drop)


@pytest.mark.parametrize(
    "llr", [np.zeros(24), np.zeros((2, 23)), np.full((1, 24), np.nan), np.full((1, 24), np.inf), "x"]
)
def test_refuses_bad_ratios(llr):
    with pytest.raises(ParameterError):
        code().decode(llr)


@pytest.mark.parametrize(
    "message", [np.zeros(9, np.uint8), np.full(10, 2), np.full(10, -1), np.full(10, 0.5), np.uint8(1)]
)
def test_refuses_bad_messages(message):
    with pytest.raises(ParameterError):
        code().encode(message)


def test_beside_komm():
    komm = pytest.importorskip("komm")
    made = code(64, 24, 1, p=0.08)
    info = np.unpackbits(np.frombuffer(bytes.fromhex(made.spec()["info"]), dtype=np.uint8))
    peer = komm.PolarCode(6, np.flatnonzero(info == 0))
    rng = np.random.default_rng(8)
    sent = rng.integers(0, 2, (200, 24), dtype=np.uint8)
    np.testing.assert_array_equal(made.encode(sent), peer.encode(sent))
    llr = (4 * (1 - 2 * made.encode(sent).astype(np.float64)) + 3 * rng.normal(size=(200, 64))).astype(np.float32)
    ours = made.decode(llr)[:, 0]
    theirs = komm.SCDecoder(peer, output_type="hard").decode(llr.astype(float))
    # The peer uses the exact check rule: the two may differ on words near the threshold, and on few of them.
    assert (ours != theirs).any(axis=1).mean() < 0.05
    assert (theirs == sent).all(axis=1).mean() > 0.8
