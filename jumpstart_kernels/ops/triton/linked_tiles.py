"""A tile of a linked activation: where both halves of its output lie, their slopes, and how they are stored.

The output is ``[segments, rows, 2 · columns]`` where columns are units, and else ``[segments, 2 · rows,
columns]``. Masks have those of both halves side by side, ``[segments · rows, 2 · ceil(columns / 8)]``.
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl

from jumpstart_kernels.ops.triton.floats import round_to, statistics_values
from jumpstart_kernels.ops.triton.linked_activations import Halves, linked_gradient, linked_values
from jumpstart_kernels.ops.triton.tiles import is_positive, share, slot_offsets, unpack_bits


class LinkedPointers(NamedTuple):
    """What a backward of a linked activation needs besides masks."""

    x: Any  # None where masks are enough
    weight: Any  # [2, units]; None without slopes


class Place(NamedTuple):
    """Where the first half of a tile lies in the output, and how far behind it the second."""

    base: Any
    offset: Any  # [SLOTS, VECTOR], from there
    half: Any


@triton.jit
def linked_place(
    start,  # the tile's first row in its segment
    segment,
    row,  # [SLOTS], from there
    vector,  # [SLOTS], in the row
    rows,
    vectors,  # of a row
    UNITS_FASTEST: tl.constexpr,
    VECTOR: tl.constexpr,
):
    """In forms that show the compiler how they are aligned."""
    wide_rows, wide_vectors = rows.to(tl.int64), vectors.to(tl.int64)
    if UNITS_FASTEST:
        base = (segment * wide_rows + start) * 2 * wide_vectors * VECTOR
        offset = slot_offsets(row, vector, vectors.to(row.dtype) * 2, VECTOR)
        half = wide_vectors * VECTOR
    else:
        base = (segment * 2 * wide_rows + start) * wide_vectors * VECTOR
        offset = slot_offsets(row, vector, vectors, VECTOR)
        half = wide_rows * wide_vectors * VECTOR
    return Place(base=base, offset=offset, half=half)


@triton.jit
def linked_mask_bytes(columns):
    """Of the mask of a row's half, and of both."""
    mask_bytes = (columns + 7) // 8
    # Not 2 * mask_bytes: that a row starts at even bytes the compiler would use to have a thread store two of
    # them, and threads exchange the bits in every tile.
    return mask_bytes, mask_bytes + mask_bytes


@triton.jit
def load_column_slopes(weight_ptr, tile, vectors, TILE: tl.constexpr):
    """Slopes of the units of a tile, ``[SLOTS, VECTOR]``, where columns are units: the same down the rows."""
    slots_of_row: tl.constexpr = TILE.columns // TILE.vector
    slot = tl.arange(0, TILE.rows * slots_of_row)  # of each depth
    vector = tl.minimum(tile * slots_of_row + slot % slots_of_row, vectors - 1)
    offset = slot_offsets(0, vector, vectors, TILE.vector)
    return Halves(
        first=repeat_depth(statistics_values(tl.load(weight_ptr + offset)), TILE.depth),
        second=repeat_depth(
            statistics_values(tl.load(weight_ptr + vectors * TILE.vector + offset)), TILE.depth
        ),
    )


@triton.jit
def repeat_depth(values, DEPTH: tl.constexpr):
    """``[SLOTS, VECTOR]`` of those of each depth."""
    slots: tl.constexpr = values.shape[0]
    vector: tl.constexpr = values.shape[1]
    repeated = tl.broadcast_to(values[None, :, :], [DEPTH, slots, vector])
    return tl.reshape(repeated, [DEPTH * slots, vector])


@triton.jit
def load_row_slopes(weight_ptr, unit, units):
    """Slopes of the units of slots, ``[slots, 1]``."""
    return Halves(
        first=statistics_values(tl.load(weight_ptr + unit))[:, None],
        second=statistics_values(tl.load(weight_ptr + units + unit))[:, None],
    )


