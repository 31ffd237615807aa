"""The operator ``linked_activation`` against its definition, on every backend."""

import itertools

import pytest
import torch
from linked import ACTIVATIONS, define, make_weight, run_linked_forward
from operator_inputs import layouts
from operators import run_statistics

from jumpstart_kernels.ops import LINKED_OVERLOADS
from jumpstart_kernels.ops.arguments import EXTREMA_KINDS
from jumpstart_kernels.ops.layout import unit_rows

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
LAYOUTS = [name for name, *_ in layouts()]
SPECIAL = (0.0, -0.0, 1e-30, -1e-30, 1e-4, -1e-4, 20.0, -20.0, 100.0, -100.0, 1e4, -1e4, 0.5, -0.5, 3.0, -3.0)


def layout_of(name, device, dtype):
    """The tensor with values of all sizes, some of them 0, and its unit dimension."""
    _, x, unit_dim = next(layout for layout in layouts(device) if layout[0] == name)
    scale = torch.tensor([0.01, 1.0, 8.0, 0.0], device=device)
    factors = scale[torch.arange(x.numel(), device=device) % 4].view(x.shape)
    scaled = (
        torch.empty_strided(x.shape, x.stride(), dtype=dtype, device=device) if x.numel() else x.to(dtype)
    )
    if name != "2d_expanded" and x.numel():
        return scaled.copy_(x * factors), unit_dim
    return x.to(dtype), unit_dim


def close(found, truth, magnitude, roundings):
    """Within so many roundings of the dtype of ``found``, relative to the magnitude of what was added."""
    unit = torch.finfo(found.dtype).eps / 2
    least = torch.finfo(found.dtype).tiny
    exact = torch.float64
    error = (found.to(exact) - truth.to(exact)).abs()
    bound = roundings * unit * magnitude.to(exact).abs() + 8 * least
    both_nan = found.isnan() & truth.isnan()
    same = found.to(exact) == truth.to(exact)
    return bool((both_nan | same | (error <= bound)).all())


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", LAYOUTS)
def test_output_and_gradients_are_the_definition(target, poisoned_memory, activation, name):
    backend, device = target
    for dtype in DTYPES if name in ("2d", "4d", "channels_last", "units_last") else DTYPES[:1]:
        x, unit_dim = layout_of(name, device, dtype)
        x.requires_grad_()
        weight = make_weight(activation, x, unit_dim)
        exact = x.detach().double().requires_grad_()
        exact_weight = None if weight is None else weight.double().requires_grad_()
        if weight is not None:
            weight.requires_grad_()
        output = run_linked_forward(backend, activation, x, weight, unit_dim).output
        truth = define(activation, exact, exact_weight, unit_dim)
        assert output.dtype == dtype and output.shape == truth.shape
        # 16-bit values are computed in float32 and rounded once; in float32 an exponential adds a few.
        roundings = {"linked_relu": 0, "linked_prelu": 1.1}.get(activation, 8 if dtype.itemsize > 2 else 1.1)
        assert close(output, truth, truth, roundings), dtype

        generator = torch.Generator().manual_seed(3)
        grad = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(device, dtype)
        inputs = [tensor for tensor in (x, weight) if tensor is not None]
        exact_inputs = [tensor for tensor in (exact, exact_weight) if tensor is not None]
        found = torch.autograd.grad(output, inputs, grad)
        expected = torch.autograd.grad(truth, exact_inputs, grad.double())
        # What cancels between the halves counts: derivatives are at most 2.
        halves = grad.double().abs().split(x.shape[unit_dim], unit_dim) if x.numel() else (exact.detach(),)
        size = sum(halves)
        if (
            dtype == torch.float64
        ):  # PyTorch's own derivative of SiLU loses digits, x times those of a sum with 1
            size = size * (1 + x.detach().abs())
        factor = 1 if weight is None else 1 + weight.abs().max().double() if weight.numel() else 1
        exactly = activation == "linked_relu"
        assert close(found[0], expected[0], 2 * size * factor, 0 if exactly else 8), dtype
        assert found[0].dtype == dtype and found[0].shape == x.shape
        if weight is not None and x.numel():
            sums = unit_rows(size * x.detach().double().abs(), unit_dim).sum(1)
            assert close(found[1], expected[1], sums, 16), dtype


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_special_values(target, activation):
    backend, device = target
    for dtype, units in itertools.product(DTYPES, (1, 3, 16)):
        for special in ((*SPECIAL, torch.inf), (*SPECIAL, -torch.inf), (*SPECIAL, torch.nan)):
            x = torch.tensor(special, device=device, dtype=dtype)
            x = x.repeat_interleave(units).view(-1, units)
            weight = make_weight(activation, x, 1)
            output = run_linked_forward(backend, activation, x, weight).output
            truth = define(activation, x.double(), None if weight is None else weight.double(), 1)
            # With large values of float16 the exact product may be beyond its range.
            truth = truth.to(dtype).double() if dtype == torch.float16 else truth
            roundings = 8 if dtype.itemsize > 2 else 2.2
            assert close(output, truth, truth, roundings), (dtype, units)


