"""The emulated kernels on tensors too large for memory or time.

All but the last samples are zeros that take no memory, and only some blocks of each launch run. The others
would compute what is already there: outputs, masks and partial extrema of zeros are zeros.
"""

import ctypes
from typing import NamedTuple

import torch
from sparse_memory import sparse_zeros
from torch import Tensor

from cuda_emulator import (
    SCALARS,
    _address,
    _options,
    _raise,
    library,
    linked,
)
from cuda_emulator.structures import BackwardCall, ForwardCall, LayoutOfCall
from jumpstart_kernels.ops.arguments import NO_STATISTICS, ForwardResult, Gradients, Options, Saved
from jumpstart_kernels.ops.layout import (
    Layout,
    is_channels_last,
    linked_mask_shape,
    linked_size,
    make_layout,
    mask_shape,
    point_count,
    statistics_dtype,
)
from jumpstart_kernels.ops.slack import SUMS_SHAPE


class Plan(ctypes.Structure):
    """The plan of ``csrc/cuda/plan.cpp`` for a layout."""

    _fields_ = [
        (name, ctypes.c_int64)
        for name in (
            "launches", "blocks", "work", "tiles", "unit_blocks", "point_blocks", "extent",
            "backward_blocks", "backward_work", "backward_tiles", "backward_extent",
        )
    ]  # fmt: skip


class Ends(NamedTuple):
    """How many of the first and of the last blocks of a launch run."""

    first: int
    last: int


def plan(
    layout: Layout, position_points: bool, vector: int, multiprocessors: int, cluster_blocks: int = 16
) -> Plan:
    found = Plan()
    library().emulator_plan(
        ctypes.byref(LayoutOfCall(*layout)), ctypes.c_bool(position_points), ctypes.c_int(vector),
        ctypes.c_int(multiprocessors), ctypes.c_int(cluster_blocks), ctypes.byref(found),
    )  # fmt: skip
    return found


def _limit(*launches: Ends) -> None:
    for ends in launches:
        library().emulator_limit(*ends)


def forward(
    x: Tensor,
    options: Options,
    multiprocessors: int,
    streaming: Ends,
    merge: Ends,
) -> ForwardResult:
    """Of an aligned ``x``, as far as the blocks that run write it; the slack sums are not whole."""
    layout = make_layout(x.shape, options.unit_dim, is_channels_last(x, options.unit_dim))
    count = layout.units + point_count(x.shape, options.unit_dim, options.position_points)
    dtype = statistics_dtype(x.dtype)
    output = sparse_zeros(x.shape, x.dtype, layout.channels_last)
    mask = sparse_zeros(mask_shape(layout), torch.uint8)
    slack_sums, extrema = sparse_zeros(SUMS_SHAPE, dtype), sparse_zeros((2, count), dtype)
    indices = sparse_zeros((2, count), torch.int64)
    call = ForwardCall(
        SCALARS.index(x.dtype), *map(_address, (x, None, output, mask, slack_sums, extrema, indices)),
        LayoutOfCall(*layout), _options(options), multiprocessors,
    )  # fmt: skip
    size = library().emulator_forward_workspace(ctypes.byref(call))
    workspace = sparse_zeros((size,), torch.uint8)
    _limit(streaming, merge)
    _raise(library().emulator_forward(ctypes.byref(call), ctypes.c_void_p(_address(workspace))))
    return ForwardResult(output, mask, slack_sums, extrema, indices)


def linked_forward(x: Tensor, options: Options, multiprocessors: int, *launches: Ends) -> ForwardResult:
    """The same of a linked activation without slopes; its statistics are left out."""
    layout = make_layout(x.shape, options.unit_dim, is_channels_last(x, options.unit_dim))
    dtype = statistics_dtype(x.dtype)
    output = sparse_zeros(linked_size(x.shape, options.unit_dim), x.dtype, layout.channels_last)
    mask = sparse_zeros(linked_mask_shape(layout), torch.uint8)
    count = 0
    if options.extrema_kind != NO_STATISTICS:
        count = layout.units + point_count(x.shape, options.unit_dim, options.position_points)
    extrema, indices = sparse_zeros((2, count), dtype), sparse_zeros((2, count), torch.int64)
    slack_sums = sparse_zeros(SUMS_SHAPE, dtype)
    statistics = map(_address, (slack_sums, extrema, indices) if count else (None, None, None))
    call = linked.LinkedForwardCall(
        ForwardCall(
            SCALARS.index(x.dtype), *map(_address, (x, None, output, mask)), *statistics,
            LayoutOfCall(*layout), _options(linked.of_statistics(options)), multiprocessors,
        ),
        linked.kind_of(options),
    )  # fmt: skip
    size = library().emulator_linked_forward_workspace(ctypes.byref(call))
    workspace = sparse_zeros((size,), torch.uint8)
    _limit(*launches)
    _raise(library().emulator_linked_forward(ctypes.byref(call), ctypes.c_void_p(_address(workspace))))
    return ForwardResult(output, mask, slack_sums, extrema, indices)


def linked_backward(
    grad_output: Tensor,
    mask: Tensor,
    size: tuple[int, ...],
    options: Options,
    channels_last: bool,
    multiprocessors: int,
    ends: Ends,
) -> Tensor:
    grad_x = sparse_zeros(size, grad_output.dtype, channels_last)
    call = linked.LinkedBackwardCall(
        BackwardCall(
            SCALARS.index(grad_x.dtype), *map(_address, (grad_output, mask, grad_x)), *([None] * 5),
            LayoutOfCall(*make_layout(size, options.unit_dim, channels_last)),
            _options(linked.of_statistics(options)), multiprocessors,
        ),
        linked.kind_of(options),
    )  # fmt: skip
    _limit(ends)
    _raise(library().emulator_linked_backward(ctypes.byref(call), None))
    return grad_x


def backward(
    gradients: Gradients,
    saved: Saved,
    options: Options,
    multiprocessors: int,
    ends: Ends,
) -> Tensor:
    mask, extrema, indices, size, channels_last, dtype, _ = saved
    grad_x = sparse_zeros(size, dtype, channels_last)
    by_output, *by_statistics = gradients
    call = BackwardCall(
        SCALARS.index(dtype),
        *map(_address, (by_output, mask, grad_x, *by_statistics, extrema, indices, None)),
        LayoutOfCall(*make_layout(size, options.unit_dim, channels_last)), _options(options), multiprocessors,
    )  # fmt: skip
    _limit(ends)
    _raise(library().emulator_backward(ctypes.byref(call), None))
    return grad_x
