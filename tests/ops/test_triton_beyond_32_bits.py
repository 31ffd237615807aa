"""The Triton kernels beyond 2³¹ elements: offsets and indices in the interpreter, plans.

All but the last elements are zeros that take no memory, and of each launch only some programs run: the others
would find what is there anyway, since outputs, masks, partial extrema and sums of zeros are zeros. With a
bias they would not, but of them nothing is looked at.
"""

import pytest
import torch
from sparse_memory import sparse_zeros

pytest.importorskip("triton", reason="Triton is not installed")

import triton.language as tl

from jumpstart_kernels.ops import reference
from jumpstart_kernels.ops import triton as triton_backend
from jumpstart_kernels.ops.arguments import Gradients, LinkedSaved, Options, Saved
from jumpstart_kernels.ops.layout import Layout, along_units, is_channels_last, make_layout
from jumpstart_kernels.ops.slack import LAYER_SUMS, SUMS_SHAPE
from jumpstart_kernels.ops.triton import (
    backward,
    bias,
    launch,
    launch_backward,
    launch_forward,
    launch_linked,
    linked,
    plan,
    planes,
    rows,
    statistics,
)

_reason = triton_backend.unavailable("cpu")
pytestmark = pytest.mark.skipif(_reason is not None, reason=str(_reason))

# Size, unit dimension, whether in channels_last, whether points are positions, elements that hold values.
CASES = {
    "rows": ((2**19 + 24, 4096), 1, False, False, 4 * 4096),
    "odd_rows": ((2**19 + 300, 4095), 1, False, False, 4 * 4095),
    "narrow_rows": ((2**29 + 40, 4), 1, False, False, 4 * 300),
    "one_row": ((1, 2**31 + 9), 1, False, False, 1001),
    "channels_last": ((2**15 + 3, 64, 32, 32), 1, True, False, 2**16),
    "channels_last_positions": ((2**15 + 3, 64, 32, 32), 1, True, True, 2**16),
    "planes": ((2**17 + 3, 16, 32, 32), 1, False, False, 2**14),
    "planes_positions": ((2**17 + 3, 16, 32, 32), 1, False, True, 2**14),
    "one_plane": ((1, 1, 46343, 46343), 1, False, False, 1001),
}
PLAIN = ("rows", "narrow_rows", "one_row", "channels_last", "planes", "one_plane")


class SomePrograms:
    """Launches that run some of their programs."""

    def __init__(self, monkeypatch):
        self.wanted: list[list[range]] = []  # of the next launches
        self.first = 0
        monkeypatch.setattr(launch.Launch, "__call__", self.limit(launch.Launch.__call__))
        monkeypatch.setattr(statistics, "add_programs", lambda *_: None)  # there are not all of them
        for module in (rows, planes, statistics, backward, bias, linked):
            monkeypatch.setattr(module, "program_index", lambda: tl.program_id(0).to(tl.int64) + self.first)

    def limit(self, call):
        def run(one, *arguments):
            grid = one.grid
            try:
                for programs in self.wanted.pop(0):
                    self.first, one.grid = programs.start, (len(programs), 1, 1)
                    call(one, *arguments)
            finally:
                one.grid = grid

        return run


@pytest.fixture
def some_programs(monkeypatch):
    """With address space for any size, as long as it is not written."""
    new_empty = torch.Tensor.new_empty

    def sparse_new_empty(x, size, dtype=None, **options):
        size = [size] if isinstance(size, int) else size
        if options or size == [0]:
            return new_empty(x, size, dtype=dtype or x.dtype, **options)
        return sparse_zeros(size, dtype or x.dtype)

    monkeypatch.setattr(torch.Tensor, "new_empty", sparse_new_empty)

    def sparse_empty_like(x, memory_format=None):
        return sparse_zeros(x.shape, x.dtype, is_channels_last(x, 1))  # outputs lie as their inputs here

    monkeypatch.setattr(torch, "empty_like", sparse_empty_like)
    empty = torch.empty

    def sparse_empty(size, *, memory_format=None, **options):
        if memory_format is None:
            return empty(size, **options)
        return sparse_zeros(size, options["dtype"], memory_format == torch.channels_last)

    monkeypatch.setattr(torch, "empty", sparse_empty)
    return SomePrograms(monkeypatch)


