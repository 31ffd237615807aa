"""How an activation is cut into tiles, tiles into programs, and where the partial extrema of these lie.

Chosen by rule, not by measuring, so that a launch can be captured in a graph. Nothing here changes a result.
"""

from typing import NamedTuple, TypeVar

from jumpstart_kernels.ops.layout import Layout

WARPS = 4
_LANES = 32
_THREAD_BYTES = 64  # of a tile: four loads under way in each thread, eight programs on a multiprocessor
_THREAD_ELEMENTS = 16  # of a tile, where a thread loads fewer than 16 bytes at once
# Tiles that a program takes at most. Of rows many: few partial extrema of columns remain to be merged.
_FORWARD_STEPS = 64
_PLANES_STEPS = 4  # of planes: they have as many partial extrema as planes anyway
_BACKWARD_STEPS = 2  # of the backward: it has none
_BIAS_STEPS = 8  # of a backward that sums columns: few partial sums remain
_WHOLE_STEPS = 4  # or all of the columns, which saves a launch
_PROGRAMS = 1024  # enough to fill a GPU; only beyond them does a program take several tiles
MOST_PROGRAMS = 2**31 - 1  # of a launch
_SMALL = 4096  # elements that one program can take at once
SMALL_WARP = 256  # of them for each warp
STATISTICS_WARPS = 16
STATISTICS_ELEMENTS = 2048  # partial extrema that a program of the statistics reads at once


class Tile(NamedTuple):
    """See tiles.py: ``depth`` times ``rows * columns / vector`` slots, as many as there are threads."""

    depth: int
    rows: int
    columns: int
    vector: int