@pytest.mark.parametrize("name", LAYOUTS)
def test_everything_is_that_of_the_reference(target, poisoned_memory, name):
    backend, device = target
    for activation, kind in itertools.product(ACTIVATIONS, (*EXTREMA_KINDS, "none")):
        x, unit_dim = layout_of(name, device, torch.float32)
        weight = make_weight(activation, x, unit_dim)
        options = (activation, x, weight, unit_dim, unit_dim == 0, 0.7, kind)
        found, expected = (run_linked_forward(by, *options) for by in (backend, "reference"))
        assert torch.equal(found.mask, expected.mask)
        assert torch.equal(found.extrema, expected.extrema) and torch.equal(found.indices, expected.indices)
        assert found.slack_sums.shape == expected.slack_sums.shape
        torch.testing.assert_close(found.slack_sums, expected.slack_sums)
        assert found.output.stride() == expected.output.stride()


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("size", ((300, 70), (4, 5, 30, 40), (70, 3), (600, 64)))
def test_statistics_are_those_of_the_operator_without_links(target, activation, size):
    backend, device = target
    x = torch.randn(size, generator=torch.Generator().manual_seed(2)).to(device)
    x[:, 0], x[:, 1] = -x[:, 0].abs(), x[:, 1].abs()  # a dead unit, a linear one
    weight = make_weight(activation, x, 1)
    for kind, position_points in itertools.product(EXTREMA_KINDS, (False, True)):
        x.requires_grad_()
        linked = run_linked_forward(backend, activation, x, weight, 1, position_points, 1.0, kind)
        alone = run_statistics(backend, x, 1, position_points, extrema_kind=kind)
        for name in ("slack_sums", "extrema", "indices"):
            assert torch.equal(getattr(linked, name), getattr(alone, name)), (name, kind)
        assert torch.equal(linked.output, run_linked_forward(backend, activation, x, weight).output)
        weights = torch.arange(10.0, device=device).view(2, 5)
        (of_linked,) = torch.autograd.grad((linked.slack_sums * weights).sum(), x)
        (of_alone,) = torch.autograd.grad((alone.slack_sums * weights).sum(), x)
        assert torch.equal(of_linked, of_alone), kind
        x = x.detach()


def test_gradients_of_output_and_extrema_add_up(target):
    backend, device = target
    for activation in ACTIVATIONS:
        x = torch.randn(40, 6, device=device, dtype=torch.float64, requires_grad=True)
        weight = make_weight(activation, x, 1)
        result = run_linked_forward(backend, activation, x, weight, extrema_kind="exact")
        grad, grad_sums = torch.randn_like(result.output), torch.randn_like(result.slack_sums)
        both = torch.autograd.grad(
            [result.output, result.slack_sums], x, [grad, grad_sums], retain_graph=True
        )
        by_output = torch.autograd.grad(result.output, x, grad, retain_graph=True)
        by_sums = torch.autograd.grad(result.slack_sums, x, grad_sums)
        torch.testing.assert_close(both[0], by_output[0] + by_sums[0], rtol=1e-12, atol=1e-12)


