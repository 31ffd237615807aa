"""Redundant units and units passed on, against their definitions in plain Python."""

import itertools
import math

import pytest
import torch
from pruning.order_definitions import (
    EPSILON,
    define_correlation,
    define_distinct,
    define_ranks,
    network_values,
    with_relatives,
)

from jumpstart_kernels.pruning import comparison, orders
from jumpstart_kernels.pruning.keys import (
    passed_on,
    permutation_keys,
    rank_vectors,
    redundant_pairs,
    same_order,
)
from jumpstart_kernels.usage.report import DEAD, LINEAR, NONLINEAR


def define_pairs(sites, tolerance, positive, least):
    """Pairs with their correlations, of integer values: nothing is tied by rounding alone."""
    units = range(len(sites[0]))
    judged = [
        i
        for i in units
        if max(define_distinct(site[i], positive) for site in sites) >= least
        and any((site[i] > 0 if positive else site[i] != 0).any() for site in sites)
    ]
    pairs = {}
    for i, j in itertools.combinations(judged, 2):
        correlation = min(define_correlation(site[i], site[j], positive) for site in sites)
        if all(define_ranks(site[i], positive) == define_ranks(site[j], positive) for site in sites):
            correlation = 1.0
        if correlation >= 1 - tolerance - 1e-7:
            pairs[i, j] = correlation
    return judged, pairs


@pytest.mark.parametrize("positive", [True, False])
@pytest.mark.parametrize("tolerance", [0.0, 0.31, 1.0])
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("seed", range(5))
def test_redundant_pairs(positive, tolerance, count, seed):
    generator = torch.Generator().manual_seed(seed)
    sites = [torch.randint(-2, 4, (24, 5 + i), generator=generator).float() for i in range(count)]
    result = redundant_pairs(
        sites if count > 1 else sites[0], tolerance=tolerance, positive=positive, least=2
    )
    judged, pairs = define_pairs(sites, tolerance, positive, least=2)
    assert (~result.unjudged & (result.status != DEAD)).nonzero().flatten().tolist() == judged
    found = {
        tuple(pair): c for pair, c in zip(result.pairs.tolist(), result.correlation.tolist(), strict=True)
    }
    assert found == pytest.approx(pairs, abs=1e-6)
    assert {pair for pair in found if found[pair] == 1} == {pair for pair in pairs if pairs[pair] == 1}
    assert list(found) == sorted(found, key=lambda pair: (-found[pair], pair))
    for i in judged:
        assert result.groups[i] == min([i, *(a for a, b in pairs if b == i and pairs[a, b] == 1)])


def test_status_and_groups_of_units():
    values = with_relatives(network_values())
    result = redundant_pairs(values)
    assert result.pairs.tolist() == [[0, 35], [1, 36]] and result.correlation.tolist() == [1, 1]
    assert result.status.dtype == torch.int8
    assert result.status[-5:].tolist() == [NONLINEAR, NONLINEAR, DEAD, LINEAR, NONLINEAR]
    assert result.unjudged.nonzero().tolist() == [[39]]
    expected = torch.arange(40)
    expected[35], expected[36] = 0, 1
    assert torch.equal(result.groups, expected)


def test_dead_units_share_a_group_and_are_in_no_pair():
    values = network_values()
    values[[3, 8, 9]] = -values[[3, 8, 9]].abs()
    result = redundant_pairs(values, tolerance=0.0)
    assert result.groups[[3, 8, 9]].tolist() == [3, 3, 3]
    assert len(result.pairs) == 0 and not result.unjudged.any()


def test_units_of_few_positive_values_are_not_judged():
    values = -torch.ones(4, 100)
    values[:2, 50] = 1
    values[2:, 20:30] = torch.arange(1.0, 11)
    values[3, 29] = values[3, 28] * (1 + EPSILON)  # nine, but for rounding
    result = redundant_pairs(values, tolerance=0.5)
    assert result.unjudged.tolist() == [True, True, False, True]
    assert redundant_pairs(values, least=1).pairs.tolist() == [[0, 1]]


def test_many_samples_that_rounding_cannot_tell_apart_in_chains():
    """Of a million samples all neighbors are tied, but no one value with all others."""
    ascending = torch.linspace(0.001, 1, 2**20)
    values = torch.stack([ascending, ascending.flip(0), 1.7 * ascending])
    result = redundant_pairs(values)
    assert not result.unjudged.any() and result.pairs.tolist() == [[0, 2]]


