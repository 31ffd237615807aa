"""What networks are like inside, against the definitions."""

import math

import pytest
import torch

from benchmarks.plasticity import measures


def layers():
    """Of two networks: dead, linear and nonlinear units in two layers of three."""
    z = torch.tensor([[-1.0, -2.0], [1.0, 2.0], [-1.0, 2.0]])
    other = torch.tensor([[0.0, 0.0], [0.0, 1.0], [3.0, 4.0]])
    return [torch.stack([z, other]), torch.stack([z, z])]


def test_shares_of_dead_and_linear_units():
    assert measures.dead_units(layers()).tolist() == pytest.approx([2 / 6, 2 / 6])
    assert measures.linear_units(layers()).tolist() == pytest.approx([2 / 6, 2 / 6])


def test_a_linked_unit_is_linear_on_either_side_and_dead_only_at_zero():
    assert measures.dead_units(layers(), linked=True).tolist() == pytest.approx([0, 1 / 6])
    assert measures.linear_units(layers(), linked=True).tolist() == pytest.approx([4 / 6, 3 / 6])


def test_nan_is_dead_and_dormant():
    nan = [torch.full((1, 2, 3), torch.nan)]
    assert measures.dead_units(nan).tolist() == [1] and measures.dormant_units(nan).tolist() == [1]


def test_activity_is_the_mean_over_that_of_the_layer():
    features = torch.tensor([[[1.0, 3.0], [0.0, 0.0], [4.0, 4.0], [0.0, 0.08]]])
    torch.testing.assert_close(measures.activity(features), torch.tensor([[2, 0, 4, 0.04]]) / 1.51)
    assert measures.dormant_units([features]).tolist() == [0.25]
    assert measures.dormant_units([features], threshold=0.03).tolist() == [0.5]


def test_effective_rank_is_the_exponential_of_the_entropy_of_singular_values():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 6, 20, generator=generator)
    x[1, 3:] = 0
    x[2] = 0
    expected = []
    for features in x[:2].double():
        values = torch.linalg.svdvals(features)
        shares = (values / values.sum())[values > 1e-9]
        expected.append(math.exp(-float((shares * shares.log()).sum())))
    assert measures.effective_rank(x).tolist() == pytest.approx([*expected, 0])
    assert measures.effective_rank(torch.eye(4)[None]).tolist() == pytest.approx([4])
    assert measures.effective_rank(1e30 * torch.ones(1, 4, 9)).tolist() == pytest.approx([1], abs=1e-4)


def test_magnitudes():
    weights = [torch.tensor([[[1.0, -3.0]]]), torch.tensor([[[2.0]]])]
    assert measures.weight_magnitude(weights).tolist() == [2]
    assert measures.pre_activation_scale(layers()).tolist() == pytest.approx([1.5, (8 / 6 + 1.5) / 2])
