"""The registered operator: schema, fakes, autograd, double backward, ``torch.compile``."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from operator_inputs import away_from_kinks, check_gradients, layouts, names_of
from operators import run_forward
from torch._subclasses.fake_tensor import FakeTensorMode

from jumpstart_kernels.ops import OVERLOADS
from jumpstart_kernels.ops.arguments import EXTREMA_KINDS

CHOICES = list(itertools.product(("relu", "none"), EXTREMA_KINDS))  # activation, extrema


@pytest.mark.parametrize("name", names_of(layouts()))
def test_opcheck(target, name):
    backend, device = target
    _, x, unit_dim = next(layout for layout in layouts(device) if layout[0] == name)
    for extrema in EXTREMA_KINDS if name == "2d" else ("indexed",):
        options = ("relu", 0.0, unit_dim, unit_dim == 0, 1.0, extrema)
        for bias in (None, torch.randn(x.shape[unit_dim], device=device, requires_grad=True)):
            torch.library.opcheck(OVERLOADS[backend], (x.detach().requires_grad_(), bias, *options))


@pytest.mark.parametrize("name", ("2d", "channels_last", "empty"))
def test_opcheck_without_relu(target, name):
    backend, device = target
    _, x, unit_dim = next(layout for layout in layouts(device) if layout[0] == name)
    torch.library.opcheck(
        OVERLOADS[backend], (x.detach().requires_grad_(), None, "none", 0.0, unit_dim, False, 1.0, "indexed")
    )


@pytest.mark.parametrize("channels_last", (False, True))
def test_opcheck_backward(target, channels_last):
    backend, device = target
    overload = getattr(torch.ops.jumpstart_kernels.jumpstart_activation_backward, backend)
    x = away_from_kinks(3, 6, 2, 4).to(device)
    x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    output, mask, slack_sums, extrema, indices = run_forward(backend, x, bias=x.new_ones(6))
    grads = [torch.randn_like(tensor) for tensor in (output, slack_sums, extrema)]
    options = ("relu", 0.0, 1, False, 1.0, "indexed")
    for wanted, with_grad_bias in itertools.product(range(1, 8), (False, True)):
        constants = (x.shape, channels_last, x.dtype, with_grad_bias, *options)
        chosen = [grad.requires_grad_() if wanted >> i & 1 else None for i, grad in enumerate(grads)]
        # test_schema and test_faketensor; the derivative of a derivative is gradgradcheck's.
        torch.library.opcheck(
            overload,
            (*chosen, mask, extrema, indices, *constants),
            test_utils=("test_schema", "test_faketensor"),
        )


@pytest.mark.parametrize("name", names_of(layouts()))
def test_fakes_have_the_strides_of_the_real(target, name):
    backend, device = target
    _, x, unit_dim = next(layout for layout in layouts(device) if layout[0] == name)
    for activation, extrema in CHOICES:
        options = (activation, 0.0, unit_dim, unit_dim == 0, 1.0, extrema)
        real = OVERLOADS[backend](x, None, *options)
        with FakeTensorMode() as mode:
            fake = OVERLOADS[backend](mode.from_tensor(x), None, *options)
        for real_tensor, fake_tensor in zip(real, fake, strict=True):
            assert real_tensor.shape == fake_tensor.shape and real_tensor.dtype == fake_tensor.dtype
            assert real_tensor.stride() == fake_tensor.stride()
            assert real_tensor.device == fake_tensor.device


def test_wrong_activations_are_told(target):
    backend, device = target
    x = torch.ones(4, 3, device=device)
    with pytest.raises(ValueError, match="activation must be one of 'relu', .*'none', got 'tanh'"):
        run_forward(backend, x, activation="tanh")
    result = run_forward(backend, x, activation="none")
    overload = getattr(torch.ops.jumpstart_kernels.jumpstart_activation_backward, backend)
    saved = (result.mask, result.extrema, result.indices, x.shape, False, x.dtype, False)
    with pytest.raises(ValueError, match="grad_output must be None for activation 'none'"):
        overload(x, None, None, *saved, "none", 0.0, 1, False, 1.0, "indexed")


def test_schemas_are_one(target):
    backend, _ = target
    for packet in (
        torch.ops.jumpstart_kernels.jumpstart_activation,
        torch.ops.jumpstart_kernels.jumpstart_activation_backward,
    ):
        schema, reference = str(getattr(packet, backend)._schema), str(packet.reference._schema)
        assert schema.replace(f".{backend}(", "(") == reference.replace(".reference(", "(")
        assert not getattr(packet, backend)._schema.is_mutable


def test_more_than_two_to_the_31_elements_on_meta():
    x = torch.empty(2**17, 2**15, device="meta", dtype=torch.bfloat16, requires_grad=True)
    for backend in OVERLOADS:
        output, mask, slack_sums, extrema, indices = run_forward(backend, x)
        assert output.shape == x.shape and mask.shape == (2**17, 2**12)
        assert extrema.shape == indices.shape == (2, 2**15 + 2**17)
        (grad_x,) = torch.autograd.grad([output.sum(), slack_sums.sum()], x)
        assert grad_x.shape == x.shape and grad_x.dtype == x.dtype


@pytest.mark.parametrize("size", ((3, 5), (2, 5, 1, 2)))
@pytest.mark.parametrize("position_points", (False, True))
@pytest.mark.parametrize("with_bias", (False, True), ids=("", "bias"))
def test_gradcheck_and_gradgradcheck(target, with_bias, size, position_points):
    backend, device = target
    inputs = split_bias(away_from_kinks(*size).to(device), with_bias)

    def differentiable_outputs(x, bias=None):
        output, _, slack_sums, extrema, _ = run_forward(backend, x, 1, position_points, bias=bias)
        return output, slack_sums, extrema

    _, slack_sums, _ = differentiable_outputs(*inputs)
    assert (slack_sums > 0).all()  # every term takes part
    check_gradients(differentiable_outputs, inputs, target)


def split_bias(x, with_bias):
    """``x``, or what gives it once a bias is added."""
    if not with_bias:
        return (x.requires_grad_(),)
    bias = torch.arange(x.shape[1]).to(x) - 2
    shape = [-1 if dim == 1 else 1 for dim in range(x.dim())]
    return (x - bias.view(shape)).requires_grad_(), bias.requires_grad_()


@pytest.mark.parametrize("kind", ("limited", "exact"))
def test_double_backward_without_all_indices(target, kind):
    backend, device = target
    for inputs in (split_bias(away_from_kinks(3, 5).to(device), with_bias) for with_bias in (False, True)):

        def output_and_sums(x, bias=None):
            output, _, slack_sums, _, _ = run_forward(backend, x, bias=bias, extrema_kind=kind)
            return output, slack_sums

        check_gradients(output_and_sums, inputs, target)


def grad_of(backend, device, rows, weights, name="slack_sums", margin=1.0):
    """Gradient of Σ weights · one output, for x given by its rows."""
    x = torch.tensor(rows, device=device, requires_grad=True)
    output, _, slack_sums, extrema, _ = run_forward(backend, x, margin=margin)
    chosen = {"output": output, "slack_sums": slack_sums, "extrema": extrema}[name]
    (grad_x,) = torch.autograd.grad(chosen, x, torch.tensor(weights, device=device))
    return grad_x.tolist()


UNITS = [[1.0, 1.0, 0.0, 0.0, 0.0], [0.0] * 5]  # weights of Σs⁺ + Σs⁻ over units
POINTS = UNITS[::-1]


def test_relu_has_gradient_zero_at_zero(target):
    assert grad_of(*target, [[0.0, -0.0, 1e-45, -1e-45]], [[1.0] * 4], "output") == [[0.0, 0.0, 1.0, 0.0]]


def test_hinges_have_gradient_zero_at_their_kinks(target):
    # max = 1 and min = −1: slack is exactly zero on both sides.
    assert grad_of(*target, [[1.0], [-1.0]], UNITS) == [[0.0], [0.0]]
    assert grad_of(*target, [[1.0, -1.0]], POINTS) == [[0.0, 0.0]]
    # A hair inside, both have a gradient.
    inside = 1 - 2**-24  # the next float32
    assert grad_of(*target, [[inside], [-inside]], UNITS) == [[-1.0], [1.0]]
    assert grad_of(*target, [[0.0], [-0.0]], UNITS, margin=0.0) == [[0.0], [0.0]]


def test_ties_go_to_the_first_in_row_major_order(target):
    rows = [[-1.0, -3.0], [-1.0, -3.0], [-2.0, -0.5]]
    # Maxima: unit 0 in row 0, unit 1 in row 2. All minima are below −1: no slack.
    assert grad_of(*target, rows, UNITS) == [[-1.0, 0.0], [0.0, 0.0], [0.0, -1.0]]
    extremes = [[1.0] * 5, [10.0] * 5]
    assert grad_of(*target, rows, extremes, "extrema") == [[2.0, 20.0], [1.0, 10.0], [20.0, 2.0]]
    zeros = [[0.0, -0.0], [-0.0, 0.0]]  # all tie
    assert grad_of(*target, zeros, [[1.0] * 4] * 2, "extrema") == [[4.0, 2.0], [2.0, 0.0]]


def test_infinities_have_finite_gradients(target):
    infinity = math.inf
    dead, linear = [[-infinity], [-infinity]], [[infinity], [infinity]]
    assert grad_of(*target, dead, UNITS) == [[-1.0], [0.0]]
    assert grad_of(*target, linear, UNITS) == [[1.0], [0.0]]
    assert grad_of(*target, [[infinity], [0.5]], UNITS) == [[0.0], [1.0]]
    assert grad_of(*target, [[-infinity], [0.5]], UNITS) == [[0.0], [-1.0]]
    assert grad_of(*target, [[infinity, -infinity]], [[1.0, 1.0]], "output") == [[1.0, 0.0]]


def test_nan_passes_as_in_relu(target):
    backend, device = target
    x = torch.tensor([[math.nan, 1.0], [2.0, -1.0]], device=device, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    output, _, slack_sums, extrema, indices = run_forward(backend, x)
    weights = torch.tensor([[3.0, 5.0], [7.0, 11.0]], device=device)
    (output * weights).sum().backward(retain_graph=True)
    (F.relu(y) * weights).sum().backward()
    torch.testing.assert_close(output, F.relu(y), equal_nan=True)
    torch.testing.assert_close(x.grad, y.grad, equal_nan=True)
    assert extrema.isnan().tolist() == [[True, False, True, False]] * 2  # units, points
    assert indices.tolist() == [[0, 1, 0, 2], [0, 3, 0, 3]]
    assert slack_sums.isnan().all()


def test_unused_outputs_cost_no_gradient(target):
    backend, device = target
    x = torch.ones(2, 3, device=device, requires_grad=True)
    _, mask, _, _, indices = run_forward(backend, x)
    assert not mask.requires_grad and not indices.requires_grad


@pytest.mark.parametrize("wanted", ("x", "bias"))
def test_gradients_of_one_of_the_two(target, wanted):
    backend, device = target
    x, bias = split_bias(away_from_kinks(3, 5).to(device), True)
    (x if wanted == "bias" else bias).requires_grad_(False)
    outputs = run_forward(backend, x, bias=bias)
    expected = run_forward("reference", x, bias=bias)
    of = x if wanted == "x" else bias
    actual, other = (
        torch.autograd.grad(each.output.sum() + each.slack_sums.sum(), of)[0] for each in (outputs, expected)
    )
    torch.testing.assert_close(actual, other)


def test_wrong_biases_are_told(target):
    backend, device = target
    x = torch.ones(4, 3, device=device)
    for bias, error in (
        (torch.ones(4, device=device), ValueError),
        (torch.ones(3, 1, device=device), ValueError),
        (torch.ones(3, device=device, dtype=torch.float64), (TypeError, ValueError)),
    ):
        with pytest.raises(error, match="bias must have"):
            run_forward(backend, x, bias=bias)


def step(backend):
    def run(x, bias=None):
        output, _, slack_sums, extrema, _ = run_forward(backend, x * 2, bias=bias)
        return output.sin().sum() + slack_sums.sum() + extrema.square().sum()

    return run


@pytest.mark.parametrize("compiler", ("aot_eager", "inductor"))
@pytest.mark.parametrize("channels_last", (False, True))
def test_compiled_equals_eager(target, compiler, channels_last):
    backend, device = target
    torch._dynamo.reset()
    x = away_from_kinks(3, 6, 2, 4).to(device)
    x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    for bias in (None, torch.linspace(-1, 1, 6).to(x)):
        eager_x, compiled_x = x.clone().requires_grad_(), x.clone().requires_grad_()
        biases = [None if bias is None else bias.clone().requires_grad_() for _ in range(2)]
        eager = step(backend)(eager_x, biases[0])
        compiled = torch.compile(step(backend), fullgraph=True, backend=compiler)(compiled_x, biases[1])
        eager.backward()
        compiled.backward()
        torch.testing.assert_close(compiled, eager)
        torch.testing.assert_close(compiled_x.grad, eager_x.grad)
        assert compiled_x.grad.stride() == eager_x.grad.stride()
        if bias is not None:
            torch.testing.assert_close(biases[1].grad, biases[0].grad)


def test_compiled_with_dynamic_shapes(target):
    backend, device = target
    torch._dynamo.reset()
    compiled = torch.compile(step(backend), fullgraph=True, dynamic=True, backend="aot_eager")
    for rows in (4, 7, 12):
        x = away_from_kinks(rows, 6).to(device).requires_grad_()
        (compiled_grad,) = torch.autograd.grad(compiled(x), x)
        (eager_grad,) = torch.autograd.grad(step(backend)(x), x)
        torch.testing.assert_close(compiled_grad, eager_grad)
