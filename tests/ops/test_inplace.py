"""The in-place operator, below autograd: bitwise equal to the out-of-place one."""

import itertools

import pytest
import torch

from jumpstart_kernels.ops import OVERLOADS, backends
from jumpstart_kernels.ops.activations import ACTIVATIONS, NONE
from jumpstart_kernels.ops.arguments import EXTREMA_KINDS, Options

SIZES = ((1, 1), (5, 3), (33, 4), (64, 17), (20, 64), (7, 100), (3, 1031), (3, 5, 7, 7), (2, 3, 2, 2))
# Places in the flattened tensor, within whole vectors and behind them.
BROKEN = {"finite": (), "first": (0,), "last": (-1,), "some": (1, -2)}


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    """Of the native backend: no other has an operator that overwrites."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    reason = backends.unavailable("native", request.param)
    if reason is not None:
        pytest.skip(f"native on {request.param}: {reason}")
    with backends.use_backend("native"):
        yield request.param


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.float16, torch.bfloat16), ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_overwriting_equals_a_second_tensor(device, poisoned_memory, size, dtype):
    for with_bias, activation, kind in itertools.product((False, True), ACTIVATIONS, BROKEN):
        places = BROKEN[kind]
        x = torch.randn(size, generator=torch.Generator().manual_seed(sum(size))).to(device, dtype)
        for place in places:
            x.view(-1)[place % x.numel()] = torch.nan
        bias = torch.randn(size[1], generator=torch.Generator().manual_seed(1)).to(x) if with_bias else None
        options = Options(activation, 0.3, 1, False, 1.0, EXTREMA_KINDS[len(places) % 3])
        expected = OVERLOADS["native"](x, bias, *options)
        statistics = torch.ops.jumpstart_kernels.jumpstart_activation_.native(x, bias, *options)
        message = f"{activation}, {kind}, {'with' if with_bias else 'without'} a bias: {{}}".format
        for actual, other in zip((x, *statistics), expected, strict=True):
            torch.testing.assert_close(actual, other, rtol=0, atol=0, equal_nan=True, msg=message)


def test_there_has_to_be_an_output(device):
    x = torch.ones(2, 3, device=device)
    options = Options(NONE, 0.0, 1, False, 1.0, extrema_kind="exact")
    with pytest.raises(ValueError, match="activation must not be 'none' in place"):
        torch.ops.jumpstart_kernels.jumpstart_activation_.native(x, None, *options)
