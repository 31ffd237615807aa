"""The forward where positions lie behind their units in memory: contiguous NCHW and the like."""

import triton
import triton.language as tl

from jumpstart_kernels.kernels.triton.keys import largest_key, order_keys, statistics_values
from jumpstart_kernels.kernels.triton.tiles import program_index, row_start, slot_offsets, store_relu


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
    chunk = (program % chunks).to(offset_dtype)
    first_plane = program // chunks * ROWS
    vectors = inner // VECTOR  # of a plane
    slots_of_plane: tl.constexpr = COLUMNS // VECTOR  # in each depth
    slots: tl.constexpr = ROWS * slots_of_plane
    slot = tl.arange(0, DEPTH * slots)
    last = (tl.minimum(planes - first_plane, ROWS) - 1).to(tl.int32)
    plane = tl.minimum(slot % slots // slots_of_plane, last).to(offset_dtype)
    base = row_start(first_plane, inner, VECTOR)
    mask_ptr += first_plane * ((inner + 7) // 8)

    key_dtype: tl.constexpr = workspace_ptr.dtype.element_ty
    min_keys = tl.full([slots, VECTOR], 0, key_dtype) + largest_key(key_dtype)
    max_keys = -1 - min_keys
    steps_left = tl.cdiv(inner - chunk * steps * (DEPTH * COLUMNS), DEPTH * COLUMNS)
    for step in range(tl.minimum(steps, steps_left).to(tl.int32)):
        depth = (chunk * steps + step) * DEPTH + slot // slots  # from the planes' first elements
        vector = depth * slots_of_plane + slot % slots_of_plane
        offset = slot_offsets(plane, tl.minimum(vector, vectors - 1), vectors, VECTOR)
        x = tl.load(x_ptr + base + offset)  # [SLOTS, VECTOR]
        values = statistics_values(x)
        if APPLY_RELU:
            store_relu(
                output_ptr + base, mask_ptr, x, values, offset, plane, vector, inner, VECTOR, WHOLE_BYTES
            )
        keys = tl.reshape(order_keys(values), [DEPTH, slots, VECTOR])
        max_keys = tl.maximum(max_keys, tl.max(keys, 0))
        min_keys = tl.minimum(min_keys, tl.min(keys, 0))

    plane = first_plane + tl.arange(0, ROWS)
    partial = keys_ptr + plane * chunks + chunk
    max_keys = tl.max(tl.reshape(max_keys, [ROWS, COLUMNS]), 1)
    min_keys = tl.min(tl.reshape(min_keys, [ROWS, COLUMNS]), 1)
    tl.store(partial, max_keys, mask=plane < planes)
    tl.store(partial + partials, min_keys, mask=plane < planes)
