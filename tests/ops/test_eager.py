"""The eager shortcuts: the operator's results, or None where the operator must be called.

Triton's by itself, and layers by every backend (``target``).
"""

import pickle

import pytest
import torch
from dispatched import Dispatched
from operators import run_forward
from torch._dynamo import compiled_autograd
from torch.overrides import TorchFunctionMode

import jumpstart_kernels as jk
from jumpstart_kernels.ops import backends
from jumpstart_kernels.ops.arguments import Record
from jumpstart_kernels.ops.reference import penalty as reference_penalty
from jumpstart_kernels.ops.slack import LAYER_SUMS, SUMS_SHAPE
from jumpstart_kernels.ops.triton import eager

SIZES = {"matrix": (9, 12), "images": (3, 4, 5, 6), "none": (0, 4)}


@pytest.fixture(autouse=True)
def interpreted(request):
    reason = backends.unavailable("triton", "cpu")
    if reason is not None and "target" not in request.fixturenames:
        pytest.skip(reason)


class FunctionMode(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


class Subclass(torch.Tensor):
    pass


def make_input(size, channels_last=False):
    x = torch.randn(size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (x.contiguous(memory_format=torch.channels_last) if channels_last else x).requires_grad_()


def run_eagerly(x, unit_dim=1, margin=1.0, inplace=False, shortcuts=eager, bias=None):
    """Output and record by the shortcut, or None."""
    return shortcuts.jumpstart_activation(x, bias, "relu", 0.0, unit_dim, False, margin, inplace, "limited")


def as_records(*slack_sums):
    return [Record(sums, sums, 1, 1, 1.0) for sums in slack_sums]


def run_layer(x, inplace=False):
    """Output and penalty, a square root."""
    layer = jk.JumpstartReLU(inplace, margin=3.0)
    return layer(x), jk.penalty(layer, reduction="norm")


@pytest.mark.parametrize("backend", ("native", "triton"))
@pytest.mark.parametrize("inplace", (False, True))
@pytest.mark.parametrize("channels_last", (False, True))
@pytest.mark.parametrize("name", SIZES)
def test_equals_the_operator(name, channels_last, inplace, backend):
    reason = backends.unavailable(backend, "cpu")
    if reason is not None:
        pytest.skip(reason)
    if channels_last and name != "images":
        pytest.skip("channels_last is an order of images")
    x, other = make_input(SIZES[name], channels_last), make_input(SIZES[name], channels_last)
    shortcuts = backends.BACKENDS[backend].shortcuts
    output, record = run_eagerly(x * 1, margin=3.0, inplace=inplace, shortcuts=shortcuts)
    slack_sums, extrema = record.slack_sums, record.extrema
    expected = run_forward(backend, other, margin=3.0, extrema_kind="limited")
    assert record.units == x.shape[1] and record.points == x.shape[0] and record.margin == 3.0
    assert torch.equal(output, expected.output) and output.stride() == expected.output.stride()
    assert torch.equal(slack_sums, expected.slack_sums) and torch.equal(extrema, expected.extrema)
    weight = torch.arange(LAYER_SUMS, dtype=torch.float64).view(SUMS_SHAPE)
    for out, sums, leaf in ((output, slack_sums, x), (expected.output, expected.slack_sums, other)):
        ((out * out).sum() + (sums * weight).sum()).backward()
        assert leaf.grad.stride() == leaf.stride()
    assert torch.equal(x.grad, other.grad)


def test_gradients_of_gradients():
    def run(x):
        output, record = run_eagerly(x, margin=3.0)
        value = eager.penalty(
            as_records(record.slack_sums, record.slack_sums * 2), [0.0, 0.0, 0.5, 0.25, 0.3] * 2, True
        )
        return (output * output).sum() + value

    x = make_input((5, 4))
    assert torch.autograd.gradcheck(run, x)
    assert torch.autograd.gradgradcheck(run, x)


@pytest.mark.parametrize("square_root", (False, True))
def test_penalty_equals_the_reference(square_root):
    sums = [torch.rand(SUMS_SHAPE, dtype=torch.float64).requires_grad_() for _ in range(3)]
    others = [each.detach().clone().requires_grad_() for each in sums]
    weights = [0.0, 0.0, 0.09, 0.49, 0.42, 0.0, 0.0, 0.25, 0.25, 0.5]
    value = eager.penalty(as_records(*sums), weights, square_root)
    expected = reference_penalty(others, weights, square_root)
    torch.testing.assert_close(value, expected)
    value.backward()
    expected.backward()
    for one, other in zip(sums, others, strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_unused_outputs_cost_no_gradient():
    x = make_input((5, 4))
    output, record = run_eagerly(x, margin=3.0)
    (grad,) = torch.autograd.grad(output.sum(), x)
    assert torch.equal(grad, (x > 0).double())
    assert record.slack_sums.requires_grad


def test_compiled_autograd_holds_the_operator():
    x = make_input((5, 4))
    output, record = run_eagerly(x, margin=3.0)
    value = output.sum() + eager.penalty([record], [0.5] * LAYER_SUMS, True)
    (expected,) = torch.autograd.grad(value, x, retain_graph=True)
    with compiled_autograd._enable(torch.compile(backend="aot_eager", fullgraph=True)):
        value.backward()
    torch.testing.assert_close(x.grad, expected)


@pytest.mark.parametrize("context", (Dispatched, FunctionMode))
def test_leaves_modes_to_the_operator(context):
    x, sums = make_input((5, 4)), torch.ones(SUMS_SHAPE)
    with context():
        assert run_eagerly(x) is None
        assert eager.penalty(as_records(sums), [1.0] * LAYER_SUMS, False) is None


def test_leaves_transforms_and_forward_mode_to_the_operator():
    seen = []

    def run(x):
        seen.append(run_eagerly(x))
        return x.sum()

    torch.func.grad(run)(make_input((5, 4)).detach())
    torch.func.jvp(run, (make_input((5, 4)).detach(),), (torch.ones((5, 4), dtype=torch.float64),))
    with torch.autograd.forward_ad.dual_level():
        run(make_input((5, 4)))
    assert seen == [None] * 3


@pytest.mark.parametrize(
    "x",
    [
        torch.zeros(4),
        torch.zeros((4, 3), dtype=torch.int32),
        torch.zeros((4, 6))[:, ::2],
        torch.zeros((4, 3)).to_sparse(),
        torch.zeros((4, 3)).as_subclass(Subclass),
    ],
    ids=("one_dim", "integers", "strided", "sparse", "subclass"),
)
def test_leaves_other_tensors_to_the_operator(x):
    assert run_eagerly(x) is None
    assert run_eagerly(torch.zeros((4, 3)), unit_dim=0) is None
    assert run_eagerly(torch.zeros((4, 3)), unit_dim=2) is None


def test_batched_gradients_are_those_of_a_loop(target):
    x = make_input((5, 4)).detach().to(target[1]).requires_grad_()
    results = run_layer(x)
    grads = [torch.rand((3, *result.shape), dtype=x.dtype, device=x.device) for result in results]

    def gradient(*grads, **options):
        return torch.autograd.grad(results, x, grads, retain_graph=True, **options)[0]

    expected = torch.stack([gradient(*each) for each in zip(*grads, strict=True)])
    torch.testing.assert_close(gradient(*grads, is_grads_batched=True), expected)
    torch.testing.assert_close(torch.vmap(gradient)(*grads), expected)


def test_vectorized_jacobians(target):
    x = make_input((5, 4)).detach().to(target[1])
    vectorized, looped = (
        torch.autograd.functional.jacobian(run_layer, x, vectorize=vectorize) for vectorize in (True, False)
    )
    torch.testing.assert_close(vectorized, looped)


def test_negated_inputs(target):
    values = make_input((5, 4)).detach().to(target[1])
    x, other = torch._neg_view(values).requires_grad_(), (-values).requires_grad_()
    assert x.is_neg()
    results, expected = run_layer(x), run_layer(other)
    assert all(map(torch.equal, results, expected))
    grads = [torch.ones_like(result) for result in results]
    assert all(
        map(torch.equal, torch.autograd.grad(results, x, grads), torch.autograd.grad(expected, other, grads))
    )


def test_negated_inputs_are_overwritten(target):
    values = make_input((5, 4)).detach().to(target[1])
    x = pickle.loads(pickle.dumps(torch._neg_view(values)))  # no view, as those are not overwritten
    assert x.is_neg()
    run_layer(x, inplace=True)
    assert torch.equal(x, (-values).relu())


def test_negated_gradients(target):
    x = make_input((5, 4)).detach().to(target[1]).requires_grad_()
    for result in run_layer(x):
        grad = torch.rand_like(result)
        negated, expected = (
            torch.autograd.grad(result, x, each, retain_graph=True)[0]
            for each in (torch._neg_view(grad), -grad)
        )
        assert torch.equal(negated, expected)


def test_modes_see_the_backward(target):
    backend, device = target
    results = run_layer(make_input((5, 4)).detach().to(device).requires_grad_())
    with Dispatched() as mode:
        sum(result.sum() for result in results).backward()
    expected = {"jumpstart_activation_backward"} | ({"penalty_backward"} if backend != "reference" else set())
    assert {f"jumpstart_kernels.{name}.{backend}" for name in expected} <= set(mode.seen)


def test_traces_hold_the_operator(target):
    x = make_input((5, 4)).detach().to(target[1])
    traced = torch.jit.trace(jk.JumpstartReLU(), x, check_trace=False)  # which would run it without grad
    assert "jumpstart_kernels::jumpstart_activation" in str(traced.graph)
    assert torch.equal(traced(-x), (-x).relu())
