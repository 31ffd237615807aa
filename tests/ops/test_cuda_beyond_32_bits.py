"""The CUDA kernels on tensors with more than 2³¹ elements, in the emulator: offsets, indices, plans."""

import cuda_emulator
import pytest
import torch
from cuda_emulator import large
from cuda_emulator.large import Ends
from sparse_memory import sparse_zeros

from jumpstart_kernels.ops import reference
from jumpstart_kernels.ops.arguments import NO_STATISTICS, Gradients, LinkedSaved, Options, Saved
from jumpstart_kernels.ops.layout import Layout, is_channels_last, make_layout
from jumpstart_kernels.ops.slack import LAYER_SUMS, SUMS_SHAPE

_reason = cuda_emulator.unavailable()
pytestmark = pytest.mark.skipif(_reason is not None, reason=str(_reason))

MOST_BLOCKS = 2**31 - 1  # of a launch

# Size, unit dimension, whether in channels_last, whether points are positions, multiprocessors: so many that
# no block has to run through all of the memory.
CASES = {
    "rows": ((2**19 + 24, 4096), 1, False, False, 10_000),
    "odd_rows": ((2**19 + 300, 4095), 1, False, False, 10_000),
    "narrow_rows": ((2**29 + 40, 4), 1, False, False, 10_000),
    "units_last_positions": ((4, 2**28 + 8, 2), 2, False, True, 10_000),
    "channels_last": ((2**15 + 3, 64, 32, 32), 1, True, False, 10_000),
    "channels_last_small_samples": ((2**17 + 3, 64, 16, 16), 1, True, False, 10_000),
    "channels_last_positions": ((2**15 + 3, 64, 32, 32), 1, True, True, 10_000),
    "planes": ((2**15 + 3, 16, 64, 64), 1, False, False, 2**20),
    "planes_positions": ((2**15 + 3, 16, 64, 64), 1, False, True, 2**20),
    "one_plane": ((1, 1, 46343, 46343), 1, False, False, 2**20),
}


def last_part(x, name):
    """A view of the last elements in logical order, with units in dimension 1."""
    if name == "one_plane":
        return x.view(1, 1, -1)[:, :, -1001:]  # from a whole byte of the mask on
    samples = x.view(-1, x.shape[-1]) if name == "units_last_positions" else x
    return samples[-{2: 40, 4: 2}[samples.dim()] :]


def save(result, x, unit_dim):
    """What a forward of ``x`` keeps for its backward."""
    channels_last = is_channels_last(x, unit_dim)
    kept = result.mask, result.extrema, result.indices
    return Saved(*kept, list(x.shape), channels_last, x.dtype, with_grad_bias=False)


def share(number, part, whole):
    """What part of so many, in order, belongs to the last part of a whole."""
    return -(-number * part // whole) + 2


def margin(tiles):
    """Blocks that lie side by side, whose rows the last part may not fill; of one long row there are none."""
    return 2 * tiles if tiles < 1000 else 0


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float32), ids=str)
@pytest.mark.parametrize("name", CASES)
def test_the_last_elements_are_right(name, dtype):
    size, unit_dim, channels_last, position_points, multiprocessors = CASES[name]
    if dtype == torch.float32 and name not in ("rows", "channels_last", "planes"):
        pytest.skip("the same offsets as in bfloat16; three layouts show the other kind of partial extrema")
    x = sparse_zeros(size, dtype, channels_last)
    assert x.numel() > 2**31
    part = last_part(x, name)
    generator = torch.Generator().manual_seed(0)
    values = (2 * torch.randn(part.shape, generator=generator)).round() / 2  # with ties
    values[:1], values[-1:] = values[:1].clamp(0.5), values[-1:].clamp(max=-0.5)  # of the zeros no extremum
    values[0, ..., 0] = 0.5
    if name == "one_plane":
        values[0, 0, 0], values[0, 0, 1] = -0.5, 0.5
    part.copy_(values)
    offset = x.numel() - part.numel()

    layout = make_layout(size, unit_dim, channels_last)
    vector = 16 // dtype.itemsize if layout.matrix[1] % (16 // dtype.itemsize) == 0 else 1
    plan = large.plan(layout, position_points, vector, multiprocessors)
    units = layout.units
    options = Options("relu", 0.0, unit_dim, position_points, 1.0, extrema_kind="indexed")
    of_part = options._replace(unit_dim=1)
    expected = reference.jumpstart_activation_forward(part, None, of_part)
    points = expected.extrema.shape[1] - units
    all_points = x.numel() // units if position_points else size[0]
    streaming = Ends(2, share(plan.blocks, part.numel(), x.numel()) + margin(plan.tiles))
    merge = Ends(plan.unit_blocks, share(plan.point_blocks, points, all_points))
    assert streaming.last < plan.blocks / 2
    result = large.forward(x, options, multiprocessors, streaming, merge)
    assert torch.equal(last_part(result.output, name), expected.output)
    assert torch.equal(result.mask.flatten()[-expected.mask.numel() :], expected.mask.flatten())
    kept = torch.cat([torch.arange(units), torch.arange(units + all_points - points, units + all_points)])
    assert torch.equal(result.extrema[:, kept], expected.extrema)
    assert torch.equal(result.indices[:, kept], expected.indices + offset)

    grad_output = sparse_zeros(size, dtype, channels_last)
    last_part(grad_output, name).copy_(torch.randn(part.shape, generator=generator))
    grad_slack_sums = torch.arange(LAYER_SUMS, dtype=result.extrema.dtype).view(SUMS_SHAPE)
    gradients = Gradients(grad_output, grad_slack_sums, None)
    blocks = share(plan.backward_blocks, part.numel(), x.numel()) + margin(plan.backward_tiles)
    grad_x = large.backward(gradients, save(result, x, unit_dim), options, multiprocessors, Ends(2, blocks))
    gradients = gradients._replace(output=last_part(grad_output, name))
    expected_grad = reference.jumpstart_activation_backward(gradients, save(expected, part, 1), of_part).x
    assert torch.equal(last_part(grad_x, name), expected_grad)


