"""The least-squares repair, against torch.linalg.lstsq."""

import pytest
import torch

from jumpstart_kernels.pruning.capture import Products
from jumpstart_kernels.pruning.repair import fit, unexplained


def products(a, target, weights=None, batch=30):
    found = Products()
    weights = torch.ones(len(a), dtype=a.dtype) if weights is None else weights
    for each in zip(a.split(batch), target.split(batch), weights.split(batch), strict=True):
        found.add(*each)
    return found


def data(rows=200, channels=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, channels, generator=generator, dtype=torch.float64).relu() + 0.1


@pytest.mark.parametrize("constant", [True, False])
def test_is_the_weighted_least_squares(constant):
    a, weights = data(), torch.rand(200, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    left = torch.tensor([0, 2, 3, 5])
    same = torch.eye(6)[left]
    mapped = fit(products(a, a, weights), left, same, constant)
    ones = torch.ones(200, 1, dtype=torch.float64)
    seen = torch.cat([a[:, left], ones], 1) if constant else a[:, left]
    root = weights.sqrt()[:, None]
    expected = torch.linalg.lstsq(seen * root, a * root).solution
    found = torch.cat([mapped.matrix, mapped.constant[None]]) if constant else mapped.matrix
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert constant or not mapped.constant.any()


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_copies_and_constants_are_exact(scale):
    a = data()
    a[:, 1], a[:, 4] = a[:, 0] * 1.7, 3.0
    a[:, 5] *= scale
    left = torch.tensor([0, 2, 3, 5])
    mapped = fit(products(a, a), left, torch.eye(6)[left], True)
    torch.testing.assert_close(a[:, left] @ mapped.matrix + mapped.constant, a, rtol=1e-8, atol=1e-8)


def test_of_channels_that_are_alike_each_takes_its_part():
    a = data()
    a[:, 1] = a[:, 0]
    left = torch.tensor([0, 1, 3])
    mapped = fit(products(a, a), left, torch.eye(6)[left], True)
    assert mapped.matrix.abs().max() < 10
    torch.testing.assert_close(
        mapped.matrix[:, 3], torch.tensor([0, 0, 1.0], dtype=torch.float64), atol=1e-9, rtol=0
    )


def test_channels_that_say_nothing_get_nothing():
    a = data()
    a[:, 2] = 0
    left = torch.tensor([0, 2])
    mapped = fit(products(a, a), left, torch.eye(6)[left], True)
    assert mapped.matrix.isfinite().all()
    assert not mapped.matrix[1, [0, 1, 3, 4, 5]].any()


def test_unexplained_is_what_is_left():
    a = data()
    a[:, 1] = a[:, 0] * 2
    left = torch.arange(6)
    missing = unexplained(products(a, a), True, left)
    for channel in (2, 3, 4, 5):
        others = torch.cat([a[:, left != channel], torch.ones(200, 1, dtype=torch.float64)], 1)
        solution = torch.linalg.lstsq(others, a[:, channel, None], driver="gelsd").solution
        expected = (others @ solution - a[:, channel, None]).square().mean()
        assert float(missing[channel]) == pytest.approx(float(expected), rel=1e-3)
    assert missing[:2].max() < 1e-5
