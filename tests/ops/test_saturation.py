"""Limited extrema: what is not followed beyond the margin changes nothing but the extrema themselves."""

import itertools

import cuda_emulator
import pytest
import torch

from jumpstart_kernels.ops import OVERLOADS, backends
from jumpstart_kernels.ops.activations import NONE
from jumpstart_kernels.ops.arguments import ForwardResult, Options

# Long enough that units and points are satisfied long before their end, and both parts of a kernel run. Name:
# size, unit dimension, whether channels_last.
LAYOUTS = {
    "matrix": ((200, 512), 1, False),
    "ragged": ((131, 333), 1, False),
    "wide": ((70, 2309), 1, False),  # several tiles of columns
    "narrow": ((150, 4), 1, False),
    "one_unit": ((3000, 1), 1, False),
    "tokens": ((3, 70, 400), 2, False),  # like the planes, a sample lies in two tasks
    "planes": ((5, 7, 48, 50), 1, False),
    "small_planes": ((40, 3, 5, 5), 1, False),
    "channels_last": ((3, 130, 9, 10), 1, True),
}
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def values(size):
    return torch.randn(size, generator=torch.Generator().manual_seed(sum(size)), dtype=torch.float64)


def with_units(x, dim, change):
    for unit in range(x.shape[dim]):
        change(x.select(dim, unit), unit)
    return x


def late(part, unit):
    """Dead and linear but for the last value of one unit in three."""
    part.abs_().neg_() if unit % 2 else part.abs_()
    if unit % 3 == 0:
        last = tuple(length - 1 for length in part.shape)
        part[last] = 3.0 if unit % 2 else -3.0


def some_unhealthy(part, unit):
    if unit % 10 == 3:
        part.abs_().neg_()
    elif unit % 10 == 7:
        part.abs_()


HEALTH = {
    "healthy": lambda x, dim: x,
    "some_unhealthy": lambda x, dim: with_units(x, dim, some_unhealthy),
    "all_dead": lambda x, dim: x.abs_().neg_(),
    "all_linear": lambda x, dim: x.abs_(),
    "late": lambda x, dim: with_units(x, dim, late),
    "at_the_margin": lambda x, dim: x.clamp_(-1, 1),
    "late_nan": lambda x, dim: put(x, -7, torch.nan),
    "nan_everywhere": lambda x, dim: put(put(put(x, 0, torch.nan), 1000, torch.nan), -1, torch.nan),
    "late_infinities": lambda x, dim: put(put(x, -3, torch.inf), -4, -torch.inf),
    "late_infinity": lambda x, dim: put(x, -3, -torch.inf),
}


def put(x, place, value):
    x.view(-1)[place % x.numel()] = value
    return x


