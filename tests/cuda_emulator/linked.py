"""The emulated kernels of linked activations."""

import ctypes
import math

import torch
from torch import Tensor

from cuda_emulator import (
    POISON,
    SCALARS,
    Memory,
    _address,
    _bytes,
    _like,
    _options,
    _raise,
    library,
)
from cuda_emulator.structures import BackwardCall, ForwardCall, LayoutOfCall
from jumpstart_kernels.ops.activations import LINKED_ACTIVATIONS, NONE
from jumpstart_kernels.ops.arguments import (
    NO_STATISTICS,
    ForwardResult,
    Gradients,
    LinkedInputGradients,
    LinkedSaved,
    Options,
)
from jumpstart_kernels.ops.layout import (
    dense_format,
    is_channels_last,
    linked_mask_shape,
    linked_size,
    make_layout,
    point_count,
    statistics_dtype,
)
from jumpstart_kernels.ops.slack import LAYER_SUMS, SUMS_SHAPE


class LinkedForwardCall(ctypes.Structure):
    _fields_ = [("of_x", ForwardCall), ("kind", ctypes.c_int), ("slopes", ctypes.c_void_p)]


class LinkedBackwardCall(ctypes.Structure):
    _fields_ = [
        ("of_x", BackwardCall),
        ("kind", ctypes.c_int),
        ("x", ctypes.c_void_p),
        ("slopes", ctypes.c_void_p),
    ]


def kind_of(options: Options) -> int:
    kind = library().emulator_linked_activation(options.activation.encode())
    assert kind >= 0, f"csrc/linked_activations.h does not list {options.activation!r}"
    return kind


def of_statistics(options: Options) -> Options:
    """Those of the call that a linked activation's is made of."""
    kind = options.extrema_kind
    return options._replace(activation=NONE, extrema_kind="limited" if kind == NO_STATISTICS else kind)


def forward(
    x: Tensor,  # contiguous or channels_last
    weight: Tensor | None,
    options: Options,
    *,
    aligned: bool = True,
    multiprocessors: int = 2,
    cluster_blocks: int = 0,
    seed: int = 0,
) -> ForwardResult:
    """As the reference's ``linked_activation_forward``."""
    layout = make_layout(x.shape, options.unit_dim, is_channels_last(x, options.unit_dim))
    dtype = statistics_dtype(x.dtype)
    with_statistics = options.extrema_kind != NO_STATISTICS
    count = 0
    if with_statistics:
        count = layout.units + point_count(x.shape, options.unit_dim, options.position_points)
    mask_shape = linked_mask_shape(layout) if LINKED_ACTIVATIONS[options.activation].from_sign else (0, 0)
    with Memory() as memory:
        source = memory.place(x, aligned)
        slopes = None if weight is None else memory.place(weight.to(dtype))
        output = memory.allocate(2 * x.numel(), x.dtype, aligned)
        mask = memory.allocate(math.prod(mask_shape), torch.uint8)
        slack_sums = memory.allocate(LAYER_SUMS if with_statistics else 0, dtype)
        extrema, indices = memory.allocate(2 * count, dtype), memory.allocate(2 * count, torch.int64)
        call = LinkedForwardCall(
            ForwardCall(
                SCALARS.index(x.dtype),
                *map(_address, (source, None, output)),
                *(_address(t) if t.numel() else None for t in (mask, slack_sums, extrema, indices)),
                LayoutOfCall(*layout), _options(of_statistics(options)), multiprocessors, cluster_blocks,
            ),
            kind_of(options), _address(slopes),
        )  # fmt: skip
        held = library().emulator_linked_forward_workspace(ctypes.byref(call))
        workspace = memory.allocate(held, torch.uint8)
        library().emulator_seed(seed)
        _raise(library().emulator_linked_forward(ctypes.byref(call), ctypes.c_void_p(_address(workspace))))
        memory.check()
        assert torch.equal(source.view(torch.uint8), _bytes(x))
        return ForwardResult(
            _like(output, _empty(linked_size(x.shape, options.unit_dim), x.dtype, layout.channels_last)),
            mask.clone().view(mask_shape),
            slack_sums.clone().view(SUMS_SHAPE) if with_statistics else slack_sums.clone(),
            extrema.clone().view(2, count),
            indices.clone().view(2, count),
        )


def backward(
    gradients: Gradients,
    saved: LinkedSaved,
    options: Options,
    *,
    aligned: bool = True,
    multiprocessors: int = 2,
    seed: int = 0,
) -> LinkedInputGradients:
    """As the reference's ``linked_activation_backward``, for a gradient that is dense like the output.

    The gradient of the weight is not rounded to its dtype yet.
    """
    x, weight, mask, extrema, indices, size, channels_last, dtype, with_grad_weight = saved
    layout = make_layout(size, options.unit_dim, channels_last)
    with Memory() as memory:
        by_output, *by_statistics = (
            None if grad is None else memory.place(grad, aligned) for grad in gradients
        )
        grad_x = memory.allocate(math.prod(size), dtype, aligned)
        placed = [memory.place(tensor) for tensor in (mask, extrema, indices)]
        kept = None if x is None else memory.place(x, aligned)
        slopes = None if weight is None else memory.place(weight.to(extrema.dtype))
        sums = memory.allocate(2 * layout.units, extrema.dtype) if with_grad_weight else None
        if by_output is None:
            for zeros in (grad_x, sums):
                if zeros is not None:
                    zeros.zero_()
        call = LinkedBackwardCall(
            BackwardCall(
                SCALARS.index(dtype),
                *map(_address, (by_output, placed[0], grad_x, *by_statistics, *placed[1:], sums)),
                LayoutOfCall(*layout), _options(of_statistics(options)), multiprocessors,
            ),
            kind_of(options), *map(_address, (kept, slopes)),
        )  # fmt: skip
        held = library().emulator_linked_backward_workspace(ctypes.byref(call))
        workspace = memory.allocate(held, torch.uint8).fill_(POISON)
        library().emulator_seed(seed)
        _raise(library().emulator_linked_backward(ctypes.byref(call), ctypes.c_void_p(_address(workspace))))
        memory.check()
        return LinkedInputGradients(
            _like(grad_x, _empty(size, dtype, channels_last)),
            sums.clone().view(2, layout.units) if sums is not None else None,
        )


def _empty(size: list[int], dtype: torch.dtype, channels_last: bool) -> Tensor:
    return torch.empty(size, dtype=dtype, memory_format=dense_format(len(size), channels_last))