def test_same_input_same_bits(target):
    backend, device = target
    threads = torch.get_num_threads()
    for size in ((900, 33), (6, 7, 40, 30)):
        x = torch.randn(size, device=device, requires_grad=True)
        weight = make_weight("linked_prelu", x, 1).requires_grad_()
        grad = torch.randn(size[0], 2 * size[1], *size[2:], device=device)
        seen = []
        for count in (1, 2, 3, 1):
            torch.set_num_threads(count)
            output = run_linked_forward(backend, "linked_prelu", x, weight).output
            seen.append((output, *torch.autograd.grad(output, (x, weight), grad)))
        torch.set_num_threads(threads)
        for other in seen[1:]:
            assert all(torch.equal(a, b) for a, b in zip(seen[0], other, strict=True))


def test_zero_has_no_gradient_through_a_linked_relu(target):
    backend, device = target
    x = torch.tensor([[0.0, -0.0, 2.0, -2.0]], device=device, requires_grad=True)
    output = run_linked_forward(backend, "linked_relu", x).output
    (grad,) = torch.autograd.grad(output, x, torch.arange(1.0, 9.0, device=device).view(1, 8))
    assert grad.tolist() == [[0.0, 0.0, 3.0, -8.0]]


def test_wrong_arguments_are_told(target):
    backend, device = target
    x = torch.ones(4, 3, device=device)
    with pytest.raises(ValueError, match="activation must be one of 'linked_relu', .*, got 'relu'"):
        run_linked_forward(backend, "relu", x)
    with pytest.raises(ValueError, match="weight must be None for 'linked_relu'"):
        run_linked_forward(backend, "linked_relu", x, torch.ones(2, 3, device=device))
    with pytest.raises(ValueError, match=r"weight must be of shape \[2, 3\] for 'linked_prelu'"):
        run_linked_forward(backend, "linked_prelu", x)
    for weight in (torch.ones(2, 4), torch.ones(6), torch.ones(2, 3, dtype=torch.float64)):
        with pytest.raises(ValueError, match=r"weight must have shape \[2, 3\], and the dtype"):
            run_linked_forward(backend, "linked_prelu", x, weight.to(device))
    with pytest.raises(ValueError, match="extrema_kind must be one of"):
        run_linked_forward(backend, "linked_relu", x, extrema_kind="some")
    result = run_linked_forward(backend, "linked_relu", x)
    overload = getattr(torch.ops.jumpstart_kernels.linked_activation_backward, backend)
    saved = (None, None, result.mask, result.extrema, result.indices, x.shape, False, x.dtype, False)
    with pytest.raises(ValueError, match="grad_output must have the shape and dtype of the output"):
        overload(x, None, None, *saved, "linked_relu", 0.0, 1, True, 1.0, "none")


def test_one_schema(target):
    backend, _ = target
    for name in ("linked_activation", "linked_activation_backward"):
        packet = getattr(torch.ops.jumpstart_kernels, name)
        schema, reference = str(getattr(packet, backend)._schema), str(packet.reference._schema)
        assert schema.replace(f".{backend}(", "(") == reference.replace(".reference(", "(")


def test_more_than_two_to_the_31_elements_on_meta():
    x = torch.empty(2**17, 2**15, device="meta", dtype=torch.bfloat16, requires_grad=True)
    for backend in LINKED_OVERLOADS:
        output = run_linked_forward(backend, "linked_relu", x).output
        assert output.shape == (2**17, 2**16)
        (grad_x,) = torch.autograd.grad(output.sum(), x)
        assert grad_x.shape == x.shape and grad_x.dtype == x.dtype
