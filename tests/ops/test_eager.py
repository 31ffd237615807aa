"""The Triton backend's shortcut: what the operator gives, or nothing where the operator must be asked."""

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from jumpstart_kernels import backends
from jumpstart_kernels.kernels.penalty import penalty as reference_penalty
from jumpstart_kernels.ops import OVERLOADS, eager

reason = backends.unavailable("triton", "cpu")
pytestmark = pytest.mark.skipif(reason is not None, reason=str(reason))

SIZES = {"matrix": (9, 12), "images": (3, 4, 5, 6), "none": (0, 4)}


class DispatchMode(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


class FunctionMode(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


class Subclass(torch.Tensor):
    pass


def make_input(size, channels_last=False):
    x = torch.randn(size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (x.contiguous(memory_format=torch.channels_last) if channels_last else x).requires_grad_()


@pytest.mark.parametrize("inplace", (False, True))
@pytest.mark.parametrize("channels_last", (False, True))
@pytest.mark.parametrize("name", SIZES)
def test_equals_the_operator(name, channels_last, inplace):
    if channels_last and name != "images":
        pytest.skip("channels_last is an order of images")
    x, other = make_input(SIZES[name], channels_last), make_input(SIZES[name], channels_last)
    output, slack_sums, extrema, units, points = eager.jumpstart_relu(x * 1, 1, False, 3.0, inplace)
    expected, _, expected_sums, expected_extrema, _ = OVERLOADS["triton"](other, 1, False, 3.0, True, False)
    assert units == x.shape[1] and points == x.shape[0]
    for one, two in ((output, expected), (slack_sums, expected_sums), (extrema, expected_extrema)):
        assert torch.equal(one, two)
    assert output.stride() == expected.stride()
    weight = torch.arange(10.0, dtype=torch.float64).view(2, 5)
    for out, sums, leaf in ((output, slack_sums, x), (expected, expected_sums, other)):
        ((out * out).sum() + (sums * weight).sum()).backward()
        assert leaf.grad.stride() == leaf.stride()
    assert torch.equal(x.grad, other.grad)


def test_gradients_of_gradients():
    def run(x):
        output, slack_sums, *_ = eager.jumpstart_relu(x, 1, False, 3.0, False)
        value = eager.penalty([slack_sums, slack_sums * 2], [0.0, 0.0, 0.5, 0.25, 0.3] * 2, True)
        return (output * output).sum() + value

    x = make_input((5, 4))
    assert torch.autograd.gradcheck(run, x)
    assert torch.autograd.gradgradcheck(run, x)


@pytest.mark.parametrize("square_root", (False, True))
def test_penalty_equals_the_reference(square_root):
    sums = [torch.rand((2, 5), dtype=torch.float64).requires_grad_() for _ in range(3)]
    others = [each.detach().clone().requires_grad_() for each in sums]
    weights = [0.0, 0.0, 0.09, 0.49, 0.42, 0.0, 0.0, 0.25, 0.25, 0.5]
    value = eager.penalty(sums, weights, square_root)
    expected = reference_penalty(others, weights, square_root)
    torch.testing.assert_close(value, expected)
    value.backward()
    expected.backward()
    for one, other in zip(sums, others, strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_unused_outputs_cost_no_gradient():
    x = make_input((5, 4))
    output, slack_sums, *_ = eager.jumpstart_relu(x, 1, False, 3.0, False)
    (grad,) = torch.autograd.grad(output.sum(), x)
    assert torch.equal(grad, (x > 0).double())
    assert slack_sums.requires_grad


@pytest.mark.parametrize("context", (DispatchMode, FunctionMode))
def test_leaves_modes_to_the_operator(context):
    x, sums = make_input((5, 4)), torch.ones((2, 5))
    with context():
        assert eager.jumpstart_relu(x, 1, False, 1.0, False) is None
        assert eager.penalty([sums], [1.0] * 10, False) is None


def test_leaves_transforms_and_forward_mode_to_the_operator():
    seen = []

    def run(x):
        seen.append(eager.jumpstart_relu(x, 1, False, 1.0, False))
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
    assert eager.jumpstart_relu(x, 1, False, 1.0, False) is None
    assert eager.jumpstart_relu(torch.zeros((4, 3)), 0, False, 1.0, False) is None
    assert eager.jumpstart_relu(torch.zeros((4, 3)), 2, False, 1.0, False) is None