def run(backend, x, options):
    x = x.detach().requires_grad_()
    result = ForwardResult(*OVERLOADS[backend](x, None, *options))
    grads = torch.randn(2, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    outputs, given = [result.slack_sums], [grads.to(result.slack_sums)]
    if options.activation != NONE:
        outputs, given = [result.output, *outputs], [torch.ones_like(result.output), *given]
    (grad,) = torch.autograd.grad(outputs, x, given)
    return result, grad


def assert_same(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("health", HEALTH)
@pytest.mark.parametrize(("name", "threads"), [*((name, 2) for name in LAYOUTS), ("matrix", 1)])
def test_is_the_exact_forward_to_the_bit(instruction_set, name, health, threads):
    size, unit_dim, channels_last = LAYOUTS[name]
    base = HEALTH[health](values(size), unit_dim)
    if channels_last:
        base = base.contiguous(memory_format=torch.channels_last)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for dtype in DTYPES:
            for activation, position_points, margin in (
                ("relu", False, 1.0),
                ("leaky_relu", True, 0.5),
                (NONE, False, 1.0),
                ("relu", False, 0.0),
            ):
                options = Options(activation, 0.3, unit_dim, position_points, margin, "exact")
                check(base.to(dtype), options)
    finally:
        torch.set_num_threads(before)


def check(x, options):
    exact, grad_exact = run("native", x, options)
    limited, grad_limited = run("native", x, options._replace(extrema_kind="limited"))
    for name in ("output", "mask", "slack_sums", "indices"):
        assert_same(getattr(limited, name), getattr(exact, name))
    assert_same(grad_limited, grad_exact)
    reference = ForwardResult(*OVERLOADS["reference"](x, None, *options._replace(extrema_kind="limited")))
    assert_same(limited.extrema, reference.extrema)
    assert_same(limited.indices, reference.indices)
    assert_same(limited.output, reference.output)


def make(name, health):
    size, unit_dim, channels_last = LAYOUTS[name]
    x = HEALTH[health](values(size), unit_dim)
    return x.contiguous(memory_format=torch.channels_last) if channels_last else x


VARIANTS = list(itertools.product(("relu", "leaky_relu", NONE), (False, True)))  # positions as points or not


@pytest.mark.skipif(cuda_emulator.unavailable() is not None, reason=str(cuda_emulator.unavailable()))
@pytest.mark.parametrize("health", HEALTH)
@pytest.mark.parametrize("name", LAYOUTS)
def test_cuda_kernels_equal_the_reference(name, health):
    """In regions of many steps, which have satisfied their columns after a few; wide and narrow vectors."""
    x, place = make(name, health), list(LAYOUTS).index(name) + list(HEALTH).index(health)
    for i, dtype in enumerate(DTYPES):
        activation, position_points = VARIANTS[(place + i) % len(VARIANTS)]
        margin = (1.0, 0.3, 0.0)[(place + i) % 3]  # 0.3 is no float16, nor bfloat16
        options = Options(activation, 0.3, LAYOUTS[name][1], position_points, margin, "limited")
        expected = OVERLOADS["reference"](x.to(dtype), None, *options)
        actual = cuda_emulator.forward(
            x.to(dtype), None, options, multiprocessors=1, seed=i, aligned=i % 3 > 0, inplace=i == place % 4
        )
        for result, reference in zip(actual, expected, strict=True):
            if result is actual.slack_sums:
                torch.testing.assert_close(result, reference, rtol=1e-5, atol=0, equal_nan=True)
            elif result is not None:
                assert_same(result, reference)


@pytest.mark.skipif(cuda_emulator.unavailable() is not None, reason=str(cuda_emulator.unavailable()))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["matrix", "planes"])
def test_cuda_kernels_where_a_sum_overflows(layout, dtype):
    """With an infinity of the other sign it is NaN, though no value is, after the margin has been reached."""
    largest, pieces = torch.finfo(dtype).max, 4096 // dtype.itemsize  # two that a warp takes in turn
    size, dim = ((300, 64), 0) if layout == "matrix" else ((2, 3, pieces), 2)
    x = torch.full(size, largest / 2.5, dtype=torch.float64)
    half = x.narrow(dim, 0, size[dim] // 2)
    half.fill_(largest / 1.5).select(dim, 1).neg_()
    x.select(dim, -1).fill_(-torch.inf)
    options = Options("relu", 0.0, 1, False, largest / 2, "limited")
    expected = ForwardResult(*OVERLOADS["reference"](x.to(dtype), None, *options))
    actual = cuda_emulator.forward(x.to(dtype), None, options, multiprocessors=1)
    for name in ("output", "mask", "extrema", "indices"):
        assert_same(getattr(actual, name), getattr(expected, name))
    torch.testing.assert_close(actual.slack_sums, expected.slack_sums, rtol=1e-5, atol=0)
    assert (expected.indices[:, : size[1]] == -1).all()


@pytest.mark.gpu
@pytest.mark.parametrize("health", HEALTH)
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_gpu_equals_the_reference(name, health):
    """The native kernels: Triton's follow everything."""
    reason = backends.unavailable("native", "cuda")
    if reason is not None:
        pytest.skip(f"native on cuda: {reason}")
    base, place = make(name, health), list(LAYOUTS).index(name) + list(HEALTH).index(health)
    for i, dtype in enumerate(DTYPES):
        x = base.to("cuda", dtype)
        activation, position_points = VARIANTS[(place + i) % len(VARIANTS)]
        options = Options(activation, 0.3, LAYOUTS[name][1], position_points, 1.0, "limited")
        expected, grad_expected = run("reference", x, options)
        actual, grad = run("native", x, options)
        for part in ("output", "mask", "extrema", "indices"):
            assert_same(getattr(actual, part), getattr(expected, part))
        torch.testing.assert_close(actual.slack_sums, expected.slack_sums, rtol=1e-5, atol=0, equal_nan=True)
        assert_same(grad, grad_expected)
