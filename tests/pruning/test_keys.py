"""Permutation keys, rank vectors and the same order, against their definitions in plain Python."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pruning.order_definitions import (
    define_order,
    define_ranks,
    define_same,
    flag,
    layers,
    network_values,
    with_relatives,
)
from scipy import stats

from jumpstart_kernels.pruning import orders
from jumpstart_kernels.pruning.keys import (
    permutation_keys,
    rank_vectors,
    redundant_pairs,
    same_order,
)


def equal_rows(keys):
    return (keys[:, None] == keys).all(-1)


@settings(deadline=None)
@given(layers(4), flag, st.sampled_from([0, 64]))
def test_keys_are_equal_if_the_orders_are(values, positive, ties):
    orders_ = [define_order(row, positive, ties) for row in values]
    expected = [[a == b for b in orders_] for a in orders_]
    keys = permutation_keys(values, ties=ties, positive=positive)
    assert keys.dtype == torch.int64 and keys.shape == (4, 2)
    assert equal_rows(keys).tolist() == expected
    assert [key == [0, 0] for key in keys.tolist()] == [not order for order in orders_]


def test_all_orders_of_few_samples_have_their_own_key():
    rows = [row for row in itertools.product(range(5), repeat=4) if {*row, 0} == {*range(len({*row, 0}))}]
    different = {tuple(define_order(torch.tensor(row, dtype=torch.float32))) for row in rows}
    keys = permutation_keys(torch.tensor(rows, dtype=torch.float32))
    assert len({tuple(key) for key in keys.tolist()}) == len(different) == 65  # of 0 to 4 samples of 4


def test_keys_depend_on_neither_word_alone():
    keys = permutation_keys(network_values(300, 50))
    assert len(keys[:, 0].unique()) == len(keys[:, 1].unique()) == 300
    bits = torch.stack([keys >> i & 1 for i in range(64)]).float().mean(1)
    assert ((bits - 0.5).abs() < 0.2).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scaled_units_have_the_same_key(dtype):
    values = network_values(dtype=dtype)
    assert torch.equal(permutation_keys(4 * values), permutation_keys(values))
    few = values[:, :40]
    assert torch.equal(permutation_keys(1.7 * few), permutation_keys(few))


def test_an_offset_of_a_linear_unit_keeps_its_order_and_one_across_zero_does_not():
    values = network_values(samples=50).argsort(1) / 16 + 0.5  # no gap is close to the tolerance
    keys = permutation_keys(values)
    assert torch.equal(permutation_keys(values + 1), keys)
    assert not equal_rows(torch.cat([keys, permutation_keys(values - 1)]))[:40, 40:].any()
    assert torch.equal(permutation_keys(values - 1, positive=False), permutation_keys(values, positive=False))


def test_rounding_of_batches_does_not_change_keys_of_tied_samples():
    inputs = torch.randn(20, 64, generator=torch.Generator().manual_seed(0))
    inputs = torch.cat([inputs, inputs])  # every sample twice
    weight = torch.randn(30, 64, generator=torch.Generator().manual_seed(1))
    whole = (inputs @ weight.t()).t()
    one_by_one = torch.stack([(weight * x).flip(1).sum(1) for x in inputs[20:]], 1)
    batches = torch.cat([whole[:, :20], one_by_one], 1)
    assert torch.equal(permutation_keys(whole), permutation_keys(batches))
    assert not torch.equal(permutation_keys(whole, ties=0), permutation_keys(batches, ties=0))
    assert torch.equal(redundant_pairs(whole).groups, redundant_pairs(batches).groups)
    assert same_order(whole, batches).all()


def test_the_same_permutation_of_the_samples_leaves_equal_keys_equal():
    values = with_relatives(network_values(samples=40))
    shuffled = values[:, torch.randperm(40, generator=torch.Generator().manual_seed(0))]
    assert torch.equal(equal_rows(permutation_keys(values)), equal_rows(permutation_keys(shuffled)))
    before, after = redundant_pairs(values, tolerance=0.1), redundant_pairs(shuffled, tolerance=0.1)
    assert all(map(torch.equal, before, after))


@settings(deadline=None)
@given(layers(3), flag)
def test_rank_vectors(values, positive):
    vectors = rank_vectors(values, positive=positive)
    assert vectors.dtype == torch.float32
    for vector, row in zip(vectors, values, strict=True):
        ranks = torch.tensor(define_ranks(row, positive), dtype=torch.float64)
        torch.testing.assert_close(vector, (ranks / ranks.norm().clamp(min=1)).float())


@pytest.mark.parametrize("positive", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_of_rank_vectors_are_spearman_correlations(positive, dtype):
    values = network_values(8, dtype=dtype).mul(4).round()  # many exact ties
    vectors = rank_vectors(values, positive=positive)
    expected = stats.spearmanr((values.clamp(min=0) if positive else values).numpy(), axis=1).statistic
    torch.testing.assert_close(vectors @ vectors.t(), torch.tensor(expected).float(), atol=1e-6, rtol=0)


@settings(deadline=None, max_examples=300)
@given(layers(2), flag, st.sampled_from([0, 64]))
def test_same_order(values, positive, ties):
    same = same_order(*values, positive=positive, ties=ties)
    assert same.shape == ()
    assert bool(same) == define_same(*values, positive, ties)
    assert bool(same_order(*values.flip(0), positive=positive, ties=ties)) == bool(same)


def test_same_order_of_pairs(monkeypatch):
    monkeypatch.setattr(orders, "CHUNK", 100)
    values = network_values(30, 40)
    other = values.clone()
    other[::3] *= 1.7
    other[1::3, 5] = values.amax(1)[1::3] + 1
    expected = [define_same(a, b, True) for a, b in zip(values, other, strict=True)]
    assert same_order(values, other).tolist() == expected
    assert {True, False} == set(expected)


def test_same_order_survives_rounding_of_many_samples():
    values = network_values(4, 50_000)
    assert not torch.equal(permutation_keys(values), permutation_keys(1.7 * values))
    assert same_order(values, 1.7 * values).all()
    swapped = values.clone()
    swapped[:, :2] = values[:, :2].flip(1)
    positive = (values[:, :2] > 0).all(1)  # of two samples far apart
    assert positive.any()
    assert not same_order(values, swapped)[positive].any()