class Grid(NamedTuple):
    """The matrix ``[segments, rows, columns]``, cut into programs of ``steps`` tiles down its rows."""

    tile: Tile
    segments: int
    rows: int
    columns: int
    steps: int

    @property
    def region_rows(self) -> int:
        return self.steps * self.tile.depth * self.tile.rows

    @property
    def span(self) -> int:
        """Elements of the matrix that a tile reaches over."""
        return self.tile.depth * self.tile.rows * self.columns

    @property
    def regions(self) -> int:
        """Of a segment."""
        return -(-self.rows // self.region_rows)

    @property
    def tiles(self) -> int:
        """Of the columns."""
        return -(-self.columns // self.tile.columns)

    @property
    def programs(self) -> int:
        return self.segments * self.regions * self.tiles


class Block(NamedTuple):
    """What a program of the statistics reads at once."""

    partials: int
    items: int


class Partials(NamedTuple):
    """Partial results of units or points: ``[groups, items, per_item]``, and the block that reads them."""

    start: int
    groups: int
    items: int
    per_item: int

    @property
    def block(self) -> Block:
        # With one partial an item in each group, items lie side by side in memory: keep some together.
        most = STATISTICS_ELEMENTS // 16 if self.per_item == 1 else STATISTICS_ELEMENTS
        partials = min(most, power_of_two(self.groups * self.per_item))
        return Block(partials, min(64, STATISTICS_ELEMENTS // partials, power_of_two(self.items)))

    @property
    def programs(self) -> int:
        return -(-self.items // self.block.items)


class Planes(NamedTuple):
    """The matrix ``[planes, inner]``, cut into programs of ``steps`` tiles along its columns."""

    tile: Tile
    planes: int
    inner: int
    steps: int

    @property
    def chunk_columns(self) -> int:
        return self.steps * self.tile.depth * self.tile.columns

    @property
    def span(self) -> int:
        """Elements of the matrix that a tile reaches over."""
        return self.tile.rows * self.inner

    @property
    def chunks(self) -> int:
        """Of a plane."""
        return -(-self.inner // self.chunk_columns)

    @property
    def programs(self) -> int:
        return -(-self.planes // self.tile.rows) * self.chunks


Cut = TypeVar("Cut", Grid, Planes)


def is_small(layout: Layout, position_points: bool) -> bool:
    """Whether one program does it all: a matrix of points and units that fits."""
    segments, rows, columns = _matrix(layout, position_points)
    points_are_rows = layout.inner == 1 and (position_points or layout.rows == 1)
    return points_are_rows and segments == 1 and power_of_two(rows) * max(8, power_of_two(columns)) <= _SMALL


def make_grid(
    layout: Layout, position_points: bool, itemsize: int, aligned: bool, most_steps: int = _BACKWARD_STEPS
) -> Grid:
    """How the backward runs, and the forward but for sample points of planes."""
    segments, rows, columns = _matrix(layout, position_points)
    vector = _vector(columns, itemsize, aligned)
    width = _width(columns, vector)
    height = min(WARPS * _LANES * vector // width, power_of_two(rows))
    depth = min(_depth(vector, itemsize), power_of_two(-(-rows // height)))
    tiles = -(-rows // (depth * height))  # of a segment
    steps = _steps(segments * tiles * -(-columns // width), min(tiles, most_steps))
    return Grid(Tile(depth, height, width, vector), segments, rows, columns, steps)


def make_forward_grid(layout: Layout, position_points: bool, itemsize: int, aligned: bool) -> Grid:
    """As :func:`make_grid`. Where columns are points, a program sees all of each."""
    grid = make_grid(layout, position_points, itemsize, aligned, _FORWARD_STEPS)
    if layout.inner == 1:
        return grid
    return grid._replace(steps=-(-grid.rows // (grid.tile.depth * grid.tile.rows)))


def make_bias_grid(layout: Layout, position_points: bool, itemsize: int, aligned: bool) -> Grid:
    """As :func:`make_grid`, for a backward that sums over units as well."""
    if layout.inner > 1:
        return make_grid(layout, position_points, itemsize, aligned)
    grid = make_grid(layout, position_points, itemsize, aligned, _BIAS_STEPS)
    whole = -(-grid.rows // (grid.tile.depth * grid.tile.rows))
    if grid.segments == 1 and whole <= _WHOLE_STEPS:
        return grid._replace(steps=whole)
    return grid


def halve_tiles(cut: Cut) -> Cut:
    """The same regions in tiles of half the depth, for kernels that hold more of an element at once."""
    tile = cut.tile
    if tile.depth < 4:
        return cut
    return cut._replace(tile=tile._replace(depth=tile.depth // 2), steps=2 * cut.steps)


def bias_partials(grid: Grid, layout: Layout) -> Partials:
    """Partial sums of units in a backward."""
    if layout.inner > 1:
        return Partials(0, layout.samples * layout.rows, layout.units, grid.tiles)
    return Partials(0, grid.segments * grid.regions, grid.columns, 1)


def make_planes(layout: Layout, itemsize: int, aligned: bool) -> Planes:
    """How the forward runs sample points of planes."""
    planes, inner = layout.matrix
    vector = _vector(inner, itemsize, aligned)
    most = min(_depth(vector, itemsize), power_of_two(-(-inner // 8)))
    shapes = [(depth, _width(inner, vector, depth)) for depth in (most, max(most // 2, 1))]
    depth, width = min(shapes, key=lambda shape: _padded(inner, shape[0] * shape[1]))
    height = min(WARPS * _LANES * vector // width, power_of_two(planes))
    tiles = -(-inner // (depth * width))  # of a plane
    steps = _steps(-(-planes // height) * tiles, min(tiles, _PLANES_STEPS))
    return Planes(Tile(depth, height, width, vector), planes, inner, steps)


def grid_partials(grid: Grid, layout: Layout, position_points: bool) -> tuple[Partials, Partials, int]:
    """Partial extrema of units and of points, and how many there are."""
    groups = grid.segments * grid.regions
    columns, rows = groups * grid.columns, 0
    if layout.inner > 1:
        units = Partials(columns, grid.segments, grid.rows, grid.tiles)
        points = Partials(0, 1, grid.segments * grid.columns, 1)
        rows = grid.segments * grid.rows * grid.tiles
    else:
        units = Partials(0, groups, grid.columns, 1)
        if column_order(layout, position_points):
            points = Partials(0, 1, grid.segments, grid.regions * grid.columns)
        else:
            rows = grid.segments * grid.rows * grid.tiles
            count = layout.samples if not position_points else layout.samples * layout.rows
            points = Partials(columns, 1, count, rows // count)
    return units, points, columns + rows


def planes_partials(planes: Planes, layout: Layout) -> tuple[Partials, Partials, int]:
    """As :func:`grid_partials`."""
    units = Partials(0, layout.samples * layout.rows, layout.units, planes.chunks)
    points = Partials(0, 1, layout.samples, layout.rows * layout.units * planes.chunks)
    return units, points, planes.planes * planes.chunks


def column_order(layout: Layout, position_points: bool) -> bool:
    """Whether points are samples whose columns come before their rows in logical order."""
    return layout.channels_last and not position_points and layout.rows > 1


def fits_int32(elements: int) -> bool:
    return elements < 2**31


def power_of_two(number: int) -> int:
    """The least power of two that is not below a positive number."""
    return 1 << (number - 1).bit_length()


def _matrix(layout: Layout, position_points: bool) -> tuple[int, int, int]:
    """Segments, rows and columns."""
    if layout.inner > 1:
        if position_points:
            return layout.samples * layout.rows, layout.units, layout.inner
        return 1, *layout.matrix
    if layout.channels_last or not (position_points or layout.rows == 1):
        return layout.samples, layout.rows, layout.units
    return 1, *layout.matrix


def _vector(columns: int, itemsize: int, aligned: bool) -> int:
    """Elements that a thread loads at once: no more than divide a row."""
    return min(16 // itemsize, columns & -columns, 8) if aligned else 1


def _depth(vector: int, itemsize: int) -> int:
    return min(_THREAD_BYTES // itemsize, _THREAD_ELEMENTS if vector * itemsize < 16 else 32) // vector


def _width(columns: int, vector: int, depth: int = 1) -> int:
    """Columns of a tile: those that a warp loads at once (one element at a time, all warps), or fewer if too
    many of them were beyond the matrix."""
    lanes = _LANES if vector > 1 else WARPS * _LANES
    widest = max(8, min(power_of_two(columns), lanes * vector))
    widths = [widest >> i for i in range(4) if widest >> i >= 8]
    for width in widths:
        if _padded(columns, depth * width) <= columns + columns // 8:
            return width
    return min(widths, key=lambda width: _padded(columns, depth * width))


def _padded(columns: int, multiple: int) -> int:
    return -(-columns // multiple) * multiple


def _steps(tiles: int, most: int) -> int:
    return min(max(tiles // _PROGRAMS, 1), most)
