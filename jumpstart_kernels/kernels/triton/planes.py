"""The forward where positions lie behind their units in memory: contiguous NCHW and the like."""

import triton
import triton.language as tl

from jumpstart_kernels.kernels.triton.keys import (
    is_positive,
    largest_key,
    merge_keys,
    open_keys,
    order_keys,
    pack_bits,
    program_index,
    reduce_keys,
)


@triton.jit(do_not_specialize=["planes", "inner", "chunks", "steps"])
def jumpstart_relu_forward_planes_kernel(
    x_ptr,  # [planes, inner]
    output_ptr,  # like x
    mask_ptr,  # [planes, ceil(inner / 8)]
    keys_ptr,  # [2, planes, chunks], partial extrema of unit and sample alike
    places_ptr,  # [2, planes, chunks], in the plane
    counter_ptr,  # [1], set to zero for the kernel that follows
    planes,
    inner,
    chunks,  # of a plane
    steps,  # of a chunk
    APPLY_RELU: tl.constexpr,
    ALIGNMENT: tl.constexpr,  # a power of two that divides inner
    DEPTH: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """A program takes a chunk of ROWS planes.

    Tiles are ``[DEPTH, ROWS * COLUMNS]``: COLUMNS elements of ROWS planes lie side by side in the block's
    threads, those of another depth, which lie behind them in their planes, in the same threads.
    """
    dtype: tl.constexpr = x_ptr.dtype.element_ty
    program = program_index()
    if program == 0:
        tl.store(counter_ptr, 0)
    chunk = program % chunks
    first_plane = program // chunks * ROWS
    first_column = chunk * steps * (DEPTH * COLUMNS)
    inner = inner.to(tl.int64) // ALIGNMENT * ALIGNMENT  # tells the compiler how planes are aligned
    mask_bytes = (inner + 7) // 8

    depth = tl.arange(0, DEPTH)[:, None]
    slot = tl.arange(0, ROWS * COLUMNS)[None, :]
    plane = first_plane + slot // COLUMNS
    column_in_step = depth * COLUMNS + slot % COLUMNS  # [DEPTH, ROWS * COLUMNS]
    byte_slot = tl.arange(0, ROWS * COLUMNS // 8)[None, :]
    byte_plane = first_plane + byte_slot // (COLUMNS // 8)
    byte_in_step = depth * (COLUMNS // 8) + byte_slot % (COLUMNS // 8)

    least = -largest_key(dtype)
    max_key = tl.zeros([ROWS * COLUMNS], least.dtype) + least
    min_key = max_key
    max_place = tl.zeros([ROWS * COLUMNS], tl.int32)  # in the chunk
    min_place = max_place
    steps_left = tl.cdiv(inner - first_column, DEPTH * COLUMNS)
    for step in range(tl.minimum(steps, steps_left).to(tl.int32)):
        start = first_column + step * (DEPTH * COLUMNS)
        column = start + column_in_step
        offset = plane * inner + column
        inside = column < inner
        valid = inside & (plane < planes)
        x = tl.load(x_ptr + offset, mask=valid, other=0)
        place = step * (DEPTH * COLUMNS) + column_in_step
        high, low = order_keys(x, place)
        if APPLY_RELU:
            positive = is_positive(high, dtype)
            tl.store(output_ptr + offset, tl.where(positive, x, 0), mask=valid)
            byte = start // 8 + byte_in_step
            valid_byte = (byte < mask_bytes) & (byte_plane < planes)
            mask = pack_bits(positive, DEPTH, ROWS * COLUMNS)
            tl.store(mask_ptr + byte_plane * mask_bytes + byte, mask, mask=valid_byte)
        key, at = reduce_keys(tl.where(inside, high, least), place, 0, dtype)  # [ROWS * COLUMNS]
        max_key, max_place = merge_keys(max_key, max_place, key, at, dtype)
        key, at = reduce_keys(tl.where(inside, low, least), place, 0, dtype)
        min_key, min_place = merge_keys(min_key, min_place, key, at, dtype)

    plane = first_plane + tl.arange(0, ROWS)
    partial = plane * chunks + chunk
    partials = planes.to(tl.int64) * chunks
    shape: tl.constexpr = [ROWS, COLUMNS]
    key, at = reduce_keys(tl.reshape(max_key, shape), tl.reshape(max_place, shape), 1, dtype)  # [ROWS]
    key, at = open_keys(key, at, dtype)
    tl.store(keys_ptr + partial, key, mask=plane < planes)
    tl.store(places_ptr + partial, first_column + at, mask=plane < planes)
    key, at = reduce_keys(tl.reshape(min_key, shape), tl.reshape(min_place, shape), 1, dtype)
    key, at = open_keys(key, at, dtype)
    tl.store(keys_ptr + partials + partial, key, mask=plane < planes)
    tl.store(places_ptr + partials + partial, first_column + at, mask=plane < planes)
