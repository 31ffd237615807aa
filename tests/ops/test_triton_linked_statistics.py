"""Linked activations with the statistics of their input from the same pass, in Triton's interpreter."""

import itertools

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from triton_interpreted import cut_small, forget_plans, make_dense
from triton_linked import (
    OF_ACTIVATIONS,
    assert_backward_like_reference,
    assert_forward_like_reference,
    make_gradient,
    make_input,
    make_options,
    make_saved,
    make_weight,
)

from jumpstart_kernels.ops import LINKED_OVERLOADS, reference
from jumpstart_kernels.ops import triton as triton_backend
from jumpstart_kernels.ops.arguments import Gradients
from jumpstart_kernels.ops.slack import LAYER_SUMS, SUMS_SHAPE

_reason = triton_backend.unavailable("cpu")
pytestmark = pytest.mark.skipif(_reason is not None, reason=str(_reason))

LAYOUTS = [
    pytest.param((40, 24), 1, None, False, id="2d"),
    pytest.param((2, 24, 3, 5), 1, torch.channels_last, False, id="channels_last"),
    pytest.param((2, 24, 3, 5), 1, torch.channels_last, True, id="channels_last-position"),
    pytest.param((3, 5, 76), 1, None, False, id="planes"),
    pytest.param((5, 3, 7), 1, None, False, id="planes-odd"),
    pytest.param((2, 12, 20), 1, None, True, id="planes-position"),
    pytest.param((2, 19, 12), 2, None, False, id="units-last"),
]
OF_LAYOUTS = pytest.mark.parametrize(("size", "unit_dim", "memory_format", "position_points"), LAYOUTS)


@pytest.fixture(autouse=True)
def fresh_plans():
    """None of an altered plan, before or after."""
    forget_plans()
    yield
    forget_plans()


def assert_like_reference(activation, size, unit_dim, memory_format, position_points, dtype, kind) -> None:
    x, weight = make_input(size, memory_format, dtype), make_weight(activation, size[unit_dim], dtype)
    options = make_options(activation, unit_dim, x.dim(), position_points, kind)._replace(margin=3.0)
    expected = assert_forward_like_reference(x, weight, options)
    grad_slack_sums = torch.arange(LAYER_SUMS, dtype=expected.slack_sums.dtype).view(SUMS_SHAPE)
    gradients = Gradients(make_gradient(expected.output), grad_slack_sums, None)
    assert_backward_like_reference(gradients, make_saved(x, weight, expected, options), options)


@OF_LAYOUTS
@pytest.mark.parametrize("activation", ["linked_relu", "linked_prelu"])
@pytest.mark.parametrize(("dtype", "kind"), [(torch.float32, "exact"), (torch.bfloat16, "limited")], ids=str)
def test_programs_of_several_tiles(
    monkeypatch, activation, size, unit_dim, memory_format, position_points, dtype, kind
):
    """The code path of large tensors, for which the interpreter is too slow."""
    cut_small(monkeypatch)
    assert_like_reference(activation, size, unit_dim, memory_format, position_points, dtype, kind)


@OF_LAYOUTS
@pytest.mark.parametrize("activation", ["linked_selu", "linked_silu"])
def test_programs_of_one_tile(activation, size, unit_dim, memory_format, position_points):
    """A small matrix is one program's."""
    dtype = torch.float64 if activation == "linked_selu" else torch.float16
    assert_like_reference(activation, size, unit_dim, memory_format, position_points, dtype, "indexed")


@OF_LAYOUTS
def test_64_bit_offsets(monkeypatch, size, unit_dim, memory_format, position_points):
    from jumpstart_kernels.ops.triton import plan

    monkeypatch.setattr(plan, "fits_int32", lambda elements: False)
    monkeypatch.setattr(plan, "_SMALL", 1)
    assert_like_reference(
        "linked_prelu", size, unit_dim, memory_format, position_points, torch.float32, "exact"
    )


@pytest.mark.parametrize(("units", "expected"), [(2**5, "int32"), (2**17, "int64")])
def test_offsets_reach_over_the_units_of_a_sample(units, expected):
    """From a sample's last plane to the next sample's first lie all planes of the second half."""
    from jumpstart_kernels.ops.triton.launch_forward import _forward

    key = (torch.Size((4, units, 2**14)), 1, False, False, torch.float16, True, "linked_relu", "exact", None)
    assert expected in [str(constant) for constant in _forward(*key).launches[0].settled]


