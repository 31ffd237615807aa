"""How a block's threads share a tile, the same in every kernel that all activations pass through.

A tile is ``[SLOTS, VECTOR]``: a thread has ``depth`` slots of ``vector`` elements, which it loads at once (16
bytes where rows are aligned). Slots lie one after the other in matrix rows of ``columns`` elements. What is
beyond the matrix is not masked but comes again, the last row or the last slot of a row: that changes no
extremum, and writes the same twice.

With a dimension of its own for the depth, versions of the compiler would differ in how they share a tile out.
"""

import triton
import triton.language as tl

from jumpstart_kernels.ops.triton.activations import activation_value


@triton.jit
def program_index():
    """The index of the program, 64 bits wide so that what is multiplied with it cannot overflow."""
    return tl.program_id(0).to(tl.int64)


@triton.jit
def slot_offsets(row, vector, vectors, VECTOR: tl.constexpr):
    """Offsets of elements ``[SLOTS, VECTOR]``, from their slots' rows and places in these."""
    return (row * vectors + vector)[:, None] * VECTOR + tl.arange(0, VECTOR)[None, :]


@triton.jit
def row_start(row, columns, VECTOR: tl.constexpr):
    """Offset of a matrix row, 64 bits wide, in a form that shows the compiler how it is aligned."""
    return row.to(tl.int64) * (columns // VECTOR) * VECTOR


@triton.jit
def share(values, REDUCE: tl.constexpr, WIDTH: tl.constexpr):
    """Sum, maximum or minimum of each WIDTH neighbouring slots, ``[SLOTS]``, for each of them."""
    shape: tl.constexpr = values.shape
    groups: tl.constexpr = [shape[0] // WIDTH, WIDTH]
    values = tl.reshape(values, groups)
    if REDUCE == "sum":
        reduced = tl.sum(values, 1, keep_dims=True)
    elif REDUCE == "max":
        reduced = tl.max(values, 1, keep_dims=True)
    else:
        reduced = tl.min(values, 1, keep_dims=True)
    return tl.reshape(tl.broadcast_to(reduced, groups), shape)


@triton.jit
def is_positive(values):
    """The bits of the mask; a NaN counts as positive."""
    return ~(values <= 0)


@triton.jit
def pack_bits(positive, bit):
    """Bytes of the mask, or parts of them: bits of the last dimension, put where they stand in their byte."""
    return tl.sum(positive.to(tl.int32) << bit, len(positive.shape) - 1)


@triton.jit
def unpack_bits(mask, bit):
    """The inverse of :func:`pack_bits`, from the bytes that hold the bits."""
    return ((mask >> bit) & 1) != 0


@triton.jit
def store_activation(
    output_ptr,
    mask_ptr,
    x,  # [SLOTS, VECTOR]
    values,
    offset,
    row,  # [SLOTS]
    vector,  # [SLOTS], in the row, where slots that come again are still beyond it
    columns,
    parameter_bits,
    ACTIVATION: tl.constexpr,
    VECTOR: tl.constexpr,
    WHOLE_BYTES: tl.constexpr,
):
    """Store the activation of a tile, and its mask."""
    slots_of_byte: tl.constexpr = 8 // VECTOR
    positive = is_positive(values)
    tl.store(output_ptr + offset, activation_value(x, positive, parameter_bits, ACTIVATION))
    byte, part = vector // slots_of_byte, vector % slots_of_byte
    bit = part[:, None] * VECTOR + tl.arange(0, VECTOR)[None, :]
    if not WHOLE_BYTES:
        positive = positive & (byte[:, None] * 8 + bit < columns)
    bits = pack_bits(positive, bit)  # [SLOTS]
    if slots_of_byte > 1:
        bits = share(bits, "sum", slots_of_byte)
    mask_bytes = (columns + 7) // 8
    tl.store(mask_ptr + row * mask_bytes + byte, bits.to(tl.uint8), mask=(part == 0) & (byte < mask_bytes))
