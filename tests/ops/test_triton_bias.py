"""The bias and its gradient in the Triton backend, where the tests of all backends cannot look."""

import itertools

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from triton_interpreted import (
    OF_LAYOUTS,
    assert_backward_like_reference,
    assert_forward_like_reference,
    cut_small,
    forget_plans,
    make_dense,
    of_layouts_and,
)

from jumpstart_kernels.ops import reference
from jumpstart_kernels.ops import triton as triton_backend
from jumpstart_kernels.ops.arguments import Gradients, Options, Saved
from jumpstart_kernels.ops.layout import is_channels_last
from jumpstart_kernels.ops.slack import LAYER_SUMS, SUMS_SHAPE

_reason = triton_backend.unavailable("cpu")
interpreted = pytest.mark.skipif(_reason is not None, reason=str(_reason))

OF_CUTS = pytest.mark.parametrize("cut", (False, True), ids=("one_program", "several_programs"))


@pytest.fixture(autouse=True)
def fresh_plans():
    """None of an altered plan, before or after."""
    forget_plans()
    yield
    forget_plans()


def _make_saved(result, x, unit_dim):
    statistics = (result.mask, result.extrema, result.indices)
    return Saved(*statistics, list(x.shape), is_channels_last(x, unit_dim), x.dtype, True)


@interpreted
@of_layouts_and(
    "dtype power cut", [(torch.float32, 25), (torch.float16, 12), (torch.bfloat16, 9)], (False, True)
)
def test_ties_that_only_the_sum_has(
    monkeypatch, size, unit_dim, memory_format, position_points, dtype, power, cut
):
    """Where the search for an extremum has to round as the first kernel did."""
    if cut:
        cut_small(monkeypatch)
    generator = torch.Generator().manual_seed(0)
    x = make_dense(torch.rand(size, generator=generator).mul(12).sub(6).to(dtype), memory_format)
    bias = torch.full((size[unit_dim],), 2.0**power, dtype=dtype)  # of sums there are about four
    bias[::3] *= -1
    options = Options("relu", 0.0, unit_dim, position_points, 1.0, extrema_kind="indexed")
    expected = assert_forward_like_reference(x, bias, options)
    plain = reference.jumpstart_activation_forward(x, None, options)
    assert expected.output.unique().numel() < 10 < plain.output.unique().numel()
    assert (expected.indices != plain.indices).any(1).all()


@interpreted
@OF_LAYOUTS
@pytest.mark.parametrize(("activation", "parameter"), [("leaky_relu", 0.01), ("none", 0.0)])
def test_other_activations(size, unit_dim, memory_format, position_points, activation, parameter):
    generator = torch.Generator().manual_seed(0)
    x = make_dense(torch.randn(size, generator=generator).bfloat16(), memory_format)
    bias = torch.randn(size[unit_dim], generator=generator).bfloat16()
    options = Options(activation, parameter, unit_dim, position_points, 1.0, extrema_kind="limited")
    assert_forward_like_reference(x, bias, options)


@interpreted
@OF_LAYOUTS
@OF_CUTS
def test_gradient_of_every_set_of_results(monkeypatch, size, unit_dim, memory_format, position_points, cut):
    if cut:
        cut_small(monkeypatch)
    generator = torch.Generator().manual_seed(0)
    x = make_dense(torch.randn(size, generator=generator).mul(2).round().div(2).bfloat16(), memory_format)
    bias = torch.randn(size[unit_dim], generator=generator).mul(2).round().div(2).bfloat16()
    options = Options("relu", 0.0, unit_dim, position_points, 3.0, extrema_kind="indexed")
    saved = _make_saved(reference.jumpstart_activation_forward(x, bias, options), x, unit_dim)
    # In 16 bits the gradients of extrema are lost beside those of the output, but not from the sum.
    grad_output = torch.empty_like(x).copy_(torch.randn(size, generator=generator).mul(2).round().mul(256))
    grad_slack_sums = torch.arange(LAYER_SUMS, dtype=saved.extrema.dtype).view(SUMS_SHAPE)
    grad_extrema = torch.randn(saved.extrema.shape, generator=generator).mul(2).round().div(2)
    sets = [*itertools.product((grad_output, None), (grad_slack_sums, None), (grad_extrema, None))]
    for chosen in sets[:1] if cut else sets[:-1]:  # so cut, the interpreter is slow
        assert_backward_like_reference(Gradients(*chosen), saved, options)