@OF_ACTIVATIONS
@pytest.mark.parametrize(("size", "memory_format", "position_points"), [
    ((12, 8), None, True), ((2, 3, 5, 4), None, False), ((2, 3, 5, 4), torch.channels_last, False),
])  # fmt: skip
def test_gradient_of_every_set_of_results(activation, size, memory_format, position_points):
    x = make_input(size, memory_format, torch.float32)
    weight = make_weight(activation, size[1], torch.float32)
    options = make_options(activation, 1, x.dim(), position_points, "indexed")._replace(margin=3.0)
    expected = assert_forward_like_reference(x, weight, options)
    saved = make_saved(x, weight, expected, options)
    grad_slack_sums = torch.arange(LAYER_SUMS, dtype=torch.float32).view(SUMS_SHAPE)
    grad_extrema = torch.randn(expected.extrema.shape).mul(2).round().div(2)
    of_all = (make_gradient(expected.output), grad_slack_sums, grad_extrema)
    for chosen in itertools.product(*((gradient, None) for gradient in of_all)):
        if any(gradient is not None for gradient in chosen):
            assert_backward_like_reference(Gradients(*chosen), saved, options)


@OF_LAYOUTS
@pytest.mark.parametrize("activation", ["linked_relu", "linked_silu"])
def test_values_that_are_not_numbers(monkeypatch, activation, size, unit_dim, memory_format, position_points):
    from jumpstart_kernels.ops.triton import plan

    monkeypatch.setattr(plan, "_SMALL", 1)
    values = torch.tensor([torch.nan, torch.inf, -torch.inf, -0.0, 0.0, -1.0, 2.0])
    generator = torch.Generator().manual_seed(0)
    kinds = torch.rand(size, generator=generator).mul(len(values)).long()
    rare = torch.rand(size, generator=generator) < 16 / kinds.numel()  # the others are zeros and −1.0
    x = make_dense(values[torch.where(rare, kinds, 3 + kinds % 3)], memory_format)
    options = make_options(activation, unit_dim, x.dim(), position_points, "indexed")
    expected = assert_forward_like_reference(x, None, options)
    assert expected.extrema.isnan().any() and not expected.extrema.isnan().all()


@OF_LAYOUTS
def test_reads_nothing_that_it_has_not_written(monkeypatch, size, unit_dim, memory_format, position_points):
    new_empty = torch.Tensor.new_empty

    def poisoned(self, *args, **kwargs):
        tensor = new_empty(self, *args, **kwargs)
        return tensor.fill_(torch.nan if tensor.is_floating_point() else 77)

    monkeypatch.setattr(torch.Tensor, "new_empty", poisoned)
    assert_like_reference(
        "linked_prelu", size, unit_dim, memory_format, position_points, torch.bfloat16, "exact"
    )


@OF_ACTIVATIONS
def test_through_the_operator(activation):
    """With its autograd, and the same output as without statistics."""
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(4, 6, 5, generator=generator)
    weight = make_weight(activation, 5, base.dtype)
    found = {}
    for backend in ("triton", "reference"):
        x = base.clone().requires_grad_()
        slopes = None if weight is None else weight.clone().requires_grad_()
        inputs = [x] if slopes is None else [x, slopes]
        options = make_options(activation, 1, 3, False, "exact")
        output, _, slack_sums, *_ = LINKED_OVERLOADS[backend](x.transpose(1, 2), slopes, *options)
        loss = output.square().sum() + slack_sums[:, :2].sum()
        found[backend] = [output, slack_sums, *torch.autograd.grad(loss, inputs)]
        plain = LINKED_OVERLOADS[backend](x.transpose(1, 2), slopes, *options._replace(extrema_kind="none"))
        assert torch.equal(output, plain[0])
    for actual, expected in zip(*found.values(), strict=True):
        torch.testing.assert_close(actual, expected)


@OF_ACTIVATIONS
@pytest.mark.parametrize("size", [(0, 5), (3, 0), (2, 4, 0)], ids=str)
def test_empty(activation, size):
    x, weight = torch.empty(size), make_weight(activation, size[1], torch.float32)
    options = make_options(activation, 1, x.dim(), False, "exact")
    actual = triton_backend.linked_activation_forward(x, weight, options)
    for one, other in zip(actual, reference.linked_activation_forward(x, weight, options), strict=True):
        assert torch.equal(one, other)
    gradients = Gradients(actual.output, actual.slack_sums, None)
    saved = make_saved(x, weight, actual, options)
    assert triton_backend.linked_activation_backward(gradients, saved, options).x.shape == x.shape