def last_part(x, elements):
    """A view of the last elements in logical order, with units in dimension 1."""
    if x.shape[0] == 1:
        return x.view(1, -1)[:, -elements:] if x.dim() == 2 else x.view(1, 1, -1)[:, :, -elements:]
    return x[-elements // (x.numel() // x.shape[0]) :]


def partials(x, position_points):
    """Of units and of points."""
    layout = make_layout(x.shape, 1, is_channels_last(x, 1))
    if layout.inner > 1 and not position_points:
        return plan.planes_partials(plan.make_planes(layout, x.itemsize, True), layout)[:2]
    grid = plan.make_forward_grid(layout, position_points, x.itemsize, True)
    return plan.grid_partials(grid, layout, position_points)[:2]


def tiles(x, position_points):
    """Programs side by side, whose rows the last part may not fill; of one long row there are none."""
    layout = make_layout(x.shape, 1, is_channels_last(x, 1))
    found = plan.make_grid(layout, position_points, x.itemsize, True).tiles
    return found if found < 1000 else 0


def last(programs, part, whole, beside=0):
    """The last programs, as many as belong to the last part of a whole, and some more."""
    return range(programs - min(-(-programs * part // whole) + 1 + beside, programs), programs)


@pytest.mark.parametrize(
    ("name", "with_bias"),
    # Without a bias offsets are the same, but not the plan of the backward, which these show.
    [(name, with_bias) for name in CASES for with_bias in (False, True) if with_bias or name in PLAIN],
)
def test_the_last_elements_are_right(some_programs, name, with_bias):
    size, unit_dim, channels_last, position_points, elements = CASES[name]
    x = sparse_zeros(size, torch.float16, channels_last)
    assert x.numel() > 2**31
    part = last_part(x, elements)
    generator = torch.Generator().manual_seed(0)
    values = (2 * torch.randn(part.shape, generator=generator)).round() / 2  # with ties
    whole_bias = part_bias = None
    if with_bias:
        whole_bias = sparse_zeros((x.shape[1],), x.dtype)
        part_bias = whole_bias[-part.shape[1] :]
        part_bias.copy_(torch.arange(len(part_bias)) % 3 / 2 - 0.5)
    if len(values) > 1:  # what others hold, zeros or the bias, is no unit's extremum
        values[0], values[-1] = values[0].clamp(1), values[-1].clamp(max=-1)
    part.copy_(values if part_bias is None else values - along_units(part_bias, values.dim(), 1))
    offset = x.numel() - part.numel()
    options = Options("relu", 0.0, unit_dim, position_points, 1.0, extrema_kind="indexed")
    expected = reference.jumpstart_activation_forward(part, part_bias, options)

    plan_key = (
        x.shape,
        unit_dim,
        channels_last,
        position_points,
        x.dtype,
        True,
        "relu",
        "indexed",
        True if with_bias else None,
    )
    streaming, merge = (one.grid[0] for one in launch_forward._forward(*plan_key).launches)
    of_units, of_points = partials(x, position_points)
    assert merge == of_units.programs + of_points.programs
    units, points = part.shape[1], expected.extrema.shape[1] - part.shape[1]
    if units == of_units.items:  # the first program's
        some_units, done = range(1), min(units, of_units.block[1])
    else:  # the last ones
        some_units, done = last(of_units.programs, units, of_units.items), units
    some_points = last(merge, points, of_points.items) if name != "one_row" else range(0)  # it takes minutes
    some_programs.wanted = [
        [range(2), last(streaming, elements, x.numel(), tiles(x, position_points))],
        [some_units, some_points],
    ]
    output, mask, _, extrema, indices = triton_backend.jumpstart_activation_forward(x, whole_bias, options)
    assert torch.equal(last_part(output, elements), expected.output)
    assert torch.equal(mask.flatten()[-expected.mask.numel() :], expected.mask.flatten())
    kept = [*range(of_units.items - units, of_units.items - units + done)]
    kept += range(extrema.shape[1] - points, extrema.shape[1]) if some_points else []
    of_part = [*range(done), *(range(units, units + points) if some_points else [])]
    assert torch.equal(extrema[:, kept], expected.extrema[:, of_part])
    assert torch.equal(indices[:, kept], expected.indices[:, of_part] + offset)

    # The statistics that no program has found.
    first = of_units.items - units
    extrema[:, first : of_units.items] = expected.extrema[:, :units]
    indices[:, first : of_units.items] = expected.indices[:, :units] + offset
    extrema[:, extrema.shape[1] - points :] = expected.extrema[:, units:]
    indices[:, extrema.shape[1] - points :] = expected.indices[:, units:] + offset
    first_point = extrema.shape[1] - points
    if with_bias:  # points elsewhere, as far as programs that run see any, add nothing to its gradient
        indices[:, of_units.items : min(of_units.items + 2**14, first_point)] = -1
        indices[:, max(first_point - 2**14, of_units.items) : first_point] = -1
    grad_output = sparse_zeros(size, x.dtype, channels_last)
    halves = (2 * torch.randn(part.shape, generator=generator)).round() / 2  # whose sums are exact
    last_part(grad_output, elements).copy_(halves)
    grad_slack_sums = torch.arange(LAYER_SUMS, dtype=extrema.dtype).view(SUMS_SHAPE)
    plan_key = (x.shape, unit_dim, channels_last, extrema.shape[1], x.dtype, True, "relu", with_bias)
    _, launches = launch_backward._backward(*plan_key, True, True, False)
    programs = launches[0].grid[0]
    some_programs.wanted = [[range(2), last(programs, elements, x.numel(), tiles(x, position_points))]]
    if len(launches) > 1:
        merge = launches[1].grid[0]
        some_programs.wanted += [[range(max(merge - 2, 0), merge)]]
    grad_x, grad_bias = triton_backend.jumpstart_activation_backward(
        Gradients(grad_output, grad_slack_sums, None),
        Saved(mask, extrema, indices, list(size), channels_last, x.dtype, with_bias),
        options,
    )
    statistics_of_part = (expected.mask, expected.extrema, expected.indices)
    expected_grad_x, expected_grad_bias = reference.jumpstart_activation_backward(
        Gradients(last_part(grad_output, elements), grad_slack_sums, None),
        Saved(*statistics_of_part, list(part.shape), channels_last, x.dtype, with_bias),
        options,
    )
    assert torch.equal(last_part(grad_x, elements), expected_grad_x)
    if with_bias:
        done = min(units, 2 * launches[1].settled[-1].items - 1 if len(launches) > 1 else units)
        assert torch.equal(grad_bias[-done:], expected_grad_bias[-done:])


@pytest.mark.parametrize("activation", ["linked_relu", "linked_silu"])
@pytest.mark.parametrize("name", [name for name in CASES if not name.endswith("positions")])
def test_the_last_elements_of_linked_activations_are_right(some_programs, name, activation):
    size, unit_dim, channels_last, _, elements = CASES[name]
    x = sparse_zeros(size, torch.float16, channels_last)
    part = last_part(x, elements)
    generator = torch.Generator().manual_seed(0)
    part.copy_((2 * torch.randn(part.shape, generator=generator)).round() / 2)
    options = Options(activation, 0.0, unit_dim, True, 1.0, "none")
    expected = reference.linked_activation_forward(part, None, options)

    def some_of(launch):
        names = launch.kernel.arg_names[-len(launch.settled) :]
        beside = launch.settled[names.index("tiles")]
        return [range(2), last(launch.grid[0], elements, x.numel(), beside if beside < 1000 else 0)]

    key = (x.shape, unit_dim, channels_last)
    forward = launch_linked._forward(*key, x.dtype, True, activation, None)
    some_programs.wanted = [some_of(forward.launch)]
    result = triton_backend.linked_activation_forward(x, None, options)
    halves = zip(result.output.chunk(2, 1), expected.output.chunk(2, 1), strict=True)
    assert all(torch.allclose(last_part(one, elements), half, rtol=1e-3) for one, half in halves)
    for one, half in zip(result.mask.chunk(2, 1), expected.mask.chunk(2, 1), strict=True):
        kept = one[-len(half) :, one.shape[1] - half.shape[1] :]
        assert torch.equal(kept, half)

    grad_output = sparse_zeros(result.output.shape, x.dtype, channels_last)
    gradients = torch.randn(expected.output.shape, generator=generator).half()
    for whole, half in zip(grad_output.chunk(2, 1), gradients.chunk(2, 1), strict=True):
        last_part(whole, elements).copy_(half)
    of_x = (None, None) if activation == "linked_relu" else (x, part)
    saved = LinkedSaved(of_x[0], None, *result[1:2], *result[3:], list(size), channels_last, x.dtype, False)
    x_aligned = None if activation == "linked_relu" else True
    backward = launch_linked._backward(
        *key, 0, x.dtype, True, x_aligned, activation, False, None, False, False
    )
    some_programs.wanted = [some_of(backward.launches[0])]
    of_whole, _ = triton_backend.linked_activation_backward(
        Gradients(grad_output, None, None), saved, options
    )
    saved = saved._replace(x=of_x[1], mask=expected.mask, size=list(part.shape))
    of_part, _ = reference.linked_activation_backward(
        Gradients(
            gradients.to(memory_format=torch.channels_last) if channels_last else gradients, None, None
        ),
        saved,
        options,
    )
    torch.testing.assert_close(last_part(of_whole, elements), of_part, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize(
    ("size", "channels_last"), [((2**31, 1, 2), False), ((2**31, 2, 2, 1), True)], ids=str
)
def test_more_programs_than_a_launch_has_are_an_error(size, channels_last):
    """Not an overflow, and not what the driver says of it."""
    plan_key = (
        torch.Size(size),
        1,
        channels_last,
        not channels_last,
        torch.bfloat16,
        True,
        "relu",
        "exact",
        None,
    )
    with pytest.raises(ValueError, match=r"programs of Triton, more than the 2147483647 of a launch"):
        launch_forward._forward(*plan_key)


HUGE = [
    Layout(2**32, 1, 1, 1, False),
    Layout(1, 1, 2**33, 1, False),
    Layout(1, 2**33, 4, 1, False),
    Layout(2**20, 2**13, 2**7, 1, True),
    Layout(2**20, 1, 2**7, 2**13, False),
    Layout(1, 1, 1, 2**36, False),
    Layout(1, 1, 1, 2**31 - 1, False),
]


@pytest.mark.parametrize("aligned", (True, False))
@pytest.mark.parametrize("position_points", (False, True))
@pytest.mark.parametrize("layout", HUGE, ids=str)
def test_plans_cover_the_matrix_within_what_a_launch_has(layout, position_points, aligned):
    elements = layout.matrix[0] * layout.matrix[1]
    grids = [plan.make_grid(layout, position_points, 2, aligned)]
    if layout.inner == 1 or position_points:
        grids.append(plan.make_forward_grid(layout, position_points, 2, aligned))
    for grid in grids:
        assert grid.programs <= plan.MOST_PROGRAMS
        assert grid.segments * grid.rows * grid.columns == elements
        assert grid.regions * grid.region_rows >= grid.rows
        assert grid.tiles * grid.tile.columns >= grid.columns
        most = grid.tile.depth * grid.tile.rows * grid.columns  # a row of padding included
        assert launch.offset_dtype(grid.span) == (tl.int32 if most < 2**31 else tl.int64)
    if layout.inner > 1 and not position_points:
        cut = plan.make_planes(layout, 2, aligned)
        assert cut.programs <= plan.MOST_PROGRAMS
        assert cut.planes * cut.inner == elements and cut.chunks * cut.chunk_columns >= cut.inner