@pytest.mark.parametrize("samples", [30, 20_000])
def test_scaled_units_are_pairs_and_units_with_a_swap_are_not(samples):
    values = network_values(12, samples).abs()
    values[4:8] = 1.7 * values[:4]
    values[8:] = values[:4]
    lower = values[8:].median(1).indices
    rows = torch.arange(8, 12)
    above = torch.where(values[8:] > values[rows, lower, None], values[8:], math.inf)
    swapped = above.topk(samples // 1000 + 1, largest=False).indices[:, -1]  # a little above the median
    values[rows, swapped], values[rows, lower] = values[rows, lower], values[rows, swapped]
    result = redundant_pairs(values)
    assert result.pairs.tolist() == [[i, i + 4] for i in range(4)]
    nearly = redundant_pairs(values, tolerance=0.01)
    assert (nearly.correlation == 1).sum() == 4 and len(nearly.pairs) >= 12


def test_groups_of_many_units(monkeypatch):
    """Units are compared with the first of each group, a few at a time."""
    base = network_values(8, 3000, inputs=2).abs() + torch.linspace(1, 2, 3000)
    factors = torch.linspace(1, 3, 6)[:, None, None]
    values = (factors * base).flatten(0, 1)
    expected = torch.arange(8).repeat(6)
    result = redundant_pairs(values)
    assert torch.equal(result.groups, expected)
    assert result.pairs.tolist() == [[i, j] for i in range(48) for j in range(i + 8, 48, 8)]
    monkeypatch.setattr(comparison, "NEAR", -1.0)  # all may be alike
    assert torch.equal(redundant_pairs(values).groups, expected)
    assert torch.equal(passed_on(values, base).match, expected)


def test_results_depend_on_neither_chunks_nor_threads(monkeypatch):
    values = with_relatives(network_values())
    reference = network_values(17, seed=1)
    calls = (
        lambda: [permutation_keys(values), rank_vectors(values)],
        lambda: [*redundant_pairs(values, tolerance=0.3), *redundant_pairs([values, -values], tolerance=0.3)],
        lambda: passed_on(values, reference),
    )
    expected = [call() for call in calls]
    for chunk, block, depth in ((1, 1, 7), (1000, 16, 64)):
        for module in (orders, comparison):
            monkeypatch.setattr(module, "CHUNK", chunk)
        monkeypatch.setattr(orders, "BLOCK", block)
        monkeypatch.setattr(orders, "DEPTH", depth)
        for call, before in zip(calls, expected, strict=True):
            assert all(map(torch.equal, call(), before))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3 - min(threads, 2))
        for call, before in zip(calls, expected, strict=True):
            assert all(map(torch.equal, call(), before))
    finally:
        torch.set_num_threads(threads)


def test_sites():
    values = network_values()
    values[20:] = values[:20]
    other = values.clone()
    other[20:30] = network_values(10, seed=1)
    other[[0, 20, 9, 29]] = -1  # dead here, both or one of a pair
    other[9] = values[9]
    other[30:] *= 3
    result = redundant_pairs([values, other], tolerance=0.0)
    assert result.pairs.tolist() == [[0, 20], *([i, i + 20] for i in range(10, 20))]
    assert (result.status == NONLINEAR).all()
    dead = redundant_pairs([-values.abs(), -other.abs()])
    assert (dead.status == DEAD).all() and len(dead.pairs) == 0


def test_passed_on():
    reference = network_values(20)
    values = network_values(10, seed=1)
    values[0], values[1] = 1.7 * reference[12], -values[1].abs()
    reference[15] = reference[3].exp() - 1
    values[2] = reference[3] * 3
    result = passed_on(values, reference)
    assert result.match[:3].tolist() == [12, -1, 3] and result.correlation[:3].tolist() == [1, 0, 1]
    expected = rank_vectors(values) @ rank_vectors(reference).t()
    assert torch.equal(result.match[3:], expected[3:].argmax(1))
    torch.testing.assert_close(result.correlation[3:], expected[3:].amax(1))
    assert (result.correlation[3:] < 1).all()


def test_passed_on_at_several_sites():
    values, other = network_values(10), network_values(10, seed=1)
    shuffle = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    result = passed_on([values[shuffle], other[shuffle]], [values * 1.7, other * 3])
    assert torch.equal(result.match, shuffle) and (result.correlation == 1).all()
    assert (passed_on([values, other], [other, values]).correlation < 1).all()


def test_all_values_count_for_linked_units():
    values = network_values(6)
    values[3], values[4], values[5] = -values[0].abs(), 2 * values[3], 0
    values[4] = 2 * values[3]
    result = redundant_pairs(values, positive=False)
    assert result.status.tolist() == [1, 1, 1, 0, 0, -1]
    assert result.pairs.tolist() == [[3, 4]]


