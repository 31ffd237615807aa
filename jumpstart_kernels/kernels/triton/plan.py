"""How an activation is cut into tiles, tiles into programs, and where the partial extrema of these lie.

Chosen by rule, not by measuring, so that a launch can be captured in a graph. Nothing here changes a result.
"""

import functools
from typing import NamedTuple

from jumpstart_kernels.kernels.layout import Layout

WARPS = 4
_LANES = 32
_ELEMENTS = 16  # of a thread in a tile: more take too many registers
_STEPS = 16  # tiles that a program takes at most: more save little of the traffic of partial extrema
_PROGRAMS = 1024  # enough to fill a GPU; only beyond them does a program take several tiles


class Tile(NamedTuple):
    """``[depth, rows, columns]`` of a matrix: a warp loads 16 bytes a lane, ``depth`` times.

    Its depth runs along the rows (rows.py) or along the columns (planes.py).
    """

    depth: int
    rows: int
    columns: int
    alignment: int  # a power of two that divides the columns of the matrix


class Partials(NamedTuple):
    """Partial extrema of units or points: ``[groups, items, per_item]``, and the block that reads them."""

    start: int
    groups: int
    items: int
    per_item: int

    @property
    def block(self) -> tuple[int, int]:
        """Partials and items, at most 512 together."""
        # With one partial an item in each group, items lie side by side in memory: keep them together.
        most = 32 if self.per_item == 1 else 512
        partials = min(most, _power_of_two(self.groups * self.per_item))
        return partials, min(512 // partials, _power_of_two(self.items))

    @property
    def programs(self) -> int:
        return -(-self.items // self.block[1])


class Plan(NamedTuple):
    """What the launches for a layout need to know."""

    tile: Tile
    steps: int  # tiles that a program takes
    programs: int
    segments: int  # of rows (rows.py)
    regions: int  # of a segment
    column_tiles: int  # or chunks of a plane
    row_points: bool  # a point is a row of a segment, not the segment
    unit_partials: Partials
    point_partials: Partials
    partials: int


@functools.lru_cache(maxsize=1024)
def make_plan(layout: Layout, position_points: bool, itemsize: int) -> Plan:
    """The plan for a layout that is not empty."""
    if layout.inner > 1:
        return _plan_planes(layout, itemsize)
    return _plan_rows(layout, position_points, itemsize)


def _plan_rows(layout: Layout, position_points: bool, itemsize: int) -> Plan:
    row_points = position_points or layout.rows == 1
    segments, rows = layout.samples, layout.rows
    if row_points and not layout.channels_last:
        segments, rows = 1, segments * rows  # all rows are alike
    height, width = _tile_shape(rows, layout.units, itemsize)
    depth = min(_depth(itemsize), _power_of_two(-(-rows // height)))
    tile = Tile(depth, height, width, alignment(layout.units))
    column_tiles = -(-layout.units // width)
    tiles = -(-rows // (depth * height))  # of a segment
    steps = _steps(segments * tiles * column_tiles, tiles)
    regions = -(-tiles // steps)
    units = Partials(0, segments * regions, layout.units, 1)
    start = units.groups * units.items
    if row_points:
        points = Partials(start, column_tiles, segments * rows, 1)
    else:
        points = Partials(start, column_tiles, segments, regions)
    return Plan(
        tile=tile,
        steps=steps,
        programs=segments * regions * column_tiles,
        segments=segments,
        regions=regions,
        column_tiles=column_tiles,
        row_points=row_points,
        unit_partials=units,
        point_partials=points,
        partials=start + points.groups * points.items * points.per_item,
    )


def _plan_planes(layout: Layout, itemsize: int) -> Plan:
    planes = layout.samples * layout.rows * layout.units
    height, width = _tile_shape(planes, layout.inner, itemsize)
    depth = min(_depth(itemsize), max(_power_of_two(layout.inner // width + 1) // 2, 1))
    tile = Tile(depth, height, width, alignment(layout.inner))
    tiles = -(-layout.inner // (depth * width))  # of a plane
    regions = -(-planes // height)
    steps = _steps(regions * tiles, tiles)
    chunks = -(-tiles // steps)
    return Plan(
        tile=tile,
        steps=steps,
        programs=regions * chunks,
        segments=1,
        regions=regions,
        column_tiles=chunks,
        row_points=False,
        unit_partials=Partials(0, layout.samples * layout.rows, layout.units, chunks),
        point_partials=Partials(0, 1, layout.samples, layout.rows * layout.units * chunks),
        partials=planes * chunks,
    )


def backward_tile(rows: int, columns: int, itemsize: int) -> tuple[int, int, int, int]:
    """Rows and columns of the backward's tile, and of the matrix as it runs."""
    if columns % 8 == 0:  # rows of the mask join without a gap: one long row
        rows, columns = 1, rows * columns
    elements = 4 * WARPS * _LANES * 16 // itemsize  # four loads a thread
    width = max(8, min(_power_of_two(columns), elements))
    return min(elements // width, _power_of_two(rows)), width, rows, columns


def _tile_shape(rows: int, columns: int, itemsize: int) -> tuple[int, int]:
    """Rows and columns of which each thread has 16 bytes, no row in more than one warp."""
    vector = 16 // itemsize  # elements in 16 bytes
    width = max(8, min(_power_of_two(columns), _LANES * vector))
    return min(WARPS * _LANES * vector // width, _power_of_two(rows)), width


def _depth(itemsize: int) -> int:
    return _ELEMENTS * itemsize // 16


def _steps(tiles: int, most: int) -> int:
    return min(max(tiles // _PROGRAMS, 1), _STEPS, most)


def alignment(columns: int) -> int:
    """The power of two, up to 16, that rows of so many columns are aligned to."""
    return min(columns & -columns, 16)


def _power_of_two(number: int) -> int:
    """The least power of two that is not below a positive number."""
    return 1 << (number - 1).bit_length()
