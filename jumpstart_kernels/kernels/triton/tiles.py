"""How a block's threads share a tile, the same in every kernel that all activations pass through.

A tile is ``[DEPTH, SLOTS, VECTOR]``: a thread has one slot, VECTOR elements that it loads at once (16 bytes
where rows are aligned), DEPTH times. Slots lie side by side in ROWS matrix rows of COLUMNS elements. What is
beyond the matrix is not masked but comes again, the last row or the last byte of the mask with its elements:
that changes no extremum, and writes the same twice.
"""

import triton
import triton.language as tl


@triton.jit
def program_index():
    """The index of the program, 64 bits wide so that what is multiplied with it cannot overflow."""
    return tl.program_id(0).to(tl.int64)


@triton.jit
def slot_coordinates(ROWS: tl.constexpr, COLUMNS: tl.constexpr, VECTOR: tl.constexpr):
    """Of each slot its row, its byte of the mask in that row, and its part of that byte, ``[SLOTS]``."""
    slots_of_row: tl.constexpr = COLUMNS // VECTOR
    slots_of_byte: tl.constexpr = 8 // VECTOR
    slot = tl.arange(0, ROWS * slots_of_row)
    slot_in_row = slot % slots_of_row
    return slot // slots_of_row, slot_in_row // slots_of_byte, slot_in_row % slots_of_byte


@triton.jit
def bits_in_byte(slot_in_byte, VECTOR: tl.constexpr):
    """The bit of each element in its byte of the mask, ``[SLOTS, VECTOR]``."""
    return slot_in_byte[:, None] * VECTOR + tl.arange(0, VECTOR)[None, :]


@triton.jit
def tile_offsets(
    row,
    byte,
    slot_in_byte,
    columns,
    VECTOR: tl.constexpr,
    WHOLE_BYTES: tl.constexpr,
    offset_dtype: tl.constexpr,
):
    """Offsets of a tile's elements ``[DEPTH, SLOTS, VECTOR]`` and of its mask bytes ``[DEPTH, SLOTS]``, from
    the matrix row that ``row`` counts from."""
    vectors = columns // VECTOR  # of a row, which is made of whole ones
    vector = byte * (8 // VECTOR) + slot_in_byte[None, :]
    if not WHOLE_BYTES:
        vector = tl.minimum(vector, vectors - 1)
    row = row.to(offset_dtype)
    offset = (row * vectors + vector)[:, :, None] * VECTOR + tl.arange(0, VECTOR)[None, None, :]
    return offset, row * ((columns + 7) // 8) + byte


@triton.jit
def row_start(row, columns, VECTOR: tl.constexpr):
    """Offset of a matrix row, 64 bits wide, in a form that shows the compiler how it is aligned."""
    return row.to(tl.int64) * (columns // VECTOR) * VECTOR


@triton.jit
def share(values, REDUCE: tl.constexpr, WIDTH: tl.constexpr):
    """Sum, maximum or minimum of each WIDTH neighbouring slots, ``[DEPTH, SLOTS]``, for each of them."""
    shape: tl.constexpr = values.shape
    groups: tl.constexpr = [shape[0], shape[1] // WIDTH, WIDTH]
    values = tl.reshape(values, groups)
    if REDUCE == "sum":
        reduced = tl.sum(values, 2, keep_dims=True)
    elif REDUCE == "max":
        reduced = tl.max(values, 2, keep_dims=True)
    else:
        reduced = tl.min(values, 2, keep_dims=True)
    return tl.reshape(tl.broadcast_to(reduced, groups), shape)


@triton.jit
def store_relu(
    output_ptr,
    mask_ptr,
    x,  # [DEPTH, SLOTS, VECTOR]
    values,
    offset,
    byte_offset,
    byte,
    slot_in_byte,
    columns,
    VECTOR: tl.constexpr,
    WHOLE_BYTES: tl.constexpr,
):
    """Store the ReLU of a tile, and its mask."""
    positive = ~(values <= 0)
    tl.store(output_ptr + offset, tl.where(positive, x, 0))
    bit = bits_in_byte(slot_in_byte, VECTOR)[None, :, :]
    if not WHOLE_BYTES:
        positive = positive & (byte[:, :, None] * 8 + bit < columns)
    bits = tl.sum(positive.to(tl.int32) << bit, 2)  # [DEPTH, SLOTS]
    if VECTOR < 8:
        bits = share(bits, "sum", 8 // VECTOR)
    # By all slots of a byte alike: to pick one, the others' threads would have to change hands.
    tl.store(mask_ptr + byte_offset, bits.to(tl.uint8))
