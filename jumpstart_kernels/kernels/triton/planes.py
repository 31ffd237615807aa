"""The forward where positions lie behind their units in memory: contiguous NCHW and the like."""

import triton
import triton.language as tl

from jumpstart_kernels.kernels.triton.keys import largest_key, order_keys, statistics_values
from jumpstart_kernels.kernels.triton.tiles import (
    program_index,
    row_start,
    slot_coordinates,
    store_relu,
    tile_offsets,
)


@triton.jit(do_not_specialize=["planes", "inner", "chunks", "steps", "partials"])
def jumpstart_relu_forward_planes_kernel(
    x_ptr,  # [planes, inner]
    output_ptr,  # like x
    mask_ptr,  # [planes, ceil(inner / 8)]
    workspace_ptr,  # a counter and [2, planes, chunks] keys, of units and samples alike
    planes,
    inner,
    chunks,  # of a plane
    steps,  # of a chunk
    partials,
    APPLY_RELU: tl.constexpr,
    WHOLE_BYTES: tl.constexpr,  # inner is a multiple of 8
    offset_dtype: tl.constexpr,
    DEPTH: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    VECTOR: tl.constexpr,
):
    """A program takes a chunk of ROWS planes. What lies deeper in a tile lies behind in its planes."""
    program = program_index()
    keys_ptr = workspace_ptr + 1
    if program == 0:
        tl.store(workspace_ptr, 0)  # the counter of the kernel that follows
    chunk = (program % chunks).to(tl.int32)
    first_plane = program // chunks * ROWS
    slot_plane, slot_byte, slot_in_byte = slot_coordinates(ROWS, COLUMNS, VECTOR)
    plane = tl.minimum(slot_plane, (tl.minimum(planes - first_plane, ROWS) - 1).to(tl.int32))[None, :]
    byte_in_step = tl.arange(0, DEPTH)[:, None] * (COLUMNS // 8) + slot_byte[None, :]  # [DEPTH, SLOTS]
    mask_bytes = (inner + 7) // 8
    base = row_start(first_plane, inner, VECTOR)

    key_dtype: tl.constexpr = workspace_ptr.dtype.element_ty
    slots: tl.constexpr = ROWS * COLUMNS // VECTOR
    min_keys = tl.full([slots, VECTOR], 0, key_dtype) + largest_key(key_dtype)
    max_keys = -1 - min_keys
    steps_left = tl.cdiv(inner - chunk * steps * (DEPTH * COLUMNS), DEPTH * COLUMNS)
    for step in range(tl.minimum(steps, steps_left)):
        byte = tl.minimum((chunk * steps + step) * (DEPTH * COLUMNS // 8) + byte_in_step, mask_bytes - 1)
        offset, byte_offset = tile_offsets(
            plane, byte, slot_in_byte, inner, VECTOR, WHOLE_BYTES, offset_dtype
        )
        x = tl.load(x_ptr + base + offset)
        values = statistics_values(x)
        if APPLY_RELU:
            store_relu(
                output_ptr + base, mask_ptr + first_plane * mask_bytes, x, values, offset, byte_offset,
                byte, slot_in_byte, inner, VECTOR, WHOLE_BYTES,
            )  # fmt: skip
        keys = order_keys(values)
        max_keys = tl.maximum(max_keys, tl.max(keys, 0))
        min_keys = tl.minimum(min_keys, tl.min(keys, 0))

    plane = tl.arange(0, ROWS)
    partial = keys_ptr + (first_plane + plane) * chunks + chunk
    max_keys = tl.max(tl.reshape(max_keys, [ROWS, COLUMNS]), 1)
    min_keys = tl.min(tl.reshape(min_keys, [ROWS, COLUMNS]), 1)
    tl.store(partial, max_keys, mask=first_plane + plane < planes)
    tl.store(partial + partials, min_keys, mask=first_plane + plane < planes)