@pytest.mark.parametrize("name", ("rows", "odd_rows", "channels_last", "planes"))
def test_the_last_elements_of_a_linked_activation_are_right(name):
    size, unit_dim, channels_last, position_points, multiprocessors = CASES[name]
    x = sparse_zeros(size, torch.bfloat16, channels_last)
    part = last_part(x, name)
    generator = torch.Generator().manual_seed(0)
    part.copy_(torch.randn(part.shape, generator=generator))
    layout = make_layout(size, unit_dim, channels_last)
    plan = large.plan(layout, position_points, 8 if layout.matrix[1] % 8 == 0 else 1, multiprocessors)
    last = share(plan.backward_blocks, part.numel(), x.numel()) + margin(plan.backward_tiles)
    streaming = Ends(2, share(plan.blocks, part.numel(), x.numel()) + margin(plan.tiles))
    options = Options("linked_relu", 0.0, unit_dim, position_points, 1.0, NO_STATISTICS)
    expected = reference.linked_activation_forward(part, None, options)
    for kind, launches in (("none", [Ends(2, last)]), ("exact", [streaming, Ends(1, 1)])):
        chosen = options._replace(extrema_kind=kind)
        result = large.linked_forward(x, chosen, multiprocessors, *launches)
        assert torch.equal(last_part(result.output, name), expected.output)
        assert torch.equal(result.mask.flatten()[-expected.mask.numel() :], expected.mask.flatten())

    grad_output = sparse_zeros(result.output.shape, torch.bfloat16, channels_last)
    last_part(grad_output, name).copy_(torch.randn(expected.output.shape, generator=generator))
    grad_x = large.linked_backward(
        grad_output, result.mask, size, options, channels_last, multiprocessors, Ends(2, last)
    )
    saved = LinkedSaved(
        None, None, expected.mask, expected.extrema, expected.indices, list(part.shape),
        channels_last, x.dtype, with_grad_weight=False,
    )  # fmt: skip
    gradients = Gradients(last_part(grad_output, name), None, None)
    expected_grad = reference.linked_activation_backward(gradients, saved, options).x
    assert torch.equal(last_part(grad_x, name), expected_grad)


HUGE = [
    (make_layout(size, unit_dim, channels_last), position_points)
    for size, unit_dim, channels_last, position_points, _ in CASES.values()
] + [
    (Layout(2**32, 1, 1, 1, False), False),
    (Layout(2**33, 1, 1, 2, False), True),  # more regions than a launch has blocks
    (Layout(1, 1, 2**33, 1, False), True),
    (Layout(1, 2**33, 4, 1, False), False),
    (Layout(2**20, 2**13, 2**7, 1, True), False),
    (Layout(2**20, 1, 2**7, 2**13, False), True),
    (Layout(2**20, 1, 2**7, 2**13, False), False),
    (Layout(1, 1, 1, 2**40, False), False),
]


@pytest.mark.parametrize("multiprocessors", (1, 132, 2**16))
@pytest.mark.parametrize("vector", (1, 8))
@pytest.mark.parametrize(("layout", "position_points"), HUGE, ids=str)
def test_plans_fit_into_launches_and_places(layout, position_points, vector, multiprocessors):
    plan = large.plan(layout, position_points, vector, multiprocessors)
    assert 0 < plan.blocks <= plan.work and plan.blocks <= MOST_BLOCKS
    assert 0 < plan.backward_blocks <= plan.backward_work and plan.backward_blocks <= MOST_BLOCKS
    assert plan.unit_blocks > 0 and plan.unit_blocks + plan.point_blocks <= MOST_BLOCKS
    # A place in a region or chunk has 16 bits in the partial extrema of 16-bit values.
    assert plan.extent <= 2**16 and plan.backward_extent < 2**31
    assert plan.tiles < 2**31 and plan.backward_tiles < 2**63


def test_more_regions_than_a_launch_has_blocks():
    """A block then processes several, one per stride over the grid."""
    size, part = (2**31 + 8, 1, 2), 12
    x = sparse_zeros(size, torch.bfloat16)
    x[-part:] = torch.randn((part, 1, 2), generator=torch.Generator().manual_seed(0))
    plan = large.plan(make_layout(size, 1, False), True, 1, 132)
    assert plan.blocks == MOST_BLOCKS < plan.work == size[0]
    rounds = Ends(plan.work - plan.blocks, part)
    # Of the unit, whose partial extrema are as many, none is merged.
    options = Options("relu", 0.0, 1, position_points=True, margin=1.0, extrema_kind="indexed")
    result = large.forward(x, options, 132, rounds, Ends(0, 2))
    expected = reference.jumpstart_activation_forward(x[-part:], None, options)
    assert torch.equal(result.output[-part:], expected.output)
    assert torch.equal(result.mask[-part:], expected.mask)
    assert torch.equal(result.extrema[:, -2 * part :], expected.extrema[:, 1:])
    assert torch.equal(result.indices[:, -2 * part :], expected.indices[:, 1:] + x.numel() - 2 * part)