@interpreted
@OF_LAYOUTS
def test_gradient_is_accurate_and_the_same_in_every_run(
    monkeypatch, size, unit_dim, memory_format, position_points
):
    cut_small(monkeypatch)
    generator = torch.Generator().manual_seed(0)
    x = make_dense(torch.randn(size, generator=generator), memory_format)
    bias = torch.randn(size[unit_dim], generator=generator)
    options = Options("relu", 0.0, unit_dim, position_points, 3.0, extrema_kind="exact")
    saved = _make_saved(reference.jumpstart_activation_forward(x, bias, options), x, unit_dim)
    gradients = Gradients(
        torch.empty_like(x).copy_(torch.randn(size, generator=generator)),
        torch.randn(SUMS_SHAPE, generator=generator),
        None,
    )
    first, second = (
        triton_backend.jumpstart_activation_backward(gradients, saved, options).bias for _ in range(2)
    )
    assert torch.equal(first, second)
    wide = Gradients(*(None if gradient is None else gradient.double() for gradient in gradients))
    wide_saved = saved._replace(extrema=saved.extrema.double(), dtype=torch.float64)
    expected = reference.jumpstart_activation_backward(wide, wide_saved, options).bias
    terms = wide.output.abs().sum() / size[unit_dim] + wide.slack_sums.abs().sum() * x.numel() ** 0.5
    assert (first - expected).abs().max() <= 2**-24 * 16 * terms  # about as many additions lie in a row


@interpreted
@OF_LAYOUTS
def test_no_gradient_of_the_bias_unless_wanted(size, unit_dim, memory_format, position_points):
    x = make_dense(torch.ones(size), memory_format)
    options = Options("relu", 0.0, unit_dim, position_points, 3.0, extrema_kind="exact")
    result = triton_backend.jumpstart_activation_forward(x, torch.ones(size[unit_dim]), options)
    saved = _make_saved(result, x, unit_dim)._replace(with_grad_bias=False)
    gradients = Gradients(torch.ones_like(x), None, None)
    assert triton_backend.jumpstart_activation_backward(gradients, saved, options).bias is None


@pytest.mark.parametrize(
    ("size", "launches"),
    [((256, 4), 1), ((256, 16), 1), ((4, 1000), 1), ((64, 1024), 1), ((4096, 1024), 2), ((8, 64, 56, 56), 2)],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_launches_and_partial_sums_of_a_backward(size, launches, dtype):
    """Of small matrices one launch; of others few partial sums, next to 2 bytes and an eighth an element."""
    from jumpstart_kernels.ops.triton.launch_backward import _backward

    count = size[1] + size[0]
    key = (torch.Size(size), 1, False, count, dtype, True, "relu")
    elements = torch.Size(size).numel()
    plain, with_bias = (_backward(*key, wanted, True, True, False) for wanted in (False, True))
    assert (plain.sums, len(plain.launches)) == (0, 1)
    assert len(with_bias.launches) == launches
    assert 4 * with_bias.sums <= 0.25 * elements if launches > 1 else with_bias.sums == size[1]


def test_few_partial_sums_of_large_activations():
    from jumpstart_kernels.ops.layout import Layout
    from jumpstart_kernels.ops.triton.plan import bias_partials, make_bias_grid

    for layout in (
        Layout(2**20, 1, 2**10, 1, False),
        Layout(256, 56 * 56, 64, 1, True),
        Layout(256, 1, 64, 56 * 56, False),
    ):
        partials = bias_partials(make_bias_grid(layout, False, 2, True), layout)
        elements = layout.matrix[0] * layout.matrix[1]
        # Written and read: no more than a fiftieth of what the rest of the backward moves.
        sums = partials.groups * partials.items * partials.per_item
        assert 2 * 4 * sums <= (2 * 2 + 1 / 8) * elements / 50