def test_infinity_is_a_value():
    values = network_values(samples=50)
    infinite = values.clone()
    infinite[range(40), values.argmax(1)] = math.inf
    infinite[range(40), values.argmin(1)] = -math.inf
    assert torch.equal(rank_vectors(infinite), rank_vectors(values))
    assert torch.equal(permutation_keys(infinite), permutation_keys(values))
    assert same_order(values, infinite, positive=False).all()
    assert torch.equal(redundant_pairs(infinite).groups, redundant_pairs(values).groups)
    assert permutation_keys(torch.full((1, 2), -math.inf)).tolist() == [[0, 0]]


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (3, 0)])
def test_no_values(shape):
    values = torch.empty(shape)
    assert permutation_keys(values).tolist() == [[0, 0]] * shape[0]
    assert rank_vectors(values).shape == shape
    assert same_order(values, values).tolist() == [True] * shape[0]
    result = redundant_pairs(values, tolerance=1.0)
    assert result.status.tolist() == [DEAD] * shape[0] and result.pairs.shape == (0, 2)
    assert passed_on(values, values).match.tolist() == [-1] * shape[0]


def test_one_sample():
    values = torch.tensor([[2.0], [-1.0], [3.0]])
    keys = permutation_keys(values)
    assert keys[1].tolist() == [0, 0] and torch.equal(keys[0], keys[2]) and keys[0].any()
    assert not rank_vectors(values).any()
    result = redundant_pairs(values)
    assert result.status.tolist() == [LINEAR, DEAD, LINEAR]
    assert result.unjudged.tolist() == [True, False, True] and len(result.pairs) == 0


def test_layouts_and_graphs():
    values = with_relatives(network_values())
    strided = values.t().contiguous().t().requires_grad_()
    for positive in (True, False):
        assert all(
            map(
                torch.equal,
                redundant_pairs(values, positive=positive),
                redundant_pairs(strided, positive=positive),
            )
        )
    assert not rank_vectors(strided).requires_grad
    assert torch.equal(permutation_keys(strided), permutation_keys(values))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_same_on_a_gpu():
    values, reference = with_relatives(network_values()), network_values(20, seed=1)
    assert torch.equal(permutation_keys(values.cuda()).cpu(), permutation_keys(values))
    for positive in (True, False):
        expected = redundant_pairs([values, values.flip(1)], tolerance=0.3, positive=positive)
        found = redundant_pairs([values.cuda(), values.flip(1).cuda()], tolerance=0.3, positive=positive)
        assert all(
            part.is_cuda and torch.equal(part.cpu(), other)
            for part, other in zip(found, expected, strict=True)
        )
    found = passed_on(values.cuda(), reference.cuda())
    expected = passed_on(values, reference)
    assert all(torch.equal(part.cpu(), other) for part, other in zip(found, expected, strict=True))
    assert same_order(values.cuda(), 1.7 * values.cuda()).all()


NAN = torch.tensor([[1.0, math.nan]])
ONE = torch.ones(1, 2)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: permutation_keys(NAN), ValueError, "values must not contain NaN"),
        (lambda: rank_vectors(NAN, positive=False), ValueError, "values must not contain NaN"),
        (lambda: same_order(ONE, NAN), ValueError, "second must not contain NaN"),
        (lambda: redundant_pairs([ONE, NAN]), ValueError, r"values\[1\] must not contain NaN"),
        (lambda: passed_on(ONE, NAN), ValueError, "reference must not contain NaN"),
        (lambda: permutation_keys(ONE.half()), TypeError, "values must be float32 or float64"),
        (lambda: rank_vectors([1.0]), TypeError, "values must be a tensor"),
        (lambda: rank_vectors(ONE[0]), ValueError, r"values must be \[units, samples\]"),
        (lambda: same_order(ONE, ONE[:, :1]), ValueError, "second must have the shape of first"),
        (lambda: redundant_pairs(ONE, ties=-1), ValueError, "ties must be"),
        (lambda: redundant_pairs(ONE, tolerance=math.nan), ValueError, "tolerance must be"),
        (lambda: redundant_pairs([]), ValueError, "values must be a tensor or a list"),
        (lambda: redundant_pairs([ONE, NAN.new_ones(2, 2)]), ValueError, "must have the units"),
        (lambda: passed_on(ONE, [ONE, ONE]), ValueError, "reference must have the sites"),
        (lambda: passed_on(ONE, ONE[:, :1]), ValueError, "as many samples"),
    ],
)
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()
