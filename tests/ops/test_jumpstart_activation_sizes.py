"""Shapes beyond small ones: vector tails, many tiles, several threads; against the reference."""

import gc

import pytest
import torch
from operators import run_forward

from jumpstart_kernels.ops.layout import along_units, unit_rows

# Size, unit dimension, whether in channels_last.
SIZES = {
    "2d": ((300, 130), 1, False),
    "2d_narrow": ((5000, 3), 1, False),
    "2d_wide": ((3, 5003), 1, False),
    "one_unit": ((4097, 1), 1, False),
    "one_sample": ((1, 4097), 1, False),
    "units_last": ((9, 31, 72), 2, False),
    "units_in_the_middle": ((7, 5, 33, 19), 2, False),
    "signal": ((6, 37, 129), 1, False),
    "image": ((5, 19, 23, 17), 1, False),
    "image_aligned": ((4, 32, 16, 16), 1, False),
    "image_channels_last": ((5, 19, 23, 17), 1, True),
    "image_channels_last_aligned": ((4, 64, 12, 12), 1, True),
    "volume": ((2, 7, 9, 11, 13), 1, False),
    "volume_channels_last": ((2, 7, 9, 11, 13), 1, True),
}
RUNS = [(dtype, "sample") for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16)]
RUNS += [(torch.float32, "position")]


def make_input(size, channels_last, dtype, device, ties=False):
    generator = torch.Generator().manual_seed(sum(size))
    x = torch.randn(size, generator=generator, dtype=torch.float64)
    x = x + torch.randint(-1, 2, size[:2] + (1,) * (len(size) - 2), generator=generator) * 4  # dead, linear
    x = x.round() if ties else x
    x = x.to(device, dtype)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last if x.dim() == 4 else torch.channels_last_3d)
    return x


def run(backend, x, *options, bias=None):
    """All results of a forward and a backward."""
    inputs = [tensor.detach().requires_grad_() for tensor in (x, bias) if tensor is not None]
    x, bias = inputs if len(inputs) == 2 else (*inputs, None)
    output, mask, slack_sums, extrema, indices = run_forward(backend, x, *options, bias=bias)
    generator = torch.Generator().manual_seed(1)
    outputs = (output, slack_sums, extrema)
    # Few binary digits, so the same in every dtype.
    grads = [(torch.randint(-16, 17, o.shape, generator=generator) / 8).to(o) for o in outputs]
    return output, mask, extrema, indices, slack_sums, *torch.autograd.grad(outputs, inputs, grads)


def make_bias(x, unit_dim):
    """Of few binary digits, so that sums of 16 bits tie."""
    generator = torch.Generator().manual_seed(x.shape[unit_dim])
    return (torch.randint(-9, 10, x.shape[unit_dim : unit_dim + 1], generator=generator) / 4).to(x)


@pytest.mark.parametrize(("dtype", "points"), RUNS)
@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("with_bias", (False, True), ids=("", "bias"))
def test_equals_the_reference(target, poisoned_memory, with_bias, name, dtype, points):
    backend, device = target
    size, unit_dim, channels_last = SIZES[name]
    if target == ("triton", "cpu"):
        narrow = (torch.float16, torch.bfloat16)[list(SIZES).index(name) % 2]  # of the same size, in turn
        if points == "position" or dtype not in (torch.float32, narrow) or with_bias:
            pytest.skip(
                "interpreted kernels are slow; small shapes of the same run in test_jumpstart_activation.py"
            )
    x = make_input(size, channels_last, dtype, device, ties=dtype == torch.float64)
    options = (unit_dim, points == "position")
    bias = make_bias(x, unit_dim) if with_bias else None
    *exact, slack_sums, grad_x = run(backend, x, *options, bias=bias)[:6]
    *expected, _, _ = run("reference", x, *options, bias=bias)[:6]
    for actual, reference in zip(exact, expected, strict=True):
        torch.testing.assert_close(actual, reference, rtol=0, atol=0, check_stride=True)
    # In float64 the sum with a bias is another number: only that of the dtype has these extrema.
    x_64 = x.double() if bias is None else (x + along_units(bias, x.dim(), unit_dim)).double()
    *_, slack_sums_64, grad_x_64 = run("reference", x_64, *options)
    statistics = slack_sums.dtype
    terms = exact[2].shape[1]
    # As in test_jumpstart_activation.py: K terms and K + 5 roundings, of (slack + margin)², below 200 here.
    roundoff = torch.finfo(statistics).eps / 2
    torch.testing.assert_close(
        slack_sums.double(), slack_sums_64, rtol=0, atol=terms * (terms + 5) * roundoff * 200
    )
    # Less than 16 roundings of sums below 200, then one to the dtype of x.
    rounding = torch.finfo(dtype).eps / 2
    torch.testing.assert_close(grad_x.double(), grad_x_64, rtol=rounding, atol=16 * roundoff * 200)
    assert grad_x.stride() == x.stride()
    if with_bias:
        grad_bias = run(backend, x, *options, bias=bias)[6]
        rows = unit_rows(grad_x_64, unit_dim)  # [units, elements]
        expected = rows.sum(1)
        error = (grad_bias.double() - expected).abs()
        # The roundings of one gradient as above, those of their sum, then one to the dtype.
        bound = 16 * roundoff * 200 + (rows.shape[1] + 16) * roundoff * rows.abs().sum(1)
        assert (error <= bound + rounding * expected.abs()).all()


