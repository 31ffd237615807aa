"""The second kernel of the forward: extrema, indices and slack sums, from the partial extrema of the first.

The mathematics is that of ``kernels/slack.py``.
"""

import triton
import triton.language as tl

from jumpstart_kernels.kernels.triton.keys import first_largest, key_values, largest_key, program_index

SUMS: tl.constexpr = tl.constexpr(5)
SUM_ROWS: tl.constexpr = tl.constexpr(8)  # as many, rounded up to a power of two


@triton.jit
def margin_from_bits(margin_bits, dtype: tl.constexpr):
    """The margin, which travels as the bits of a float64: a float argument would be rounded to float32."""
    return margin_bits.to(tl.int64).to(tl.float64, bitcast=True).to(dtype)


@triton.jit
def hinge(distance):
    """``relu(distance)``, in which NaN stays."""
    return tl.where(distance <= 0, 0.0, distance)


@triton.jit
def merge_partials(
    keys_ptr,  # [groups, count, per_item]
    places_ptr,
    item,  # [ITEMS]
    count,
    groups,
    per_item,
    chunks,
    place_stride,
    PARTIALS: tl.constexpr,
    ITEMS: tl.constexpr,
    dtype: tl.constexpr,
):
    """The first largest of each item's partials, ``[ITEMS]``."""
    least = -largest_key(dtype)
    if dtype == tl.float16 or dtype == tl.bfloat16:
        least = least >> 16
    best = tl.zeros([PARTIALS, ITEMS], least.dtype) + least
    place_dtype: tl.constexpr = places_ptr.dtype.element_ty  # which counts all elements
    place = tl.zeros([PARTIALS, ITEMS], place_dtype)
    total = (groups.to(tl.int64) * per_item).to(place_dtype)
    for start in range(0, total, PARTIALS):
        partial = start + tl.arange(0, PARTIALS)[:, None]
        group = partial // per_item
        in_group = item[None, :] * per_item + (partial - group * per_item)
        offset = group.to(tl.int64) * count * per_item + in_group
        valid = (partial < total) & (item < count)[None, :]
        key = tl.load(keys_ptr + offset, mask=valid, other=0).to(best.dtype)
        key = tl.where(valid, key, least)
        matrix_row = (partial // chunks).to(place_dtype)
        at = tl.load(places_ptr + offset, mask=valid, other=0) + matrix_row * place_stride.to(place_dtype)
        # The partials of an item need not come in the order of its places.
        larger = (key > best) | ((key == best) & (at < place))
        best, place = tl.where(larger, key, best), tl.where(larger, at, place)
    return first_largest(best, place, 0)


@triton.jit
def flat_index(place, item, per_group, inner):
    """Place ``[groups, inner]`` in an item of ``[groups, per_group, inner]`` to the place in all of it."""
    group = place // inner
    return (group.to(tl.int64) * per_group + item) * inner + (place - group * inner)


@triton.jit
def finish(
    extrema_ptr,
    indices_ptr,
    position,  # [ITEMS], in a row of extrema and indices
    columns,
    max_key,
    min_key,
    max_index,
    min_index,
    valid,
    margin_bits,
    ALL_INDICES: tl.constexpr,
    dtype: tl.constexpr,
):
    """Store the extrema of some items and their indices; return the sums of their slack."""
    maxima = key_values(max_key, dtype)
    minima = -key_values(min_key, dtype)
    margin = margin_from_bits(margin_bits, maxima.dtype)
    positive = tl.where(valid, hinge(margin - maxima), 0.0)
    negative = tl.where(valid, hinge(margin + minima), 0.0)
    if not ALL_INDICES:
        max_index = tl.where(positive == 0, -1, max_index)
        min_index = tl.where(negative == 0, -1, min_index)
    tl.store(extrema_ptr + position, maxima, mask=valid)
    tl.store(extrema_ptr + columns + position, minima, mask=valid)
    tl.store(indices_ptr + position, max_index, mask=valid)
    tl.store(indices_ptr + columns + position, min_index, mask=valid)
    # Where one slack is zero the product is zero, also beside an infinite one.
    product = tl.where((positive == 0) | (negative == 0), 0.0, positive * negative)
    return (
        tl.sum(positive, 0),
        tl.sum(negative, 0),
        tl.sum(positive * positive, 0),
        tl.sum(negative * negative, 0),
        tl.sum(product, 0),
    )


@triton.jit
def add_programs(sums_ptr, slack_sums_ptr, start, end, programs, BLOCK: tl.constexpr):
    """The slack sums of programs start to end, in an order that nothing but their number decides."""
    row = tl.arange(0, SUM_ROWS)
    total = tl.zeros([SUM_ROWS, BLOCK], slack_sums_ptr.dtype.element_ty)
    for first in range(start, end, BLOCK):
        program = first + tl.arange(0, BLOCK)
        valid = (row < SUMS)[:, None] & (program < end)[None, :]
        offset = row[:, None].to(tl.int64) * programs + program[None, :]
        # Past the L1 cache, which does not see what other programs wrote.
        total += tl.load(sums_ptr + offset, mask=valid, other=0.0, cache_modifier=".cg")
    tl.store(slack_sums_ptr + row, tl.sum(total, 1), mask=row < SUMS)


@triton.jit(
    do_not_specialize=[
        "partials", "units", "unit_groups", "per_unit", "points", "point_start", "point_groups", "per_point",
        "chunks", "place_stride", "inner", "point_size", "unit_programs", "margin_bits",
    ]
)  # fmt: skip
def jumpstart_relu_statistics_forward_kernel(
    keys_ptr,  # [2, partials]
    places_ptr,  # [2, partials], in the unit or point, or in a matrix row of it
    counter_ptr,  # [1], zero
    sums_ptr,  # [5, programs]
    extrema_ptr,  # [2, units + points]
    indices_ptr,  # [2, units + points]
    slack_sums_ptr,  # [2, 5]
    partials,
    units,
    unit_groups,  # partials of the units: [unit_groups, units, per_unit]
    per_unit,
    points,
    point_start,  # partials of the points: [point_groups, points, per_point], from here
    point_groups,
    per_point,
    chunks,  # partials of a matrix row
    place_stride,  # what places grow by from one matrix row to the next; 0 where they need not
    inner,  # positions behind the unit dimension, in logical order
    point_size,
    unit_programs,  # the first programs do units, the others points
    margin_bits,
    POSITION_POINTS: tl.constexpr,
    ALL_INDICES: tl.constexpr,
    dtype: tl.constexpr,
    UNIT_PARTIALS: tl.constexpr,
    UNIT_ITEMS: tl.constexpr,
    POINT_PARTIALS: tl.constexpr,
    POINT_ITEMS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    program = program_index()
    min_keys_ptr, min_places_ptr = keys_ptr + partials, places_ptr + partials
    columns = units.to(tl.int64) + points
    if program < unit_programs:
        unit = program * UNIT_ITEMS + tl.arange(0, UNIT_ITEMS)
        unit_max_key, place = merge_partials(
            keys_ptr, places_ptr, unit, units, unit_groups, per_unit, chunks, place_stride,
            UNIT_PARTIALS, UNIT_ITEMS, dtype,
        )  # fmt: skip
        unit_max_index = flat_index(place, unit, units, inner)
        unit_min_key, place = merge_partials(
            min_keys_ptr, min_places_ptr, unit, units, unit_groups, per_unit, chunks, place_stride,
            UNIT_PARTIALS, UNIT_ITEMS, dtype,
        )  # fmt: skip
        unit_min_index = flat_index(place, unit, units, inner)
        sums = finish(
            extrema_ptr, indices_ptr, unit, columns, unit_max_key, unit_min_key, unit_max_index,
            unit_min_index, unit < units, margin_bits, ALL_INDICES, dtype,
        )  # fmt: skip
    else:
        point = (program - unit_programs) * POINT_ITEMS + tl.arange(0, POINT_ITEMS)
        point_max_key, point_max_place = merge_partials(
            keys_ptr + point_start, places_ptr + point_start, point, points, point_groups, per_point, chunks,
            place_stride, POINT_PARTIALS, POINT_ITEMS, dtype,
        )  # fmt: skip
        point_min_key, point_min_place = merge_partials(
            min_keys_ptr + point_start, min_places_ptr + point_start, point, points, point_groups, per_point,
            chunks, place_stride, POINT_PARTIALS, POINT_ITEMS, dtype,
        )  # fmt: skip
        if POSITION_POINTS:
            position = point.to(places_ptr.dtype.element_ty)  # and the place in a point is a unit
            point_max_index = flat_index(position, point_max_place, units, inner)
            point_min_index = flat_index(position, point_min_place, units, inner)
        else:
            point_max_index = point * point_size + point_max_place
            point_min_index = point * point_size + point_min_place
        sums = finish(
            extrema_ptr, indices_ptr, units + point, columns, point_max_key, point_min_key, point_max_index,
            point_min_index, point < points, margin_bits, ALL_INDICES, dtype,
        )  # fmt: skip
    programs = tl.num_programs(0)
    for i in tl.static_range(SUMS):
        tl.store(sums_ptr + i * programs.to(tl.int64) + program, sums[i])

    # The program that comes last adds up: all others have stored their sums before they counted.
    tl.debug_barrier()
    if tl.atomic_add(counter_ptr, 1, sem="acq_rel") == programs - 1:
        add_programs(sums_ptr, slack_sums_ptr, 0, unit_programs, programs, BLOCK)
        add_programs(sums_ptr, slack_sums_ptr + SUMS, unit_programs, programs, programs, BLOCK)