@triton.jit
def store_linked(
    output_ptr,
    mask_ptr,  # to the masks of the tile's first row; None without masks
    values,  # [SLOTS, VECTOR]
    place: Place,
    slopes: Halves,  # or None
    row,  # [SLOTS]
    vector,  # [SLOTS], in the row, where slots that come again are still beyond it
    columns,
    ACTIVATION: tl.constexpr,
    VECTOR: tl.constexpr,
    WHOLE_BYTES: tl.constexpr,
):
    """Store both halves of a tile, and their masks."""
    dtype: tl.constexpr = output_ptr.dtype.element_ty
    halves = linked_values(values, slopes, ACTIVATION, dtype)
    tl.store(output_ptr + place.base + place.offset, round_to(halves.first, dtype))
    tl.store(output_ptr + (place.base + place.half) + place.offset, round_to(halves.second, dtype))
    if mask_ptr is not None:
        slots_of_byte: tl.constexpr = 8 // VECTOR
        byte, part = vector // slots_of_byte, vector % slots_of_byte
        bit = part[:, None] * VECTOR + tl.arange(0, VECTOR)[None, :]
        bits = pack_masks(values, bit)
        if not WHOLE_BYTES:
            bits = tl.where(byte[:, None] * 8 + bit < columns, bits, 0)
        bits = tl.sum(bits, 1)  # [SLOTS]
        if slots_of_byte > 1:
            bits = share(bits, "sum", slots_of_byte)
        mask_bytes, row_bytes = linked_mask_bytes(columns)
        mask_ptr += row * row_bytes + byte
        once = (part == 0) & (byte < mask_bytes)
        tl.store(mask_ptr, (bits & 0xFF).to(tl.uint8), mask=once)
        tl.store(mask_ptr + mask_bytes, (bits >> 8).to(tl.uint8), mask=once)


@triton.jit
def pack_masks(values, bit):
    """The bits of both masks of an element as one number, those of the second above those of the first."""
    return (is_positive(values).to(tl.int32) << bit) | (is_positive(-values).to(tl.int32) << (bit + 8))


@triton.jit
def linked_element_gradients(
    grad_output_ptr,
    mask_ptr,  # None where x is needed
    linked: LinkedPointers,
    offset,  # [ENTRIES], in x
    row,  # of the matrix
    column,
    unit,
    valid,
    columns,
    units,
    UNITS_FASTEST: tl.constexpr,
    ACTIVATION: tl.constexpr,
):
    """Gradients of some elements of x, before rounding."""
    half = units.to(tl.int64)
    if not UNITS_FASTEST:
        half *= columns
    first_offset = offset + offset // half * half
    gradients = Halves(
        first=statistics_values(tl.load(grad_output_ptr + first_offset, mask=valid, other=0)),
        second=statistics_values(tl.load(grad_output_ptr + first_offset + half, mask=valid, other=0)),
    )
    x = None
    passes = None
    slopes = None
    if linked.x is not None:
        x = statistics_values(tl.load(linked.x + offset, mask=valid, other=0))
    else:
        mask_bytes, row_bytes = linked_mask_bytes(columns)
        first_byte = row * row_bytes + column // 8
        passes = Halves(
            first=unpack_bits(tl.load(mask_ptr + first_byte, mask=valid, other=0).to(tl.int64), column % 8),
            second=unpack_bits(
                tl.load(mask_ptr + first_byte + mask_bytes, mask=valid, other=0).to(tl.int64), column % 8
            ),
        )
    if linked.weight is not None:
        slopes = Halves(
            first=statistics_values(tl.load(linked.weight + unit, mask=valid, other=0)),
            second=statistics_values(tl.load(linked.weight + units + unit, mask=valid, other=0)),
        )
    dtype: tl.constexpr = grad_output_ptr.dtype.element_ty
    return linked_gradient(gradients, x, passes, slopes, ACTIVATION, dtype)
