"""The emulated kernels on activations of more elements than there is memory or time for.

All but their last samples are zeros that take no memory, and of each launch only some blocks run. The others
would find what is there anyway: outputs, masks and partial extrema of zeros are zeros.
"""

import ctypes
from typing import NamedTuple

import torch
from sparse_memory import sparse_zeros
from torch import Tensor

from cuda_emulator import SCALARS, _address, _BackwardCall, _ForwardCall, _Layout, _raise, library
from jumpstart_kernels.kernels.layout import (
    Layout,
    is_channels_last,
    make_layout,
    mask_shape,
    point_count,
    statistics_dtype,
)


class Plan(ctypes.Structure):
    """What ``csrc/cuda/plan.cpp`` makes of a layout."""

    _fields_ = [
        (name, ctypes.c_int64)
        for name in (
            "blocks", "work", "tiles", "unit_blocks", "point_blocks", "extent",
            "backward_blocks", "backward_work", "backward_tiles", "backward_extent",
        )
    ]  # fmt: skip


class Ends(NamedTuple):
    """Of a launch, how many of the first blocks run and how many of the last."""

    first: int
    last: int


def plan(layout: Layout, position_points: bool, vector: int, multiprocessors: int) -> Plan:
    found = Plan()
    library().emulator_plan(
        ctypes.byref(_Layout(*layout)), ctypes.c_bool(position_points), ctypes.c_int(vector),
        ctypes.c_int(multiprocessors), ctypes.byref(found),
    )  # fmt: skip
    return found


def _limit(*launches: Ends) -> None:
    for ends in launches:
        library().emulator_limit(*ends)


def forward(
    x: Tensor,
    unit_dim: int,
    position_points: bool,
    margin: float,
    multiprocessors: int,
    streaming: Ends,
    merge: Ends,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Output, mask, extrema and all indices of an aligned ``x``, as far as the blocks that run write them."""
    layout = make_layout(x.shape, unit_dim, is_channels_last(x, unit_dim))
    count = layout.units + point_count(x.shape, unit_dim, position_points)
    dtype = statistics_dtype(x.dtype)
    output = sparse_zeros(x.shape, x.dtype, layout.channels_last)
    mask = sparse_zeros(mask_shape(layout), torch.uint8)
    slack_sums, extrema = sparse_zeros((2, 5), dtype), sparse_zeros((2, count), dtype)
    indices = sparse_zeros((2, count), torch.int64)
    call = _ForwardCall(
        SCALARS.index(x.dtype), *map(_address, (x, output, mask, slack_sums, extrema, indices)),
        _Layout(*layout), position_points, True, margin, multiprocessors,
    )  # fmt: skip
    size = library().emulator_forward_workspace(ctypes.byref(call))
    workspace = sparse_zeros((size,), torch.uint8)
    _limit(streaming, merge)
    _raise(library().emulator_forward(ctypes.byref(call), ctypes.c_void_p(_address(workspace))))
    return output, mask, extrema, indices


def backward(
    grad_output: Tensor,
    grad_slack_sums: Tensor,
    mask: Tensor,
    extrema: Tensor,
    indices: Tensor,
    unit_dim: int,
    margin: float,
    multiprocessors: int,
    ends: Ends,
) -> Tensor:
    layout = make_layout(grad_output.shape, unit_dim, is_channels_last(grad_output, unit_dim))
    grad_x = sparse_zeros(grad_output.shape, grad_output.dtype, layout.channels_last)
    call = _BackwardCall(
        SCALARS.index(grad_output.dtype),
        *map(_address, (grad_output, mask, grad_x, grad_slack_sums, None, extrema, indices)),
        _Layout(*layout), extrema.shape[1] - layout.units, margin, multiprocessors,
    )  # fmt: skip
    _limit(ends)
    _raise(library().emulator_backward(ctypes.byref(call)))
    return grad_x
