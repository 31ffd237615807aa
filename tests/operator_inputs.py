"""Inputs of every kind for the tests of the operators."""

import math

import torch


def layouts(device="cpu", dtype=torch.float32):
    """Name, tensor and unit dimension of every kind of memory layout."""
    generator = torch.Generator().manual_seed(0)

    def make(*size):
        return torch.randn(size, generator=generator).to(device, dtype)

    return [
        ("one_dim", make(7), 0),
        ("2d", make(5, 9), 1),
        ("2d_transposed", make(9, 5).t(), 1),
        ("2d_sliced", make(10, 18)[::2, 1::2], 1),
        ("2d_expanded", make(1, 9).expand(5, 9), 1),
        ("2d_misaligned", make(46)[1:].view(5, 9), 1),
        ("units_first", make(4, 6, 5), 0),
        ("units_last", make(4, 6, 5), 2),
        ("4d", make(3, 5, 4, 6), 1),
        ("channels_last", make(3, 5, 4, 6).contiguous(memory_format=torch.channels_last), 1),
        ("channels_last_sliced", make(3, 8, 4, 6).contiguous(memory_format=torch.channels_last)[:, 1:6], 1),
        ("channels_last_unit_dim_3", make(3, 5, 4, 6).contiguous(memory_format=torch.channels_last), 3),
        ("4d_permuted", make(3, 5, 4, 6).permute(2, 0, 3, 1), 1),
        ("one_channel", make(3, 1, 4, 6).contiguous(memory_format=torch.channels_last), 1),
        ("one_pixel", make(3, 5, 1, 1).contiguous(memory_format=torch.channels_last), 1),
        ("channels_last_3d", make(2, 3, 4, 2, 3).contiguous(memory_format=torch.channels_last_3d), 1),
        ("empty", make(0, 4), 1),
        ("no_units", make(3, 0, 2), 1),
    ]


def names_of(tensors):
    return [name for name, *_ in tensors]


def away_from_kinks(*size):
    """Float64 with values apart from each other, from 0 and from ±1, and every kind of slack."""
    count = math.prod(size)
    values = 0.9 * (torch.arange(count, dtype=torch.float64) + 0.5) / count  # in (0, 0.9): slack everywhere
    values = values[torch.randperm(count, generator=torch.Generator().manual_seed(3))].view(size)
    sign = torch.where(torch.arange(count).view(size) % 3 == 0, -1, 1)
    values = sign * values
    values[:, 1], values[:, 2] = values[:, 1].abs(), -values[:, 2].abs()  # a linear unit, a dead one
    values[:, 3] *= 1.2  # and one that reaches past the margin
    assert (values.abs() - 1).abs().min() > 1e-4 and values.unique().numel() == count
    return values


def check_gradients(function, inputs, target):
    # Interpreted kernels are slow: there, along random directions instead of for every element.
    fast_mode = target == ("triton", "cpu")
    assert torch.autograd.gradcheck(function, inputs, fast_mode=fast_mode)
    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=fast_mode)
