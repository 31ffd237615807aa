"""Inputs of the tests that run the emulated kernels."""

import math

import torch
from torch import Tensor

from jumpstart_kernels.ops.arguments import ForwardResult, Gradients, Options, Saved
from jumpstart_kernels.ops.layout import is_channels_last

SPECIAL = (math.nan, math.inf, -math.inf, -0.0, 0.0)
# Size, unit dimension, whether in channels_last, whether points are positions. Beyond 16384 elements two
# launches work together; below, one does it all.
CASES: dict[str, tuple[tuple[int, ...], int, bool, bool]] = {
    "thin": ((256, 4), 1, False, False),
    "one_row": ((1, 40), 1, False, False),
    "one_unit": ((67, 1), 1, False, False),
    "one_element": ((1, 1), 1, False, False),
    "odd": ((37, 13), 1, False, False),
    "aligned": ((40, 64), 1, False, False),
    "aligned_large": ((300, 256), 1, False, False),
    "odd_large": ((150, 131), 1, False, False),
    "narrow_large": ((5000, 4), 1, False, False),
    "wide": ((3, 2051), 1, False, False),
    "wide_large": ((9, 2048), 1, False, False),
    "one_dim": ((77,), 0, False, True),
    "units_first": ((5, 24, 9), 0, False, True),
    "units_last": ((3, 31, 72), 2, False, False),
    "units_last_positions": ((3, 31, 72), 2, False, True),
    "units_in_the_middle": ((3, 5, 7, 11), 2, False, False),
    "channels_last": ((3, 24, 9, 5), 1, True, False),
    "channels_last_positions": ((3, 24, 9, 5), 1, True, True),
    "channels_last_large_samples": ((2, 40, 17, 19), 1, True, False),
    "channels_last_small_samples": ((20, 130, 3, 3), 1, True, False),
    "channels_last_3d": ((2, 7, 5, 4, 3), 1, True, False),
    "planes_49": ((3, 8, 7, 7), 1, False, False),
    "planes_2": ((9, 5, 2), 1, False, False),
    "planes_196": ((3, 40, 14, 14), 1, False, False),
    "planes_256": ((2, 40, 16, 16), 1, False, False),
    "planes_long": ((2, 3, 65, 65), 1, False, False),
    "planes_long_aligned": ((2, 3, 64, 96), 1, False, False),
    "planes_positions": ((3, 5, 7, 9), 1, False, True),
    "planes_positions_large": ((2, 40, 20, 16), 1, False, True),
    "volume": ((2, 7, 5, 6, 4), 1, False, False),
}


def make_input(
    size: tuple[int, ...], channels_last: bool, dtype: torch.dtype, special: bool = False
) -> Tensor:
    generator = torch.Generator().manual_seed(sum(size))
    x = (2 * torch.randn(size, generator=generator, dtype=torch.float64)).round() / 2  # with ties
    shift = torch.randint(-1, 2, size[1:2] + (1,) * (len(size) - 2), generator=generator)
    x = x + 4 * (shift if len(size) > 1 else 0)  # dead and linear units
    if special:
        chosen = torch.tensor(SPECIAL)[torch.randint(len(SPECIAL), size, generator=generator)]
        x = torch.where(torch.rand(size, generator=generator) < 0.02, chosen.double(), x)
    x = x.to(dtype)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last if x.dim() == 4 else torch.channels_last_3d)
    return x


def make_case(name: str, dtype: torch.dtype, special: bool = False) -> tuple[Tensor, int, bool]:
    """Of a case, the input, its unit dimension and whether points are positions."""
    size, unit_dim, channels_last, position_points = CASES[name]
    return make_input(size, channels_last, dtype, special), unit_dim, position_points


def assert_same(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)


def make_gradients(x: Tensor, result: ForwardResult, wanted: int) -> Gradients:
    """Those of the results whose bit is set."""
    generator = torch.Generator().manual_seed(1)
    return Gradients(
        *(
            torch.empty_like(like).copy_(torch.randn(like.shape, generator=generator))
            if wanted >> i & 1
            else None
            for i, like in enumerate((x, result.slack_sums, result.extrema))
        )
    )


def save(x: Tensor, result: ForwardResult, options: Options, with_grad_bias: bool = False) -> Saved:
    channels_last = is_channels_last(x, options.unit_dim)
    kept = result.mask, result.extrema, result.indices
    return Saved(*kept, list(x.shape), channels_last, x.dtype, with_grad_bias)
