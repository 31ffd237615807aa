"""The CUDA kernels of the linked activations without a GPU: run by ``tests/cuda_emulator``, they equal the
reference."""

import cuda_emulator
import pytest
import torch
from cuda_emulator import linked
from cuda_emulator.cases import assert_same, make_case

from benchmarks.plans import changed
from jumpstart_kernels.ops import reference
from jumpstart_kernels.ops.activations import LINKED_ACTIVATIONS
from jumpstart_kernels.ops.arguments import NO_STATISTICS, Gradients, LinkedSaved, Options
from jumpstart_kernels.ops.layout import is_channels_last, statistics_dtype

_reason = cuda_emulator.unavailable()
pytestmark = pytest.mark.skipif(_reason is not None, reason=str(_reason))

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
# Without exponentials, whose last bits differ.
EXACT = ("linked_relu", "linked_prelu")
# Of the cases, those that between them run every kernel: one block or many, aligned or not, rows, planes and
# planes whose positions are points.
NAMES = (
    "odd", "aligned", "odd_large", "wide_large", "narrow_large", "units_last_positions", "channels_last",
    "channels_last_large_samples", "planes_49", "planes_256", "planes_long_aligned", "planes_positions",
)  # fmt: skip


def make_weight(activation, x, unit_dim):
    if LINKED_ACTIVATIONS[activation].slope_derivative is None:
        return None
    generator = torch.Generator().manual_seed(3)
    return torch.randn((2, x.shape[unit_dim]), generator=generator, dtype=torch.float64).to(x.dtype)


def make_gradients(result, wanted):
    """Those of the results whose bit is set."""
    generator = torch.Generator().manual_seed(1)
    return Gradients(
        *(
            torch.empty_like(like).copy_(torch.randn(like.shape, generator=generator))
            if wanted >> i & 1
            else None
            for i, like in enumerate((result.output, result.slack_sums, result.extrema))
        )
    )


def save(x, weight, result, options):
    from_sign = LINKED_ACTIVATIONS[options.activation].from_sign
    channels_last = is_channels_last(x, options.unit_dim)
    kept = None if from_sign else x, weight, result.mask, result.extrema, result.indices
    return LinkedSaved(*kept, list(x.shape), channels_last, x.dtype, weight is not None)


def to_double(tensors):
    """The same arguments for the reference in float64."""
    changed = {
        name: tensor.double()
        for name, tensor in tensors._asdict().items()
        if isinstance(tensor, torch.Tensor) and tensor.is_floating_point()
    }
    return tensors._replace(**changed)


def check_close(actual, exact, size):
    """Within the rounding of its dtype, and a few of the arithmetic on terms of a size."""
    atol = 16 * torch.finfo(statistics_dtype(actual.dtype)).eps * size
    rtol = 1.01 * torch.finfo(actual.dtype).eps
    torch.testing.assert_close(actual.double(), exact, rtol=rtol, atol=atol, equal_nan=True)


def check_forward(x, weight, options, **emulated):
    expected = reference.linked_activation_forward(x, weight, options)
    actual = linked.forward(x, weight, options, **emulated)
    if options.activation in EXACT:
        assert_same(actual.output, expected.output)
    else:
        check_close(actual.output, reference.linked_activation_forward(x.double(), None, options).output, 8)
    assert actual.output.stride() == expected.output.stride()
    for name in ("mask", "extrema", "indices"):
        assert_same(getattr(actual, name), getattr(expected, name))
    torch.testing.assert_close(actual.slack_sums, expected.slack_sums, rtol=1e-6, atol=0, equal_nan=True)
    return expected


def check_backward(x, weight, result, options, wanted, **emulated):
    gradients, saved = make_gradients(result, wanted), save(x, weight, result, options)
    actual = linked.backward(gradients, saved, options, **emulated)
    doubles = to_double(gradients), to_double(saved)._replace(dtype=torch.float64)
    exact = reference.linked_activation_backward(*doubles, options)
    if options.activation in EXACT:
        assert_same(actual.x, reference.linked_activation_backward(gradients, saved, options).x)
    else:
        check_close(actual.x, exact.x, 32)
    if weight is not None:
        check_close(actual.weight, exact.weight, 16 * x.numel() / x.shape[options.unit_dim])


