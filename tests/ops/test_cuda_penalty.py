"""The penalty's CUDA kernels without a GPU, and what a layer's backward makes of the penalty's gradient."""

import math

import cuda_emulator
import pytest
import torch
from cuda_emulator import SCALARS, penalty
from cuda_emulator.cases import CASES, assert_same, make_case, make_gradients, save

from jumpstart_kernels.ops import reference
from jumpstart_kernels.ops.arguments import Options
from jumpstart_kernels.ops.slack import LAYER_SUMS, SUMS_SHAPE, SlackSum

_reason = cuda_emulator.unavailable()
pytestmark = pytest.mark.skipif(_reason is not None, reason=str(_reason))

WEIGHTS = {
    "linear": [0.5, 0.25, 0.0, 0.0, 0.0, 0.125, 1.0, 0.0, 0.0, 0.0],
    "squares": [0.0, 0.0, 0.09, 0.49, 0.42, 0.0, 0.0, 0.25, 0.25, 0.5],
    "none": [0.0] * LAYER_SUMS,
}


@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS)
@pytest.mark.parametrize("layers", (1, 5, 448, 1000))
@pytest.mark.parametrize("square_root", (False, True))
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
def test_penalty(layers, weights, square_root, dtype):
    generator = torch.Generator().manual_seed(layers)
    slack_sums = list(torch.rand((layers, *SUMS_SHAPE), generator=generator, dtype=torch.float64).to(dtype))
    value = penalty.forward(slack_sums, weights, square_root)
    expected = reference.penalty(slack_sums, weights, square_root)
    rtol = 10 * layers * torch.finfo(dtype).eps
    torch.testing.assert_close(value, expected, rtol=rtol, atol=0)
    grad, root = torch.tensor(0.3, dtype=dtype), expected if square_root else None
    torch.testing.assert_close(
        penalty.backward(grad, root, weights),
        reference.penalty_backward(grad, root, weights),
    )


def test_a_sum_without_weight_stays_out_of_the_penalty():
    sums = torch.ones(SUMS_SHAPE)
    sums[:, SlackSum.POSITIVE_SQUARED :] = torch.inf
    assert penalty.forward([sums], WEIGHTS["linear"], False).item() == sum(WEIGHTS["linear"])


@pytest.mark.parametrize("dtype", SCALARS, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_the_backward_takes_a_penalty_s_gradient(name, dtype):
    """Bitwise as that of the slack sums which follows from it."""
    x, unit_dim, position_points = make_case(name, dtype, special=True)
    place = list(CASES).index(name) + SCALARS.index(dtype)
    options = Options("relu", 0.0, unit_dim, position_points, 1.0, extrema_kind="limited")
    result = reference.jumpstart_activation_forward(x, None, options)
    roots = (None, *(torch.tensor(root, dtype=result.extrema.dtype) for root in (0.7, 0.0, math.nan)))
    for run, root in enumerate(roots):
        for with_bias in (False, True):
            weights = list(WEIGHTS.values())[(place + run + with_bias) % len(WEIGHTS)]
            given = cuda_emulator.PenaltyGradient(torch.tensor(0.3).to(result.extrema), root, weights)
            saved = save(x, result, options, with_bias)
            gradients = make_gradients(x, result, 1 + 4 * ((place + run) % 2))
            emulated = {"multiprocessors": 1 + 131 * (run % 2), "seed": run}
            fused = cuda_emulator.backward(gradients, saved, options, given, **emulated)
            sums = penalty.backward(*given)
            apart = cuda_emulator.backward(gradients._replace(slack_sums=sums), saved, options, **emulated)
            assert_same(fused.x, apart.x)
            if with_bias:
                assert_same(fused.bias, apart.bias)


@pytest.mark.parametrize("axis", (0, 1), ids=("units", "points"))
@pytest.mark.parametrize("name", CASES)
def test_a_gradient_of_one_sum_alone(name, axis):
    x, unit_dim, position_points = make_case(name, torch.float32, special=True)
    options = Options("relu", 0.0, unit_dim, position_points, 1.0, extrema_kind="limited")
    result = reference.jumpstart_activation_forward(x, None, options)
    for each in SlackSum:
        slack_sums = torch.zeros(SUMS_SHAPE)
        slack_sums[axis, each] = math.nan if each == SlackSum.PRODUCT else 0.3
        gradients = make_gradients(x, result, 1)._replace(slack_sums=slack_sums)
        saved = save(x, result, options)
        expected = reference.jumpstart_activation_backward(gradients, saved, options)
        assert_same(cuda_emulator.backward(gradients, saved, options).x, expected.x)
