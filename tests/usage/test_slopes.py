"""Units of smooth activations are judged by the derivative."""

import copy

import pytest
import torch
from torch import Tensor, nn
from usage.definition import assert_ratios, definition, mixed, watched

import jumpstart_kernels as jk
from jumpstart_kernels.usage.activations import GATES, SMOOTH
from jumpstart_kernels.usage.loader import unit_usage
from jumpstart_kernels.usage.slopes import slopes

ALL = [*SMOOTH, nn.ReLU6, *GATES]


def slope_definition(layer: nn.Module, x: Tensor) -> Tensor:
    """By central differences, value by value."""
    step = 1e-6
    with torch.no_grad():
        return (layer(x + step) - layer(x - step)) / (2 * step)


def status_by_slope(slope: Tensor) -> int:
    if slope.abs().max() <= 0.01:
        return -1
    return 0 if slope.max() - slope.min() <= 0.01 else 1


@pytest.mark.parametrize("activation", ALL)
def test_slopes_are_the_derivative(activation):
    x = torch.linspace(-9.05, 9.05, 400, dtype=torch.float64)[None]  # beside all kinks
    layer = activation().double()
    torch.testing.assert_close(slopes(layer, x), slope_definition(layer, x), rtol=0, atol=1e-8)


@pytest.mark.parametrize("activation", ALL)
def test_statuses_are_those_of_the_definition(activation):
    generator = torch.Generator().manual_seed(0)
    at = torch.tensor([-30.0, -3.3, 0.0, 0.05, 30.0, 3.3], dtype=torch.float64)
    by_unit = at + 0.02 * torch.rand(40, 6, generator=generator, dtype=torch.float64)
    both = torch.where(torch.arange(40) % 2 == 0, -30.0, 30.0).double()[:, None]  # saturated on either side
    x = torch.cat([by_unit, both, torch.linspace(-9, 9, 40).double()[:, None]], 1)
    layer = activation().double()
    report = unit_usage(nn.Sequential(layer), x.split(8), layers=["0"])
    expected = [status_by_slope(slope_definition(layer, x[:, c])) for c in range(x.shape[1])]
    assert report.unit_status["0"].tolist() == expected
    points = [status_by_slope(slope_definition(layer, x[n])) for n in range(len(x))]
    assert report.point_status[:, 0].tolist() == points
    assert torch.equal(report.unit_max["0"], x.amax(0)) and torch.equal(report.unit_min["0"], x.amin(0))
    assert len(set(expected)) > 1


def test_tanh_is_saturated_where_it_is_flat_on_either_side():
    x = torch.tensor([[-5.0, 5.0, -5.0, 0.05, -5.0], [-4.0, 4.0, 5.0, -0.05, 0.0]])
    report = unit_usage(nn.Sequential(nn.Tanh()), [x[:1], x[1:]])
    assert report.unit_status["0"].tolist() == [-1, -1, -1, 0, 1]


def test_observed_forwards_equal_unobserved_ones():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.SiLU(inplace=True), nn.Dropout(), nn.Linear(4, 4), nn.PReLU(4))
    x, results = torch.randn(6, 3), []
    for each in (model, copy.deepcopy(model)):
        torch.manual_seed(1)
        if each is not model:
            with jk.watch(each, every=1, dormancy=True, effective_rank=True, cosines=True):
                output = each(x)
        else:
            output = each(x)
        output.sum().backward()
        results.append([output, *(parameter.grad for parameter in each.parameters()), torch.rand(2)])
    assert all(torch.equal(plain, seen) for plain, seen in zip(*results, strict=True))


def test_in_inference_mode():
    x = mixed(6, 3)
    with torch.inference_mode():
        report = watched(nn.Sequential(nn.GELU()), [x]).report()
    assert report.unit_status["0"].tolist() == [
        status_by_slope(slope_definition(nn.GELU(), x.double())[:, c]) for c in range(3)
    ]


def test_a_subclass_with_its_own_forward_is_judged_by_the_sign():
    class Gated(nn.SiLU):
        def forward(self, x: Tensor) -> Tensor:
            return x * x.roll(1, 1).sigmoid()  # no element-wise function

    x = mixed(9, 4)
    assert_ratios(watched(nn.Sequential(Gated()), [x]), definition([x]))


def test_gates_are_watched_if_named():
    model = nn.Sequential(nn.Linear(2, 2), nn.Sigmoid())
    with pytest.raises(ValueError, match="model has no nn.ReLU, nn.GELU or other hidden activation"):
        unit_usage(model, [torch.randn(3, 2)])
    assert list(unit_usage(model, [torch.randn(3, 2)], layers=["1"]).layers) == ["1"]


def test_merging_keeps_them():
    x = torch.tensor([[-9.0, 9.0, 0.0]])
    first, second = (watched(nn.Sequential(nn.Tanh()), [sign * x]) for sign in (1, -1))
    first.merge_state(second)
    assert first.report().unit_status["0"].tolist() == [-1, -1, 0]
    empty = type(first)()
    empty.merge_state(first)
    assert empty.report().unit_status["0"].tolist() == [-1, -1, 0]