@pytest.mark.parametrize("name", ("2d", "2d_narrow", "image", "image_channels_last"))
def test_same_bits_by_any_number_of_threads(target, name):
    backend, device = target
    if device != "cpu" or backend == "triton":
        pytest.skip("this backend does not run on the CPU's threads")
    size, unit_dim, channels_last = SIZES[name]
    x = make_input((size[0] * 8, *size[1:]), channels_last, torch.float32, device)
    threads = torch.get_num_threads()
    try:
        results = []
        for number in (1, 2, 5):
            torch.set_num_threads(number)
            results.append(run(backend, x, unit_dim, False, bias=make_bias(x, unit_dim)))
    finally:
        torch.set_num_threads(threads)
    for result in results[1:]:
        for first, other in zip(results[0], result, strict=True):
            assert torch.equal(first, other)


@pytest.mark.parametrize("points", ("sample", "position"))
@pytest.mark.parametrize("size", ((1, 64, 64, 64), (3, 41, 50, 50), (1, 2, 300, 300)), ids=str)
def test_more_threads_than_samples(target, size, points):
    """A thread then has planes of only some units."""
    backend, device = target
    if device != "cpu" or backend == "triton":
        pytest.skip("this backend does not run on the CPU's threads")
    x = make_input(size, False, torch.float32, device)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(7)
        for shift in (-9.0, 9.0):  # memory that nobody wrote, zeros as a rule, would be an extremum
            shifted = x + shift
            *exact, _, grad_x = run(backend, shifted, 1, points == "position")
            *expected, _, expected_grad = run("reference", shifted, 1, points == "position")
            for actual, reference in zip(exact, expected, strict=True):
                assert torch.equal(actual, reference)
            torch.testing.assert_close(grad_x, expected_grad)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.gpu
@pytest.mark.parametrize("channels_last", (False, True))
def test_more_than_two_to_the_31_elements(target, channels_last):
    backend, device = target
    if device != "cuda":
        pytest.skip("takes a GPU's memory and speed")
    gc.collect()
    torch.cuda.empty_cache()  # what the test before has left
    free, _ = torch.cuda.mem_get_info()
    if free < 60 * 2**30:
        pytest.skip("takes 60 GiB of GPU memory")
    check_planted_extrema(backend, (33, 64, 1024, 1024), channels_last, torch.float16, device)


def test_planted_extrema(target):
    """A small version of the test above, for machines without such a GPU."""
    backend, device = target
    check_planted_extrema(backend, (3, 5, 4, 4), False, torch.float16, device)
    check_planted_extrema(backend, (3, 5, 4, 4), True, torch.float16, device)


def check_planted_extrema(backend, size, channels_last, dtype, device):
    """A tensor of -0.5 with one 0.25 in the last place and one -0.75 just before it."""
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    x = torch.empty(size, dtype=dtype, device=device, memory_format=memory_format).fill_(-0.5)
    x[-1, -1, -1, -1], x[-1, -1, -1, -2] = 0.25, -0.75
    x.requires_grad_()
    output, _, slack_sums, extrema, indices = run_forward(backend, x)
    units, points = size[1], size[0]
    expected = torch.full((2, units + points), -0.5)
    expected[0, [units - 1, -1]], expected[1, [units - 1, -1]] = 0.25, -0.75
    assert torch.equal(extrema.cpu(), expected)
    last = x.numel() - 1
    assert (
        indices[0, units - 1] == indices[0, -1] == last
        and indices[1, units - 1] == indices[1, -1] == last - 1
    )
    assert output.count_nonzero() == 1 and output[-1, -1, -1, -1] == 0.25
    sums = [[1.5 * (count - 1) + 0.75, 0.5 * (count - 1) + 0.25] for count in (units, points)]
    assert slack_sums[:, :2].tolist() == sums  # exact: few binary digits
    (grad_x,) = torch.autograd.grad(
        [output, slack_sums], x, [torch.ones_like(output), torch.ones_like(slack_sums)]
    )
    # 1 from the output; −1 − 2 s⁺ − s⁻ with s⁺ = 0.75, s⁻ = 0.25 from the unit, and the same from the sample.
    assert grad_x[-1, -1, -1, -1] == 1 - 2 * 2.75
