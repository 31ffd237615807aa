"""The operator ``penalty``: the kernels and nodes of every backend against their reference."""

import re

import pytest
import torch

from jumpstart_kernels.ops import PENALTY_OVERLOADS, backends
from jumpstart_kernels.ops.reference import penalty
from jumpstart_kernels.ops.slack import LAYER_SUMS, SUMS_SHAPE


@pytest.fixture(params=("native", "triton"))
def operator(request):
    reason = backends.unavailable(request.param, "cpu")
    if reason is not None:
        pytest.skip(f"{request.param} on cpu: {reason}")
    return PENALTY_OVERLOADS[request.param]


WEIGHTS = {
    "linear": [0.5, 0.25, 0.0, 0.0, 0.0, 0.125, 1.0, 0.0, 0.0, 0.0],
    "squares": [0.0, 0.0, 0.09, 0.49, 0.42, 0.0, 0.0, 0.25, 0.25, 0.5],
    "none": [0.0] * LAYER_SUMS,
}


def make_sums(layers: int = 3, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    sums = torch.rand((layers, *SUMS_SHAPE), generator=generator, dtype=torch.float64).to(dtype) + 0.1
    return [layer.clone().requires_grad_() for layer in sums]


@pytest.mark.parametrize("square_root", [False, True])
@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS)
def test_equals_the_reference(operator, weights, square_root):
    ours, theirs = make_sums(), make_sums()
    value = operator(ours, weights, square_root)
    expected = penalty(theirs, weights, square_root)
    torch.testing.assert_close(value, expected, rtol=1e-14, atol=0)
    if any(weights):
        (2 * value).backward()
        (2 * expected).backward()
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-13, atol=0)


@pytest.mark.parametrize("square_root", [False, True])
def test_gradients(operator, square_root):
    def run(*sums):
        return operator(list(sums), WEIGHTS["squares"], square_root)

    assert torch.autograd.gradcheck(run, make_sums())
    assert torch.autograd.gradgradcheck(run, make_sums())


def test_square_root_of_zero_has_gradient_zero(operator):
    sums = [torch.zeros(SUMS_SHAPE, requires_grad=True)]
    operator(sums, WEIGHTS["squares"], True).backward()
    assert torch.equal(sums[0].grad, torch.zeros(SUMS_SHAPE))


def test_a_sum_without_weight_stays_out(operator):
    sums = torch.ones(SUMS_SHAPE)
    sums[:, 2:] = torch.inf
    assert operator([sums], WEIGHTS["linear"], False).item() == sum(WEIGHTS["linear"])


@pytest.mark.parametrize("square_root", [False, True])
def test_opcheck(operator, square_root):
    sums = make_sums(dtype=torch.float32)
    torch.library.opcheck(operator, (sums, WEIGHTS["squares"], square_root))


@pytest.mark.parametrize(
    ("sums", "weights", "message"),
    [
        ([torch.ones(SUMS_SHAPE)], [1.0], f"weights must be {LAYER_SUMS} numbers"),
        ([torch.ones(2, 4)], WEIGHTS["linear"], re.escape(f"slack_sums must be of shape {list(SUMS_SHAPE)}")),
        ([torch.ones(SUMS_SHAPE), torch.ones(SUMS_SHAPE).double()], WEIGHTS["linear"], "one dtype"),
    ],
)
def test_errors_name_the_argument(operator, sums, weights, message):
    with pytest.raises(ValueError, match=message):
        operator(sums, weights, False)