@pytest.mark.parametrize(
    ("name", "dtype", "special"),
    [
        *((name, dtype, True) for name in NAMES for dtype in (torch.float32, torch.bfloat16)),
        *((name, dtype, False) for name in ("aligned", "planes_256") for dtype in DTYPES),
        *((name, torch.float16, True) for name in ("wide_large", "planes_49")),
    ],
    ids=str,
)
def test_equals_the_reference(name, dtype, special):
    x, unit_dim, position_points = make_case(name, dtype, special)
    kinds = (("indexed", 1.0), ("exact", 2.5), ("limited", 0.5), ("limited", 1.0))
    for activation, (kind, margin) in zip(LINKED_ACTIVATIONS, kinds, strict=True):
        weight = make_weight(activation, x, unit_dim)
        options = Options(activation, 0.0, unit_dim, position_points, margin, kind)
        result = check_forward(x, weight, options, cluster_blocks=16 if kind == "limited" else 0)
        check_backward(x, weight, result, options, 7 if activation in EXACT else 6)
        without = options._replace(extrema_kind=NO_STATISTICS)
        check_backward(x, weight, check_forward(x, weight, without), without, 1)


@pytest.mark.parametrize("most_blocks", (1, 3))
@pytest.mark.parametrize("name", NAMES)
def test_blocks_that_take_several_regions(name, most_blocks):
    x, unit_dim, position_points = make_case(name, torch.bfloat16)
    weight = make_weight("linked_prelu", x, unit_dim)
    with changed(cuda_emulator.plan_parameters(), "most_blocks", most_blocks):
        for kind, wanted in ((NO_STATISTICS, 1), ("exact", 7)):
            options = Options("linked_prelu", 0.0, unit_dim, position_points, 1.0, kind)
            result = check_forward(x, weight, options)
            check_backward(x, weight, result, options, wanted)


@pytest.mark.parametrize("name", ("wide_large", "planes_256"))
def test_misaligned_memory(name):
    x, unit_dim, position_points = make_case(name, torch.bfloat16)
    weight = make_weight("linked_prelu", x, unit_dim)
    for kind, wanted in ((NO_STATISTICS, 1), ("exact", 7)):
        options = Options("linked_prelu", 0.0, unit_dim, position_points, 1.0, kind)
        result = check_forward(x, weight, options, aligned=False)
        check_backward(x, weight, result, options, wanted, aligned=False)


@pytest.mark.parametrize("name", ("odd_large", "channels_last_large_samples", "planes_long_aligned"))
def test_same_bits_in_any_order_of_threads_and_blocks(name):
    x, unit_dim, position_points = make_case(name, torch.float32)
    x = x / 3  # sums that round
    weight = make_weight("linked_prelu", x, unit_dim)
    options = Options("linked_prelu", 0.0, unit_dim, position_points, 1.0, "exact")
    runs = []
    for seed in range(2):
        result = linked.forward(x, weight, options, seed=seed)
        gradients, saved = make_gradients(result, 7), save(x, weight, result, options)
        runs.append((*result, *linked.backward(gradients, saved, options, seed=seed)))
    for first, other in zip(*runs, strict=True):
        assert torch.equal(first, other)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
def test_exponentials(dtype):
    """From where the output is linear in x to where its exponentials vanish."""
    small = torch.logspace(-30, 1, 1000)
    x = torch.cat([torch.linspace(-110, 110, 2000), small, -small]).to(dtype).view(-1, 4)
    for activation in ("linked_selu", "linked_silu"):
        options = Options(activation, 0.0, 1, False, 1.0, NO_STATISTICS)
        exact = reference.linked_activation_forward(x.double(), None, options).output
        output = linked.forward(x, None, options).output.double()
        info = torch.finfo(dtype)
        torch.testing.assert_close(output, exact, rtol=4 * info.eps, atol=info.tiny)
