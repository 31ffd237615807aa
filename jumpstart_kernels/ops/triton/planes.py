"""The forward where positions lie behind their units in memory: contiguous NCHW and the like."""

import triton
import triton.language as tl

from jumpstart_kernels.ops.triton.floats import add_bias, statistics_values
from jumpstart_kernels.ops.triton.keys import largest_key, order_keys
from jumpstart_kernels.ops.triton.linked_activations import is_linked
from jumpstart_kernels.ops.triton.linked_tiles import (
    Place,
    linked_mask_bytes,
    load_row_slopes,
    store_linked,
)
from jumpstart_kernels.ops.triton.tiles import program_index, row_start, slot_offsets, store_activation


@triton.jit
def widen(max_keys, min_keys, values, DEPTH: tl.constexpr):
    """Largest and smallest keys ``[slots, VECTOR]``, with those of a tile."""
    keys = tl.reshape(order_keys(values), [DEPTH, max_keys.shape[0], max_keys.shape[1]])
    return tl.maximum(max_keys, tl.max(keys, 0)), tl.minimum(min_keys, tl.min(keys, 0))


@triton.jit(do_not_specialize=["parameter_bits", "planes", "inner", "chunks", "steps", "partials", "units"])
def jumpstart_activation_forward_planes_kernel(
    x_ptr,  # [planes, inner]
    bias_ptr,  # [units], or None
    weight_ptr,  # the slopes of a linked activation, [2, units], or None
    output_ptr,  # like x; of a linked activation see linked_tiles.py, as of its mask
    mask_ptr,  # [planes, ceil(inner / 8)]
    workspace_ptr,  # a counter and [2, planes, chunks] keys, of units and samples alike
    parameter_bits: tl.int64,
    planes,
    inner,
    chunks,  # of a plane
    steps,  # of a chunk
    partials,
    units,
    ACTIVATION: tl.constexpr,
    WHOLE_BYTES: tl.constexpr,  # inner is a multiple of 8
    offset_dtype: tl.constexpr,
    TILE: tl.constexpr,
):
    """A program takes a chunk of as many planes as a tile has rows.

    What lies deeper in a tile lies behind in its planes.
    """
    program = program_index()
    keys_ptr = workspace_ptr + 1
    if program == 0:
        tl.store(workspace_ptr, 0)  # the counter of the kernel that follows
    chunk = (program % chunks).to(offset_dtype)
    first_plane = program // chunks * TILE.rows
    vectors = inner // TILE.vector  # of a plane
    slots_of_plane: tl.constexpr = TILE.columns // TILE.vector  # in each depth
    slots: tl.constexpr = TILE.rows * slots_of_plane
    slot = tl.arange(0, TILE.depth * slots)
    last = (tl.minimum(planes - first_plane, TILE.rows) - 1).to(tl.int32)
    plane = tl.minimum(slot % slots // slots_of_plane, last).to(offset_dtype)
    base = row_start(first_plane, inner, TILE.vector)
    if is_linked(ACTIVATION):
        if mask_ptr is not None:
            _, row_bytes = linked_mask_bytes(inner)
            mask_ptr += first_plane * row_bytes
        # A sample's planes are followed by those of the second half, before the next sample.
        sample = first_plane // units
        unit = (first_plane - sample * units).to(plane.dtype) + plane
        later = unit // units
        unit -= later * units
        output_plane = plane + later * units
        output_base = row_start(first_plane + sample * units, inner, TILE.vector)
        output_half = row_start(units, inner, TILE.vector)
        slopes = None
        if weight_ptr is not None:
            slopes = load_row_slopes(weight_ptr, unit, units)
    else:
        mask_ptr += first_plane * ((inner + 7) // 8)

    key_dtype: tl.constexpr = workspace_ptr.dtype.element_ty
    min_keys = tl.full([slots, TILE.vector], 0, key_dtype) + largest_key(key_dtype)
    max_keys = -1 - min_keys
    if bias_ptr is not None:
        bias_plane = tl.minimum(tl.arange(0, slots) // slots_of_plane, last)  # as plane, of one depth
        first_unit = first_plane.to(planes.dtype) % units
        bias = tl.load(bias_ptr + (first_unit + bias_plane) % units)  # [slots]
    steps_left = tl.cdiv(inner - chunk * steps * (TILE.depth * TILE.columns), TILE.depth * TILE.columns)
    for step in range(tl.minimum(steps, steps_left).to(tl.int32)):
        depth = (chunk * steps + step) * TILE.depth + slot // slots  # from the planes' first elements
        vector = depth * slots_of_plane + slot % slots_of_plane
        offset = slot_offsets(plane, tl.minimum(vector, vectors - 1), vectors, TILE.vector)
        x = tl.load(x_ptr + base + offset)  # [SLOTS, VECTOR]
        if bias_ptr is not None:
            by_depth = tl.reshape(x, [TILE.depth, slots, TILE.vector])
            x = tl.reshape(add_bias(by_depth, bias[None, :, None]), x.shape)
        values = statistics_values(x)
        if bias_ptr is not None:  # now: later, a thread would run out of registers
            max_keys, min_keys = widen(max_keys, min_keys, values, TILE.depth)
        if is_linked(ACTIVATION):
            output_offset = slot_offsets(output_plane, tl.minimum(vector, vectors - 1), vectors, TILE.vector)
            store_linked(
                output_ptr,
                mask_ptr,
                values,
                Place(base=output_base, offset=output_offset, half=output_half),
                slopes,
                row=plane,
                vector=vector,
                columns=inner,
                ACTIVATION=ACTIVATION,
                VECTOR=TILE.vector,
                WHOLE_BYTES=WHOLE_BYTES,
            )
        elif ACTIVATION != "none":
            store_activation(
                output_ptr=output_ptr + base,
                mask_ptr=mask_ptr,
                x=x,
                values=values,
                offset=offset,
                row=plane,
                vector=vector,
                columns=inner,
                parameter_bits=parameter_bits,
                ACTIVATION=ACTIVATION,
                VECTOR=TILE.vector,
                WHOLE_BYTES=WHOLE_BYTES,
            )
        if bias_ptr is None:
            max_keys, min_keys = widen(max_keys, min_keys, values, TILE.depth)

    plane = first_plane + tl.arange(0, TILE.rows)
    partial = keys_ptr + plane * chunks + chunk
    max_keys = tl.max(tl.reshape(max_keys, [TILE.rows, TILE.columns]), 1)
    min_keys = tl.min(tl.reshape(min_keys, [TILE.rows, TILE.columns]), 1)
    tl.store(partial, max_keys, mask=plane < planes)
    tl.store(partial + partials, min_keys, mask=plane < planes)
